from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from helpers import tiny
from helpers.image_trees import draw_tree
from helpers.splits import everything
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lightning_fusion.data.audio.labeled import LabeledAudioDataModule
from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.data.image.folders import DomainImageDataModule
from lightning_fusion.data.image.synthetic import SyntheticImageDataModule
from lightning_fusion.data.rows import TargetRows, sample_metadata
from lightning_fusion.data.samplers import LabeledSampler
from lightning_fusion.data.sensor.recordings import SensorDataModule
from lightning_fusion.data.sensor.table import FeatureTableDataModule
from lightning_fusion.data.splits import stratified_folds
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.data.text.delimited import TextDataModule
from lightning_fusion.data.views.target import TargetDataModule
from lightning_fusion.errors import InputError

ROWS = {"train": 120, "val": 30, "test": 30}


def target(domain="x", batch_size=10, rows=ROWS, **arguments) -> TargetDataModule:
    data = TensorDataModule(tiny.tensors(rows=rows), tiny.CLASSES, tiny.DOMAINS, batch_size=batch_size)
    return TargetDataModule(data, domain, **({"labeled_fraction": 0.2, "min_labeled": 4} | arguments))


class TestRows:
    def test_are_those_of_the_domain_and_few_show_their_label(self):
        data = target()
        inputs, targets, domains = tiny.tensors(rows=ROWS)["train"]
        mine = domains[:, 0].nonzero().flatten()
        batch = everything(data)
        assert torch.equal(batch.index, mine) and torch.equal(batch.input, inputs[mine])
        shown = batch.target >= 0
        assert torch.equal(batch.target[shown], targets[mine][shown])
        assert set(batch.target[~shown].tolist()) == {-100}
        for number in (0, 1):
            assert int((batch.target == number).sum()) == round(0.2 * int((targets[mine] == number).sum()))
        for split in ("val", "test"):
            batch = everything(data, split)
            wanted = tiny.tensors(rows=ROWS)[split]
            assert torch.equal(batch.target, wanted[1][wanted[2][:, 0]])
            assert torch.equal(batch.index, data.data.rows(split).index[wanted[2][:, 0]])

    def test_labeled_rows_alone(self):
        data = target()
        batch, rows = everything(data), data.labeled()
        assert torch.equal(rows[torch.arange(len(rows))].index, batch.index[batch.target >= 0])
        alone = data.variant(unlabeled=False)
        assert torch.equal(everything(alone).index, batch.index[batch.target >= 0])
        (order,) = [torch.cat([part.index for part in alone.train_dataloader()])]
        assert sorted(order.tolist()) == everything(alone).index.tolist()

    def test_a_larger_share_adds_labels(self):
        few, more, other = (
            everything(target(**how)).target >= 0 for how in ({}, {"labeled_fraction": 0.5}, {"seed": 1})
        )
        assert (more >= few).all() and more.sum() > few.sum()
        assert not torch.equal(few, other)
        assert (everything(target(labeled_fraction=1.0)).target >= 0).all()

    def test_a_number_of_each_class(self):
        batch = everything(target(labeled_per_class=3))
        assert Counter(batch.target.tolist()) == {0: 3, 1: 3, -100: len(batch.target) - 6}
        batch = everything(target(labeled_fraction=0.05, min_per_class=5))
        assert [int((batch.target == number).sum()) for number in (0, 1)] == [5, 5]

    def test_metadata_are_the_same_with_and_without_inputs(self):
        rows = target().rows("train")

        class Foreign:
            def __len__(self):
                return len(rows)

            def __getitem__(self, item):
                return rows[item]

        for ours, theirs in zip(sample_metadata(rows), sample_metadata(Foreign()), strict=True):
            assert torch.equal(ours, theirs)

    def test_fingerprints_tell_domains_and_labels_apart(self):
        prints = [target(**how).fingerprint("train") for how in ({}, {"domain": "y"}, {"seed": 1}, {})]
        assert len(set(prints)) == 3 and prints[0] == prints[3]


