import numpy as np
import pytest

from lightning_fusion import ExpertOutputs
from lightning_fusion.errors import InputError
from lightning_fusion.experts.outputs.divided import with_fuser_splits


def outputs(**rows: int) -> ExpertOutputs:
    generator = np.random.default_rng(0)
    splits = {
        split: {"probabilities": {"a": generator.dirichlet([1, 1], size=count)}, "target": np.arange(count) % 2}
        for split, count in rows.items()
    }
    return ExpertOutputs.from_arrays(splits, {"a": ["no", "yes"]})


def test_a_train_split_that_an_expert_has_seen_is_not_the_fusers():
    given = outputs(train=20, val=10, test=6)
    given["train"].seen = np.arange(20)[:, None] < 11
    divided, notes = with_fuser_splits(given, seed=0)
    assert notes == [
        "an expert was trained on 11 of 20 samples of the train split: 8 of 10 samples of val train the fusers, and 2 "
        "validate"
    ]
    together = np.sort(np.concatenate([divided["train"].probabilities["a"], divided["val"].probabilities["a"]]), axis=0)
    np.testing.assert_array_equal(together, np.sort(given["val"].probabilities["a"], axis=0))
    assert sorted(divided["val"].target) == [0, 1]  # of each class


def test_a_lacking_validation_split_is_drawn_from_the_train_split():
    divided, notes = with_fuser_splits(outputs(train=20, test=6), seed=0)
    assert [len(divided[split]) for split in ("train", "val", "test")] == [16, 4, 6] and len(notes) == 1
    whole = outputs(train=20, test=6)
    assert with_fuser_splits(whole, seed=0, needed=("train", "test")) == (whole, [])


def test_splits_that_cannot_be_drawn_are_an_error():
    with pytest.raises(InputError, match=r"stores: the outputs has the splits test, no sample for train, val"):
        with_fuser_splits(outputs(test=6), seed=0)
    seen = outputs(train=20, test=6)
    seen["train"].seen = np.ones((20, 1), bool)
    with pytest.raises(InputError, match=r"trained on 20 of 20 samples of the train split .* no val split; collect"):
        with_fuser_splits(seen, seed=0)
