"""ACoRL for speakers, on the synthetic voices."""

from functools import partial

import pytest
import torch
from helpers import tiny

from lightning_fusion import Expert
from lightning_fusion.acorl.verification import ACoRLVerificationModule
from lightning_fusion.data.audio.synthetic import SyntheticSpeakerDataModule
from lightning_fusion.encoders import SmallSpeakerNet
from lightning_fusion.errors import InputError
from lightning_fusion.schedules import Constant
from lightning_fusion.verification.error_rates import equal_error_rate
from lightning_fusion.verification.metrics import trial_scores
from lightning_fusion.verification.module import VerificationModule


@pytest.fixture(scope="module")
def data():
    return SyntheticSpeakerDataModule(batch_size=16, crop_s=0.5, eval_crop_s=0.5, seed=0)


def fit(module, data, epochs: int = 1):
    torch.manual_seed(1)
    trainer = tiny.trainer(epochs, limit_train_batches=2)
    trainer.fit(module, datamodule=data)
    return trainer


@pytest.mark.slow
def test_the_fused_figures_are_those_of_mean_cosines(data):
    torch.manual_seed(0)
    first = VerificationModule(SmallSpeakerNet, classes=data.classes)
    fit(first, data)
    expert = Expert(first.network, classes=data.classes, features="embedding")
    made = ACoRLVerificationModule(SmallSpeakerNet, {"first": expert}, classes=data.classes)
    fit(made, data)
    (found,) = tiny.trainer().test(made, datamodule=data, verbose=False)
    assert {"test_eer", "test_min_dcf", "test_expert_first_eer", "test_fused_eer", "test_fused_min_dcf"} <= set(found)
    parts = tiny.trainer().predict(made, datamodule=data)
    own, index = torch.cat([part["embedding"] for part in parts]), torch.cat([part["index"] for part in parts])
    given = [data.on_after_batch_transfer(batch, 0).input for batch in data.test_dataloader()]
    other = torch.cat([expert.forward_with_representations(input)[1] for input in given])
    pairs, same = data.trials("test")
    place = {number: row for row, number in enumerate(index.tolist())}
    rows = torch.tensor([[place[number] for number in pair] for pair in pairs.tolist()])
    scores = [trial_scores(embeddings, rows) for embeddings in (own, other)]
    for name, value in (
        ("test_eer", scores[0]),
        ("test_expert_first_eer", scores[1]),
        ("test_fused_eer", sum(scores) / 2),
    ):
        assert found[name] == pytest.approx(float(equal_error_rate(value, same)), abs=1e-6), name


@pytest.mark.slow
def test_a_strength_of_nothing_is_the_plain_training(data):
    torch.manual_seed(0)
    expert = Expert(SmallSpeakerNet(len(data.classes)), classes=data.classes, features="embedding")
    trained = []
    for kind in (VerificationModule, partial(ACoRLVerificationModule, experts={"a": expert}, schedule=Constant(0.0))):
        torch.manual_seed(5)
        module = kind(network=SmallSpeakerNet, classes=data.classes)
        fit(module, data)
        trained.append(module.network)
    assert tiny.same(*trained)


def test_an_expert_of_other_input_warns(data):
    expert = Expert(SmallSpeakerNet(len(data.classes)), classes=data.classes, features="embedding")
    expert.preprocessing = data.preprocessing | {"sample_rate_hz": 8000}
    with pytest.warns(
        UserWarning,
        match=r"expert a was trained with a preprocessing that differs .*\(sample_rate_hz 8000 against 16000\)",
    ):
        ACoRLVerificationModule(SmallSpeakerNet, {"a": expert}, classes=data.classes, preprocessing=data.preprocessing)


@pytest.mark.slow
def test_its_checkpoint_is_a_speaker_expert(data, tmp_path):
    torch.manual_seed(0)
    expert = Expert(SmallSpeakerNet(len(data.classes)), classes=data.classes, features="embedding")
    made = ACoRLVerificationModule(SmallSpeakerNet, {"a": expert}, classes=data.classes)
    fit(made, data).save_checkpoint(tmp_path / "m.ckpt")
    loaded = Expert(checkpoint=str(tmp_path / "m.ckpt"))
    input = torch.randn(2, 80, 60)
    torch.testing.assert_close(
        loaded.forward_with_representations(input)[1], made.eval().forward_with_representations(input)[1]
    )


def test_a_scale_of_another_loss_is_rejected(data):
    from lightning_fusion.verification.loss import AngularMarginLoss

    expert = Expert(SmallSpeakerNet(len(data.classes)), classes=data.classes, features="embedding")
    with pytest.raises(InputError, match=r"the network's head has 30.*, the loss 20"):
        ACoRLVerificationModule(
            SmallSpeakerNet, {"a": expert}, classes=data.classes, loss=AngularMarginLoss(scale=20.0)
        )
