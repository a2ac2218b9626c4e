"""Shared parts of recipes: one expert per domain for each seed, and its cached outputs."""

import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer, seed_everything
from matplotlib.figure import Figure
from torch import distributed, nn

from lightning_fusion.checkpoints import read_checkpoint
from lightning_fusion.data.base import SPLITS, FusionDataModule
from lightning_fusion.data.views.role import RoleDataModule
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.diagnosis import diagnose
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.layers import state_tensors
from lightning_fusion.experts.module import ExpertModule
from lightning_fusion.experts.outputs.collect import collect, first_process
from lightning_fusion.experts.outputs.datamodule import OutputsDataModule
from lightning_fusion.experts.outputs.seen import seen_by_design
from lightning_fusion.experts.outputs.store import ExpertOutputs
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.files import atomic_write, digest, file_key, write_text
from lightning_fusion.foe.module import FoEFuserModule
from lightning_fusion.hyperparameters import describe_factory
from lightning_fusion.recipes.runner import Run
from lightning_fusion.trackers.kinds import trackers_of


def check_no_domain(data: Any) -> None:
    """Raise InputError for data of a selected domain, where a recipe trains a model of each."""
    if getattr(data, "domain", None) is not None:
        raise InputError(
            f"data: domain is {data.domain!r}; the recipe trains on each domain of the data: remove domain"
        )


def check_domains(data: FusionDataModule) -> None:
    """Raise InputError for data with fewer than two domains."""
    if len(data.domains) < 2:
        raise InputError(
            f"data: found the domain {shorten(data.domains)} only; fusion needs two at least: set what defines domains "
            "(DomainImageDataModule or num_domains for images, domain_fields for texts and recordings)"
        )


def describe_data(data: FusionDataModule) -> dict[str, Any]:
    """Return the description of the data in the record of a run, independent of the seeds, as plain data."""
    named = type(data.data if isinstance(data, RoleDataModule) else data)
    return {
        "data": {"class_path": f"{named.__module__}.{named.__qualname__}", **dict(data.hparams)},
        "augmentation": repr(getattr(data, "augmentation", None)),
        "content": _content(data.variant(seed=0)),
    }


def data_notes(data: Any) -> list[str]:
    """Return what a data module has reported about its files and samples, as notes of a report.

    Reports that differ in counts only, such as those of each domain, are one note with the first one's.

    Example:
        >>> from types import SimpleNamespace as Named
        >>> found = ["3 of 9 texts are long", "1 of 2 texts are long", "1.csv is empty", "2.csv is empty"]
        >>> data_notes(Named(messages=Named(texts=found)))  # doctest: +NORMALIZE_WHITESPACE
        ['Data: 3 of 9 texts are long (the same in 1 other part of the data).', 'Data: 1.csv is empty.',
         'Data: 2.csv is empty.']
    """
    while not hasattr(data, "messages") and hasattr(data, "data"):  # a view
        data = data.data
    same: dict[str, list[str]] = {}
    for text in data.messages.texts if hasattr(data, "messages") else ():
        same.setdefault(re.sub(r"^\d+ of \d+|\d+%", "0", text), []).append(text)
    notes = []
    for first, *others in same.values():
        parts = f"{len(others)} other part{'s' if len(others) > 1 else ''} of the data"
        notes.append(f"Data: {first}{f' (the same in {parts})' if others else ''}.")
    return notes


def source_of(data: FusionDataModule) -> str:
    """Return the source of data for a report: the class, and the files or data set that it reads."""
    named = type(data.data if isinstance(data, RoleDataModule) else data)
    return " ".join(
        [named.__name__, *(str(data.hparams[key]) for key in ("source", "root", "path") if data.hparams.get(key))]
    )


def expert_data(data: FusionDataModule) -> FusionDataModule:
    """Return the training data of the experts: those of the ``expert`` role, if the data have roles.

    Raises:
        InputError: If a domain is selected.
    """
    check_no_domain(data)
    return _of_experts(data)


def _of_experts(data: FusionDataModule) -> FusionDataModule:
    return data.variant(role="expert", domain=None) if data.has_roles else data


def _content(data: FusionDataModule) -> str:
    """Return a fingerprint of all samples and splits, so that a run on other data does not reuse these experts."""
    pool = _of_experts(data)
    return digest(*(data.fingerprint(split) for split in SPLITS), pool.fingerprint("train"), pool.fingerprint("val"))


