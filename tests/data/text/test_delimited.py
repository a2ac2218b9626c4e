import pytest
from helpers.splits import everything
from helpers.text_tables import ROWS, delimited, refused, table

from lightning_fusion.errors import InputError


@pytest.mark.parametrize("mark", [";", "\t"])
def test_a_file_with_another_delimiter_is_reported(tmp_path, mark):
    path = table(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text((tmp_path / "t.csv").read_text().replace(",", mark))
    assert f"the delimiter may be {mark!r}" in refused(delimited(path))
    assert delimited(path, delimiter=mark).classes == ["bad", "good"]


def test_a_delimiter_is_one_character(tmp_path):
    with pytest.raises(InputError, match=r"delimiter is '\|\|'; expected one character"):
        delimited(table(tmp_path / "t.csv"), delimiter="||")


def test_pairs_are_read_together(tmp_path):
    data = delimited(table(tmp_path / "t.csv", names="text,label,other"), pair="other", domain_fields=None)
    ids = everything(data, "train").input["input_ids"]
    assert ((ids == 2).sum(1) == 1).all() and data.domains == ["all"]


@pytest.mark.parametrize(
    ("rows", "arguments", "message"),
    [
        ([*ROWS, ("  ", "good", "a")], {}, r"t\.csv, line 82: the text is empty; repair or remove it"),
        (ROWS, {"text": "body"}, r"t\.csv has no column body; its columns are text, label, domain; set text"),
        (ROWS, {"columns": ["text", "text", "label"]}, r"has more than one text among its columns; rename"),
        ([*ROWS, ("one", "good")], {}, r"line 82: found 2 values, expected 3 \(text, label, domain\); quote texts"),
        ([("one", "", "a"), ("two", " ", "b")], {}, "none of 2 texts of .* is labeled; change label or ignored_labels"),
        ([*ROWS, ("one", "good", " ")], {}, r"line 82: domain is empty; fill it in, or remove the row"),
        (ROWS, {"labels": ["good", "fine"]}, r"has the label 'bad'; expected one of good, fine: add it to labels"),
        (ROWS, {"domain": "c"}, r"domain is 'c'; expected one or several of the 2 domains a, b"),
        (ROWS[:20], {}, r"domain a has good as its only class; a classifier needs two"),
    ],
)
def test_bad_tables_are_rejected(tmp_path, rows, arguments, message):
    with pytest.raises(InputError, match=message):
        delimited(table(tmp_path / "t.csv", rows), **arguments).setup()
