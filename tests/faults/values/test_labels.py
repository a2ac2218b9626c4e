"""Labels that are nearly equal: one canonical form in every modality, and a warning about what is near."""

import json
import unicodedata
import warnings

import numpy as np
import pytest
import soundfile
import torch
from helpers.image_trees import draw_tree
from helpers.text_tables import FEW, delimited, table
from hypothesis import given
from hypothesis import strategies as st

from lightning_fusion import Expert, ExpertOutputs, ExpertPool, SensorDataModule
from lightning_fusion.cli.main import main
from lightning_fusion.data.audio.labeled import LabeledAudioDataModule
from lightning_fusion.data.image.folders import DomainImageDataModule, ImageDataModule
from lightning_fusion.data.names import as_labels, as_names, canonical_label, read_labels, similar_names
from lightning_fusion.data.sensor.table import FeatureTableDataModule
from lightning_fusion.data.targets import as_targets
from lightning_fusion.data.text.json_lines import JSONTextDataModule
from lightning_fusion.errors import InputError
from lightning_fusion.foe.module import FoEFuserModule

CAFE = "caf\u00e9"
DECOMPOSED = unicodedata.normalize("NFD", CAFE)


class TestCanonicalForm:
    @pytest.mark.parametrize(
        ("written", "label"),
        [
            ("1.0", "1"),
            (1.0, "1"),
            (np.float32(2), "2"),
            (np.int64(3), "3"),
            ("-2.", "-2"),
            (DECOMPOSED, CAFE),
            ("good\u200b", "good"),
            ("\ufeffgood \u2060", "good"),
            ("1.5", "1.5"),
            ("01", "01"),
            ("v1.0", "v1.0"),
            ("C-", "C-"),
            ("New York", "New York"),
        ],
    )
    def test_of_a_label(self, written, label):
        assert canonical_label(written) == label

    @pytest.mark.slow
    @given(st.text())
    def test_is_its_own_canonical_form(self, text):
        assert canonical_label(canonical_label(text)) == canonical_label(text)

    def test_what_is_near(self):
        assert similar_names(["Open", "open", "bar bell", "bar_bell", "1", "01", "C-", "C", "-1", "\uff21", "a"]) == [
            ["Open", "open"],
            ["bar bell", "bar_bell"],
            ["1", "01"],
            ["\uff21", "a"],
        ]

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("1", "1e0"),
            ("1", "+1"),
            ("0", "-0"),
            ("1.5", "1,5"),
            ("-1", "\u22121"),
            ("cat", "\u0441at"),
            ("pos", "'pos'"),
            ("pos", "b'pos'"),
            ("pos", "pos."),
        ],
    )
    def test_several_forms_of_one_label_are_near(self, one, other):
        assert similar_names([one, other]) == [[one, other]]

    @pytest.mark.parametrize(
        "names",
        [["1", "-1"], ["1", "1,000"], ["C", "C#", "C++"], ["1.5", "15"], ["...", "'"], ["b", "bb"], ["10", "1e0"]],
    )
    def test_several_labels_are_not(self, names):
        assert similar_names(names) == []

    @pytest.mark.slow
    @given(st.lists(st.text(), unique=True))
    def test_every_text_has_a_form(self, names):
        assert sum(map(len, similar_names(names))) <= len(names)


def texts(labels):
    """Forty texts, each label as often as the others."""
    return [(f"word {n} {len(str(labels[n % len(labels)]))}", labels[n % len(labels)], "a") for n in range(40)]