def describe(value: Any) -> Any:
    """Return a class with its arguments, the name of any other function, or else the value."""
    if isinstance(value, Mapping):
        return {name: describe(each) for name, each in value.items()}
    if not callable(value):
        return value
    described = describe_factory(value)
    return described if described is not None else getattr(value, "__qualname__", type(value).__qualname__)


def describe_arguments(arguments: Mapping[str, Any], *left_out: str) -> dict[str, Any]:
    """Return the description of a recipe's arguments in the record of a run, as plain data.

    Args:
        arguments: All of them by name, as ``locals()`` has them; :func:`describe_data` and the runner record the data,
            the seeds and the Trainer.
        *left_out: Names of others that are not recorded.

    Example:
        >>> describe_arguments({"data": [1], "epochs": 3, "network": sorted, "seeds": [0]})
        {'epochs': 3, 'network': 'sorted'}
    """
    skipped = {"data", "output", "seeds", "trainer", "overwrite", *left_out}
    return {name: describe(value) for name, value in arguments.items() if name not in skipped}


def stage_seed(seed: int, part: str | int) -> int:
    """Return the random seed of one training; it does not depend on the order of the trainings.

    Args:
        seed: Seed of the run.
        part: Name or number of what is trained.

    Example:
        >>> stage_seed(2, 1), stage_seed(2, "domain_0") != stage_seed(2, "domain_1")
        (2001, True)
    """
    return (seed * 1000 + (part if isinstance(part, int) else int(digest(part)[:6], 16))) % 2**32


_NOTED = (
    *("LEAK", "CLASS ORDER", "experts were trained", "No expert was trained", "Missing answers"),
    "The experts are not complementary",
)
"""Beginnings of the findings of ``diagnose`` that a report repeats."""


