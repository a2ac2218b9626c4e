"""Checkpoints record which samples an expert was trained on; stores, fusers and diagnose say so."""

import copy
import warnings

import numpy as np
import pytest
import torch
from helpers import language_models, tiny

from lightning_fusion import (
    Expert,
    ExpertModule,
    ExpertOutputs,
    ExpertPool,
    FoEFuserModule,
    FrugalFoE,
    OutputsDataModule,
    collect,
    diagnose,
)
from lightning_fusion.data.image.synthetic import SyntheticImageDataModule
from lightning_fusion.data.sensor.synthetic import SyntheticSensorDataModule
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.data.views.role import RoleDataModule
from lightning_fusion.errors import InputError
from lightning_fusion.experts.diagnosis import LEAK_P
from lightning_fusion.files import row_digests
from lightning_fusion.generation.embeddings import collect_embeddings
from lightning_fusion.generation.expert import GenerativeExpert
from lightning_fusion.generation.module import GenerativeExpertModule
from lightning_fusion.generation.networks import PointerGenerator


def trained(data, path, **arguments) -> Expert:
    """An expert of four numbers that a checkpoint records, trained for one epoch."""
    torch.manual_seed(0)
    module, trainer = ExpertModule(tiny.Net, classes=tiny.CLASSES, **arguments), tiny.trainer(1)
    trainer.fit(module, data)
    trainer.save_checkpoint(path)
    return Expert(checkpoint=str(path))