class TestTexts:
    def test_equal_labels_are_one_class(self, tmp_path):
        data = delimited(table(tmp_path / "t.csv", texts(["good", "good\u200b", CAFE, DECOMPOSED, "1", "1.0"])))
        with pytest.warns(UserWarning, match=r"3 of the labels are written in several ways.*'caf\\xe9', 'cafe\\u0301'"):
            assert data.classes == ["1", CAFE, "good"]

    def test_marks_of_missing_values_and_classes_without_test_texts_are_named(self, tmp_path):
        path = table(tmp_path / "t.csv", [*texts(["good", "NaN", "bad"]), ("Total 40", "40", "a")])
        data = delimited(path)
        with (
            pytest.warns(
                UserWarning, match="the labels 'NaN' count as classes; if they mark missing values, set ignored"
            ),
            pytest.warns(UserWarning, match=r"1 of 4 classes have no samples among the test texts: '40' \(1 in all\)"),
        ):
            data.setup()
        with warnings.catch_warnings(record=True) as said:
            delimited(path, labels=["good", "NaN", "bad", "40"]).setup()  # listed: they are meant
        assert not [each for each in said if "count as classes" in str(each.message)]

    def test_numbers_of_json(self, tmp_path):
        rows = [{"text": f"word {n}", "label": (1, 1.0, "1", 2)[n % 4], "domain": "a"} for n in range(40)]
        (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
        assert JSONTextDataModule(str(tmp_path / "t.jsonl"), **FEW).classes == ["1", "2"]

    def test_a_cache_says_it_again(self, tmp_path):
        root = table(tmp_path / "t.csv", texts(["1", "1.0", "2"]))
        for _ in range(2):
            with pytest.warns(UserWarning, match="1 of the labels is written in several ways"):
                assert delimited(root, cache=str(tmp_path / "cache")).classes == ["1", "2"]

    def test_a_mapping_renames(self, tmp_path):
        root = table(tmp_path / "t.csv", texts(["Open", "open", "shut"]))
        data = delimited(root, labels={"Open": "open"})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert data.classes == ["open", "shut"]
        found = data.rows("train")
        assert found.targets.bincount().tolist() == [27, 13]
        with pytest.raises(InputError, match=r"labels renames 'Opne'; the data have 'Open', .*did you mean Open"):
            delimited(root, labels={"Opne": "open"}).setup()

    def test_labels_that_are_listed_are_not_near(self, tmp_path):
        root = table(tmp_path / "t.csv", texts(["Open", "open"]))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert delimited(root, labels=["open", "Open"]).classes == ["open", "Open"]

    def test_permitted_labels_in_any_form(self, tmp_path):
        root = table(tmp_path / "t.csv", texts(["1.0", "2", CAFE]))
        assert delimited(root, labels=[2, 1, DECOMPOSED]).classes == ["2", "1", CAFE]

    def test_names_of_values_in_any_form(self, tmp_path):
        root = table(tmp_path / "t.csv", texts(["1.0", "2"]))
        assert delimited(root, value_names={"label": {1: "bad", 2: "good"}}).classes == ["bad", "good"]


def recordings(root, labels):
    """Four files for each person, who writes all labels in an own way."""
    for person, names in labels.items():
        for take in range(4):
            lines = [f"{number % 7},{names[number // 40]}" for number in range(40 * len(names))]
            (root / f"{person}_{take}.csv").write_text("\n".join(["x,label", *lines]))
    return {"root": str(root), "pattern": "{person}_{take}.csv", "channels": ["x"], "window_s": 0.4}


class TestSensors:
    def test_equal_labels_are_one_class(self, tmp_path):
        own = {"ann": ["1", CAFE], "ben": ["1.0", DECOMPOSED]}
        data = SensorDataModule(**recordings(tmp_path, own), domain_fields=["person"])
        with pytest.warns(UserWarning, match="2 of the labels are written in several ways"):
            assert data.classes == ["1", CAFE] == data.variant(domain="ben").classes

    def test_near_labels_are_said_and_renamed(self, tmp_path):
        files = recordings(tmp_path, {"ann": ["open", "shut"], "ben": ["Open", "shut"]})
        with pytest.warns(UserWarning, match="'Open' and 'open' are nearly equal and count as 2: .*{'open': 'Open'}"):
            assert SensorDataModule(**files).classes == ["Open", "open", "shut"]
        data = SensorDataModule(**files, labels={"Open": "open"}, domain_fields=["person"], domain="ben")
        assert data.classes == ["open", "shut"]
        assert data.rows("train").targets[data.rows("train").rows].unique().tolist() == [0, 1]

    def test_near_labels_of_few_samples_are_said(self, tmp_path):
        """No window has most of its samples labeled WALK or SIT, and each pair has a renaming."""
        for take in range(6):
            labels = ["WALK" if n % 10 == 0 else "Walk" for n in range(100)]
            labels += ["SIT" if n % 10 == 0 else "sit" for n in range(100)]
            rows = [f"{take}.{n:03},{label}" for n, label in enumerate(labels)]
            (tmp_path / f"ann_{take}.csv").write_text("\n".join(["x,label", *rows]))
        data = SensorDataModule(str(tmp_path), "{person}_{take}.csv", channels=["x"], window_s=0.4)
        message = r"the labels 'SIT' and 'sit', 'WALK' and 'Walk' .*: \{'sit': 'SIT', 'Walk': 'WALK'\}$"
        with pytest.warns(UserWarning, match=message):
            assert data.classes == ["Walk", "sit"]
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="the labels")
            assert data.variant(labels={"SIT": "sit", "WALK": "Walk"}).classes == ["Walk", "sit"]

    def test_labels_that_are_missing_are_no_class(self, tmp_path):
        for take in range(4):
            labels = np.array([0.0] * 40 + [np.nan] * 40 + [1.0] * 40)
            np.savez(tmp_path / f"{take}.npz", x=np.arange(120.0), label=labels)
        data = SensorDataModule(str(tmp_path), "{take}.npz", channels=["x"], window_s=0.4)
        assert data.classes == ["0", "1"]

    def test_a_table(self, tmp_path):
        rows = [f"{n},{('1', '1.0', '2')[n % 3]},{('3', '3.0')[n % 2]}" for n in range(60)]
        (tmp_path / "t.csv").write_text("\n".join(["x,label,person", *rows]))
        data = FeatureTableDataModule(str(tmp_path / "t.csv"), domain_fields=["person"])
        with pytest.warns(UserWarning, match="values of person is written in several ways"):
            assert (data.classes, data.domains) == (["1", "2"], ["3"])


