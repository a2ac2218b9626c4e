"""A string of a file that others wrote never imports a module, calls a function, or removes a file.

| entry | reader |
|---|---|
| ``hyper_parameters`` of a checkpoint | ``load_from_checkpoint``, ``--ckpt_path`` of each command, ``export`` |
| ``datamodule_hyper_parameters`` | ``load_from_checkpoint`` of data modules |
| ``expert`` (the card in a checkpoint) | ``Expert(checkpoint=...)``, ``GenerativeExpert(checkpoint=...)`` |
| ``callbacks`` of a checkpoint | ``ModelCheckpoint`` in a resumed fit |
| ``policy`` of a checkpoint, a policy's manifest | ``FrugalFoEModule``, ``FrugalFoE.load`` |
| a card of a registry | ``ExpertRegistry.load`` |
| the manifest of a store | ``ExpertOutputs``: no name is resolved |
"""

import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import sealed, tiny
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_fusion import Expert, ExpertModule, ExpertRegistry, FoEFuserModule, OutputsDataModule
from lightning_fusion.cli.main import main
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.data.views.target import TargetDataModule
from lightning_fusion.described import check_arguments, imported_class
from lightning_fusion.errors import InputError
from lightning_fusion.experts.weights import CARD_KEY
from lightning_fusion.export import export_checkpoint
from lightning_fusion.foe.fusers import MLPFuser
from lightning_fusion.frugal.risk import RiskEstimator
from lightning_fusion.frugal.state import build_part
from lightning_fusion.frugal.subset_fusers import SubsetFuser
from lightning_fusion.generation.expert import GenerativeExpert

FUSER = "lightning_fusion.foe.fusers.MLPFuser"
EXPERT = "lightning_fusion.Expert"

# What the author of a checkpoint may write as its hyperparameters, by the argument that is read.
NAMES = {
    "a class of the module": {"_class_path": "evil.Payload"},
    "a submodule of this library that is none": {"_class_path": "lightning_fusion.__main__.main"},
    "a class path that is no text": {"_class_path": ["evil", "Payload"]},
    "an expert": {"experts": {"a": "evil.Payload"}},
    "an expert as class path": {"experts": {"a": {"class_path": "evil.Payload"}}},
    "an expert as YAML": {"experts": {"a": "{class_path: evil.Payload}"}},
    "an expert in a file": {"experts": {"a": "evil.yaml"}},
    "experts in a file": {"experts": "evil.yaml"},
    "experts as a list": {"experts": ["evil.Payload"]},
    "an expert's network": {"experts": {"a": {"class_path": EXPERT, "init_args": {"network": "evil.Payload"}}}},
    "an expert's preprocess": {
        "experts": {"a": {"class_path": EXPERT, "init_args": {"preprocess": {"class_path": "evil.Payload"}}}}
    },
    "init_args as YAML": {"experts": {"a": {"class_path": EXPERT, "init_args": "{network: evil.Payload}"}}},
    "dict_kwargs": {"network": {"class_path": FUSER, "dict_kwargs": {"hidden": {"class_path": "evil.Payload"}}}},
    "a network": {"network": "evil.Payload"},
    "a network as class path": {"network": {"class_path": "evil.Payload"}},
    "a network as dotted key": {"network": {"class_path": FUSER, "init_args.hidden": "evil.Payload"}},
    "a function": {"network": {"class_path": "evil.payload"}},
    "a function of Python": {"network": {"class_path": "subprocess.getoutput", "init_args": {"cmd": "id"}}},
    "a module of Python": {"network": {"class_path": "antigravity.Network"}},
    "an imported class of another type": {"network": {"class_path": "torch.optim.SGD"}},
    "a loss": {"loss": "evil.Payload"},
    "a metric": {"metric": {"class_path": "evil.Payload"}},
    "an optimizer": {"optimizer": {"class_path": "evil.Payload"}},
    "an optimizer's argument": {
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": {"class_path": "evil.Payload"}}}
    },
    "a scheduler": {"scheduler": "evil.Payload"},
    "a dotted name": {"experts.a": "evil.Payload"},
    "a dotted class path": {"network.class_path": "evil.Payload"},
    "arguments under their old name": {"hparams": {"experts": {"a": "evil.Payload"}}},
    "a file of another host": {"experts": {"a": {"class_path": EXPERT, "init_args": {"checkpoint": r"\\evil\x.pt"}}}},
    "a url": {"experts": {"a": {"class_path": EXPERT, "init_args": {"checkpoint": "http://evil/x.pt"}}}},
    "deep nesting": {"network": {"class_path": FUSER, "init_args": {"hidden": None}}},
}


