"""Every modality trains, collects and predicts in every true precision of the Trainer."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from helpers import tiny
from helpers.recipe_runs import quick_teachers  # noqa: F401

from lightning_fusion import (
    ACoRLModule,
    Expert,
    ExpertModule,
    FoEFuserModule,
    FrugalFoEModule,
    HaTJointModule,
    TargetDataModule,
    collect,
)
from lightning_fusion.data.audio.synthetic import SyntheticLabeledAudioDataModule
from lightning_fusion.data.image.synthetic import SyntheticImageDataModule
from lightning_fusion.data.sensor.synthetic import SyntheticSensorDataModule
from lightning_fusion.data.text.synthetic import SyntheticTextDataModule
from lightning_fusion.encoders import SensorCNN, SmallConvNet, SmallSpeakerNet, TextBag
from lightning_fusion.errors import InputError

MODALITIES: dict[str, tuple[Callable[..., Any], Callable[[int], torch.nn.Module], str]] = {
    "image": (partial(SyntheticImageDataModule, image_size=8), partial(SmallConvNet, width=4), "body"),
    "sensor": (SyntheticSensorDataModule, partial(SensorCNN, width=4), "pool"),
    "text": (SyntheticTextDataModule, partial(TextBag, width=8), "pool"),
    "audio": (partial(SyntheticLabeledAudioDataModule, crop_s=0.5, eval_crop_s=0.5), SmallSpeakerNet, "embedding"),
}
CASES = [(modality, method) for modality in MODALITIES for method in ("expert", "collect")]
CASES += [
    ("image", "foe"),
    ("image", "frugal"),
    ("image", "hat"),
    ("sensor", "acorl"),
    ("text", "hat"),
    ("audio", "acorl"),
]


def module(method: str, data: Any, network: Any, features: str) -> Any:
    """A module of the method, with two experts of the data's classes."""
    torch.manual_seed(0)
    facts = {"classes": data.classes, "domains": data.domains[:1], "features": features}
    experts = {name: Expert(network(len(data.classes)), **facts) for name in ("a", "b")}
    trained = {"network": network, "classes": data.classes}
    if method == "expert":
        return ExpertModule(**trained)
    if method == "acorl":
        return ACoRLModule(experts=experts, features=features, **trained)
    if method == "hat":
        return HaTJointModule(experts=experts, features=features, **trained)
    return (FrugalFoEModule if method == "frugal" else FoEFuserModule)(experts=experts, classes=data.classes)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "16-true"])
@pytest.mark.parametrize(("modality", "method"), CASES)
def test_every_method_runs_in_every_precision(modality, method, precision):
    source, network, features = MODALITIES[modality]
    data = source(batch_size=8)
    trainer = tiny.trainer(precision=precision, limit_train_batches=2, limit_val_batches=1, limit_test_batches=1)
    made = module("foe" if method == "collect" else method, data, network, features)
    if method == "collect":
        outputs = collect(made.pool, data, None, trainer=trainer)
        expected = collect(made.pool.float(), data, None, trainer=tiny.trainer())
        for name in outputs.names:
            near = {"64-true": 1e-5, "bf16-true": 0.1, "16-true": 0.02}[precision]
            found, exact = (each["test"].probabilities[name] for each in (outputs, expected))
            assert abs(found - exact).max() < near
        return
    if method == "hat":
        data = TargetDataModule(data, data.domains[0], labeled_fraction=0.5, min_labeled=2)
    trainer.fit(made, datamodule=data)
    (result,) = trainer.test(made, datamodule=data, verbose=False)
    assert 0 <= result["test_accuracy"] <= 1
    assert trainer.predict(made, datamodule=data)


def test_an_optimizer_whose_eps_is_zero_in_half_precision_raises():
    made = ExpertModule(tiny.Net, tiny.CLASSES, optimizer=torch.optim.Adam)
    with pytest.raises(InputError, match=r"eps of Adam is 1e-08, which is 0 in float16.*set eps to 1e-4"):
        tiny.trainer(precision="16-true").fit(made, datamodule=tiny.data())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_an_expert_in_another_precision_takes_the_input_of_the_others(dtype):
    input, experts = torch.randn(5, 4), tiny.experts(features="body")
    exact = experts["a"](input)
    experts["a"].network.to(dtype)
    torch.testing.assert_close(experts["a"](input), exact, atol=0.02, rtol=0)
    fuser = FoEFuserModule(experts=experts, classes=tiny.CLASSES)
    assert fuser(input).dtype == torch.float32
    assert (
        collect(fuser.pool, tiny.data(), trainer=tiny.trainer())["test"].probabilities["a"].shape[1] == exact.shape[1]
    )
