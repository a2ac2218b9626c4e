import numpy as np
import pytest
import torch

from lightning_fusion.data.image.digits import DigitsDataModule
from lightning_fusion.data.sensor.synthetic import SyntheticSensorDataModule
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.data.views.overlap import OverlapDataModule
from lightning_fusion.data.views.source import SourceDataModule
from lightning_fusion.data.views.target import TargetDataModule
from lightning_fusion.errors import InputError

CLASSES = ["ant", "bee", "cat", "dog"]


def table() -> TensorDataModule:
    target = torch.tensor([0, 1, 2, 3, 3, 2, 1, 0, 1])
    inputs = torch.arange(9.0)[:, None]
    return TensorDataModule({"train": (inputs, target), "val": (inputs[:4], target[:4])}, CLASSES, batch_size=4)


def names(data, split: str = "train") -> dict[int, str]:
    """The class of each sample by its number."""
    rows = data.rows(split)
    batch = rows[torch.arange(len(rows))]
    return {
        int(index): data.classes[target]
        for index, target in zip(batch.index.tolist(), batch.target.tolist(), strict=True)
    }


def test_only_rows_of_the_kept_classes_are_left_with_their_input_and_number():
    data = table()
    view = SourceDataModule(data, ["dog", "bee"])
    assert view.classes == ["bee", "dog"]
    whole = names(data)
    assert names(view) == {index: name for index, name in whole.items() if name in ("bee", "dog")}
    batch = view.rows("train")[torch.arange(5)]
    assert batch.input[:, 0].tolist() == batch.index.tolist() == [1, 3, 4, 6, 8]
    loaded = torch.cat([batch.index for batch in view.train_dataloader()])
    assert sorted(loaded.tolist()) == [1, 3, 4, 6, 8]
    assert data.rows("train").targets.tolist() == [0, 1, 2, 3, 3, 2, 1, 0, 1]  # the wrapped module is as it was


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kept", [None, ["ant", "cat"], ["ant", "bee", "dog"]])
def test_permuted_labels_name_every_class_wrongly_and_all_splits_alike(kept, seed):
    right, wrong = (SourceDataModule(table(), kept, permuted=permuted, seed=seed) for permuted in (False, True))
    pairs = {
        (names(right, split)[row], name) for split in ("train", "val") for row, name in names(wrong, split).items()
    }
    assert len(pairs) == len(right.classes) == len({one for one, _ in pairs}) == len({other for _, other in pairs})
    assert all(one != other for one, other in pairs)
    assert names(wrong).keys() == names(right).keys() and wrong.fingerprint("train") != right.fingerprint("train")


def test_statistics_are_of_the_rows_that_are_left():
    data = SyntheticSensorDataModule(session_fields=["session"], domain="p0_phone")
    view, whole = SourceDataModule(data, data.classes[:2]), SourceDataModule(data)
    assert torch.equal(whole.statistics(), data.statistics())
    rows = view.rows("train")
    windows = rows[torch.arange(len(rows))].input.double()  # (N, channels, T)
    means = view.statistics()[:66].reshape(6, 11)[:, 0].double().numpy()  # the first of eleven numbers is the mean
    np.testing.assert_allclose(means, windows.mean((0, 2)).numpy(), atol=1e-4)
    assert not torch.allclose(view.statistics(), data.statistics())
    batch = next(iter(view.train_dataloader()))
    assert torch.equal(view.on_after_batch_transfer(batch, 0).input, data.on_after_batch_transfer(batch, 0).input)
    assert view.preprocessing == data.preprocessing and view.own_domains == ["p0_phone"]


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (["ant", "eel"], "kept: found eel; the data's classes are ant, bee, cat, dog"),
        (["ant"], r"kept: found \['ant'\]; a source needs two classes"),
    ],
)
def test_rejected(kept, message):
    with pytest.raises(InputError, match=message):
        SourceDataModule(table(), kept).rows("train")


def test_a_split_without_the_kept_classes_and_rows_of_another_kind_are_rejected():
    tensors = {"train": (torch.zeros(3, 1), torch.tensor([0, 0, 0]))}
    with pytest.raises(InputError, match="kept: the train split has no sample of bee, cat"):
        SourceDataModule(TensorDataModule(tensors, CLASSES), ["bee", "cat"]).rows("train")
    target = TargetDataModule(SyntheticSensorDataModule(session_fields=["session"]), "p0_phone")
    with pytest.raises(InputError, match="of TargetDataModule is a TargetRows; expected a RowDataset"):
        SourceDataModule(target).rows("train")


def mixed(domain: str, overlap: float) -> OverlapDataModule:
    return OverlapDataModule(SyntheticSensorDataModule(), domain, overlap)


@pytest.mark.slow
def test_the_rows_of_an_experts_domain_make_room_for_rows_of_all_domains():
    data = SyntheticSensorDataModule()
    own = set(data.variant(domain="p1_watch").rows("train").rows.tolist())
    everyone = set(data.rows("train").rows.tolist())
    for overlap in (0.0, 0.25, 1.0):
        rows = OverlapDataModule(data, "p1_watch", overlap).rows("train").rows.tolist()
        assert len(rows) == len(set(rows)) == len(own) and set(rows) <= everyone
        kept = len(own & set(rows))
        assert kept >= round((1 - overlap) * len(own)) and kept - (1 - overlap) * len(own) < 0.3 * len(own)
    assert set(mixed("p1_watch", 0).rows("train").rows.tolist()) == own
    shares = data.rows("train").domains[mixed("p1_watch", 1).rows("train").rows].float().mean(0)
    assert shares.max() < 0.3  # of eight domains: drawn from all of them alike


@pytest.mark.slow
def test_an_overlapping_expert_counts_the_classes_that_it_has_rows_of():
    data = DigitsDataModule(num_domains=5, classes_per_domain=2, fuser_fraction=0.2)
    plain, some = OverlapDataModule(data, data.domains[0], 0), OverlapDataModule(data, data.domains[0], 0.5)
    assert len(plain.classes) == 2 and set(plain.classes) < set(some.classes)
    truth, ours = names(data), names(some)
    assert ours.items() <= truth.items()
    assert plain.own_domains == data.domains[:1] and OverlapDataModule(data, data.domains[0], 1).classes == data.classes
    assert plain.fingerprint("train") != some.fingerprint("train")
    again = OverlapDataModule(data, data.domains[0], 0.5)
    assert torch.equal(some.rows("val").rows, again.rows("val").rows)


def test_invalid_overlaps_are_rejected():
    with pytest.raises(InputError, match=r"overlap is 1\.5; expected a fraction from 0"):
        mixed("p1_watch", 1.5)
    with pytest.raises(InputError, match="domain is 'p9'; the data have"):
        mixed("p9", 0.5)
