from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
import torch
from helpers import tiny
from lightning import LightningModule
from sklearn.metrics import roc_curve
from torch import Tensor, nn

from lightning_fusion import Expert, ExpertModule
from lightning_fusion.callbacks import ScheduledAttribute
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.encoders import SmallSpeakerNet
from lightning_fusion.errors import InputError
from lightning_fusion.schedules import Linear
from lightning_fusion.verification.loss import AngularMarginLoss
from lightning_fusion.verification.module import VerificationModule

SPEAKERS = ["anna", "ben", "cleo"]
NET = partial(SmallSpeakerNet, num_mels=4, width=4, embedding_dim=6)


class Trials(NamedTuple):
    pairs: Tensor
    same: Tensor


class Voices(TensorDataModule):
    """Three training speakers, four unseen ones; known: how many validation rows are of a training speaker."""

    def __init__(self, known: int = 0, trials: bool = True, batch_size: int = 5) -> None:
        generator = torch.Generator().manual_seed(0)
        tensors, self._speakers = {}, {}
        for split, count, people in (("train", 24, 3), ("val", 13, 4), ("test", 14, 4)):
            who = torch.arange(count) % people
            color = torch.randn(people, 4, generator=generator)
            noise = torch.randn(count, 4, 20, generator=generator)
            target = who.clone()
            if split != "train":
                target[known:] = -100
                target[:known] %= 3
            tensors[split], self._speakers[split] = ((1 + color[who].abs()[..., None]) * noise, target), who
        super().__init__(tensors, SPEAKERS, batch_size=batch_size)
        self.listed = trials

    def trials(self, split: str) -> Trials | None:
        if not self.listed:
            return None
        who, numbers = self._speakers[split], self.rows(split).index
        pairs = torch.combinations(torch.arange(len(who)))
        return Trials(numbers[pairs], who[pairs[:, 0]] == who[pairs[:, 1]])


def module(**arguments) -> VerificationModule:
    torch.manual_seed(0)
    return VerificationModule(**({"network": NET, "classes": SPEAKERS} | arguments))


def rates_by_hand(made: VerificationModule, data: Voices, split: str) -> tuple[float, float]:
    """EER and minDCF from scikit-learn's curve."""
    rows = data.rows(split)
    made.eval()
    with torch.no_grad():
        embeddings = made.network.embedding(made.network.pool(made.network.body(rows.inputs))).double().numpy()
    unit = embeddings / np.linalg.norm(embeddings, axis=1)[:, None]
    pairs, same = data.trials(split)
    pairs = pairs.numpy() - int(rows.index[0])
    false, true, _ = roc_curve(same.numpy(), (unit[pairs[:, 0]] * unit[pairs[:, 1]]).sum(1), drop_intermediate=False)
    after = int(np.argmax(true >= 1 - false))
    gap = (1 - true) - false
    share = gap[after - 1] / (gap[after - 1] - gap[after])
    eer = false[after - 1] + share * (false[after] - false[after - 1])
    return eer, min((0.01 * (1 - true) + 0.99 * false) / 0.01)


class TestTraining:
    def test_is_that_of_an_expert_with_the_angular_margin(self):
        ours = module()
        torch.manual_seed(0)
        plain = ExpertModule(NET, classes=SPEAKERS, loss=AngularMarginLoss(0.2, 30.0))
        for made in (ours, plain):
            torch.manual_seed(0)
            tiny.trainer(2, limit_val_batches=0).fit(made, datamodule=Voices())
        assert tiny.same(ours.network, plain.network)

    @pytest.mark.slow
    def test_a_warm_up_of_the_margin_changes_the_result_and_ends_at_the_margin(self):
        found = []
        for callbacks in ([], [ScheduledAttribute("loss.margin", Linear(0.0, 0.2, until=0.5))]):
            made = module()
            tiny.trainer(3, callbacks=callbacks).fit(made, datamodule=Voices())
            found.append(made)
        assert found[1].loss.margin == 0.2
        assert not tiny.same(*(made.network for made in found))

    @pytest.mark.slow
    def test_it_learns_voices(self):
        made, rows = module(optimizer=partial(torch.optim.AdamW, lr=2e-2)), Voices().rows("train")
        tiny.trainer(15, limit_val_batches=0).fit(made, datamodule=Voices())
        assert (made.eval()(rows.inputs).argmax(1) == rows.targets).float().mean() > 0.8