class TestFolds:
    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.integers(0, 3), min_size=3, max_size=40), st.integers(2, 3), st.integers(0, 5))
    def test_are_stratified_and_of_equal_size(self, strata, count, seed):
        folds = stratified_folds(np.array(strata), count, seed)
        sizes = np.bincount(folds, minlength=count)
        assert sizes.max() - sizes.min() <= 1
        for stratum in set(strata):
            own = np.bincount(folds[np.array(strata) == stratum], minlength=count)
            assert own.max() - own.min() <= 1

    def test_held_out_rows_are_no_training_rows(self):
        data = target()
        whole, known = everything(data), everything(data).index[everything(data).target >= 0]
        held = []
        for fold in data.folds(3):
            train, test = everything(fold), everything(fold, "test")
            assert torch.equal(everything(fold, "val").index, test.index)
            assert (test.target >= 0).all() and not set(test.index.tolist()) & set(train.index.tolist())
            assert len(train.index) + len(test.index) == len(whole.index)
            assert set(train.index[train.target >= 0].tolist()) == set(known.tolist()) - set(test.index.tolist())
            local = everything(fold.variant(unlabeled=False))
            assert torch.equal(local.index, train.index[train.target >= 0])
            assert fold.fingerprint("test") != data.fingerprint("test")
            held += test.index.tolist()
        assert sorted(held) == sorted(known.tolist())
        with pytest.raises(InputError, match=r"folds: 30 of 1[0-9] labeled samples"):
            data.folds(30)

    def test_a_fold_leaves_two_classes_at_least(self):
        pair = target(labeled_per_class=1)
        with pytest.raises(
            InputError, match=r"folds: the labeled samples of x are 1 of \w+, 1 of \w+; .*min_per_class"
        ):
            pair.folds(2)
        assert len(target(labeled_per_class=2).folds(2)) == 2


