"""What works where only ``pip install .`` ran, and what says which extra is missing."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from lightning_fusion import ExpertModule
from lightning_fusion.encoders import SmallConvNet
from lightning_fusion.errors import InputError
from lightning_fusion.extras import installed, require

EXTRAS = {
    "audio": ["torchaudio", "soundfile", "pytorch_metric_learning"],
    "comet": ["comet_ml"],
    "completion": ["shtab"],
    "explain": ["captum"],
    "fast": ["numba"],
    "hub": ["huggingface_hub"],
    "lightgbm": ["lightgbm"],
    "mlflow": ["mlflow"],
    "optuna": ["optuna"],
    "onnx": ["onnx", "onnxscript", "onnxruntime"],
    "report": ["plotly"],
    "skops": ["skops"],
    "speechbrain": ["speechbrain"],
    "tensorboard": ["tensorboard"],
    "text": ["transformers", "datasets", "tokenizers", "rouge_score", "nltk"],
    "timm": ["timm"],
    "wandb": ["wandb"],
    "xgboost": ["xgboost"],
}
WITHOUT = f"""
import importlib.metadata, sys, warnings
packages = {[package for packages in EXTRAS.values() for package in packages]}
known = importlib.metadata.version
def version(name):
    if name.replace("-", "_") in packages:
        raise importlib.metadata.PackageNotFoundError(name)
    return known(name)
importlib.metadata.version = version  # Lightning asks for that of a logger's package
import torch, lightning.pytorch, torchmetrics
for package in packages:
    sys.modules[package] = None  # as where no extra is installed
import lightning_fusion
from lightning_fusion.errors import InputError
"""
MISSING = {
    "lightning_fusion.SpeakerDataModule(root='.')": ("torchaudio", "audio"),
    "from lightning_fusion.data.audio.files import AudioFiles; AudioFiles(['a.wav'], 8000)": ("soundfile", "audio"),
    "from lightning_fusion.verification.loss import AngularMarginLoss; AngularMarginLoss()": (
        "pytorch_metric_learning",
        "audio",
    ),
    "from lightning_fusion.encoders import ECAPA; ECAPA(3)": ("speechbrain", "speechbrain"),
    "lightning_fusion.TextDataModule('texts.csv')": ("tokenizers", "text"),
    "lightning_fusion.Expert.from_transformers('model')": ("transformers", "text"),
    "from lightning_fusion.experts.adapters.timm import TimmExpert; TimmExpert('resnet18')": ("timm", "timm"),
    "from lightning_fusion.generation.rouge import Rouge; Rouge()": ("nltk", "text"),
    "from lightning_fusion.acorl.attribution import integrated_gradients; integrated_gradients("
    "torch.nn.Linear(2, 2).eval(), torch.zeros(1, 2), torch.zeros(1).long())": ("captum", "explain"),
    "from lightning_fusion.cli.completion import completion; completion('bash')": ("shtab", "completion"),
    "import lightning_fusion.frugal.kernels": ("numba", "fast"),
    "lightning_fusion.Expert.from_pretrained('owner/model')": ("huggingface_hub", "hub"),
}


PARTS = {
    "checkpoint": "print(lightning_fusion.Expert(checkpoint='w.ckpt').network)",
    "missing": "\n".join(f"try:\n    {code}\nexcept InputError as error:\n    print(error)" for code in MISSING),
    "loggers": """
from lightning_fusion.recipes.trainers import Trainers
for name in ("Comet", "MLFlow", "TensorBoard", "Wandb"):
    try:
        Trainers({"logger": {"class_path": f"lightning.pytorch.loggers.{name}Logger"}}, "run").trainer("stage")
    except InputError as error:
        print(error)
""",
    "methods": """