class TestEvaluation:
    @pytest.mark.slow
    @pytest.mark.parametrize("batch_size", [1, 5, 64])
    def test_rates_equal_scikit_learns(self, batch_size):
        made, data = module(), Voices(batch_size=batch_size)
        tiny.trainer(3).fit(made, datamodule=data)
        for split, run in (("val", "validate"), ("test", "test")):
            (found,) = getattr(tiny.trainer(), run)(made, datamodule=data, verbose=False)
            eer, cost = rates_by_hand(made, data, split)
            assert set(found) == {f"{split}_eer", f"{split}_min_dcf"}  # nobody is known: no loss, no accuracy
            assert found[f"{split}_eer"] == pytest.approx(eer, abs=1e-6)
            assert found[f"{split}_min_dcf"] == pytest.approx(cost, abs=1e-6)
            assert 0 < eer < 1

    @pytest.mark.parametrize("known", [1, 7, 13])
    def test_loss_and_accuracy_are_those_of_the_known_rows(self, known):
        made, data = module(), Voices(known)
        (found,) = tiny.trainer().validate(made, datamodule=data, verbose=False)
        rows = data.rows("val")
        logits, target = made.eval()(rows.inputs)[:known], rows.targets[:known]
        assert set(found) == {"val_loss", "val_accuracy", "val_eer", "val_min_dcf"}
        assert found["val_loss"] == pytest.approx(nn.functional.cross_entropy(logits, target).item(), rel=1e-4)
        assert found["val_accuracy"] == pytest.approx((logits.argmax(1) == target).float().mean().item())

    def test_a_fit_may_follow_a_validation(self):
        made, data = module(), Voices(known=4)
        tiny.trainer().validate(made, datamodule=data, verbose=False)
        trainer = tiny.trainer()
        trainer.fit(made, datamodule=data)
        assert {"val_eer", "val_loss"} <= set(trainer.callback_metrics)

    def test_a_batch_of_one_row_trains(self):
        made = module()
        tiny.trainer(limit_val_batches=0, limit_train_batches=1).fit(made, datamodule=Voices(batch_size=1))
        assert all(p.isfinite().all() for p in made.parameters())

    @pytest.mark.slow
    def test_every_epoch_starts_anew(self):
        made, data = module(), Voices(known=4)
        trainer = tiny.trainer(2)
        trainer.fit(made, datamodule=data)
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        (again,) = tiny.trainer().validate(made, datamodule=data, verbose=False)
        assert {name: logged[name] for name in again} == pytest.approx(again)

    def test_the_p_target_is_the_users(self):
        made, data = module(), Voices()
        made.evaluation.trials["val"].p_target = 0.5
        (expected,) = tiny.trainer().validate(made, datamodule=data, verbose=False)
        (found,) = tiny.trainer().validate(module(p_target=0.5), datamodule=data, verbose=False)
        (usual,) = tiny.trainer().validate(module(), datamodule=data, verbose=False)
        assert found == expected != usual

    def test_without_trials_it_is_an_ordinary_classifier(self):
        data = Voices(known=13, trials=False)
        (found,) = tiny.trainer().validate(module(), datamodule=data, verbose=False)
        (loaded,) = tiny.trainer().validate(module(), data.val_dataloader(), verbose=False)
        assert set(found) == {"val_loss", "val_accuracy"} and loaded == found

    def test_where_there_is_nothing_to_measure_it_says_so(self):
        with pytest.raises(InputError, match=r"the val split has no speaker of the training set, and .* no trials"):
            tiny.trainer().fit(module(), datamodule=Voices(trials=False))

    def test_trials_of_another_run_are_forgotten(self):
        made = module()
        tiny.trainer().validate(made, datamodule=Voices(), verbose=False)
        (found,) = tiny.trainer().validate(made, datamodule=Voices(known=13, trials=False), verbose=False)
        assert set(found) == {"val_loss", "val_accuracy"}


class TestLimitedRuns:
    """Trials name samples that a limited run never sees."""

    def test_the_trials_among_the_seen_are_scored(self):
        made, data = module(), Voices()
        (found,) = tiny.trainer(limit_val_batches=2).validate(made, datamodule=data, verbose=False)
        whole = data.trials("val")
        kept = (whole.pairs < int(data.rows("val").index[0]) + 10).all(1)
        data.trials = lambda split: Trials(whole.pairs[kept], whole.same[kept])
        (expected,) = tiny.trainer().validate(made, datamodule=data, verbose=False)
        assert found == expected and 0 < int(kept.sum()) < len(kept)

    def test_too_few_for_a_rate_give_nan(self):
        (found,) = tiny.trainer(limit_val_batches=1).validate(module(), datamodule=Voices(batch_size=2), verbose=False)
        assert np.isnan(found["val_eer"]) and np.isnan(found["val_min_dcf"])

    def test_the_sanity_check_and_a_fast_run_pass(self):
        made = module()
        tiny.trainer(num_sanity_val_steps=1).fit(made, datamodule=Voices())
        trainer = tiny.trainer(fast_dev_run=True)
        trainer.fit(module(), datamodule=Voices())
        assert "val_eer" in trainer.callback_metrics

    def test_a_whole_run_must_see_all(self):
        data = Voices()
        pairs, same = data.trials("val")
        data.trials = lambda split: Trials(pairs + (pairs == pairs.max()), same)
        with pytest.raises(InputError, match="1 of 13 samples were never seen: 37"):
            tiny.trainer().validate(module(), datamodule=data, verbose=False)

    def test_a_split_that_is_not_run_needs_no_trials(self):
        data = Voices()
        data.trials = lambda split: pytest.fail(f"asked for the trials of {split}")
        tiny.trainer(limit_val_batches=0).fit(module(), datamodule=data)


