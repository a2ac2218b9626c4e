"""Targets that could be meant in two ways, or are no class numbers, are rejected in every entry."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from lightning_fusion import Batch, Expert, ExpertOutputs, FrugalFoE, IndexedDataset
from lightning_fusion.baselines import BestSingle, majority_class
from lightning_fusion.data.batch import as_batch
from lightning_fusion.data.targets import as_targets, check_meaning
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:neighbors is", "ignore:the fuser of all", "ignore:trade_off")
P = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.6, 0.4]])
TRUTHS = {
    "array": np.array([False, True, True, False]),
    "list": [False, True, True, False],
    "tensor": torch.tensor([False, True, True, False]),
    "objects": np.array([False, True, True, False], object),
    "nullable": pd.Series([False, True, True, False], dtype="boolean"),
    "categories": pd.Series([False, True, True, False], dtype="category"),
    "mixed with numbers": [False, 1, 1, 0],
}


def store(targets, classes):
    split = {"probabilities": {"a": P}, "target": targets}
    return ExpertOutputs.from_arrays({"val": split}, {"a": classes})["val"].target.tolist()


def in_memory(targets, classes):
    return TensorDataModule({"val": (torch.zeros(4, 1), targets)}, classes).rows("val").targets.tolist()


def policy(targets, classes):
    tables = {"a": pd.DataFrame(P, columns=classes)}
    return FrugalFoE(neighbors=2, fuser_neighbors=1).fit(tables, targets).targets.tolist()


def batch(targets, classes):
    given = torch.as_tensor(np.array(targets, bool))
    return as_batch(Batch(torch.zeros(4, 1), given, torch.zeros(4, 0, dtype=torch.bool), torch.arange(4)), "a loader")


def sample_pairs(targets, classes):
    pairs = [(torch.zeros(1), bool(target)) for target in targets]
    return as_batch(next(iter(torch.utils.data.DataLoader(IndexedDataset(pairs), 4))), "a loader")


def baseline(targets, classes):
    return BestSingle().fit(P[:, None], targets)


class TestTruthValues:
    @pytest.mark.parametrize("entry", [store, in_memory, policy, batch, sample_pairs, baseline])
    @pytest.mark.parametrize("kind", TRUTHS)
    def test_are_no_classes(self, entry, kind):
        with pytest.raises(InputError, match=r"found (truth values|.*True|.*False).*; expected class numbers") as found:
            entry(TRUTHS[kind], ["spam", "ham"])
        assert "\n" not in str(found.value)

    @pytest.mark.parametrize("entry", [store, in_memory, policy])
    @pytest.mark.parametrize("kind", ["array", "list", "tensor", "nullable", "categories"])
    def test_are_classes_of_their_names(self, entry, kind):
        assert entry(TRUTHS[kind], ["True", "False"]) == [1, 0, 0, 1]

    def test_of_an_estimator(self):
        model = LogisticRegression().fit([[0.0], [1.0]], [False, True])
        with pytest.raises(InputError, match=r"found spam, ham; the estimator was fitted on truth values"):
            Expert(model, classes=["spam", "ham"])
        found = Expert(model, classes=["true", "false"])(torch.tensor([[0.0]]))
        np.testing.assert_allclose(found, model.predict_proba([[0.0]])[:, ::-1], rtol=1e-6)


class TestNumbersThatAreNames:
    @pytest.mark.parametrize("entry", [store, in_memory, policy])
    def test_either_may_be_meant(self, entry):
        with pytest.raises(InputError, match=r"found 0, 1, which are numbers of classes and names of others \('1' is"):
            entry([0, 1, 1, 0], ["1", "0"])
        assert entry(["0", "1", "1", "0"], ["1", "0"]) == [1, 0, 0, 1]
        with pytest.raises(InputError, match=r"these are names of classes: give texts"):
            entry([3, 7, 7, 3], ["3", "7"])
        assert entry([0, 1, 1, 0], ["3", "7"]) == [0, 1, 1, 0]

    def test_another_split_tells(self):
        check_meaning({"train": [0, 1, 2], "test": np.array([1.0, 2.0]), "unlabeled": [-100]}, ["1", "2", "3"])

    def test_numbers_of_an_estimator_in_another_order(self):
        class Model:
            classes_ = (1, 0)

            def predict_proba(self, x):
                return P

        assert np.allclose(Expert(Model(), classes=["no", "yes"])(torch.zeros(4, 1)), P[:, ::-1])


@pytest.mark.parametrize(
    "values",
    [
        np.array([2**63 + 1, 0], np.uint64),
        [1e30, 0],
        [2**70, 0],
        torch.tensor([1, 0]).to_sparse(),
        np.array(["2020-01-01", "2020-01-02"], "datetime64[D]"),
        {0, 1},
        {0: 1, 1: 0},
        np.array([b"1", b"0"]),
        pd.DataFrame({"target": [0, 1]}),
        pd.Series([1, None], dtype="Int64"),
        np.array([1 + 0j, 0]),
    ],
)
def test_what_is_no_target(values):
    with pytest.raises(InputError, match=r"^targets: found") as found:
        as_targets(values, None)
    assert "\n" not in str(found.value)
    with pytest.raises(InputError, match=r"^train_targets: found"):
        majority_class(values, 1)