def test_recordings_of_speech(tmp_path):
    for n, label in enumerate([CAFE, DECOMPOSED, "tea", "Tea"] * 6):
        soundfile.write(tmp_path / f"{label}_{('ann', 'ben')[n % 2]}_{n}.wav", np.full(900, n / 99), 8000)
    data = LabeledAudioDataModule(
        str(tmp_path), "{label}_{speaker}_{take}.wav", split_by="recording", sample_rate_hz=8000, domain_field=None
    )
    with (
        pytest.warns(UserWarning, match="1 of the labels is written in several ways"),
        pytest.warns(UserWarning, match="the labels 'Tea' and 'tea' are nearly equal"),
    ):
        assert data.classes == ["Tea", CAFE, "tea"]
    renamed = data.variant(labels={"Tea": "tea"})
    assert renamed.classes == [CAFE, "tea"] and np.bincount(renamed.targets()).tolist() == [12, 12]
    assert data.variant(labels=["Tea", "tea", DECOMPOSED]).classes == ["Tea", "tea", CAFE]
    with pytest.raises(
        InputError, match=r"wav has the label 'Tea'; expected .*: add it to labels, or .*; did you mean tea"
    ):
        data.variant(labels=["tea", CAFE]).setup()


def test_recordings_of_no_test_split_and_of_a_missing_label(tmp_path):
    for n, label in enumerate([*["nan", "tea"] * 9, "milk"]):
        soundfile.write(tmp_path / f"{label}_{('ann', 'ben')[n % 2]}_{n}.wav", np.full(900, n / 99), 8000)
    data = LabeledAudioDataModule(
        str(tmp_path), "{label}_{speaker}_{take}.wav", split_by="recording", sample_rate_hz=8000, domain_field=None
    )
    with (
        pytest.warns(UserWarning, match="the labels 'nan' count as classes"),
        pytest.warns(
            UserWarning, match=r"1 of 3 classes have no samples among the test recordings: 'milk' \(1 in all\)"
        ),
    ):
        assert data.classes == ["milk", "nan", "tea"]