class TestBatches:
    def drawn(self, num_rows, labeled, world=1, epoch=0, **how):
        made = [LabeledSampler(num_rows, shuffle=True, labeled=labeled, **how) for _ in range(world)]
        for rank, sampler in enumerate(made):
            sampler.num_replicas, sampler.rank = world, rank
            sampler.set_epoch(epoch)
        batches = [[batch.tolist() for batch in sampler] for sampler in made]
        assert {len(own) for own in batches} == {len(made[0])}
        return batches

    @settings(max_examples=100, deadline=None)
    @given(st.integers(1, 25), st.integers(0, 70), st.integers(9, 20), st.integers(1, 8), st.integers(1, 3))
    def test_every_batch_of_every_process_has_labels(self, known, others, batch_size, least, world):
        labeled = torch.arange(known + others) % (others // known + 1) == 0
        known, others = int(labeled.sum()), int((~labeled).sum())
        batches = self.drawn(len(labeled), labeled, world, batch_size=batch_size, min_labeled=least)
        for own in batches:
            for batch in own:
                assert 1 <= len(batch) <= batch_size and len(set(batch)) == len(batch)
                assert int(labeled[batch].sum()) >= min(least, known)
        counts = Counter(row for own in batches for batch in own for row in batch)
        assert all(counts[row] == 1 for row in (~labeled).nonzero().flatten().tolist())
        shown = [counts[row] for row in labeled.nonzero().flatten().tolist()]
        assert min(shown) >= 1 and max(shown) - min(shown) <= 2

    def test_the_order_is_a_function_of_seed_and_epoch(self):
        labeled = torch.arange(40) < 6
        one, same, later, other = (
            self.drawn(40, labeled, batch_size=12, **how) for how in ({}, {}, {"epoch": 1}, {"seed": 1})
        )
        assert one == same and one != later and one != other

    def test_two_processes_see_the_global_batches_of_one(self):
        labeled = torch.arange(32) % 2 == 0
        (one,) = self.drawn(32, labeled, batch_size=8, min_labeled=2)
        two = self.drawn(32, labeled, 2, batch_size=4, min_labeled=1)
        assert [sorted(batch) for batch in one] == [sorted(a + b) for a, b in zip(*two, strict=True)]

    def test_the_data_module_uses_it(self):
        data = target()
        loader = data.train_dataloader()
        for batch in loader:
            assert int((batch.target >= 0).sum()) >= 4
        seen = torch.cat([batch.index for batch in loader]).unique()
        assert torch.equal(seen, everything(data).index)
        loader.sampler.shuffle = False  # as collect does
        assert torch.equal(torch.cat([batch.index for batch in loader]), everything(data).index)
        assert len(loader) == len(list(loader))

    @pytest.mark.parametrize(
        ("labeled", "arguments", "message"),
        [
            (torch.zeros(9, dtype=torch.bool), {}, "the training split has no labeled sample"),
            (torch.arange(20) < 10, {"batch_size": 8}, "batch_size is 8, of which min_labeled = 8 samples are labeled"),
        ],
    )
    def test_impossible_batches(self, labeled, arguments, message):
        with pytest.raises(InputError, match=message):
            LabeledSampler(len(labeled), shuffle=True, labeled=labeled, **({"batch_size": 16} | arguments))


class TestWrappedModule:
    def test_preparation_and_metadata_are_its_own(self):
        data = SyntheticImageDataModule(batch_size=32, augmentation=torch.nn.Dropout(0.5))
        made = TargetDataModule(data, "style_1")
        assert (made.classes, made.domains, made.own_domains) == (data.classes, data.domains, ["style_1"])
        assert made.preprocessing == data.preprocessing and made.augmentation is data.augmentation
        made.setup("fit")
        batch = next(iter(made.val_dataloader()))
        moved = made.on_after_batch_transfer(batch, 0)
        assert torch.equal(moved.input, data.preprocess(batch.input))
        assert torch.equal(moved.domain.nonzero()[:, 1].unique(), torch.tensor([1]))
        assert target().preprocessing is None

    def test_augments_in_training_alone(self):
        data = SyntheticImageDataModule(batch_size=32, augmentation=torch.nn.Dropout(1.0))
        made = TargetDataModule(data, "style_1")
        made.trainer = tiny.trainer()
        batch = next(iter(made.val_dataloader()))
        for training in (True, False):
            made.trainer.training = training
            assert bool((made.on_after_batch_transfer(batch, 0).input == -1).all()) == training

    def test_statistics_are_those_of_the_domain(self):
        class Counted(TensorDataModule):
            def __init__(self, tensors, classes, domains=(), domain=None):
                super().__init__(tensors, classes, domains)
                self.domain = domain

            def statistics(self, split="train"):
                rows = self.rows(split)
                mine = slice(None) if self.domain is None else rows.domains[:, self.domains.index(self.domain)]
                return rows.inputs[mine].mean(0)

        inputs, _, domains = tiny.tensors(rows=ROWS)["train"]
        data = TargetDataModule(Counted(tiny.tensors(rows=ROWS), tiny.CLASSES, tiny.DOMAINS), "y", min_labeled=2)
        torch.testing.assert_close(data.statistics(), inputs[domains[:, 1]].mean(0))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"domain": "z"}, "domain is 'z'; the data have x, y"),
            ({"labeled_fraction": 0.0}, "labeled_fraction is 0.0; expected a fraction above 0, up to 1"),
            ({"labeled_fraction": float("nan")}, "labeled_fraction is nan"),
            ({"labeled_per_class": 0}, "labeled_per_class is 0; expected at least 1"),
            ({"min_labeled": 0}, "min_labeled is 0; expected at least 1"),
            (
                {"labeled_fraction": 0.005},
                r"leaves no labeled sample of cat \(\d+ samples\), dog .*set min_per_class: 1",
            ),
        ],
    )
    def test_wrong_arguments(self, arguments, message):
        with pytest.raises(InputError, match=message):
            target(**arguments).setup("fit")

    @pytest.mark.parametrize(
        ("label", "message"),
        [(0, r"domain x have one class only \(cat\); a target needs two"), (-100, "have no labeled sample")],
    )
    def test_targets_that_teach_nothing(self, label, message):
        split = (torch.rand(6, 4), torch.full((6,), label), torch.ones(6, 1, dtype=torch.bool))
        data = TargetDataModule(TensorDataModule({"train": split}, tiny.CLASSES, ["x"]), "x")
        with pytest.raises(InputError, match=message):
            data.rows("train")

    def test_a_split_without_the_domain(self):
        split = (torch.rand(6, 4), torch.arange(6) % 3, torch.zeros(6, 1, dtype=torch.bool))
        data = TargetDataModule(TensorDataModule({"val": split}, tiny.CLASSES, ["x"]), "x")
        with pytest.raises(InputError, match="the val split of domain x has no sample"):
            data.rows("val")


def test_views_of_views_hide_what_either_hides():
    rows = target().rows("train")
    shown = rows.labeled.nonzero().flatten()
    view = TargetRows(rows, shown[:2], torch.tensor([True, False]))
    assert view[torch.arange(2)].target.tolist()[1] == -100 == sample_metadata(view)[0].tolist()[1]


