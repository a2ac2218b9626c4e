import json
import shutil

import numpy as np
import pytest
from helpers import sealed, tiny
from reference import rules

from lightning_fusion import ExpertOutputs, collect
from lightning_fusion.errors import InputError
from lightning_fusion.experts.outputs.store import expert_target_matrix
from lightning_fusion.store import DamagedStoreError, ForeignFolderError, MissingStoreError


def equal(one: ExpertOutputs, other: ExpertOutputs) -> bool:
    """Whether two stores hold the same facts and arrays."""
    facts = [(o.classes, o.domains, o.experts, o.fingerprints, list(o.splits)) for o in (one, other)]
    pairs = [
        (name, values, dict(other[split].arrays())[name])
        for split in one.splits
        for name, values in one[split].arrays()
    ]
    return facts[0] == facts[1] and all(a.dtype == b.dtype and np.array_equal(a, b) for _, a, b in pairs)


class TestViews:
    def test_concatenated_and_scattered_equal_the_loops(self):
        outputs = tiny.outputs()
        both = np.concatenate([outputs["test"].probabilities[name] for name in ("a", "b")], 1)
        assert np.array_equal(outputs.concatenated("test"), both)
        assert np.array_equal(outputs.scattered("test"), rules.scatter(both, [[0, 1], [2, 1]], 3))

    def test_owners_are_the_experts_of_the_rows_domains(self):
        outputs = tiny.outputs()
        expected = np.stack([outputs["val"].target != 2, outputs["val"].target != 0], 1)
        assert np.array_equal(outputs.expert_targets("val"), expected)
        assert (
            not ExpertOutputs.from_arrays({"test": {"probabilities": {"a": [[1.0]]}, "target": [0]}}, {"a": ["cat"]})
            .expert_targets("test")
            .any()
        )

    def test_expert_target_matrix_reads_names(self):
        matrix = expert_target_matrix(["x", "y", "z"], {"a": ["z", "x"], "b": [], "c": ["w"]})
        assert matrix.tolist() == [[True, False, False], [False] * 3, [True, False, False]]
        assert expert_target_matrix([], {"a": []}).shape == (0, 1)

    def test_repr_and_unknown_split(self):
        assert repr(tiny.outputs()) == "ExpertOutputs(2 experts, 3 classes; rows: train 24, val 9, test 11)"
        with pytest.raises(InputError, match="no split 'tset'; it has train, val, test"):
            tiny.outputs()["tset"]


class TestRoundTrip:
    def test_a_store_is_what_was_saved(self, tmp_path):
        outputs = tiny.outputs()
        outputs["train"].representations["a"] = np.random.default_rng(0).random((24, 5), np.float32)
        opened = outputs.save(tmp_path / "store")
        assert equal(opened, outputs)
        assert equal(ExpertOutputs.open(str(tmp_path / "store")), outputs)
        assert np.array_equal(opened["train"].representations["a"], outputs["train"].representations["a"])
        assert "b" not in opened["train"].representations

    def test_arrays_are_memory_mapped(self, tmp_path):
        part = tiny.outputs().save(tmp_path)["train"]
        assert all(isinstance(values, np.memmap) and not values.flags.writeable for _, values in part.arrays())

    def test_without_domains_and_with_an_empty_split(self, tmp_path):
        outputs = ExpertOutputs.from_arrays(
            {
                "train": {"probabilities": {"a": [[0.5, 0.5]]}, "target": [1]},
                "val": {"probabilities": {"a": np.zeros((0, 2))}, "target": []},
            },
            {"a": ["cat", "dog"]},
        )
        assert equal(outputs.save(tmp_path), outputs)
        assert outputs["train"].domain.shape == (1, 0)

    def test_a_store_can_be_moved(self, tmp_path):
        outputs = tiny.outputs()
        outputs.save(tmp_path / "here")
        shutil.move(tmp_path / "here", tmp_path / "there")
        assert equal(ExpertOutputs.open(tmp_path / "there"), outputs)

    def test_overwriting_is_asked_for_and_leaves_nothing_of_the_old(self, tmp_path):
        tiny.outputs(0).save(tmp_path)
        with pytest.raises(InputError, match="contains a store already; set overwrite"):
            tiny.outputs(1).save(tmp_path)
        assert equal(ExpertOutputs.open(tmp_path), tiny.outputs(0))
        tiny.outputs(1).save(tmp_path, overwrite=True)
        assert equal(ExpertOutputs.open(tmp_path), tiny.outputs(1))
        assert len(list(tmp_path.glob("data-*"))) == 1


