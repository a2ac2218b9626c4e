import shutil

import pytest
from helpers.splits import everything
from helpers.text_tables import FEW, NAMES, ROWS, delimited, refused, sizes, table

from lightning_fusion.data.text.huggingface import HuggingFaceTextDataModule
from lightning_fusion.errors import InputError

datasets = pytest.importorskip("datasets")
SPLIT = {"train": ROWS[::2], "validation": ROWS[1::4], "test": ROWS[3::4]}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "huggingface")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)


def dataset(rows, names=("good", "bad")):
    columns = dict(zip(NAMES, map(list, zip(*rows, strict=True)), strict=True))
    columns["label"] = [("good", "bad").index(label) for label in columns["label"]]
    features = {name: datasets.Value("string") for name in NAMES} | {"label": datasets.ClassLabel(names=list(names))}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def read(path, **arguments):
    return HuggingFaceTextDataModule(str(path), **(FEW | arguments))


def check(data, tmp_path):
    assert sizes(data) == [40, 20, 20]
    same = delimited(table(tmp_path / "same.csv"))
    assert data.classes == same.classes == ["bad", "good"] and data.domains == same.domains


def test_saved_to_disk(tmp_path):
    datasets.DatasetDict({name: dataset(rows) for name, rows in SPLIT.items()}).save_to_disk(tmp_path / "saved")
    check(read(tmp_path / "saved"), tmp_path)


def test_parquet_by_split_in_parts(tmp_path):
    (tmp_path / "data").mkdir()
    for name, rows in SPLIT.items():
        for part in range(2):
            dataset(rows).shard(2, part, contiguous=True).to_parquet(
                tmp_path / f"data/{name}-{part:05}-of-00002.parquet"
            )
    check(read(tmp_path / "data"), tmp_path)


def test_arrow_in_a_folder_per_split(tmp_path):
    for name, rows in SPLIT.items():
        dataset(rows).save_to_disk(tmp_path / "saved")
        (tmp_path / "data" / name).mkdir(parents=True)
        shutil.copy(tmp_path / "saved/data-00000-of-00001.arrow", tmp_path / "data" / name)
    check(read(tmp_path / "data"), tmp_path)


def test_json_lines_name_no_classes(tmp_path):
    (tmp_path / "data").mkdir()
    for name, rows in SPLIT.items():
        dataset(rows).to_json(tmp_path / f"data/{name}.jsonl")
    data = read(tmp_path / "data")
    assert sizes(data) == [40, 20, 20] and data.classes == ["0", "1"]
    assert read(tmp_path / "data", value_names={"label": {0: "good", 1: "bad"}}).classes == ["bad", "good"]


def test_one_split_is_drawn_from(tmp_path):
    dataset(ROWS, ("fine", "poor")).save_to_disk(tmp_path / "saved", num_shards=2)
    data = read(tmp_path / "saved")
    assert data.classes == ["fine", "poor"] and sizes(data) == [56, 8, 16]
    dataset(ROWS).to_parquet(tmp_path / "lone.parquet")
    assert sizes(read(tmp_path / "lone.parquet")) == [56, 8, 16]


def test_splits_of_other_names_are_named(tmp_path):
    parts = zip(("learn", "matched", "unlabeled"), SPLIT.values(), strict=True)
    datasets.DatasetDict({name: dataset(rows) for name, rows in parts}).save_to_disk(tmp_path / "saved")
    assert "has the split learn, matched, unlabeled beside no other; select those to use with splits" in refused(
        read(tmp_path / "saved")
    )
    data = read(tmp_path / "saved", splits={"train": "learn", "test": "matched"})
    assert sizes(data) == [36, 4, 20]
    assert "splits: " in refused(data.variant(splits={"train": "learned"}))
    with pytest.raises(InputError, match=r"splits is .*; expected train, val, test or some of them as keys"):
        data.variant(splits={"fit": "learn"})