class TestCheckpoint:
    @pytest.mark.slow
    def test_is_an_ordinary_expert_with_the_embedding_as_features(self, tmp_path):
        made, data, trainer = module(), Voices(), tiny.trainer(2)
        trainer.fit(made, datamodule=data)
        trainer.save_checkpoint(tmp_path / "m.ckpt")
        expert = Expert(checkpoint=str(tmp_path / "m.ckpt"))
        rows = data.rows("test")
        probabilities, features = expert.forward_with_representations(rows.inputs)
        assert expert.classes == SPEAKERS and expert.features == "embedding"
        torch.testing.assert_close(probabilities, made.eval()(rows.inputs).softmax(1))
        parts = tiny.trainer().predict(made, datamodule=data)
        assert torch.equal(torch.cat([part["index"] for part in parts]), rows.index)
        torch.testing.assert_close(torch.cat([part["embedding"] for part in parts]), features)

    @pytest.mark.slow
    def test_holds_plain_data_alone_and_rebuilds_the_module(self, tmp_path):
        made, trainer = module(p_target=0.05), tiny.trainer()
        trainer.fit(made, datamodule=Voices())
        trainer.save_checkpoint(tmp_path / "m.ckpt")
        content = torch.load(tmp_path / "m.ckpt", weights_only=True)
        assert all(key.startswith("network.") for key in content["state_dict"])
        for kind in (VerificationModule, LightningModule):
            loaded = kind.load_from_checkpoint(tmp_path / "m.ckpt", weights_only=True)
            assert type(loaded) is VerificationModule and tiny.same(loaded, made)
            assert loaded.evaluation.trials["test"].p_target == 0.05 and loaded.loss.scale == 30

    def test_a_loss_of_its_own_is_no_argument_that_was_given(self):
        made = module(optimizer=partial(torch.optim.SGD, lr=0.1))
        assert made.hparams["loss"] is None and made.hparams["optimizer"]["init_args"] == {"lr": 0.1}


class TestOtherData:
    """The data module at hand is not the one that the model was made for."""

    def test_other_speakers_are_not_trained_on(self):
        made = module(classes=["anna", "ben", "dora"])
        with pytest.raises(InputError, match="classes: the model has anna, ben, dora, the data module anna, ben, cleo"):
            tiny.trainer().fit(made, datamodule=Voices())

    def test_trials_that_may_hold_training_speakers(self):
        with pytest.warns(UserWarning, match="has anna, ben, dora, .* may be among those of the trials"):
            tiny.trainer().test(module(classes=["anna", "ben", "dora"]), datamodule=Voices(), verbose=False)

    def test_other_input(self):
        data = Voices()
        data.preprocessing = {"sample_rate_hz": 16_000, "num_mels": 4, "crop": [1, 2]}
        made = module(preprocessing={"sample_rate_hz": 8_000, "num_mels": 4, "crop": (1, 2)})
        message = r"the model was trained with a preprocessing that differs from the data's \(sample_rate_hz 8000 ag"
        with pytest.warns(UserWarning, match=message):
            tiny.trainer().test(made, datamodule=data, verbose=False)


class Odd(nn.Module):
    """Gives frames where an embedding is expected."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.embedding, self.unused, self.head = nn.Identity(), nn.Identity(), nn.Linear(4, num_classes)

    def forward(self, input: Tensor) -> Tensor:
        return self.head(self.embedding(input).mean(-1))


class TestRefused:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"features": "embeding"}, "features: the network has no layer 'embeding'; its layers: body, "),
            ({"features": ""}, "features: the network has no layer ''"),
            ({"loss": AngularMarginLoss(scale=20)}, "scale: the network's head has 30.0, the loss 20"),
            ({"network": partial(NET, scale=64)}, "scale: the network's head has 64.0, the loss 30.0"),
            ({"classes": None}, "classes is not set, and the data module has none"),
        ],
    )
    def test_at_the_start(self, arguments, message):
        with pytest.raises(InputError, match=message):
            module(**arguments)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("layer", "message"),
        [
            ("embedding", r"the layer 'embedding' gave \(5, 4, 20\); expected an embedding"),
            ("unused", "the network does not call its layer 'unused'"),
        ],
    )
    def test_a_layer_that_gives_no_embedding(self, layer, message):
        made = module(network=Odd, features=layer)
        with pytest.raises(InputError, match=f"features: {message}"):
            tiny.trainer().validate(made, datamodule=Voices(), verbose=False)
