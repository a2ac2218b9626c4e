"""Texts in another encoding than they are read with, and rows that are no samples."""

import json
import warnings

import pytest

from lightning_fusion import TextDataModule
from lightning_fusion.data.text.json_lines import JSONTextDataModule
from lightning_fusion.data.text.public import ReviewsTextDataModule
from lightning_fusion.errors import InputError

ROWS = "text,label\n" + "".join(f"caf\u00e9 {n},{'gb'[n % 2]}\n" for n in range(4))


def csv(folder, content, **arguments):
    path = folder / "t.csv"
    path.write_bytes(content)
    return TextDataModule(root=str(path), **arguments).read().texts


class TestEncodings:
    @pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "ISO-8859-1", "iso8859-15"])
    def test_utf8_that_is_read_as_another(self, tmp_path, encoding):
        with pytest.warns(
            UserWarning, match=r"t.csv: the file is valid UTF-8 and is read as .*'\u00e9' becomes .*: utf-8"
        ):
            csv(tmp_path, ROWS.encode(), encoding=encoding)

    @pytest.mark.parametrize("written", ["latin-1", "cp1252", "utf-16", "utf-8", "utf-8-sig", "gbk"])
    def test_the_right_one(self, tmp_path, written):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert csv(tmp_path, ROWS.encode(written), encoding=written)[0] == "caf\u00e9 0"

    @pytest.mark.parametrize("name", ["utf-8", "UTF_8", "u8"])
    def test_a_mark_at_the_start_is_no_letter(self, tmp_path, name):
        assert csv(tmp_path, ROWS.encode("utf-8-sig"), encoding=name)[0] == "caf\u00e9 0"

    def test_windows_quotes_as_latin1(self, tmp_path):
        content = "text,label\n\u201cgood\u201d \u2013 fine,g\n".encode("cp1252")
        with pytest.warns(UserWarning, match=r"3 byte\(s\) are control characters in latin-1 .*; set encoding: cp1252"):
            csv(tmp_path, content, encoding="latin-1")

    def test_letters_that_were_lost_earlier(self, tmp_path):
        with pytest.warns(UserWarning, match=r"4 letter\(s\) are U\+FFFD"):
            csv(tmp_path, ROWS.replace("\u00e9", "\ufffd").encode())

    def test_other_sources(self, tmp_path):
        rows = [json.dumps({"text": "caf\u00e9", "label": "g"}, ensure_ascii=False)]
        (tmp_path / "t.jsonl").write_text("\n".join(rows), encoding="utf-8")
        with pytest.warns(UserWarning, match="is valid UTF-8"):
            JSONTextDataModule(str(tmp_path / "t.jsonl"), encoding="latin-1").read()
        (tmp_path / "books").mkdir()
        for name in ("positive", "negative"):
            text = f"<review_text>caf\u00e9 {name}</review_text>"
            (tmp_path / "books" / f"{name}.review").write_text(text, encoding="utf-8")
        with pytest.warns(UserWarning, match="is valid UTF-8"):
            ReviewsTextDataModule(str(tmp_path)).read()


def test_names_of_columns_are_no_sample(tmp_path):
    with pytest.raises(InputError, match=r"t.csv, line 6: found the names of the columns again"):
        csv(tmp_path, (ROWS + ROWS).encode())
    assert len(csv(tmp_path, b"text,label\ntext,label\n", columns=["text", "label"])) == 2