class TestImages:
    def test_folders_of_a_domain(self, tmp_path):
        draw_tree(tmp_path, ["clinic", "home"], [CAFE, "tea"])
        (tmp_path / "home" / CAFE).rename(tmp_path / "home" / DECOMPOSED)
        assert DomainImageDataModule(str(tmp_path)).classes == [CAFE, "tea"]

    def test_near_folders_are_said(self, tmp_path):
        draw_tree(tmp_path, ["train", "test"], ["open", "Open"])
        with pytest.warns(UserWarning, match="the classes 'Open' and 'open' are nearly equal"):
            ImageDataModule(str(tmp_path)).setup()


class TestExperts:
    def test_classes_are_aligned_in_any_form(self):
        experts = {
            "a": Expert(torch.nn.Linear(2, 2), classes=[CAFE, "1"]),
            "b": Expert(torch.nn.Linear(2, 2), classes=["1.0", DECOMPOSED]),
        }
        pool = ExpertPool(experts, classes=[DECOMPOSED, "1.0"])
        assert pool.classes == [CAFE, "1"] and pool.expert_classes == {"a": [CAFE, "1"], "b": ["1", CAFE]}

    def test_a_near_class_is_suggested(self):
        with pytest.raises(InputError, match=r"expert a has Open, which the task's classes .* did you mean open"):
            ExpertPool({"a": Expert(torch.nn.Linear(2, 2), classes=["Open", "shut"])}, classes=["open", "shut"])
        experts = {name: Expert(torch.nn.Linear(2, 2), classes=[name, "shut"]) for name in ("Open", "open")}
        with pytest.warns(UserWarning, match="'Open' and 'open' are nearly equal"):
            ExpertPool(experts)

    def test_outputs_and_their_fuser(self):
        split = {"probabilities": {"a": [[0.9, 0.1]], "b": [[0.2, 0.8]]}, "target": [DECOMPOSED]}
        names = {"a": ["1", CAFE], "b": [DECOMPOSED, "1.0"]}
        outputs = ExpertOutputs.from_arrays({"train": split}, names)
        assert outputs["train"].target.tolist() == [1]
        assert outputs.scattered("train")[0].tolist() == pytest.approx(np.array([[0.9, 0.1], [0.8, 0.2]]))
        assert FoEFuserModule(expert_classes=names).expert_classes == outputs.expert_classes

    def test_domains_of_experts(self):
        split = {"probabilities": {"a": [[0.9, 0.1]]}, "target": [0], "domain": [[True]]}
        names = {"expert_classes": {"a": ["x", "y"]}, "domains": [CAFE], "expert_domains": {"a": [DECOMPOSED]}}
        assert ExpertOutputs.from_arrays({"train": split}, **names).expert_targets("train").all()

    def test_targets_by_name(self):
        assert as_targets(["1.0", "2", DECOMPOSED], ["2", "1", CAFE]).tolist() == [1, 0, 2]


class TestLists:
    @pytest.mark.parametrize("names", [{"Open": "open"}, {"open", "shut"}, "open", 3])
    def test_anything_but_a_list_raises(self, names):
        with pytest.raises(InputError, match=r"classes: found .*; expected a list of names"):
            Expert(torch.nn.Linear(2, 2), classes=names)
        with pytest.raises(InputError, match="expected a list of names"):
            ExpertOutputs.from_arrays({}, {"a": names})

    def test_truth_values_raise_and_the_remedy_is_said(self):
        for read in (as_labels, as_names):
            with pytest.raises(InputError, match=r"labels: found the truth values True, False; .* in quotes"):
                read([True, False], "labels")
        with pytest.raises(InputError, match="found the truth values"):
            read_labels({"a": True})

    @pytest.mark.parametrize(("written", "remedy"), [("[yes, no]", ""), ("[1.5, 2]", "that look like numbers ")])
    def test_names_that_yaml_reads_as_other_values(self, written, remedy):
        arguments = ["--data=lightning_fusion.TextDataModule", "--data.root=t.csv", f"--data.labels={written}"]
        with pytest.raises(InputError, match=f"labels: .* put names {remedy}in quotes, as in [^;]*$"):
            main(["fit", "--model=lightning_fusion.ExpertModule", *arguments])

    def test_two_new_names_of_one_label(self):
        with pytest.raises(InputError, match="labels: '1' is renamed to 'a' and to 'b'"):
            read_labels({"1": "a", "1.0": "b"})