class TestDigests:
    def test_equal_content_has_equal_digests_in_any_form(self):
        values = torch.randn(5, 3, 2)
        found = row_digests(values)
        assert found.dtype == np.uint64 and len(set(found.tolist())) == 5
        order = torch.tensor([3, 1, 0])
        assert np.array_equal(row_digests(values[order].numpy()), found[order.numpy()])
        assert not np.array_equal(row_digests(values, torch.arange(5)), found)
        assert row_digests(torch.zeros(0, 3)).shape == (0,)

    @pytest.mark.parametrize("domain", [None, "style_1"])
    def test_of_images_do_not_depend_on_split_role_or_domain(self, domain):
        data = SyntheticImageDataModule(fuser_fraction=0.3, domain=domain)
        index = {}
        for one in (data, data.variant(role="fuser", domain=None)):
            for split in ("train", "val", "test"):
                for row, digest in zip(one.rows(split).rows.tolist(), one.sample_digests(split).tolist(), strict=True):
                    assert index.setdefault(row, digest) == digest
        assert len(set(index.values())) == len(index)

    def test_of_sensor_windows_and_views(self):
        data = SyntheticSensorDataModule(val_fraction=0.3)
        expert, fuser = RoleDataModule(data), RoleDataModule(data, role="fuser")
        assert np.array_equal(expert.sample_digests("train"), data.sample_digests("train"))
        assert np.isin(fuser.sample_digests("train"), data.sample_digests("val")).all()
        assert not np.isin(fuser.sample_digests("train"), expert.sample_digests("train")).any()

    @pytest.mark.slow
    def test_of_texts_do_not_depend_on_the_tokenizer(self):
        pytest.importorskip("tokenizers")
        from lightning_fusion.data.text.synthetic import SyntheticTextDataModule

        one, other = (SyntheticTextDataModule(vocab_size=size) for size in (300, 400))
        assert np.array_equal(one.sample_digests("train"), other.sample_digests("train"))

    @pytest.mark.slow
    def test_of_recordings_do_not_depend_on_crops(self):
        pytest.importorskip("torchaudio")
        from lightning_fusion.data.audio.synthetic import SyntheticSpeakerDataModule

        one, other = (SyntheticSpeakerDataModule(crop_s=seconds, test_segments=2) for seconds in (0.5, 0.7))
        assert np.array_equal(one.sample_digests("train"), other.sample_digests("train"))
        found = one.sample_digests("test")
        assert np.array_equal(found[: len(found) // 2], found[len(found) // 2 :])


class TestCheckpoints:
    @pytest.mark.slow
    def test_record_the_training_samples_compactly(self, tmp_path):
        rows = {"train": 200, "val": 9, "test": 11}
        data = tiny.data(rows=rows)
        expert = trained(data, tmp_path / "a.ckpt")
        assert expert.training_samples.tolist() == sorted(data.sample_digests("train").tolist())
        assert expert.metadata()["training_samples"] == 200
        stored = torch.load(tmp_path / "a.ckpt", weights_only=True)["expert"]["samples"]
        assert stored.element_size() * stored.numel() == 8 * 200
        assert Expert(tiny.Net(2), classes=["a", "b"]).training_samples is None

    def test_a_later_training_adds_its_samples_and_a_test_none(self, tmp_path):
        first, second = tiny.data(seed=0), tiny.data(seed=1)
        trained(first, tmp_path / "a.ckpt")
        module = ExpertModule.load_from_checkpoint(tmp_path / "a.ckpt")
        trainer = tiny.trainer(1)
        trainer.test(module, tiny.data(seed=2), verbose=False)
        trainer.save_checkpoint(tmp_path / "b.ckpt")
        assert len(Expert(checkpoint=str(tmp_path / "b.ckpt")).training_samples) == 24
        trainer.fit(module, second)
        trainer.save_checkpoint(tmp_path / "c.ckpt")
        both = np.union1d(first.sample_digests("train"), second.sample_digests("train"))
        assert np.array_equal(Expert(checkpoint=str(tmp_path / "c.ckpt")).training_samples, both)

    def test_a_network_keeps_them_without_a_checkpoint_and_its_fingerprint(self):
        torch.manual_seed(0)
        module, data = ExpertModule(tiny.Net, classes=tiny.CLASSES), tiny.data()
        before = Expert(module.network, classes=tiny.CLASSES)
        assert before.training_samples is None
        tiny.trainer(0).fit(module, data)
        expert = Expert(module.network, classes=tiny.CLASSES)
        assert np.array_equal(expert.training_samples, np.unique(data.sample_digests("train")))
        copied = Expert(copy.deepcopy(module.network), classes=tiny.CLASSES)
        assert np.array_equal(copied.training_samples, expert.training_samples)
        del module.network._training_samples
        assert Expert(module.network, classes=tiny.CLASSES).fingerprint == copied.fingerprint

    def test_of_data_that_do_not_identify_samples_nothing_is_claimed(self, tmp_path):
        module, data = ExpertModule(tiny.Net, classes=tiny.CLASSES), tiny.data()
        tiny.trainer(1).fit(module, data.train_dataloader())
        trainer = tiny.trainer(1)
        trainer.fit(module, data)
        trainer.save_checkpoint(tmp_path / "a.ckpt")
        assert Expert(checkpoint=str(tmp_path / "a.ckpt")).training_samples is None
        again, trainer = ExpertModule.load_from_checkpoint(tmp_path / "a.ckpt"), tiny.trainer(1)
        trainer.fit(again, data)
        trainer.save_checkpoint(tmp_path / "b.ckpt")
        assert Expert(checkpoint=str(tmp_path / "b.ckpt")).training_samples is None


class TestStores:
    """Three experts, each trained on a third of the training samples: every sample trained one of them."""

    ROWS = {"train": 60, "val": 30, "test": 30}

    @pytest.fixture
    def experts(self, tmp_path):
        tensors = tiny.tensors(rows=self.ROWS)
        inputs, target, domain = tensors["train"]
        parts = [slice(place, None, 3) for place in range(3)]
        own = [tensors | {"train": (inputs[part], target[part], domain[part])} for part in parts]
        data = [TensorDataModule(one, tiny.CLASSES, tiny.DOMAINS) for one in own]
        return {name: trained(one, tmp_path / f"{name}.ckpt") for name, one in zip("abc", data, strict=True)}

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore")
    def test_everything_was_seen(self, experts, tmp_path):
        data, trainer = tiny.data(rows=self.ROWS), tiny.trainer()
        with pytest.warns(
            UserWarning, match=r"60 of 60 samples of train were training samples of an expert \(a 20, b 20"
        ):
            store = collect(ExpertPool(experts), data, tmp_path / "store", trainer=trainer)
        assert store["train"].seen.sum(0).tolist() == [20, 20, 20] and not store["test"].seen.any()
        assert store["train"].seen[0].tolist() == [True, False, False]
        with pytest.warns(UserWarning, match="60 of 60 samples of train"):
            collect(ExpertPool(experts), data, tmp_path / "store", trainer=trainer)
        fuser = FoEFuserModule(**store.fuser_arguments())
        with pytest.raises(InputError, match=r"60 of 60 .* role: fuser .*train_split: val .*allow_seen: true"):
            tiny.trainer(1).fit(fuser, OutputsDataModule(store))
        with pytest.warns(UserWarning, match="60 of 60 samples of train were training samples"):
            tiny.trainer(1).fit(fuser, OutputsDataModule(store, allow_seen=True))
        with pytest.warns(UserWarning, match="of the calibration set were training samples"):
            FrugalFoE(fuser_neighbors=3).fit(store["train"])
        with pytest.warns(UserWarning, match="60 of 60 samples of train"):
            tiny.trainer(1).fit(FoEFuserModule(experts=experts, classes=tiny.CLASSES), data)
        found = diagnose(store)
        assert [expert.seen for expert in found.experts] == [20, 20, 20] and all(e.leaks for e in found.experts)
        assert found.findings[0].startswith("LEAK: experts were trained on samples of the fuser training set (60 rows")

    @pytest.mark.slow
    def test_the_validation_split_trains_a_fuser_without_a_leak(self, experts, tmp_path):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="60 of 60 samples")
            store = collect(ExpertPool(experts), tiny.data(rows=self.ROWS), tmp_path / "store", trainer=tiny.trainer())
        data = OutputsDataModule(str(tmp_path / "store"), train_split="val", batch_size=8)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*training samples of an expert")
            tiny.trainer(1).fit(FoEFuserModule(**store.fuser_arguments()), data)
        parts = [data.rows(split)[torch.arange(len(data.rows(split)))].index for split in ("train", "val")]
        assert sorted(torch.cat(parts).tolist()) == store["val"].index.tolist() and 5 <= len(parts[1]) <= 7
        found = diagnose(store, split="val", unseen="test")
        assert "No expert was trained on a sample of val, as recorded in training." in found.findings
        assert not any(expert.leaks for expert in found.experts)
        with pytest.raises(InputError, match="train_split is 'test'"):
            OutputsDataModule(store, train_split="test")

    def test_nothing_is_recorded_of_other_experts(self, tmp_path):
        store = collect(tiny.pool(), tiny.data(), tmp_path, trainer=tiny.trainer())
        assert store["train"].seen is None and diagnose(store).experts[0].seen is None


def outputs_of(own: float, unseen: float, rows: int, others: int, experts: int = 1) -> ExpertOutputs:
    """Experts of exactly these accuracies on the fuser training set and on the unseen split."""
    splits = {}
    for split, accuracy, count in (("train", own, rows), ("test", unseen, others)):
        target = np.arange(count) % 2
        wrong = np.arange(count) < round((1 - accuracy) * count)
        said = np.eye(2)[target ^ wrong] * 0.8 + 0.1
        splits[split] = {"probabilities": {f"e{k}": said for k in range(experts)}, "target": target}
    return ExpertOutputs.from_arrays(splits, {f"e{k}": ["a", "b"] for k in range(experts)}, ["a", "b"])


def test_experts_without_a_record_are_named():
    outputs = outputs_of(0.8, 0.8, 60, 60, experts=2)
    assert any("The training samples of e0, e1 are not recorded; exp" in line for line in diagnose(outputs).findings)
    says = "The training samples of e0, e1 are not recorded, and there is no unseen split: whether they were trained on"
    assert any(line.startswith(says) for line in diagnose(outputs, unseen=None).findings)


class TestStatisticalCheck:
    @pytest.mark.parametrize(
        ("own", "unseen", "rows", "others", "experts"),
        [
            (0.997, 0.970, 1800, 600, 4),
            (0.997, 0.970, 1800, 400, 1),
            (1.0, 0.9, 300, 100, 3),
            (0.95, 0.75, 200, 100, 5),
        ],
    )
    def test_known_leaks_are_reported(self, own, unseen, rows, others, experts):
        found = diagnose(outputs_of(own, unseen, rows, others, experts))
        assert all(expert.leaks for expert in found.experts) and found.findings[0].startswith("LEAK: e0")

    @pytest.mark.parametrize(("own", "unseen"), [(0.997, 0.970), (0.98, 0.95)])
    def test_too_few_samples_are_not_called_clean(self, own, unseen):
        found = diagnose(outputs_of(own, unseen, 300, 60, 6))
        assert not any(expert.leaks for expert in found.experts)
        assert any("The leak check is not conclusive" in line and "is not excluded" in line for line in found.findings)
        assert all(expert.leak_bound >= own - unseen for expert in found.experts)

    @pytest.mark.slow
    @pytest.mark.parametrize("accuracy", [0.6, 0.9, 0.97])
    def test_clean_experts_are_rarely_accused(self, accuracy):
        generator, accused = np.random.default_rng(0), 0
        for _ in range(30):
            own, unseen = generator.binomial(600, accuracy) / 600, generator.binomial(300, accuracy) / 300
            accused += diagnose(outputs_of(own, unseen, 600, 300)).experts[0].leaks
        assert accused <= 2 * LEAK_P * 30

    @pytest.mark.slow
    def test_a_small_difference_of_many_samples_is_no_leak(self):
        assert not diagnose(outputs_of(0.75, 0.74, 50_000, 50_000)).experts[0].leaks


@pytest.mark.slow
def test_generative_experts_have_a_record_of_their_training_samples(tmp_path):
    data = language_models.pairs(20)
    module = GenerativeExpertModule(PointerGenerator, language_models.VOCABULARY, max_new_tokens=3)
    trainer = tiny.trainer(limit_train_batches=1)
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    expert = GenerativeExpert(checkpoint=str(tmp_path / "a.ckpt"), domains=data.domains)
    found = data.sample_digests("train")
    assert expert.training_samples.tolist() == sorted(set(found.tolist()))
    rows = data.rows("train").inputs
    alone = np.concatenate([rows.digests(torch.tensor([row])) for row in range(len(found))])  # of other padding
    assert (alone == found).all()
    how = {"splits": ["train"], "max_new_tokens": 3, "trainer": tiny.trainer()}
    says = rf"{len(found)} of {len(found)} samples of train were training samples of an expert \(a {len(found)}\)"
    with pytest.warns(UserWarning, match=says):
        collect_embeddings({"a": expert}, data, tmp_path / "store", **how)