def deep(levels: int) -> dict:
    nested: dict = {"class_path": "evil.Payload"}
    for _ in range(levels):
        nested = {"class_path": "torch.nn.Sequential", "init_args": {"modules": nested}}
    return nested


NAMES["deep nesting"]["network"]["init_args"]["hidden"] = deep(200)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working folder, from which ``import evil`` would work."""
    (tmp_path / "evil.py").write_text(
        "open('IMPORTED', 'w')\nclass Payload: pass\ndef payload(*_): open('CALLED', 'w')\n"
    )
    (tmp_path / "evil.yaml").write_text("class_path: evil.Payload\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    assert "evil" not in sys.modules and not any((tmp_path / name).exists() for name in ("IMPORTED", "CALLED"))


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """Checkpoints of a fuser on stored outputs and of an expert, as training writes them."""
    folder = tmp_path_factory.mktemp("good")
    for name, module, data in (
        ("fuser", FoEFuserModule(**tiny.outputs().fuser_arguments()), OutputsDataModule(tiny.outputs())),
        ("expert", ExpertModule(tiny.Net, tiny.CLASSES), tiny.data()),
    ):
        trainer = tiny.trainer()
        trainer.fit(module, datamodule=data)
        trainer.save_checkpoint(folder / f"{name}.ckpt")
    return folder


def altered(path: Path, **changes) -> str:
    """Write a checkpoint with changed entries, which weights-only loading accepts."""
    content = torch.load(path, weights_only=True)
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(content.get(key), dict) else value
    torch.save(content, "altered.ckpt")
    torch.load("altered.ckpt", weights_only=True)
    return "altered.ckpt"


def with_names(good: Path, names: dict) -> str:
    if "hparams" in names:
        return altered(good / "fuser.ckpt", **names)
    return altered(good / "fuser.ckpt", hyper_parameters=names)


class TestModules:
    @pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
    def test_load_from_checkpoint(self, names, good):
        with pytest.raises(InputError, match=r"checkpoint: altered\.ckpt"):
            FoEFuserModule.load_from_checkpoint(with_names(good, names))

    def test_what_a_parser_gets(self):
        for case, names in NAMES.items():
            if not names.keys() & {"_class_path", "hparams"}:  # read before
                with pytest.raises(InputError, match="ckpt_path"):
                    check_arguments(FoEFuserModule, names, f"ckpt_path: {case}")

    def test_export(self, good):
        for names in ({"_class_path": "evil.Payload"}, {"network": {"class_path": "evil.payload"}}):
            with pytest.raises(InputError, match="no imported"):
                export_checkpoint(with_names(good, names), "out", tiny.pool(), [4])
        assert not Path("out").exists()

    @pytest.mark.slow
    def test_ckpt_path(self, good):
        tiny.outputs().save("runs/digits/outputs")
        files = ["-c", "foe/digits.yaml", "--trainer.logger=false"]
        cases = ["a class path that is no text", "an expert", "a network", "init_args as YAML", "a dotted name"]
        for command, case in zip(["fit", "validate", "test", "predict", "fit"], cases, strict=True):
            with pytest.raises(InputError, match="ckpt_path"):
                main([command, *files, "--ckpt_path", with_names(good, NAMES[case])])
            assert "evil" not in sys.modules, case

    @pytest.mark.parametrize(
        "names",
        [
            {"network": {"class_path": FUSER, "init_args": {"hidden": [10**9]}}},
            {"network": {"class_path": FUSER, "init_args": {"hidden": [10**13]}}},
            {"network": {"class_path": FUSER, "init_args": {"hidden": "many"}}},
            {"network": {"class_path": FUSER, "init_args": {"hidden": [-1]}}},
            {"network": 3},
            {"classes": 3},
            {"expert_classes": {"a": 3}},
            {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": [1]}}},
            {"seed": {"a": 1}},
            {"mean_weight": "x"},
        ],
        ids=range(10),
    )
    def test_values_of_another_type_or_size(self, names, good):
        path = with_names(good, names)
        if names == {"optimizer": names.get("optimizer")}:
            FoEFuserModule.load_from_checkpoint(path)  # a factory is called in a fit
        else:
            with pytest.raises(InputError, match=r"altered\.ckpt|classes|mean_weight"):
                FoEFuserModule.load_from_checkpoint(path)

    @pytest.mark.parametrize("key", ["state_dict", "hyper_parameters", "experts", "callbacks"])
    @pytest.mark.parametrize("value", [None, 3, "x", [1], {"a": 1}, {1: {}}])
    def test_content_of_another_kind(self, key, value, good):
        content = torch.load(good / "fuser.ckpt", weights_only=True)
        content[key] = value
        torch.save(content, "altered.ckpt")
        try:
            FoEFuserModule.load_from_checkpoint("altered.ckpt")
        except InputError as error:
            assert "\n" not in str(error)

    def test_what_training_writes_is_read(self):
        arguments = {**tiny.outputs().fuser_arguments(), "mean_weight": 0.25}
        module = FoEFuserModule(**arguments, network=partial(MLPFuser, hidden=(7,)))
        trainer = tiny.trainer()
        trainer.strategy.connect(module)
        trainer.save_checkpoint("mine.ckpt")
        again = FoEFuserModule.load_from_checkpoint("mine.ckpt")
        assert again.mean_weight == 0.25 and tiny.same(again, module)
        assert again.hparams == module.hparams

    def test_names_of_the_users_yaml_may_be_anything(self):
        names = {"network": "my.networks.build", "loss": {"class_path": "my.Loss"}}
        assert check_arguments(FoEFuserModule, names, "a", names) == names

    def test_texts_that_are_no_names_stay(self):
        names = {"classes": ["evil.Payload", "a: b"], "expert_classes": {"evil.Payload": ["x.y"]}, "target": "label"}
        assert check_arguments(FoEFuserModule, names, "a") == names

    def test_a_text_that_yaml_reads_for_hours(self):
        merged = "\n".join(["a0: &a0 {k: 1}", *(f"a{n + 1}: &a{n + 1} {{<<: [*a{n}, *a{n}]}}" for n in range(60))])
        for text in ("1" + ":1" * 100_000, merged, "1" + ":1" * 400 + ".5"):
            with pytest.raises(InputError, match="names"):
                check_arguments(FoEFuserModule, {"network": text}, "checkpoint: x", {})

    def test_an_interpolation_is_not_resolved(self):
        with pytest.raises(InputError, match=r"\$\{oc.env:HOME\}"):
            check_arguments(FoEFuserModule, {"classes": ["${oc.env:HOME}", "b"]}, "a")


class TestData:
    def test_a_data_module_of_a_checkpoint(self, good):
        for names in ({"classes": {"class_path": "evil.Payload"}}, {"_class_path": "evil.Payload"}, {"a.b": 1}):
            path = altered(good / "expert.ckpt", datamodule_hyper_parameters={**names, "_instantiator": "evil.payload"})
            with pytest.raises(InputError):
                TensorDataModule.load_from_checkpoint(path, splits=tiny.tensors(), classes=tiny.CLASSES, domains="evil")

    def test_a_view_of_a_data_module_of_a_checkpoint(self, good):
        names = {"data": {"class_path": "evil.Payload"}, "domain": "x"}
        with pytest.raises(InputError, match=r"names evil\.Payload as data"):
            TargetDataModule.load_from_checkpoint(altered(good / "expert.ckpt", datamodule_hyper_parameters=names))


class TestExperts:
    SPECS = [
        {"class_path": "evil.Payload"},
        {"class_path": "evil.payload"},
        {"class_path": "helpers.tiny.Net", "init_args": {"hidden": {"class_path": "evil.Payload"}}},
        {"class_path": "helpers.tiny.Net", "init_args": "evil.Payload"},
        {"class_path": ["evil.Payload"]},
        "evil.Payload",
        ["evil.Payload"],
    ]

    @pytest.mark.parametrize("spec", SPECS, ids=str)
    def test_the_network_of_an_expert(self, spec, good):
        path = altered(good / "expert.ckpt", **{CARD_KEY: {"network": spec}})
        with pytest.raises(InputError, match=r"altered\.ckpt"):
            Expert(checkpoint=path)
        path = altered(good / "expert.ckpt", **{CARD_KEY: {"network": spec, "vocab_size": 9}})
        with pytest.raises(InputError), GenerativeExpert(checkpoint=path).loaded():
            pass

    @pytest.mark.parametrize("samples", [torch.zeros(1, dtype=torch.int64).expand(10**12), torch.zeros(2).to_sparse()])
    def test_tensors_that_would_take_gigabytes(self, samples, good):
        path = altered(good / "expert.ckpt", **{CARD_KEY: {"samples": samples}})
        with pytest.raises(InputError, match=r"would take gigabytes|without values of its own"):
            Expert(checkpoint=path, network=tiny.Net)
        with pytest.raises(InputError, match=r"would take gigabytes|without values of its own"):
            ExpertModule.load_from_checkpoint(path)

    def test_content_that_contains_itself(self, good):
        content = torch.load(good / "expert.ckpt", weights_only=True)
        content["itself"] = content["hyper_parameters"]["classes"] = loop = {}
        loop["again"] = loop
        torch.save(content, "altered.ckpt")
        with pytest.raises(InputError, match=r"altered\.ckpt"):
            ExpertModule.load_from_checkpoint("altered.ckpt")

    def test_no_download_is_started(self, good):
        spec = {
            "class_path": "lightning_fusion.experts.adapters.transformers.TransformersClassifier",
            "init_args": {"path": "evil/model", "download": True},
        }
        with pytest.raises(InputError, match="download"):
            Expert(checkpoint=altered(good / "expert.ckpt", **{CARD_KEY: {"network": spec}}))

    @pytest.mark.parametrize("spec", SPECS[:5], ids=str)
    def test_a_card_of_a_registry(self, spec):
        data, registry = tiny.data(), ExpertRegistry("registry")
        registry.publish(
            Expert(tiny.Net(3), classes=tiny.CLASSES, features="body"), data, "a", statistics=[1.0], network=tiny.Net
        )
        sealed.edit(Path("registry/a/card.json"), lambda card: card | {"network": spec})
        with pytest.raises(InputError, match="a"):
            ExpertRegistry("registry").load("a")


@pytest.mark.parametrize("family", [SubsetFuser, RiskEstimator])
@pytest.mark.parametrize("path", ["evil.Payload", "evil.payload", "torch.nn.Linear", ["evil"], None])
def test_the_parts_of_a_policy(family, path):
    with pytest.raises(InputError, match="no imported fuser"):
        build_part({"class_path": path, "init_args": {}}, family, "policy")


class TestCallbacks:
    @pytest.mark.parametrize("name", ["{0}/../mine.txt", "dir::file://{0}/mine.txt", "memory://x"])
    def test_no_file_of_a_checkpoint_is_removed(self, name, good, folder):
        (folder / "mine.txt").write_text("mine")
        runs = folder / "runs"
        state = {"dirpath": str(runs), "best_model_path": name.format(runs), "best_k_models": {}}
        key = ModelCheckpoint(dirpath=runs, save_top_k=1).state_key
        path = altered(good / "expert.ckpt", callbacks={key: state})
        module = ExpertModule(tiny.Net, tiny.CLASSES)
        trainer = tiny.trainer(3, callbacks=[ModelCheckpoint(dirpath=runs, save_top_k=1)], enable_checkpointing=True)
        with pytest.raises(InputError, match="as a file of its training"):
            trainer.fit(module, datamodule=tiny.data(), ckpt_path=path)
        assert (folder / "mine.txt").read_text() == "mine"


def test_a_class_is_looked_up_and_never_computed():
    assert imported_class("lightning_fusion.Expert", torch.nn.Module) is Expert
    assert imported_class("torch.nn.Linear", torch.nn.Module) is torch.nn.Linear
    for name in ("evil.Payload", "torch.nn", "Linear", "", ".Linear", "torch.nn.functional.relu", "os.system", None, 3):
        assert imported_class(name, torch.nn.Module) is None