class TestDamage:
    """What a store checks in general is tested in ``tests/test_store.py``."""

    @pytest.fixture
    def store(self, tmp_path):
        tiny.outputs().save(tmp_path)
        return tmp_path

    def test_no_store(self, tmp_path):
        with pytest.raises(
            MissingStoreError, match=r"found no manifest.json in .*; make a store with 'lightning-fusion collect'"
        ):
            ExpertOutputs.open(tmp_path / "nowhere")

    @pytest.mark.parametrize("name", ["probabilities/b", "index", "target"])
    def test_a_changed_array(self, store, name):
        manifest = json.loads((store / "manifest.json").read_text())
        file = store / manifest["data"] / manifest["arrays"][f"val/{name}"]["file"]
        content = bytearray(file.read_bytes())
        content[3] ^= 1
        file.write_bytes(content)
        with pytest.raises(DamagedStoreError, match=f"{file.name} of val/{name} has another digest"):
            ExpertOutputs.open(store)
        assert len(ExpertOutputs.open(store, verify=False)["val"]) == 9

    @pytest.mark.parametrize("lost", ["classes", "experts", "val/target", "test/probabilities/a"])
    def test_a_manifest_without_a_fact(self, store, lost):
        def lose(manifest):
            del (manifest["arrays"] if "/" in lost else manifest["metadata"])[lost]

        sealed.edit(store / "manifest.json", lose)
        with pytest.raises(DamagedStoreError, match=f"is damaged .without '{lost.rpartition('probabilities/')[2]}'"):
            ExpertOutputs.open(store)

    def test_a_damaged_manifest_is_overwritten_where_that_is_asked_for(self, store):
        (store / "manifest.json").write_text("{")
        with pytest.raises(DamagedStoreError, match=r"manifest.json is damaged"):
            tiny.outputs(1).save(store)
        with pytest.warns(UserWarning, match="removed 1 half-written store"):
            tiny.outputs(1).save(store, overwrite=True)
        assert equal(ExpertOutputs.open(store), tiny.outputs(1))

    def test_other_files_in_the_folder(self, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(ForeignFolderError, match=r"contains other files \(notes.txt\); choose another"):
            tiny.outputs().save(tmp_path, overwrite=True)
        assert (tmp_path / "notes.txt").read_text() == "mine"
        (tmp_path / "notes.txt").unlink()
        tiny.outputs().save(tmp_path)


class TestFromArrays:
    def arrays(self, **changes):
        given = {"probabilities": {"a": [[0.9, 0.1]] * 3, "b": [[1.0]] * 3}, "target": [0, 1, 2]}
        return ExpertOutputs.from_arrays(
            {"test": given | changes}, {"a": ["cat", "dog"], "b": ["owl"]}, domains=["x", "y"]
        )

    def test_what_is_left_out_has_defaults(self):
        outputs = self.arrays()
        assert outputs.classes == ["cat", "dog", "owl"]
        assert outputs["test"].index.tolist() == [0, 1, 2]
        assert outputs["test"].domain.tolist() == [[False, False]] * 3
        assert {name: facts["cost"] for name, facts in outputs.experts.items()} == {"a": 1.0, "b": 1.0}

    def test_fingerprints_follow_labels_and_experts_have_none(self):
        one, same = self.arrays(), self.arrays()
        other = self.arrays(probabilities={"a": [[0.8, 0.2]] * 3, "b": [[1.0]] * 3})
        assert one.experts == same.experts == other.experts
        assert one.experts["a"]["fingerprint"] is None  # where predictions came from is not known
        assert one.fingerprints == same.fingerprints == other.fingerprints != self.arrays(target=[0, 1, 1]).fingerprints

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"probabilities": {"a": [[0.9, 0.1]] * 3}}, "probabilities and expert_classes differ in b"),
            ({"probabilities": {"a": [[0.9, 0.1]] * 3, "b": [[1.0]] * 3, "c": [[1.0]] * 3}}, "differ in c"),
            ({"probabilities": {"a": [[0.5, 0.3, 0.2]] * 3, "b": [[1.0]] * 3}}, r"expert a .*\(3, 3\).*\(3, 2\)"),
            ({"probabilities": {"a": [[0.9, 0.1]] * 2, "b": [[1.0]] * 3}}, r"expert a .*\(2, 2\).*\(3, 2\)"),
            ({"probabilities": {"a": [[0.5, 0.5, 0.0]] * 2, "b": [[1.0]] * 3}}, r"expert a .*\(2, 3\).*\(3, 2\)"),
            (
                {"probabilities": {"a": [[0.9, 0.2]] * 3, "b": [[1.0]] * 3}},
                "expert a returned outputs that are not prob",
            ),
            ({"probabilities": {"a": [[0.9, float("nan")]] * 3, "b": [[1.0]] * 3}}, "expert a returned NaN"),
            (
                {"target": [0, 1, 3]},
                r"split test: target: 1 out of range, 3 in row\(s\) 2; the task has 3 classes \(0 to 2\)",
            ),
            ({"target": [-1, 1, -1]}, r"2 out of range, -1 in row\(s\) 0, 2"),
            ({"domain": [[True, False]] * 2}, r"domain .*\(2, 2\).*\(3, 2\)"),
            ({"domain": [[True, False, True]] * 2}, r"domain .*\(2, 3\).*\(3, 2\)"),
            ({"domain": [["True", "False"]] * 3}, "split test: domain: found an array of <U5; expected numbers"),
            ({"domain": [[2, 0]] * 3}, "split test: domain has values that are no truth values"),
            ({"target": [0.0, 0.7, 1.0]}, r"split test: target: found 0.7 in row\(s\) 1; expected whole numbers"),
            ({"target": [0.0, np.nan, 1.0]}, r"split test: target: found nan in row\(s\) 1"),
            ({"target": ["cat", "dog", "fish"]}, "split test: target: found fish, which is none of the classes"),
            ({"target": [[0], [1], [2]]}, r"split test: target: found shape \(3, 1\).*targets\[:, 0\]"),
            (
                {"probabilities": {"a": [[0.9, 0.1], [1.0]], "b": [[1.0]] * 3}},
                "split test: expert a: found a list that makes no array",
            ),
            ({"index": [0, 0.5, 1]}, "split test: index has values that are no whole numbers"),
            ({"index": [0, 1]}, r"index .*\(2,\).*\(3,\)"),
            ({"index": [0, 1, 1]}, "index .* unique"),
            ({"representations": {"a": [[1.0]] * 2}}, r"representations of a .*\(2, 1\) for 3 rows"),
            ({"representations": {"z": [[1.0]] * 3}}, "representations .* z"),
            (
                {"representations": {"a": [[1.0], [np.inf], [0.0]]}},
                r"representation of expert a is NaN or infinite in row\(s\) 1",
            ),
        ],
    )
    def test_rejected(self, changes, message):
        with pytest.raises(InputError, match=message):
            self.arrays(**changes)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"costs": {"a": np.nan}}, "costs: found nan for expert a; expected a number >= 0"),
            ({"costs": {"a": -1}}, "costs: found -1 for expert a"),
            ({"costs": {"a": "dear"}}, "costs: found 'dear' for expert a"),
            ({"domains": ["x", "x"]}, "domains: found duplicate names in x, x"),
            ({"expert_classes": {"a": "cd"}}, "expert_classes of a: found 'cd'; expected a list of names"),
        ],
    )
    def test_invalid_metadata_is_rejected(self, changes, message):
        part = {"probabilities": {"a": [[0.9, 0.1]]}, "target": [0]}
        with pytest.raises(InputError, match=message):
            ExpertOutputs.from_arrays({"test": part}, **({"expert_classes": {"a": ["c", "d"]}} | changes))

    @pytest.mark.parametrize("lost", ["probabilities", "target"])
    def test_what_every_split_needs(self, lost):
        part = {"probabilities": {"a": [[1.0]]}, "target": [0]}
        del part[lost]
        with pytest.raises(InputError, match=f"split test: found no {lost}"):
            ExpertOutputs.from_arrays({"test": part}, {"a": ["cat"]})