class SeedRun:
    """One seed of a recipe: its experts, and their outputs.

    Args:
        run: The run of the recipe.
        data: The data, with this seed.
        seed: Seed of the experts' training.
        part: Subfolder of the seed's folder, where a seed has several pools.
    """

    def __init__(self, run: Run, data: Any, seed: int, part: str = "") -> None:
        self.run, self.data, self.seed = run, data, seed
        self.report, self.console = run.report, run.console
        self.stage = f"seed_{seed}/{part}".rstrip("/")
        self.folder = run.folder / self.stage
        self.folder.mkdir(parents=True, exist_ok=True)

    def trainer(self, stage: str, epochs: int = 1, callbacks: Sequence[Callback] = (), **options: bool) -> Trainer:
        """Return a stage's Trainer, as :meth:`~lightning_fusion.recipes.trainers.Trainers.trainer` does."""
        return self.run.trainers.trainer(f"{self.stage}/{stage}", epochs, callbacks, **options)

    # --------------------------------------------------------------- experts

    def train_experts(self, arguments: dict[str, Any], epochs: int) -> dict[str, Expert]:
        """Train one expert per domain; existing ones are reused."""
        experts = {}
        data = {name: self.expert_rows(name) for name in self.data.domains}
        for each in data.values():
            each.classes  # noqa: B018 a domain without enough classes raises before any training
        for number, (name, rows) in enumerate(data.items()):
            label = f"seed {self.seed}  expert {number + 1}/{len(data)} {name}"
            path = self.train_expert(f"experts/{file_key(name)}", rows, arguments, epochs, label)
            experts[name] = self.load_expert(path, arguments["network"])
        if first_process():
            write_text(self.folder / "pool.yaml", self._pool_yaml(experts))
        return experts

    def _keep_tokenizer(self) -> None:
        """Save the tokenizer of texts, which predictions of new texts need."""
        folder = self.folder / "tokenizer"
        if first_process() and hasattr(self.data, "save_tokenizer") and not folder.is_dir():
            self.data.save_tokenizer(folder)

    def expert_rows(self, name: str) -> FusionDataModule:
        """Return the training data of a domain's expert."""
        result: FusionDataModule = self.data.variant(role="expert", domain=name)
        return result

    def load_expert(self, path: Path, network: Callable[[int], nn.Module]) -> Expert:
        """Return the expert in a checkpoint of :meth:`train_expert`."""
        return Expert(network, str(path))

    def train_expert(
        self, name: str, data: FusionDataModule, arguments: dict[str, Any], epochs: int, label: str
    ) -> Path:
        """Train one expert unless its checkpoint exists, and return the path of the checkpoint.

        Args:
            name: Path of the checkpoint, below the seed's folder.
            data: Training data.
            arguments: Arguments of :class:`~lightning_fusion.ExpertModule`.
            epochs: Number of epochs.
            label: Label in printed messages.
        """
        seed = stage_seed(self.seed, Path(name).name)
        return self.train(name, partial(self._expert_module, data, arguments), data, seed, epochs, label)

    @staticmethod
    def _expert_module(data: FusionDataModule, arguments: dict[str, Any]) -> ExpertModule:
        if isinstance(arguments.get("network"), nn.Module):
            raise InputError(
                "network: found a network, whose weights all models would share; expected a class or a function, which "
                "maps the number of classes to a network"
            )
        return ExpertModule(
            classes=data.classes,
            trained_on=data.own_domains,  # type: ignore[attr-defined]
            preprocessing=getattr(data, "preprocessing", None),
            **arguments,
        )

    def train(
        self,
        name: str,
        build: Callable[[], LightningModule],
        data: FusionDataModule,
        seed: int,
        epochs: int,
        label: str,
        metric: str = "accuracy",
        callbacks: Sequence[Callback] = (),
    ) -> Path:
        """Train one model unless its checkpoint exists, and return the path of the checkpoint.

        Args:
            name: Path of the checkpoint, below the seed's folder.
            build: Factory of the model, called after the random numbers were seeded.
            data: Training data.
            seed: Seed of this training.
            epochs: Number of epochs.
            label: Label in printed messages.
            metric: Metric of the validation split that is printed.
            callbacks: Callbacks of this training.

        Raises:
            InputError: If the training diverged; no checkpoint is written.
        """
        path = self.folder / f"{name}.ckpt"
        self._keep_tokenizer()
        if path.is_file():  # written atomically, so it is complete
            self.console.print(f"{label}: found checkpoint, not retrained")
            return path
        start = time.perf_counter()
        seed_everything(seed, verbose=False)
        module = build()
        trainer = self.trainer(name, epochs, callbacks)
        trainer.fit(module, datamodule=data)
        if not all(bool(value.isfinite().all()) for value in state_tensors(module.network).values()):  # type: ignore[arg-type]
            raise InputError(f"{label}: the training diverged, weights are NaN or infinite; lower the learning rate")
        save_weights(trainer, path)
        self.report.took("training", start)
        value = trainer.callback_metrics.get(f"val_{metric}")
        score = "" if value is None else f"validation {metric} {float(value):.3f}, "
        self.console.print(f"{label}: {score}{time.perf_counter() - start:.0f} s")
        return path

    def _pool_yaml(self, experts: dict[str, Expert]) -> str:
        lines = ["# The experts of this run, for 'lightning-fusion collect', 'fit' and 'export'.", "experts:"]
        for name, expert in experts.items():
            lines += [
                f"  {json.dumps(name)}:",
                "    class_path: lightning_fusion.Expert",
                f"    init_args: {{checkpoint: {json.dumps(self._beside(str(expert.checkpoint)))}}}",
            ]
        return "\n".join([*lines, ""])

    def _beside(self, path: str) -> str:
        """Return a path relative to the seed's folder, so that the folder of a run may be moved."""
        inside = Path(path).resolve().is_relative_to(self.folder.resolve())
        return os.path.relpath(path, self.folder) if inside else path

    # --------------------------------------------------------------- outputs

    def collect(self, experts: dict[str, Expert], keep_representations: bool = False) -> ExpertOutputs:
        """Cache the outputs of the pool, with representations if ``keep_representations``, and diagnose them."""
        start = time.perf_counter()
        pool = ExpertPool(experts, self.data.classes)
        trainer = self.trainer("outputs", logged=False)
        outputs = collect(
            pool, self.data, self.folder / "outputs", keep_representations=keep_representations, trainer=trainer
        )
        self.report.took("querying experts", start)
        return self._diagnosed(outputs)

    def keep(self, outputs: ExpertOutputs) -> ExpertOutputs:
        """Diagnose outputs that exist already; those that are no store on disk are written into the folder."""
        if outputs.path is None and first_process():
            outputs.save(self.folder / "outputs", overwrite=True)
        return self._diagnosed(outputs)

    def _diagnosed(self, outputs: ExpertOutputs) -> ExpertOutputs:
        """Add a diagnosis of the outputs to the folder, the trackers and the report."""
        diagnosis = diagnose(outputs)
        if first_process():
            diagnosis.save(self.folder)
        self.log_store("outputs", lambda: {"diagnosis": diagnosis.figure()})
        noted = [text for text in diagnosis.findings if text.startswith(_NOTED)]
        self.report.notes += [f"Seed {self.seed}: {text}" for text in noted]
        return outputs

    def log_store(self, name: str, figures: Callable[[], Mapping[str, Figure]] = dict) -> None:
        """Record a store in the trackers, as a stage of its own.

        Args:
            name: Name of its folder, below the seed's folder.
            figures: Function that draws figures of it, by name; called where there are trackers.
        """
        with self.run.trainers.tracking.recording(f"{self.stage}/{name}") as trackers:
            drawn = figures() if trackers else {}
            for tracker in trackers:
                tracker.log_file(name, self.folder / name, "store")
                for title, figure in drawn.items():
                    tracker.log_figure(title, figure)

    def outputs_of(
        self, name: str, experts: dict[str, Expert], data: Any, splits: Sequence[str], bar: bool = True
    ) -> ExpertOutputs:
        """Return outputs that are not stored, unless several processes share them.

        Args:
            name: Name of these outputs.
            experts: Experts to run.
            data: Data to predict.
            splits: Splits to predict.
            bar: Show a progress bar.
        """
        folder = self.folder / "shared_outputs" / name if self.run.trainers.processes > 1 else None
        trainer = self.trainer(name, logged=False, bar=bar)
        pool = ExpertPool(experts, self.data.classes)
        with seen_by_design():
            return collect(pool, data, folder, splits, trainer=trainer, overwrite=folder is not None)

    # ---------------------------------------------------------------- fusers

    def fit_fuser(
        self,
        name: str,
        outputs: ExpertOutputs,
        network: Callable[[int, int], nn.Module] | None = None,
        epochs: int = 50,
        batch_size: int | None = None,
        *,
        representations: bool = False,
        keep: bool = False,
        validates: bool = True,
        bar: bool = True,
        **arguments: Any,
    ) -> tuple[FoEFuserModule, dict[str, float]]:
        """Train FoE on stored outputs, or load a saved one of the same experts.

        Args:
            name: Name of the fuser.
            outputs: Cached outputs of the experts.
            network: Factory of the fuser network, called as ``network(num_inputs, num_outputs)``. ``None`` uses the
                paper's MLP.
            epochs: Number of epochs.
            batch_size: Samples per batch; the paper's 128 by default, reduced so that an epoch has at least 16 steps
                (our choice: on 135 samples, two large steps per epoch learn nothing).
            representations: Read representations as well.
            keep: Save the weights as ``fusers/NAME.ckpt``.
            validates: Evaluate on the validation split.
            bar: Show a progress bar.
            **arguments: Arguments of :class:`~lightning_fusion.FoEFuserModule`.

        Returns:
            The fuser in eval mode, and the metrics of its last epoch.
        """
        seed_everything(self.seed, verbose=False)
        rows = batch_size or min(128, max(8, len(outputs["train"]) // 16))
        shared = getattr(self.data, "protocol", "clean") == "paper"  # other experts were trained on the fuser's samples
        data = OutputsDataModule(
            outputs, batch_size=rows, seed=self.seed, representations=representations, allow_seen=shared
        )
        inputs = {**outputs.fuser_arguments(), "representation_dims": data.representation_dims}
        module = FoEFuserModule(**inputs, network=network, seed=self.seed, **arguments)
        name = file_key(name)  # of a domain or an expert, which is free text
        path = self.folder / "fusers" / f"{name}.ckpt"
        kept = read_checkpoint(str(path)) if keep and path.is_file() else {}
        trained = kept.get("experts") == outputs.experts
        trainer = self.trainer(f"fusers/{name}", epochs, validates=validates, bar=bar, logged=not trained)
        if trained:
            module.load_state_dict(kept["state_dict"])
            trainer.validate(module, datamodule=data, verbose=False)
        else:
            trainer.fit(module, datamodule=data)
            if keep:
                save_weights(trainer, path)
        return module.eval(), {key: float(value) for key, value in trainer.callback_metrics.items()}


def save_weights(trainer: Trainer, path: Path) -> None:
    """Write a trained module's weights atomically; all processes wait until the file exists."""
    path.parent.mkdir(exist_ok=True, parents=True)
    if first_process():
        with atomic_write(path) as draft:
            trainer.save_checkpoint(draft, weights_only=True)
    else:
        trainer.save_checkpoint(path, weights_only=True)  # all processes take part; only the first writes
    for tracker in trackers_of(trainer.loggers):
        tracker.log_file(f"{path.parent.name}/{path.stem}", path, "checkpoint")
    trainer.strategy.barrier("weights are written")


def barrier() -> None:
    """Wait for all processes."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
