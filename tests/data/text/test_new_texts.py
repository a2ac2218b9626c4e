"""Texts without labels, for prediction."""

import csv
import json
from pathlib import Path

import pytest
import torch
from helpers import tiny
from helpers.text_tables import delimited, table

from lightning_fusion import Expert, ExpertModule, FoEFuserModule, TextDataModule
from lightning_fusion.callbacks import PredictionWriter
from lightning_fusion.data.text.huggingface import HuggingFaceTextDataModule
from lightning_fusion.data.text.synthetic import SyntheticTextDataModule
from lightning_fusion.encoders import TextBag
from lightning_fusion.errors import InputError


def new(root: str | Path, known: TextDataModule, **arguments) -> TextDataModule:
    """Texts for prediction, with the tokenizer of other data."""
    data = TextDataModule("gone.csv", predict_root=str(root), **arguments)
    data.use_preprocessing(known.new_sample_facts)
    return data


def test_tables_lines_and_objects_in_any_folder_are_read(tmp_path):
    known, root = delimited(table(tmp_path / "t.csv")), tmp_path / "new"
    (root / "b" / "c").mkdir(parents=True)
    (root / "a.csv").write_text('id,text,label\n1,"fine, thing 3",never seen\n2,bad thing 4,\n')
    (root / "b" / "a.csv").write_text("text\nfine thing 5\n")
    (root / "b" / "c" / "lines.txt").write_text("fine thing\r\n\r\nbad thing")
    (root / "d.jsonl").write_text(json.dumps({"text": "bad thing"}))
    (root / "e.rtf").write_text("")
    with pytest.warns(UserWarning, match=r"1 .rtf file\(s\) under .* are left out"):
        samples = new(root, known).new_samples
    assert samples.origins(torch.arange(len(samples))).columns() == {
        "file": ["a.csv", "a.csv", "b/a.csv", "b/c/lines.txt", "b/c/lines.txt", "d.jsonl"],
        "line": [2, 3, 2, 1, 3, 1],
    }
    assert known.decode(samples[torch.tensor([0])].input["input_ids"][0]) == "fine, thing 3"


def test_the_tokens_are_those_of_training(tmp_path):
    known = delimited(table(tmp_path / "t.csv"))
    rows = known.rows("test")
    (tmp_path / "new.txt").write_text("\n".join(known.decode(rows[n].input["input_ids"]) for n in range(3)))
    for data in (new(tmp_path / "new.txt", known), known.variant(predict_root=str(tmp_path / "new.txt"))):
        batch = next(iter(data.predict_dataloader()))
        assert torch.equal(batch.input["input_ids"], rows[torch.arange(3)].input["input_ids"])
        assert {**data.preprocessing} == known.preprocessing and batch.target.tolist() == [-100] * 3


def test_a_checkpoint_is_enough(tmp_path):
    root, path = table(tmp_path / "t.csv"), tmp_path / "expert.ckpt"
    known = delimited(root)
    module = ExpertModule(lambda count: TextBag(count, vocab_size=2048, width=4), classes=known.classes)
    trainer = tiny.trainer(1)
    trainer.fit(module, datamodule=known)
    trainer.save_checkpoint(path)
    (tmp_path / "new.txt").write_text("a good thing\n")
    Path(root).unlink()
    data = TextDataModule(str(root), predict_root=str(tmp_path / "new.txt"))
    with pytest.raises(
        InputError, match=r"predict_root: found no tokenizer: the checkpoint contains none, and the lab"
    ):
        data.predict_dataloader()
    network = TextBag(len(known.classes), vocab_size=2048, width=4)
    again = ExpertModule.load_from_checkpoint(path, network=network)
    pool = {"one": Expert(network, checkpoint=str(path)), "two": Expert(network, checkpoint=str(path))}
    found = []
    for model in (module, again, FoEFuserModule(pool)):
        trainer = tiny.trainer(callbacks=[PredictionWriter(str(tmp_path / "p.csv"))])
        trainer.predict(model, datamodule=TextDataModule(str(root), predict_root=str(tmp_path / "new.txt")))
        found.append(next(csv.DictReader((tmp_path / "p.csv").open(newline=""))))
    assert found[0] == found[1] and found[2]["file"] == "new.txt" and found[2]["line"] == "1"
    with pytest.raises(InputError, match=r"the one trained on .* is not that of the model"):
        other = TextDataModule(table(Path(root)), predict_root=str(tmp_path / "new.txt"), vocab_size=260)
        other.use_preprocessing({"tokenizer": known.preprocessing["tokenizer"]})
        other.predict_dataloader()


@pytest.mark.parametrize(
    ("name", "content", "arguments", "message"),
    [
        ("n.csv", "body,label\nhello,x\n", {}, "n.csv has no column text; its columns are body, label; set text"),
        ("n.csv", 'text\nhello\n""\n" "\n', {}, "n.csv, line 3: the text is empty, as are 1 more; repair or remove it"),
        ("n.jsonl", '{"text": [1]}', {}, r"n.jsonl, line 1: text is \[1\]; expected a text or number"),
        ("n.txt", "\n\n", {}, "predict_root: n.txt in .* has no text"),
        ("n.txt", "hello\n", {"pair": "other"}, "has a text per line, and pair is set; give two texts in the columns"),
        (
            "n.pdf",
            "",
            {},
            r"predict_root: found no file of texts in .*; expected files that end in .*, found n\.pdf",
        ),
    ],
)
def test_wrong_files_are_named(tmp_path, name, content, arguments, message):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / name).write_text(content)
    data = new(tmp_path / "new", SyntheticTextDataModule(), **arguments)
    with pytest.raises(InputError, match=message):
        data.predict_dataloader()


def test_an_empty_text_can_be_a_row_without_prediction(tmp_path):
    (tmp_path / "n.csv").write_text('text,more\nhello,1\n"",2\nbye,3\n')
    samples = new(tmp_path / "n.csv", SyntheticTextDataModule(), unreadable="drop").new_samples
    assert samples.rows.tolist() == [0, 2] and samples.notes(samples.unread) == ["the text is empty"]


def test_data_sets_of_hugging_face_are_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": ["one", "two"], "label": [-1, -1]}).save_to_disk(str(tmp_path / "new"))
    data = HuggingFaceTextDataModule("gone", predict_root=str(tmp_path / "new"))
    data.use_preprocessing(SyntheticTextDataModule().new_sample_facts)
    assert len(data.new_samples) == 2 and data.new_samples.origins(torch.arange(2)).columns()["line"] == [1, 2]