def test_the_cache_reads_no_data_set_again(tmp_path, monkeypatch):
    dataset(ROWS).save_to_disk(tmp_path / "saved")
    found = read(tmp_path / "saved", cache=str(tmp_path / "cache")).fingerprint("test")
    monkeypatch.setattr(HuggingFaceTextDataModule, "read", lambda data: pytest.fail("it read the texts again"))
    assert read(tmp_path / "saved", cache=str(tmp_path / "cache")).fingerprint("test") == found


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_a_damaged_file_is_reported(tmp_path, kind):
    (tmp_path / "data").mkdir()
    if kind == "parquet":
        dataset(ROWS).to_parquet(tmp_path / "data/train.parquet")
    else:
        dataset(ROWS).save_to_disk(tmp_path / "saved")
        shutil.copy(tmp_path / "saved/data-00000-of-00001.arrow", tmp_path / "data/train.arrow")
    path = tmp_path / f"data/train.{kind}"
    path.write_bytes(path.read_bytes()[:200])
    assert "cannot be read by datasets (" in (message := refused(read(tmp_path / "data")))
    assert message.endswith("replace files that are damaged or of another format")


def test_values_and_columns_that_are_missing(tmp_path):
    saved = dataset(ROWS).to_dict()
    saved["label"][3] = -1  # what public data sets write for a label that is not known
    features = dataset(ROWS).features
    datasets.Dataset.from_dict(saved, features=features).save_to_disk(tmp_path / "saved")
    data = read(tmp_path / "saved")
    assert 3 not in everything(data, "train").index and 3 in everything(data.variant(unlabeled="keep"), "train").index
    message = refused(read(tmp_path / "saved", text="body"))
    assert "has no column body; its columns are text, label, domain" in message


def test_a_name_that_is_neither_here_nor_in_the_cache(tmp_path):
    message = refused(read("somebody/reviews"))
    assert message.startswith("path: somebody/reviews cannot be read by datasets (")
    assert message.endswith("set path to an existing folder, or download: true to fetch it from the hub")
    (tmp_path / "t.csv").write_text("text,label\n")
    assert "neither a .parquet nor an .arrow file; for CSV use" in refused(read(tmp_path / "t.csv"))


def test_a_data_set_of_the_hub_in_the_cache(tmp_path):
    """A copy of what ``datasets`` keeps of a file, under the name of a data set on the hub."""
    files = {}
    for name, rows in SPLIT.items():
        files[name] = str(tmp_path / f"{name}.parquet")
        dataset(rows).to_parquet(files[name])
    builder = datasets.load_dataset_builder("parquet", data_files=files)
    builder.download_and_prepare()
    kept = datasets.config.HF_DATASETS_CACHE / "somebody___reviews/default/0.0.0/0123"
    shutil.copytree(builder.cache_dir, kept)
    for path in kept.glob("*.arrow"):
        path.rename(path.with_name(path.name.replace("parquet-", "reviews-")))
    check(read("somebody/reviews"), tmp_path)
    cached = read("somebody/reviews", cache=str(tmp_path / "cache"))
    assert [path.parent for path in cached.files()] == [kept] * 3 and cached.classes == ["bad", "good"]
    assert not datasets.config.HF_HUB_OFFLINE


def test_the_hub_is_asked_where_it_may_be(tmp_path, monkeypatch):
    """The part of the hub is played by a data set that is built here."""
    asked = []

    def load(path, name, revision, **_):
        asked.append((path, name, revision, datasets.config.HF_HUB_OFFLINE))
        return datasets.DatasetDict({split: dataset(rows) for split, rows in SPLIT.items()})

    monkeypatch.setattr(datasets, "load_dataset", load)
    data = read("somebody/reviews", name="small", revision="v1", download=True)
    data.prepare_data()
    assert asked == [("somebody/reviews", "small", "v1", False)]
    check(data, tmp_path)
