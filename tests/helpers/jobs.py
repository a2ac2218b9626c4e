"""Jobs that are killed: what the library writes, each over an earlier version where one is replaced."""

import argparse
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from helpers import registry_sources, splits, text_tables, tiny
from helpers.command_line import recipe_of
from helpers.killing import Job, Kills, torture
from lightning_fusion import Expert, ExpertOutputs, ExpertPool, ExpertRegistry, FoEFuserModule, FrugalFoE, collect
from lightning_fusion.cli.main import main
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.export import export_checkpoint

torch.set_num_threads(1)
QUIET = ["--trainer.enable_model_summary=false", "--trainer.enable_progress_bar=false"]


def arrays(folder: str) -> dict[str, Any]:
    """Content of a store of outputs, as plain data."""
    opened = ExpertOutputs.open(folder)
    values = {
        f"{split}/{name}": (value.dtype.str, value.shape, value.tobytes())
        for split, part in opened.splits.items()
        for name, value in part.arrays()
    }
    return values | {"metadata": json.dumps(opened.metadata(), sort_keys=True)}


def weights(path: str) -> dict[str, bytes]:
    """Weights of a checkpoint, as plain data."""
    state = torch.load(path, weights_only=True)["state_dict"]
    return {name: value.numpy().tobytes() for name, value in state.items()}


# ------------------------------------------------------------------------------------------------------ save


def _save(seed: int = 1) -> None:
    FrugalFoE().fit(tiny.outputs(seed)["train"]).save("policy")


def _loaded() -> str:
    return str(FrugalFoE.load("policy").metadata()["digest"])


# --------------------------------------------------------------------------------------------------- collect


class Paid:
    """A remote expert whose calls are written down outside of the folder of the job."""

    def __init__(self, name: str, bias: float) -> None:
        self.name, self.bias = name, bias

    def __call__(self, input: torch.Tensor) -> torch.Tensor:
        line = "".join(f"{self.name} {row.numpy().tobytes().hex()}\n" for row in input)
        file = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, line.encode())
        os.close(file)
        return torch.stack([input.sum(1) + self.bias, input[:, 0]], 1).softmax(1)


LEDGER = "../ledger.txt"
BATCH_SIZE = 4


def _pay() -> None:
    experts = {
        name: Expert(Paid(name, bias), classes=classes, output="probabilities", version="1")
        for (name, classes), bias in zip(tiny.EXPERT_CLASSES.items(), (0.5, -0.5), strict=True)
    }
    pool = ExpertPool(experts, tiny.CLASSES)
    collect(pool, TensorDataModule(tiny.tensors(), tiny.CLASSES, tiny.DOMAINS, batch_size=BATCH_SIZE), "paid")


def _bill() -> dict[str, Any]:
    """The store; and no answer that was received is paid twice, but for those of the batch that was killed."""
    lines = Path(LEDGER).read_text().split("\n")[:-1]
    Path(LEDGER).unlink()
    twice = len(lines) - len(set(lines))
    assert twice <= BATCH_SIZE, f"{twice} answers were paid twice"
    return arrays("paid")


def _collect_again() -> None:
    collect(tiny.pool(seed=1), tiny.data(), "store", trainer=tiny.trainer(), overwrite=True)


# ------------------------------------------------------------------------------------------------------- fit

CHECKPOINTS = "runs/digits/fuser"


def _prepare_fit() -> None:
    tiny.outputs().save("runs/digits/outputs")
    callback = "lightning.pytorch.callbacks.ModelCheckpoint"
    saving = {"dirpath": CHECKPOINTS, "filename": "fuser", "save_last": True, "enable_version_counter": False}
    content = {
        "trainer": {"callbacks": [{"class_path": callback, "init_args": saving}], "max_epochs": 4},
        "model": {"init_args": {"network": {"init_args": {"hidden": [4]}}}},
    }
    Path("small.yaml").write_text(yaml.safe_dump(content))


def _fit() -> None:
    last = Path(CHECKPOINTS) / "last.ckpt"
    resumed = [f"--ckpt_path={last}"] if last.exists() else []
    main(["fit", "-c", "foe/digits.yaml", "-c", "small.yaml", *QUIET, *resumed, "--overwrite=true"])


def _checkpoints() -> dict[str, Any]:
    return {name: weights(f"{CHECKPOINTS}/{name}.ckpt") for name in ("fuser", "last")}


def _readable_checkpoints() -> None:
    for path in Path(CHECKPOINTS).glob("*.ckpt"):
        FoEFuserModule.load_from_checkpoint(path)


# ---------------------------------------------------------------------------------------------------- export


def _prepare_export() -> None:
    outputs = collect(tiny.pool(), tiny.data(), trainer=tiny.trainer())
    facts = outputs.fuser_arguments() | {"domains": ["x", "y"], "expert_domains": {"a": ["x"], "b": ["y"]}}
    for name, target in (("old", "expert"), ("new", "label")):
        torch.manual_seed(0)
        module, trainer = FoEFuserModule(**facts, target=target), tiny.trainer()
        trainer.strategy.connect(module)
        trainer.save_checkpoint(f"{name}.ckpt")
    export_checkpoint("old.ckpt", "exported", tiny.pool(), [4])


