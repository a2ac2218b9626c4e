"""A small module of each kind, with data to train it on."""

from pathlib import Path
from typing import Any

import torch
from torchmetrics.classification import MulticlassF1Score

from helpers import generation_script, language_models, tiny
from lightning_fusion import (
    ACoRLModule,
    Expert,
    ExpertModule,
    FoEFuserModule,
    FrugalFoE,
    FrugalFoEModule,
    HaTJointModule,
    OutputsDataModule,
    TargetDataModule,
)
from lightning_fusion.acorl.verification import ACoRLVerificationModule
from lightning_fusion.data.audio.synthetic import SyntheticSpeakerDataModule
from lightning_fusion.encoders import SmallSpeakerNet, SpeakerResNet
from lightning_fusion.generation.embeddings import EmbeddingsDataModule, collect_embeddings
from lightning_fusion.generation.module import GenerativeExpertModule
from lightning_fusion.generation.networks import PointerGenerator
from lightning_fusion.hat.arguments import PAPER
from lightning_fusion.verification.module import VerificationModule


class Known(SyntheticSpeakerDataModule):
    """Speakers of which some of each split are among those of the training."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        batch = super().on_after_batch_transfer(batch, dataloader_idx)
        return batch._replace(target=batch.target.clamp_min(0))


def classifiers() -> tuple[Any, dict[str, Any]]:
    return tiny.data(), {"network": tiny.Net, "classes": tiny.CLASSES, "metric": MulticlassF1Score(3)}


def speakers() -> tuple[Any, dict[str, Any]]:
    data = Known(batch_size=16, crop_s=0.5, eval_crop_s=0.5, seed=0)
    return data, {"network": SmallSpeakerNet, "classes": data.classes, "metric": MulticlassF1Score(len(data.classes))}


def made(name: str, folder: Path) -> tuple[Any, Any]:
    """A module and its data, every option set that makes it log more."""
    torch.manual_seed(0)
    data, plain = (speakers if "Verification" in name else classifiers)()
    if name == "ExpertModule":
        return ExpertModule(**plain), data
    if name == "ACoRLModule":
        return ACoRLModule(experts=tiny.experts(features="body"), features="body", **plain), data
    if name == "HaTJointModule":
        module = HaTJointModule(experts=tiny.experts(features="body"), features="body", **PAPER, **plain)
        return module, TargetDataModule(data, "x", labeled_fraction=0.5, min_labeled=2)
    if name == "VerificationModule":
        return VerificationModule(**plain), data
    if name == "ACoRLVerificationModule":
        expert = Expert(SmallSpeakerNet(len(data.classes)), classes=data.classes, features="embedding")
        return ACoRLVerificationModule(experts={"a": expert}, **plain), data
    stored = OutputsDataModule(tiny.outputs(), batch_size=16)
    if name == "FoEFuserModule":
        return FoEFuserModule(**tiny.outputs().fuser_arguments(), target="expert", metric=MulticlassF1Score(3)), stored
    if name == "FrugalFoEModule":
        return FrugalFoEModule(FrugalFoE(abstain_above=0.5), expert_classes=tiny.EXPERT_CLASSES), stored
    metric = MulticlassF1Score(3)
    if name == "GenerativeFoE":
        how = {"max_new_tokens": 5, "trainer": tiny.trainer()}
        store = collect_embeddings(generation_script.experts(), language_models.pairs(20), folder / "store", **how)
        return generation_script.fuser(metric=metric), EmbeddingsDataModule(store, ["b"])
    assert name == "GenerativeExpertModule", f"add a case for {name} to made()"
    data = language_models.pairs(8)
    metric = MulticlassF1Score(language_models.VOCABULARY)
    return GenerativeExpertModule(PointerGenerator, language_models.VOCABULARY, max_new_tokens=3, metric=metric), data


def narrow_speaker_step() -> None:
    """A backward pass of a shape at which channels_last crashes."""
    SpeakerResNet(3, 40, width=8, blocks=(1, 1))(torch.randn(32, 40, 100)).sum().backward()
