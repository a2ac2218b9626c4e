"""Rows and classes lost in files: whatever is not read is named, or raises."""

import json
import logging

import numpy as np
import pytest
from helpers.image_trees import draw_tree
from helpers.recording_trees import draw_tree as draw_recordings
from helpers.recording_trees import folders, names
from helpers.text_tables import ROWS, delimited, refused, table
from PIL import Image

from lightning_fusion import ImageDataModule, SensorDataModule
from lightning_fusion.data.image.folders import DomainImageDataModule
from lightning_fusion.data.sensor.table import FeatureTableDataModule
from lightning_fusion.data.tables import read_columns
from lightning_fusion.data.text.json_lines import JSONTextDataModule
from lightning_fusion.data.text.public import ReviewsTextDataModule
from lightning_fusion.errors import InputError


def image(path, **arguments):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), "red").save(path, **arguments)


class TestDelimiters:
    """The message names the option or the cell to change, in recordings and in tables."""

    def raises(self, path, content, message, **arguments):
        path.write_text(content)
        recording = SensorDataModule(str(path.parent), "{take}.csv", ["x", "y"], recorded_rate_hz=50, **arguments)
        for data in (recording, FeatureTableDataModule(str(path), channels=["x", "y"], **arguments)):
            with pytest.raises(InputError, match=message):
                data.setup()

    @pytest.mark.parametrize(("delimiter", "shown"), [(";", ";"), ("\t", r"\\t"), ("|", r"\|")])
    def test_another_one_is_named(self, tmp_path, delimiter, shown):
        lines = [delimiter.join(row) for row in (["x", "y", "label"], ["1", "2", "a"])]
        message = rf"1\.csv separates its columns by '{shown}'; set delimiter: \"{shown}\"$"
        self.raises(tmp_path / "1.csv", "\n".join(lines), message)

    def test_decimal_commas_are_named(self, tmp_path):
        message = r"row 3: y is '-2,5'; expected a number: decimal commas are not read: write .* as in -2\.5$"
        self.raises(tmp_path / "1.csv", "x;y;label\n1;2;a\n1;-2,5;a\n", message, delimiter=";")

    def test_an_empty_file_is_named(self, tmp_path):
        self.raises(tmp_path / "1.csv", "", r"1\.csv is empty: expected column names in its first line; remove it$")


