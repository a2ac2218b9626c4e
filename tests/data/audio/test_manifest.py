from pathlib import Path

import pytest
import torch
from helpers import data_files

from lightning_fusion.data.audio.labeled import LabeledAudioDataModule
from lightning_fusion.data.audio.manifest import ManifestAudioDataModule
from lightning_fusion.errors import InputError

HOW = {"split_by": "recording", "sample_rate_hz": 8000, "crop_s": 0.4, "eval_crop_s": 0.4}


@pytest.fixture
def table(tmp_path) -> Path:
    data_files.spoken_words(tmp_path / "words")
    data_files.word_table(tmp_path / "words.csv", tmp_path / "words")
    return tmp_path / "words.csv"


def test_the_samples_are_those_of_a_tree(table):
    listed = ManifestAudioDataModule(str(table), speaker_field="speaker", domain_field="speaker", **HOW)
    tree = LabeledAudioDataModule(str(table.parent / "words"), "{label}_{speaker}_{utterance}.wav", **HOW)
    assert (listed.classes, listed.domains) == (tree.classes, tree.domains)
    for split in ("train", "val", "test"):
        one, other = (data.rows(split)[torch.arange(4)] for data in (listed, tree))
        assert torch.equal(one.target, other.target) and torch.equal(one.input, other.input)
    files = listed.origins(torch.arange(2)).columns()["file"]
    assert all(Path(file).is_file() for file in files)


def test_without_speakers_each_recording_is_one(table):
    data = ManifestAudioDataModule(str(table), **(HOW | {"split_by": "speaker"}))
    assert data.domains == ["all"] and len(data.layout.speakers) == len(data.layout.names)
    assert len(data.rows("test")) == round(0.2 * len(data.layout.names))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("path,", "file,"), "path"),
        (
            lambda text: text + "\nwords/none.wav,0,s1",
            r"line 50: path is 'words/none.wav', and .* is no file",
        ),
        (lambda text: text + "\n" + text.splitlines()[1], r"lists words/\S+ twice, in lines 2 and 50"),
        (lambda text: text.replace(",0,s0", ",0,", 1), "line 2: speaker is empty; expected a name"),
        (lambda text: text.splitlines()[0], "has no row"),
    ],
)
def test_wrong_tables_are_named(table, change, message):
    table.write_text(change(table.read_text()))
    with pytest.raises(InputError, match=message):
        ManifestAudioDataModule(str(table), speaker_field="speaker", **HOW).classes  # noqa: B018  # reads the table


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(InputError, match=r"root: found no file .*none.csv; expected a table"):
        ManifestAudioDataModule(str(tmp_path / "none.csv"), **HOW).classes  # noqa: B018
