import json

import pytest
from helpers.text_tables import FEW, NAMES, ROWS, refused, sizes, table

from lightning_fusion import TextDataModule
from lightning_fusion.data.text.json_lines import JSONTextDataModule
from lightning_fusion.errors import InputError


def objects(rows):
    return [dict(zip(NAMES, row, strict=True)) for row in rows]


def test_json_lines_with_a_file_per_split(tmp_path):
    for name, part in (("train", ROWS[::2]), ("validation", ROWS[1::4]), ("test", ROWS[3::4])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, objects(part))))
    data = JSONTextDataModule(str(tmp_path), **FEW)
    assert data.classes == ["bad", "good"] and sizes(data) == [40, 20, 20]
    (tmp_path / "extra.jsonl").write_text("")
    assert "extra.jsonl does not name a split" in refused(JSONTextDataModule(str(tmp_path), **FEW))


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_is_read_as_lines_are(tmp_path, indent):
    (tmp_path / "t.json").write_text(json.dumps(objects(ROWS), indent=indent))
    data = JSONTextDataModule(str(tmp_path / "t.json"), **FEW)
    same = TextDataModule(table(tmp_path / "t.csv"), **FEW)
    assert data.fingerprint("test") == same.fingerprint("test")


def test_the_reader_of_delimited_files_names_this_one(tmp_path):
    (tmp_path / "t.jsonl").write_text("{}")
    with pytest.raises(InputError, match=r"t\.jsonl is JSON; use .*\.JSONTextDataModule"):
        TextDataModule(str(tmp_path / "t.jsonl")).setup()