class TestImageTrees:
    @pytest.mark.parametrize("suffix", [".jfif", ".JPG", ".jpe", ".JPEG"])
    def test_suffixes_of_jpeg(self, tmp_path, suffix):
        draw_tree(tmp_path, ["clinic", "home"], ["cat"])
        image(tmp_path / "home" / "cat" / f"x{suffix}", format="JPEG")
        assert len(DomainImageDataModule(str(tmp_path)).layout.files) == 13

    def test_folders_of_file_servers_are_no_classes(self, tmp_path, caplog):
        draw_tree(tmp_path, ["train", "test"], ["cat", "dog"])
        for place in ("@eaDir", "train/@eaDir", "train/.thumbnails", "test/#recycle", "test/cat/@eaDir", "__MACOSX/a"):
            image(tmp_path / place / "x.png")
        data = ImageDataModule(str(tmp_path))
        with caplog.at_level(logging.INFO):
            assert data.classes == ["cat", "dog"] and len(data.layout.files) == 24
        assert "1 folder(s) #recycle, 1 folder(s) .thumbnails, 3 folder(s) @eaDir, 1 folder(s) __MACOSX" in caplog.text

    def test_images_at_another_depth_are_named(self, tmp_path):
        draw_tree(tmp_path, ["clinic", "home"], ["cat"])
        for name in ("clinic/cat/more/a.png", "clinic/b.png", "c.png"):
            image(tmp_path / name)
        with (
            pytest.warns(UserWarning, match=r"2 image\(s\) under .* are left out.*: c.png, clinic/cat/more/a.png"),
            pytest.warns(UserWarning, match=r"1 image\(s\) under .* count as unlabeled, .*: clinic/b.png"),
        ):
            assert len(DomainImageDataModule(str(tmp_path)).rows("train").rows) == 8

    def test_suffixes_that_are_not_read_are_named(self, tmp_path, caplog):
        draw_tree(tmp_path, ["clinic", "home"], ["cat"])
        for name in ("a.heic", "b.HEIC", "c.svg", "notes.txt", "Thumbs.db"):
            (tmp_path / "home" / "cat" / name).touch()
        with (
            caplog.at_level(logging.INFO),
            pytest.warns(UserWarning, match=r"2 .heic, 1 .svg file\(s\) under .* left out; .* end in .bmp"),
        ):
            DomainImageDataModule(str(tmp_path)).setup()
        assert "1 .db, 1 .txt" in caplog.text

    @pytest.mark.parametrize("name", ["a.heic", "more/a.png"])
    @pytest.mark.parametrize("kind", [ImageDataModule, DomainImageDataModule])
    def test_a_class_without_a_readable_image_raises(self, tmp_path, name, kind):
        upper = ["train", "test"] if kind is ImageDataModule else ["clinic", "home"]
        draw_tree(tmp_path, upper, ["cat", "dog"])
        (tmp_path / upper[0] / "owl" / name).parent.mkdir(parents=True)
        (tmp_path / upper[0] / "owl" / name).touch()
        with pytest.raises(InputError, match=rf"/owl in .* has no readable image; .*found {upper[0]}/owl/{name}"):
            kind(str(tmp_path)).setup()

    def test_an_empty_class_raises_unless_it_has_images_elsewhere(self, tmp_path):
        draw_tree(tmp_path, ["clinic", "home"], ["cat"])
        (tmp_path / "home" / "dog").mkdir()
        with pytest.raises(InputError, match=r"the class home/dog in .* has no readable image"):
            DomainImageDataModule(str(tmp_path)).setup()
        draw_tree(tmp_path, ["office"], ["dog"])
        with pytest.warns(UserWarning, match=r"1 folders under .* are empty: home/dog"):
            assert DomainImageDataModule(str(tmp_path)).classes == ["cat", "dog"]

    def test_a_class_of_broken_images_raises(self, tmp_path):
        draw_tree(tmp_path, ["clinic", "home"], ["cat", "dog"])
        for path in tmp_path.glob("*/dog/*"):
            path.write_bytes(b"")
        with pytest.raises(InputError, match=r"the class dog under .* has no image that can be decoded"):
            DomainImageDataModule(str(tmp_path), skip_unreadable=True).setup()

    def test_a_class_of_one_split_is_named(self, tmp_path):
        draw_tree(tmp_path, ["train", "test"], ["cat"])
        draw_tree(tmp_path / "test", ["dog"], ["."])
        with pytest.warns(UserWarning, match="1 of 2 classes under .* have no train image: dog"):
            ImageDataModule(str(tmp_path)).setup()


class TestQuotes:
    @staticmethod
    def write(path, mark, lines):
        path.write_text("\n".join(mark.join(line) for line in [("text", "label"), *lines]))
        return str(path)

    LINES = tuple((f"word {n}", ("good", "bad")[n % 2]) for n in range(40))

    def test_quotes_are_part_of_the_texts_of_a_tsv(self, tmp_path):
        lines = [*self.LINES[:8], ('"not closed', "good"), *self.LINES[8:16], ('a 5" screen', "bad"), *self.LINES[16:]]
        data = delimited(self.write(tmp_path / "t.tsv", "\t", lines), domain_fields=None)
        assert len(data.read().texts) == 42 and '"not closed' in data.read().texts

    def test_rows_that_a_stray_quote_merges_are_said(self, tmp_path):
        lines = [*self.LINES[:8], ('"so good', "good"), *self.LINES[8:16], ('screen 5"', "bad"), *self.LINES[16:]]
        for name, mark, quoting in (("t.csv", ",", None), ("t.tsv", "\t", "csv")):
            data = delimited(self.write(tmp_path / name, mark, lines), domain_fields=None, quoting=quoting)
            with pytest.warns(UserWarning, match=r"1 cell\(s\) span several lines that look like rows: lines 10 to 19"):
                assert len(data.read().texts) == 33
            assert len(data.variant(quoting="none").read().texts) == 42

    def test_a_quote_that_is_not_closed(self, tmp_path):
        data = delimited(self.write(tmp_path / "t.csv", ",", [*self.LINES, ('"oh', "good"), *self.LINES]))
        message = refused(data.variant(domain_fields=None))
        assert "t.csv, line 42: " in message and "set quoting: none if quotes are part of the texts" in message

    def test_texts_of_several_lines_are_texts(self, tmp_path, recwarn):
        lines = [*self.LINES, ('"First, it works.\n\nThen it does not"', "bad")]
        data = delimited(self.write(tmp_path / "t.csv", ",", lines), domain_fields=None)
        assert len(data.read().texts) == 41
        assert not [warning for warning in recwarn if "span several lines" in str(warning.message)]

    def test_quotes_that_are_kept_are_said(self, tmp_path):
        lines = [('"good ""thing"""', "good"), *self.LINES]
        data = delimited(self.write(tmp_path / "t.tsv", "\t", lines), domain_fields=None)
        with pytest.warns(UserWarning, match=r"1 cell\(s\) begin and end with quotes, which are kept; set quoting"):
            data.read()
        assert data.variant(quoting="csv").read().texts[0] == 'good "thing"'
        lines = [('"one\ttwo"', "good"), *self.LINES]
        data = delimited(self.write(tmp_path / "t.tsv", "\t", lines), domain_fields=None)
        assert "line 2: found 3 values, expected 2" in refused(data) and "quoting: csv" in refused(data)

    def test_tables_of_numbers(self, tmp_path):
        lines = [f"{n},sit" for n in range(9)]
        for stray in ('9,"sit', '9,"sit\n10,walk\n11,walk"'):
            (tmp_path / "t.csv").write_text("\n".join(["x,label", *lines, stray, "12,walk", "13,walk"]))
            with pytest.raises(InputError, match=r"row 11: a cell spans several lines that look like rows; remove or"):
                read_columns(str(tmp_path / "t.csv"), ["x"], ["label"])
            with pytest.raises(InputError, match="row 11: a cell spans"):
                FeatureTableDataModule(str(tmp_path / "t.csv")).setup()
            with pytest.raises(InputError, match="row 11: a cell spans"):
                SensorDataModule(str(tmp_path), "{take}.csv", channels=["x"]).setup()

    def test_reviews_that_are_not_closed(self, tmp_path):
        for name in ("positive", "negative"):
            text = "".join(f"<review_text>{name} {n}</review_text>\n" for n in range(9))
            (tmp_path / "books").mkdir(exist_ok=True)
            (tmp_path / "books" / f"{name}.review").write_text(text.replace("4</review_text>", "4"))
        with pytest.raises(InputError, match=r"opens 9 <review_text> blocks, of which 8 are closed"):
            ReviewsTextDataModule(str(tmp_path)).read()