import numpy as np
from lightning_fusion import Expert, ExpertPool, FoEFuserModule, FrugalFoE, OutputsDataModule, collect
pool = ExpertPool({name: Expert(torch.nn.Linear(4, 2), classes=["cat", "dog"]) for name in "ab"})
generator = torch.Generator().manual_seed(0)
data = {split: (torch.randn(20, 4, generator=generator), torch.arange(20) % 2) for split in ("train", "val", "test")}
trainer = lambda: lightning.pytorch.Trainer(
    max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
outputs = collect(pool, data, "store", trainer=trainer())
trainer().fit(FoEFuserModule(**outputs.fuser_arguments()), datamodule=OutputsDataModule("store"))
targets = torch.arange(1200) % 3
outputs = {"good": torch.eye(3)[targets], "mute": torch.full((1200, 3), 1 / 3)}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    policy = FrugalFoE().fit(outputs, targets)
print(*(warning.message for warning in caught if "numba" in str(warning.message)))
print(policy.predict(outputs).queried.sum(0).tolist(), "lightning_fusion.frugal.kernels" in sys.modules)
""",
    "names": """
print([getattr(lightning_fusion, name) for name in lightning_fusion.__all__])
from lightning_fusion.cli.main import main
main(["fit", "--help"])
""",
}


@pytest.fixture(scope="module")
def printed(tmp_path_factory) -> dict[str, str]:
    """What each part prints, one after the other in one interpreter that has no package of an extra."""
    folder = tmp_path_factory.mktemp("extras")
    checkpoint = {"state_dict": (module := ExpertModule(SmallConvNet, classes=["cat", "dog"])).state_dict()}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, folder / "w.ckpt")
    code = WITHOUT + "".join(f"\nprint('== {name}')\n{part}" for name, part in PARTS.items())
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return dict(zip(PARTS, re.split(r"^== \w+\n", done.stdout, flags=re.MULTILINE)[1:], strict=True))


def test_the_extras_are_those_of_the_project():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    named = {name: " ".join(project["optional-dependencies"][name]).replace("-", "_") for name in EXTRAS}
    assert all(package in named[name] for name, packages in EXTRAS.items() for package in packages)
    assert project["optional-dependencies"]["all"] == [f"lightning-fusion[{','.join(sorted(EXTRAS))}]"]
    core = " ".join(project["dependencies"])
    assert [package for packages in EXTRAS.values() for package in packages if package.replace("_", "-") in core] == []


@pytest.mark.slow
def test_a_checkpoint_with_a_network_of_the_library_needs_no_import(printed):
    assert printed["checkpoint"].startswith("SmallConvNet(")


@pytest.mark.slow
def test_every_public_name_and_the_help_need_no_extra(printed):
    assert "lightning_fusion.SpeakerDataModule" in printed["names"]


@pytest.mark.slow
def test_what_needs_an_extra_names_it(printed):
    expected = [f"found no package {name}: pip install 'lightning-fusion[{extra}]'" for name, extra in MISSING.values()]
    assert [line for line in printed["missing"].splitlines() if line] == expected  # torchaudio prints a blank one


@pytest.mark.slow
def test_a_tracker_without_its_package_names_package_and_extra(printed):
    says = "trainer.logger: {}Logger needs the package {}, which is not installed: pip install 'lightning-fusion[{}]'"
    named = [("Comet", "comet-ml", "comet"), ("TensorBoard", "tensorboard", "tensorboard"), ("Wandb", "wandb", "wandb")]
    lines = [says.format(*each) for each in named]
    lines.insert(1, "found no package mlflow: pip install 'lightning-fusion[mlflow]'")
    assert printed["loggers"].splitlines() == lines


@pytest.mark.slow
def test_a_policy_and_a_fuser_need_no_extra(printed):
    *_, warning, found = printed["methods"].splitlines()
    assert warning.startswith("found no package numba: with 1200 calibration samples") and found == "[1200, 0] False"


def test_a_broken_package_is_no_missing_one(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("raise ImportError('libsomething.so')")
    monkeypatch.syspath_prepend(tmp_path)
    assert installed("broken_package") and not installed("no_such_package")
    with pytest.raises(ImportError, match="libsomething"):
        require("broken_package", "audio")


def test_a_package_that_a_package_needs_is_named(tmp_path, monkeypatch):
    (tmp_path / "needs_another.py").write_text("import no_such_package.part")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"^found no package no_such_package: pip install 'lightning-fusion\[text\]'$"):
        require("needs_another", "text")