def _export() -> None:
    export_checkpoint("new.ckpt", "exported", tiny.pool(), [4], overwrite=True)


def _program() -> list[float]:
    json.loads(Path("exported/manifest.json").read_text())
    program = torch.export.load("exported/model.pt2").module()
    with torch.no_grad():
        found: list[float] = program(torch.arange(12.0).reshape(3, 4)).flatten().tolist()
    return found


# -------------------------------------------------------------------------------------------------- registry


def _prepare_registry() -> None:
    registry = ExpertRegistry("registry")
    registry_sources.publish(registry, "kept", seed=1)
    registry_sources.publish(registry, "source", seed=2)


def _publish() -> None:
    registry = ExpertRegistry("registry")
    registry_sources.publish(registry, "source", seed=3, overwrite=True)


def _sources() -> dict[str, str]:
    registry = ExpertRegistry("registry")
    found = {name: registry.load(name).fingerprint for name in registry.names}
    assert set(found) == {"kept", "source"}, f"found {sorted(found)}"
    return found


def _published() -> dict[str, Any]:
    found: dict[str, Any] = _sources()
    kept = {".json", ".safetensors"}  # and not the draft of an index, which another publisher might be writing
    return found | {"files": sum(path.suffix in kept for path in Path("registry").rglob("*"))}


# ----------------------------------------------------------------------------------------- cache, predictions


def _texts() -> None:
    text_tables.table(Path("texts.csv"))


def _tokens() -> list[Any]:
    data = text_tables.delimited("texts.csv", cache="cache")
    data.prepare_data()
    data.setup("fit")
    rows = splits.everything(data, "train")
    return [values.tolist() for values in (*rows.input.values(), rows.target)]


def _prepare_predict() -> None:
    _prepare_fit()
    _fit()


def _predict() -> None:
    path = f"--ckpt_path={CHECKPOINTS}/fuser.ckpt"
    options = ["--trainer.callbacks=lightning_fusion.callbacks.PredictionWriter", "--trainer.callbacks.path=found.csv"]
    main(["predict", "-c", "foe/digits.yaml", "-c", "small.yaml", *QUIET, path, *options])


def _predictions() -> str:
    return Path("found.csv").read_text()


# --------------------------------------------------------------------------------------------------- recipes

RECIPE_EVENTS = 15  # of hundreds: each is a run of several seconds
ONE = {"seeds": [0]}
RECIPES: dict[str, dict[str, Any]] = {
    "foe_digits": ONE | {"expert_epochs": 1, "fuser_epochs": 1, "data": {"init_args": {"num_domains": 3}}},
    "frugal_digits": ONE | {"expert_epochs": 1, "data": {"init_args": {"num_domains": 3}}},
    "acorl_digits": ONE | {"epochs": 1, "strengths": [1.0]},
    "hat_synthetic": ONE | {"source_epochs": 1, "epochs": 1, "num_targets": 1, "num_sources": 2},
}


def _prepare_recipe(config: dict[str, Any]) -> None:
    Path("small.yaml").write_text(yaml.safe_dump(config))


def _recipe(name: str) -> None:
    main(
        ["recipe", recipe_of(f"recipes/{name}.yaml"), "-c", f"recipes/{name}.yaml", "-c", "small.yaml", "--output=run"]
    )


def _rows() -> list[str]:
    rows = json.loads(Path("run/results.json").read_text())["rows"]
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


JOBS = [
    Job("FrugalFoE.save", _save, _loaded, lambda: _save(0), _loaded),
    Job("collect, paid answers", _pay, _bill),
    Job("collect, overwrite", _collect_again, lambda: arrays("store"), _collect_again, lambda: arrays("store")),
    Job("fit, resumed", _fit, _checkpoints, _prepare_fit, _readable_checkpoints),
    Job("publish, overwrite", _publish, _published, _prepare_registry, _sources),
    Job("export, overwrite", _export, _program, _prepare_export, _program),
]
JOBS += [
    Job("cache of texts", _tokens, _tokens, _texts),
    Job("predict", _predict, _predictions, _prepare_predict),
]
JOBS += [
    Job(f"recipe {name}", partial(_recipe, name), _rows, partial(_prepare_recipe, config), events=RECIPE_EVENTS)
    for name, config in RECIPES.items()
]


def report(names: list[str], events: int | None, moments: int) -> None:
    """Kill the jobs whose names begin with one of some texts, and print the table of docs/reliability.md."""
    print("| job | kills at file events | kills at random moments | minutes |\n|---|---|---|---|", flush=True)
    total = Kills("all", 0)
    for job in JOBS:
        if not names or job.name.startswith(tuple(names)):
            found = torture(job, events, moments)
            print(found.row(), flush=True)
            total = Kills(
                "all", *(getattr(total, key) + getattr(found, key) for key in ("events", "moments", "seconds"))
            )
    print(total.row())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Kill jobs at their file events and at random moments.")
    parser.add_argument("names", nargs="*", help="beginnings of names of jobs; all by default")
    parser.add_argument("--events", type=int, help="largest number of file events of each job, evenly spread")
    parser.add_argument("--moments", type=int, default=20, help="number of random moments of each job")
    given = parser.parse_args()
    report(given.names, given.events, given.moments)
