"""Names of experts are free text in every module: keys of state dicts, metrics and files are the library's own."""

import pytest
import torch
from helpers import tiny
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lightning_fusion import (
    ACoRLModule,
    Expert,
    ExpertPool,
    FoEFuserModule,
    FrugalFoE,
    FrugalFoEModule,
    OutputsDataModule,
    collect,
    diagnose,
)
from lightning_fusion.export import export_checkpoint
from lightning_fusion.recipes.report import Report

NAMES = ["gpt-3.5-turbo", "mistralai/Mixtral-8x7B-Instruct-v0.1", "..", "<b>x</b>|y.z", "a\nb", "keys", "x" * 300]


@pytest.fixture(scope="module")
def experts():
    torch.manual_seed(0)
    return {name: Expert(tiny.Net(3), classes=tiny.CLASSES, features="body") for name in NAMES}


@pytest.fixture(scope="module")
def outputs(experts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("names") / "store"
    pool = ExpertPool(experts, tiny.CLASSES)
    return collect(pool, tiny.data(), folder, keep_representations=True, trainer=tiny.trainer())


@pytest.mark.slow
def test_in_stores_diagnoses_and_policies(experts, outputs, tmp_path):
    assert outputs.names == NAMES
    diagnose(outputs, "train", "test").save(tmp_path / "d")
    FrugalFoE().fit(outputs["train"]).save(tmp_path / "p")
    module = FrugalFoEModule(FrugalFoE.load(tmp_path / "p"), ExpertPool(experts, tiny.CLASSES))
    assert module(tiny.tensors()["test"][0]).queried.shape == (11, len(NAMES))


@pytest.mark.slow
def test_in_fusers_and_exports(experts, outputs, tmp_path):
    for given, data in (({"experts": experts}, tiny.data()), ({}, OutputsDataModule(outputs))):
        arguments = {"classes": tiny.CLASSES} | given if given else outputs.fuser_arguments()
        module, trainer = FoEFuserModule(**arguments), tiny.trainer(2, logger=CSVLogger(tmp_path / "log"))
        trainer.fit(module, datamodule=data)
        trainer.save_checkpoint(tmp_path / "fuser.ckpt")
        again = FoEFuserModule.load_from_checkpoint(tmp_path / "fuser.ckpt", weights_only=True, **given)
        assert all(torch.equal(value, again.state_dict()[key]) for key, value in module.state_dict().items())
    assert export_checkpoint(str(tmp_path / "fuser.ckpt"), tmp_path / "e", experts, [4])["parity"] < 1e-4


@pytest.mark.slow
def test_in_acorl(experts, tmp_path):
    module = ACoRLModule(tiny.Net(3), experts=experts, classes=tiny.CLASSES, features="body")
    callbacks = [ModelCheckpoint(tmp_path, filename="last")]
    trainer = tiny.trainer(2, logger=CSVLogger(tmp_path / "log"), callbacks=callbacks, enable_checkpointing=True)
    trainer.fit(module, datamodule=tiny.data())
    assert "val_expert_gpt-3%2E5-turbo_accuracy" in trainer.callback_metrics
    assert "val_expert_mistralai/Mixtral-8x7B-Instruct-v0%2E1_accuracy" in trainer.callback_metrics
    again = ACoRLModule.load_from_checkpoint(
        tmp_path / "last.ckpt", weights_only=True, network=tiny.Net(3), experts=experts
    )
    assert again.pool.names == NAMES


def test_html_and_markdown_in_names_are_text_in_a_report(tmp_path):
    report = Report("foe", {}, metric="accuracy", title="test accuracy")
    for name in NAMES:
        report.add(name, "accuracy", 0.5, 0)
    report.notes.append("<script>alert(1)</script> has seen 3 samples, p < 0.05")
    report.save(tmp_path, NAMES[0])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "<b>" not in text and "<script>" not in text and "p < 0.05" in text
    assert r"| &lt;b>x&lt;/b>\|y.z |" in text and "| a b |" in text
