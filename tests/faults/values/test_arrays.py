"""Arrays that carry more than numbers (labels of rows and columns, masks, keys) are read as meant, or rejected."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from lightning_fusion import Expert, ExpertOutputs, ExpertPool, FrugalFoE, IndexedDataset, diagnose
from lightning_fusion.baselines import BestSingle
from lightning_fusion.data.targets import as_targets
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.errors import InputError
from lightning_fusion.experts.pool import check_outputs

P = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.5, 0.25, 0.25]])
NAMES = ["x", "y", "z"]


def read(probabilities, target=(0, 1, 2), missing=None, **more):
    split = {"probabilities": {"a": probabilities}, "target": target, **more}
    return ExpertOutputs.from_arrays({"train": split}, {"a": NAMES}, missing=missing)["train"]


class TestTables:
    @pytest.mark.slow
    @given(st.permutations(range(3)))
    @settings(max_examples=6, deadline=None)
    def test_columns_that_are_named_have_any_order(self, order):
        table = pd.DataFrame(P[:, order], columns=[NAMES[number] for number in order])
        np.testing.assert_allclose(read(table).probabilities["a"], P, rtol=1e-6)

    def test_columns_without_names_of_classes(self):
        for columns in ([0, 1, 2], ["p0", "p1", "p2"]):
            np.testing.assert_allclose(read(pd.DataFrame(P, columns=columns)).probabilities["a"], P, rtol=1e-6)
        with pytest.raises(InputError, match="expert a: found the columns x, y, w; expected x, y, z"):
            read(pd.DataFrame(P, columns=["x", "y", "w"]))
        digits, experts = {"probabilities": {"a": pd.DataFrame(P)}, "target": ["2", "1", "0"]}, {"a": ["2", "1", "0"]}
        with pytest.raises(
            InputError, match="columns 0, 1, 2, which pandas numbers by itself, and the classes are 2, 1"
        ):
            ExpertOutputs.from_arrays({"test": digits}, experts)

    def test_rows_in_another_order(self):
        table, target = pd.DataFrame(P, index=[7, 8, 9]), pd.Series([0, 1, 2], index=[9, 8, 7])
        with pytest.raises(
            InputError, match="rows of target and of probabilities of a have the same labels in another"
        ):
            read(table, target)
        assert len(read(table, target.sort_index())) == len(read(table, target.to_numpy())) == 3


class TestKeys:
    def test_unknown_ones(self):
        with pytest.raises(InputError, match=r"split train: found the key\(s\) 'domains'; .* did you mean domain"):
            read(P, domains=np.zeros((3, 0)))


class TestTensors:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_of_any_type(self, dtype):
        exact = torch.tensor([[0.75, 0.25, 0], [0.25, 0.5, 0.25], [0, 0, 1]], requires_grad=True)
        found = read(exact.to(dtype), torch.tensor([0, 1, 2]).to(dtype))
        assert found.probabilities["a"].tolist() == exact.tolist()
        assert found.target.tolist() == [0, 1, 2]


class TestMasks:
    def test_masked_answers_are_missing(self):
        masked = np.ma.array(P, mask=[[1] * 3, [0] * 3, [0] * 3])
        assert read(masked, missing="nan").missing[:, 0].tolist() == [True, False, False]
        with pytest.raises(InputError, match="declare missing answers"):
            read(masked)

    def test_masked_answers_of_an_expert(self):
        expert = Expert(lambda x: np.ma.array(P, mask=P > 0.85), classes=NAMES, output="probabilities")
        assert expert(torch.zeros(3, 2)).isnan().any(1).tolist() == [True, False, False]

    def test_masked_targets(self):
        with pytest.raises(InputError, match=r"targets: found masked values in row\(s\) 1"):
            as_targets(np.ma.array([0, 1], mask=[0, 1]), 2)


class TestObjects:
    @pytest.mark.parametrize("values", [[1, 0], [1.0, np.int8(0)], [np.uint8(1), 0]])
    def test_whole_numbers(self, values):
        assert as_targets(np.array(values, object), ["a", "b"]).tolist() == [1, 0]

    @pytest.mark.parametrize("values", [[1, "a"], [True, False], [1.5, 0], [None, 0], [float("inf"), 0], [2**70, 0]])
    def test_anything_else(self, values):
        with pytest.raises(InputError, match="targets: "):
            as_targets(np.array(values, object), ["a", "b"])


def test_one_class_is_diagnosed():
    split = {"probabilities": {"a": np.ones((3, 1)), "b": np.ones((3, 1))}, "target": [0, 0, 0]}
    found = diagnose(ExpertOutputs.from_arrays({"train": split}, {"a": ["x"], "b": ["x"]}))
    assert [expert.accuracy for expert in found.experts] == [1.0, 1.0]


EXACT = np.array([[0.75, 0.25], [0.25, 0.75], [0.5, 0.5], [0.25, 0.75]])
FORMS = {
    "float16": EXACT.astype(np.float16),
    "longdouble": EXACT.astype(np.longdouble),
    "big-endian": EXACT.astype(">f8"),
    "strided": np.repeat(EXACT, 2, 0)[::2],
    "read-only": np.broadcast_to(EXACT[None], (1, 4, 2))[0],
    "objects": EXACT.astype(object),
    "nullable columns": pd.DataFrame(EXACT).astype("Float64"),
    "list of tensors": [torch.tensor(row) for row in EXACT],
    "with a graph": torch.tensor(EXACT, requires_grad=True),
    "masked nowhere": np.ma.array(EXACT, mask=np.zeros((4, 2), bool)),
}
NO_NUMBERS = {
    "texts": EXACT.astype(str),
    "dates": EXACT.astype("datetime64[s]"),
    "complex": EXACT + 0j,
    "records": np.array([tuple(row) for row in EXACT], [("y", "f8"), ("x", "f8")]),
    "sparse": sparse.csr_matrix(EXACT),
    "sparse tensor": torch.tensor(EXACT).to_sparse(),
    "several lengths": [[0.5, 0.5], [1.0]],
    "a mask": np.ma.array(EXACT, mask=[[1, 0], [0, 0], [0, 0], [0, 0]]),
    "None": None,
}
POLICY = {"neighbors": 2, "fuser_neighbors": 1}


def of_store(values):
    split = {"probabilities": {"a": values}, "target": [0, 1, 0, 1]}
    return ExpertOutputs.from_arrays({"val": split}, {"a": ["x", "y"]})["val"].probabilities["a"]


def of_policy(values):
    return FrugalFoE(**POLICY).fit({"a": values}, [0, 1, 0, 1]).outputs[0]


def of_expert(values):
    found = Expert(lambda x: values, classes=["x", "y"], output="probabilities")(torch.zeros(4, 1))
    check_outputs({"a": found})
    return found


def of_baseline(values):
    if isinstance(values, torch.Tensor | np.ndarray):
        values = values[:, None] if values.ndim == 2 else values
    else:
        values = [[row] for row in values] if isinstance(values, list) else values
    BestSingle().fit(values, [0, 1, 0, 1])
    return np.asarray(EXACT)


@pytest.mark.filterwarnings("ignore:neighbors is", "ignore:trade_off", "ignore:the fuser")
class TestForms:
    @pytest.mark.parametrize("entry", [of_store, of_policy, of_expert])
    @pytest.mark.parametrize("form", FORMS)
    def test_of_numbers(self, entry, form):
        assert np.array_equal(torch.as_tensor(entry(FORMS[form])).detach(), EXACT)

    @pytest.mark.parametrize("entry", [of_store, of_policy, of_expert, of_baseline])
    @pytest.mark.parametrize("form", [name for name in NO_NUMBERS if name != "sparse"])
    def test_of_none(self, entry, form):
        with pytest.raises(InputError, match=r"found|has|returned") as raised:
            entry(NO_NUMBERS[form])
        assert "\n" not in str(raised.value)

    @pytest.mark.parametrize("entry", [of_store, of_policy, of_expert])
    def test_of_sparse_matrices(self, entry):
        with pytest.raises(InputError, match="found an array of object; expected numbers"):
            entry(NO_NUMBERS["sparse"])


def test_values_that_are_negative_by_rounding():
    with pytest.raises(InputError, match=r"some are negative by rounding: clip them at 0$"):
        of_store([[1 + 1e-9, -1e-9], [0, 1], [1, 0], [0, 1]])
    assert of_store([[1 + 1e-7, -0.0], [0, 1], [1, 0], [0, 1]])[0].tolist() == pytest.approx([1, 0])


def in_memory(*parts, domains=()):
    return TensorDataModule({"val": parts}, ["x", "y"], domains).rows("val")


class TestParts:
    """Parts of a split of a form that cannot be read."""

    @pytest.mark.parametrize(
        ("inputs", "found"),
        [
            (pd.DataFrame(EXACT), "a DataFrame"),
            (torch.eye(4).to_sparse(), "a sparse tensor"),
            (EXACT.astype(object), "an array of objects"),
        ],
    )
    def test_inputs(self, inputs, found):
        with pytest.raises(InputError, match=rf"split val: inputs: found {found}; expected a dense tensor"):
            in_memory(inputs, [0, 1, 0, 1])

    @pytest.mark.parametrize(
        "domains", [[[1, 0]] * 4, np.array([[True, False]] * 4), pd.DataFrame({"q": [False] * 4, "p": [True] * 4})]
    )
    def test_domains(self, domains):
        assert in_memory(torch.zeros(4, 1), [0, 1, 0, 1], domains, domains=["p", "q"]).domains.tolist() == [[1, 0]] * 4

    @pytest.mark.parametrize(
        "domains", [["p"] * 4, [[0.5, 0.5]] * 4, [[1]] * 4, pd.DataFrame({"p": [True] * 4, "r": [True] * 4})]
    )
    def test_of_no_domains(self, domains):
        with pytest.raises(InputError, match=r"split val: domains: found"):
            in_memory(torch.zeros(4, 1), [0, 1, 0, 1], domains, domains=["p", "q"])

    @pytest.mark.parametrize(
        ("split", "message"),
        [
            (None, "split val: found a NoneType; expected a dict"),
            ({"probabilities": [EXACT], "target": [0, 1, 0, 1]}, "probabilities: found a list; expected {expert"),
            ({"probabilities": {"a": EXACT}, "target": [0] * 4, "representations": {"a": [["t"]] * 4}}, "found an arr"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:all 4 targets")
    def test_of_a_store(self, split, message):
        with pytest.raises(InputError, match=message):
            ExpertOutputs.from_arrays({"val": split}, {"a": ["x", "y"]})


class TestNames:
    @pytest.mark.parametrize("names", [("a", "a\u200b"), ("caf\u00e9", "cafe\u0301"), (1, 2), ("", "a"), ("a", " ")])
    def test_of_experts(self, names):
        split = {"probabilities": dict.fromkeys(names, EXACT), "target": [0, 1, 0, 1]}
        message = r"experts: (the names .* differ in invisible characters|.* cannot name an expert; expected a text)"
        with pytest.raises(InputError, match=message):
            ExpertOutputs.from_arrays({"val": split}, {name: ["x", "y"] for name in names})
        with pytest.raises(InputError, match=message):
            ExpertPool({name: Expert(torch.nn.Linear(1, 2), classes=["x", "y"]) for name in names})

    def test_of_domains_of_samples(self):
        pairs = [(0, 0)] * 2
        assert IndexedDataset(pairs, ["caf\u00e9", "cafe\u0301"]).domain_names == ["caf\u00e9"]
        assert IndexedDataset(pairs, pd.Series(["q", "p"], index=[5, 6]))[0].domain.tolist() == [False, True]
        for domains, names in (([True, False], None), (["p", float("nan")], None), (["p", "p"], ["p", "p"])):
            with pytest.raises(InputError, match=r"^domain"):
                IndexedDataset(pairs, domains, names)


def test_a_policy_counts_samples():
    policy = FrugalFoE(**POLICY).fit({"a": EXACT}, [0, 1, 0, 1])
    for count in (2.0, True, None, -1):
        with pytest.raises(InputError, match=r"num_rows is .*; a function that queries experts requires the number"):
            policy.predict(lambda name, rows: EXACT[rows], count)
    with pytest.raises(InputError, match="targets: found no samples"):
        policy.curve({"a": EXACT[:0]}, [])