# ---- a target most of whose samples have no label in the files, in every modality


def recordings(root: Path) -> FusionDataModule:
    """Two takes of 20 windows with five labels each, and one without the column of labels."""
    (root / "eve").mkdir()
    for take in range(2):
        label = [*"a" * 50, *"b" * 50, *[""] * 100][:: 1 - 2 * take]
        lines = [f"{number % 7},{label[number]}" for number in range(200)]
        (root / "eve" / f"{take}.csv").write_text("\n".join(["x,label", *lines]))
    (root / "eve/2.csv").write_text("\n".join(["x", *(str(number % 7) for number in range(200))]))
    return SensorDataModule(
        str(root),
        "{person}/{take}.csv",
        ["x"],
        "label",
        domain_fields=["person"],
        sample_rate_hz=10,
        window_s=1.0,
        step_s=1.0,
    )


def table(root: Path) -> FusionDataModule:
    lines = [f"{number % 7},{number},{'ab'[number % 2] if number < 20 else ''},eve" for number in range(60)]
    (root / "t.csv").write_text("\n".join(["x,y,label,person", *lines]))
    return FeatureTableDataModule(str(root / "t.csv"), "label", domain_fields=["person"])


def images(root: Path) -> FusionDataModule:
    draw_tree(root, ["eve"], ["a", "b"], 10)
    (root / "eve/unlabeled").mkdir()
    for number in range(40):
        Image.new("RGB", (4, 4), (250, number, 250)).save(root / "eve/unlabeled" / f"{number}.png")
    return DomainImageDataModule(str(root), ignored_labels=["unlabeled"])


def speech(root: Path, split_by: str) -> FusionDataModule:
    generator = np.random.default_rng(0)
    for number in range(60):
        label = "ab"[number % 2] if number < 20 else "unlabeled"
        soundfile.write(root / f"{label}_eve_{number}.wav", generator.normal(size=4000), 8000, subtype="FLOAT")
    arguments: dict[str, Any] = {"split_by": split_by, "ignored_labels": ["unlabeled"], "domain_field": "speaker"}
    return LabeledAudioDataModule(
        str(root), "{label}_{speaker}_{take}.wav", sample_rate_hz=8000, crop_s=0.25, eval_crop_s=0.5, **arguments
    )


def texts(root: Path) -> FusionDataModule:
    lines = [f"text number {number},{'ab'[number % 2] if number < 20 else ''},eve" for number in range(60)]
    (root / "t.csv").write_text("\n".join(["text,label,person", *lines]))
    return TextDataModule(str(root / "t.csv"), text="text", label="label", domain_fields=["person"])


MADE: dict[str, Any] = {
    "recordings": recordings,
    "table": table,
    "images": images,
    "speech by recording": lambda root: speech(root, "recording"),
    "speech by speaker": lambda root: speech(root, "speaker"),
    "texts": texts,
}


@pytest.mark.parametrize("kind", MADE)
def test_every_label_of_the_files_trains_and_the_rest_is_unlabeled(kind, tmp_path):
    target = TargetDataModule(MADE[kind](tmp_path), "eve", labeled_fraction=None, min_labeled=4)
    target.prepare_data()
    target.setup("fit")
    shown = everything(target).target
    assert [int((shown == number).sum()) for number in (0, 1, -100)] == [10, 10, 40]
    assert len(target.labeled()) == 20 and target.classes == ["a", "b"]
    assert all(int((batch.target >= 0).sum()) >= 4 for batch in target.train_dataloader())
    assert target.val_dataloader() == []
    with pytest.raises(InputError, match="the test split"):
        target.test_dataloader()
    assert len(target.folds(2)[0].val_dataloader()) == 1  # folds of the labels are held out all the same
    assert len(target.statistics())


def test_own_normalization_is_that_of_all_windows_of_the_person(tmp_path):
    data = recordings(tmp_path).variant(normalization_scope="own")
    target = TargetDataModule(data, "eve", labeled_fraction=None)
    values = everything(target).input
    assert target.preprocessing["mean"] == pytest.approx([float(values.double().mean())])


def test_a_number_of_labels_beside_all_of_them_is_rejected(tmp_path):
    with pytest.raises(InputError, match="labeled_fraction: null keeps all labels, and labeled_per_class some"):
        TargetDataModule(table(tmp_path), "eve", labeled_fraction=None, labeled_per_class=2)