class TestTextFolders:
    def test_suffixes_in_any_case(self, tmp_path):
        for name in ("train.csv", "test.CSV"):
            table(tmp_path / name)
        assert [path.name for path in delimited(str(tmp_path)).files()] == ["test.CSV", "train.csv"]

    def test_files_that_are_not_read_are_named(self, tmp_path, caplog):
        for name in ("train.csv", "test.csv"):
            table(tmp_path / name)
        (tmp_path / "README.md").touch()
        with caplog.at_level(logging.INFO):
            delimited(str(tmp_path)).files()
        assert "left out in" in caplog.text and "README.md" in caplog.text
        (tmp_path / "val.txt").touch()
        with pytest.warns(UserWarning, match=r"left out in .*: val.txt; the files that are read end in .csv, .tsv"):
            delimited(str(tmp_path)).files()
        (tmp_path / "a.jsonl").write_text(json.dumps({"text": "a", "label": "b"}))
        with pytest.warns(UserWarning, match=r"left out in .*: test.csv, train.csv, val.txt"):
            JSONTextDataModule(str(tmp_path)).files()

    def test_texts_that_are_dropped_are_named(self, tmp_path):
        data = delimited(table(tmp_path / "t.csv", [("", "good", "a"), *ROWS, (" ", "bad", "b")]), unreadable="drop")
        with pytest.warns(UserWarning, match=r"2 texts are unreadable and are left out: .*t.csv, line 2, .*, line 83"):
            data.setup()


class TestRecordings:
    def test_what_is_not_read_is_named(self, tmp_path, caplog):
        draw_recordings(tmp_path, names(7))
        draw_recordings(tmp_path / "#recycle", names(1))
        for name in ("a.wma", "b.m4a", "id001/words.txt"):
            (tmp_path / name).touch()
        with (
            caplog.at_level(logging.INFO),
            pytest.warns(UserWarning, match=r"1 .m4a, 1 .wma file\(s\) under .* left out; .* end in .aif, "),
        ):
            assert len(folders(tmp_path).layout.speakers) == 7
        assert "1 .txt, 1 folder(s) #recycle" in caplog.text

    def test_of_sensors(self, tmp_path):
        for take in range(4):
            np.savez(tmp_path / f"{take}.npz", x=np.arange(120.0), label=np.arange(120) // 60)
        (tmp_path / "4.xlsx").touch()
        with pytest.warns(UserWarning, match=r"1 .xlsx file\(s\) under .* left out"):
            SensorDataModule(str(tmp_path), "{take}.npz", channels=["x"], window_s=0.4).setup()
