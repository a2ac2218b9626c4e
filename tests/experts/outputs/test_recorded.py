from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lightning_fusion.errors import InputError
from lightning_fusion.experts.outputs.recorded import RecordedPredictions

CLASSES = ["cat", "dog"]
FILES = [f"photos/{number}.jpg" for number in range(40)]


@pytest.fixture
def tables(tmp_path) -> dict[str, str]:
    """Predictions of two models, each in an order of its own, and the labels."""
    generator = np.random.default_rng(0)
    for name in ("one", "two"):
        frame = pd.DataFrame({"file": FILES, **dict(zip(CLASSES, generator.dirichlet([1, 1], 40).T, strict=True))})
        frame.sample(frac=1, random_state=1).to_csv(tmp_path / f"{name}.csv", index=False)
    labels = {"file": FILES, "label": [CLASSES[number % 2] for number in range(40)]}
    pd.DataFrame(labels).to_csv(tmp_path / "labels.csv", index=False)
    return {name: str(tmp_path / f"{name}.csv") for name in ("one", "two", "labels")}


def test_rows_are_joined_by_their_names(tables):
    made = RecordedPredictions([tables["one"], tables["two"]], tables["labels"]).outputs([0, 1])
    assert made[0].names == ["one", "two"] and made[0].classes == CLASSES
    recorded = pd.read_csv(tables["two"]).set_index("file")
    seen = []
    for split in ("train", "val", "test"):
        part = made[0][split]
        files = part.origins.columns()["file"]
        np.testing.assert_allclose(part.probabilities["two"], recorded.loc[files, CLASSES], atol=1e-6)
        assert [CLASSES[label] for label in part.target] == [CLASSES[FILES.index(file) % 2] for file in files]
        seen += files
    assert sorted(seen) == sorted(FILES)
    assert [len(made[0][split]) for split in ("train", "val", "test")] == [20, 4, 16]
    assert made[0]["test"].index.tolist() != made[1]["test"].index.tolist()


def test_columns_of_the_labels_give_splits_groups_and_domains(tables):
    labels = pd.read_csv(tables["labels"])
    labels["group"] = np.arange(40) // 4
    labels.to_csv(tables["labels"], index=False)
    files = {"a": tables["one"], "b": tables["two"]}
    made = RecordedPredictions(files, tables["labels"]).outputs([0])[0]
    groups = [set(np.asarray(made[split].index) // 4) for split in ("train", "val", "test")]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]

    labels["split"], labels["domain"] = ["train", "VAL", "test", "test"] * 10, [1.0, 2.0] * 20
    labels.to_csv(tables["labels"], index=False)
    made = RecordedPredictions(files, tables["labels"], expert_domains={"b": ["2"]}).outputs([0, 5])
    for each in made.values():
        assert each["val"].index.tolist() == list(range(1, 40, 4)) and each.domains == ["1", "2"]
        assert each.expert_targets("val").tolist() == [[False, True]] * 10


def test_a_sample_without_a_row_has_no_answer(tables):
    pd.read_csv(tables["two"]).query("file != 'photos/7.jpg'").to_csv(tables["two"], index=False)
    with pytest.warns(UserWarning, match=r"no prediction for 1 samples: photos/7.jpg"):
        made = RecordedPredictions([tables["one"], tables["two"]], tables["labels"]).outputs([0])[0]
    missing = {
        index: row.tolist()
        for part in made.splits.values()
        for index, row in zip(part.index, part.missing, strict=True)
    }
    assert missing[7] == [False, True] and sum(map(sum, missing.values())) == 1


def test_what_is_wrong_is_named(tables, tmp_path):
    both = [tables["one"], tables["two"]]
    for arguments, message in [
        ({"files": both[0]}, r"predictions.files: found one; fusion needs two at least"),
        ({"files": [both[0], both[0]]}, r"found several files named one; give them by name"),
        ({"files": both}, r"predictions.labels: .*one.csv has the columns file, cat, dog; expected label"),
        ({"files": both, "labels": str(tmp_path / "no.csv")}, r"no.csv"),
        (
            {"files": both, "labels": tables["labels"], "test_fraction": 0.95},
            r"val_fraction is 0.1, test_fraction 0.95",
        ),
    ]:
        with pytest.raises(InputError, match=message):
            RecordedPredictions(**arguments).outputs([0])
    labels = pd.read_csv(tables["labels"])
    labels.assign(label="cow").to_csv(tmp_path / "cow.csv", index=False)
    with pytest.raises(
        InputError, match=r"cow.csv has the labels 'cow', for which no file has a column; they have cat"
    ):
        RecordedPredictions(both, str(tmp_path / "cow.csv")).outputs([0])
    labels.assign(file=[f"x{number}" for number in range(40)]).to_csv(tmp_path / "x.csv", index=False)
    with (
        pytest.warns(UserWarning, match="no prediction for 40 samples"),
        pytest.raises(InputError, match=r"one, two has no row for any sample of .*x.csv; expected the same names"),
    ):
        RecordedPredictions(both, str(tmp_path / "x.csv")).outputs([0])


@pytest.mark.parametrize(
    ("which", "changed", "message"),
    [
        ("labels", lambda text: text + text.splitlines()[4] + "\n", r"several rows for 'photos/3.jpg'; expected one"),
        (
            "labels",
            lambda text: text.replace("file,label", "row,label", 1),
            r"row 2: row is 'photos/0.jpg'; expected a number",
        ),
        (
            "labels",
            lambda text: text.replace("file,label", "name,label", 1),
            r"labels.csv has the columns name, label; expected file",
        ),
        (
            "one",
            lambda text: text.replace("cat,dog", "cat,cat", 1),
            r"one.csv has more than one cat among its columns; rename",
        ),
        ("one", lambda text: text.replace("cat,dog", "cat, ", 1), r"no name for column 3; .*index=False of pandas"),
        ("one", lambda text: text.replace(",", ";"), r"one.csv separates its columns by ';'; expected commas"),
        ("one", lambda text: text.rstrip().rpartition(",")[0], r"row 41: found 2 columns, expected 3"),
        ("one", lambda text: text.rstrip().rpartition(",")[0] + ",\n", r"lacks some of the 2 values of photos/\d+.jpg"),
        (
            "one",
            lambda text: text.replace("\n", ",1\n").replace("dog,1", "dog", 1),
            r"row 2: found 4 columns, expected 3",
        ),
        (
            "labels",
            lambda text: text.replace("file,label", "row,label", 1).replace("photos/0.jpg", ""),
            r"row 3: row is",
        ),
    ],
)
def test_a_table_that_would_be_read_otherwise_than_it_is_written_is_rejected(tables, which, changed, message):
    path = Path(tables[which])
    path.write_text(changed(path.read_text()))
    with pytest.raises(InputError, match=message):
        RecordedPredictions([tables["one"], tables["two"]], tables["labels"]).outputs([0])


def test_names_in_tables_are_texts_and_empty_domains_are_none(tables):
    renamed = {"cat": "True", "dog": "007"}
    for name in ("one", "two"):
        pd.read_csv(tables[name]).rename(columns=renamed).to_csv(tables[name], index=False)
    labels = pd.read_csv(tables["labels"]).replace({"label": renamed}).assign(domain=["", "a"] * 20)
    labels.to_csv(tables["labels"], index=False)
    made = RecordedPredictions([tables["one"], tables["two"]], tables["labels"]).outputs([0])[0]
    assert made.classes == ["007", "True"] and made.domains == ["a"]
    assert sum(int(part.domain.sum()) for part in made.splits.values()) == 20