class TestChecks:
    def test_another_pool_is_rejected_with_both_fingerprints(self, tmp_path):
        pool, other = tiny.pool(0), tiny.pool(1)
        store = collect(pool, tiny.data(), tmp_path / "s", trainer=tiny.trainer())
        store.check_pool(pool)
        theirs, ours = (p.metadata()["a"]["fingerprint"] for p in (pool, other))
        with pytest.raises(
            InputError, match=f"another expert a: its fingerprint is {theirs}, the pool's {ours}; give the changed"
        ):
            store.check_pool(other)

    def test_other_names_and_classes_are_rejected(self, tmp_path):
        made = tiny.experts()
        store = collect(tiny.pool(), tiny.data(), tmp_path, trainer=tiny.trainer())
        with pytest.raises(InputError, match="contains experts a, b; the pool has b, a"):
            store.check_pool(type(tiny.pool())({"b": made["b"], "a": made["a"]}))
        with pytest.raises(InputError, match="has the classes cat, dog, owl; the pool owl, dog, cat"):
            store.check_pool(type(tiny.pool())(made, ["owl", "dog", "cat"]))

    def test_other_data_are_rejected_with_both_fingerprints(self):
        outputs = tiny.outputs()
        outputs.check_data(outputs.fingerprints)
        with pytest.raises(
            InputError, match=f"the fingerprint of val is {outputs.fingerprints['val']} there and 123 here"
        ):
            outputs.check_data({"val": "123"})


def test_the_manifest_is_readable_json(tmp_path):
    tiny.outputs().save(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["arrays"]["val/probabilities/a"]["shape"] == [9, 2]
    assert set(manifest["metadata"]["experts"]) == {"a", "b"}
    assert set(manifest["metadata"]["versions"]) == {"torch", "numpy"}


def test_names_of_experts_are_free_text_and_those_of_splits_are_not(tmp_path):
    names = ["gpt-4.1", "org/model", "../evil", "ü b"]
    part = {"probabilities": {name: [[1.0]] for name in names}, "target": [0]}
    made = ExpertOutputs.from_arrays({"test": part}, {name: ["cat"] for name in names})
    assert equal(made.save(tmp_path / "store"), made)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    with pytest.raises(InputError, match="expected letters, digits"):
        ExpertOutputs.from_arrays({"../evil": part}, {name: ["cat"] for name in names})
