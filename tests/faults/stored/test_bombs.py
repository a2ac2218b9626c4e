"""Small files that would take hours or gigabytes end in one line."""

import json
import zipfile

import numpy as np
import pytest
from helpers import tiny
from PIL import Image

from lightning_fusion import ExpertOutputs
from lightning_fusion.cli.config import read_config, with_found_configs
from lightning_fusion.data.image.files import ImageFiles
from lightning_fusion.data.image.folders import ImageDataModule
from lightning_fusion.data.sensor.files import RecordingFormat, read_recording
from lightning_fusion.data.tables import read_columns
from lightning_fusion.data.text.readers import read_delimited, read_json
from lightning_fusion.errors import InputError


def doubled(levels: int, line: str = "{name}: &{name} [{items}]") -> str:
    """YAML whose aliases double with each line."""
    lines = ["a0: &a0 [x]"]
    for level in range(1, levels):
        lines.append(line.format(name=f"a{level}", items=f"*a{level - 1}, *a{level - 1}"))
    return "\n".join(lines)


class TestYAML:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a: &a [1, *a]", "line 1: this value contains itself by an alias"),
            ("a: &a {b: *a}", "contains itself"),
            ("a: &a\n  b: &b\n    c: [*a, *b]", "contains itself"),
            (doubled(200), "more than 500,000 values with its aliases written out"),
            (doubled(200, "{name}: &{name} {{k: [{items}]}}"), "more than 500,000 values"),
            ("a0: &a0 {k: 1}\n" + doubled(60, "{name}: &{name} {{<<: [{items}]}}").partition("\n")[2], "more than"),
            ("? [a, b]\n: 1", "line 1, column 3: found unhashable key"),
            ("? {a: b}\n: 1", "found unhashable key"),
            ("a: " + "[" * 400, "nested too deeply|cannot be read|expected"),
            ("a: " + "{b: " * 400, "nested too deeply|cannot be read|expected"),
            ("a:\n - 1" + ":1" * 50_000, "line 2: found a number of 100,001 characters; expected at most 1,000"),
            ("a: 1" + ":1" * 2000 + ".5", "found a number of 4,003 characters"),
            ("a: 0x" + "f" * 5000, "found a number of 5,002 characters"),
            ("a: 1" + ":1" * 400 + ".5", "cannot be read as YAML"),
            ('a: "\\UFFFFFFFF"', "cannot be read as YAML"),
        ],
        ids=range(15),
    )
    def test_aliases_and_nesting(self, text, message, tmp_path):
        path = tmp_path / "a.yaml"
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_config(str(path))

    def test_interpolations(self, tmp_path):
        path = tmp_path / "a.yaml"
        lines = ["a:", "  x0: text", *(f"  x{level}: ${{a.x{level - 1}}}${{a.x{level - 1}}}" for level in range(1, 60))]
        path.write_text("\n".join(lines))
        with pytest.raises(InputError, match="more than 1,048,576 characters with its interpolations"):
            read_config(str(path))
        path.write_text("\n".join(lines).replace("${a.x", "${.x"))
        with pytest.raises(InputError, match="characters with its interpolations"):
            read_config(str(path))
        path.write_text("\n".join(["x0: [a]", *(f"x{n}: ['${{x{n - 1}[0]}}${{x{n - 1}[0]}}']" for n in range(1, 60))]))
        with pytest.raises(InputError, match="characters with its interpolations"):
            read_config(str(path))
        path.write_text("\n".join([*(f"x{n}: ${{x{n - 1}}}" for n in range(300, 0, -1)), "x0: 1"]))
        with pytest.raises(InputError, match="more than 200 times"):
            read_config(str(path))
        for reference in ("${oc.select:x%d}", "${ x%d }", "${oc.select: x%d, 1}", "${[x%d]}", "${oc.deprecated:x%d}"):
            path.write_text("\n".join(["x0: text", *(f"x{n + 1}: '{reference % n * 2}'" for n in range(60))]))
            with pytest.raises(InputError, match="characters with its interpolations"):
                read_config(str(path))
        for reference in ("${a['x%d']}", '${a["x%d"]}', "${a[ x%d ]}", "${['a'].x%d}"):
            texts = {f"x{n + 1}": reference % n * 2 for n in range(60)}
            path.write_text(json.dumps({"a": {"x0": "text", **texts}}))
            with pytest.raises(InputError, match="characters with its interpolations"):
                read_config(str(path))
        for reference in ("${x${b}}", "${oc.select:x${b}}"):
            path.write_text(f"a: '{reference}'\nb: 1")
            with pytest.raises(InputError, match="a interpolates a key that is interpolated itself; write the key"):
                read_config(str(path))
        path.write_text("a: ${oc.decode:${oc.env:HOME}}\nb: ${oc.env:HOME,${a}}")
        assert set(read_config(str(path))) == {"a", "b"}
        path.write_text("a: ${b}\nb: ${a}\nc: ${oc.env:HOME}\nd: [1, {e: '${..d}'}]")
        assert set(read_config(str(path))) == {"a", "b", "c", "d"}

    def test_a_file_of_another_option(self, tmp_path):
        (tmp_path / "a.yaml").write_text("a: &a [1, *a]")
        for args in (["--model", str(tmp_path / "a.yaml")], [f"--model={tmp_path / 'a.yaml'}"]):
            with pytest.raises(InputError, match="contains itself"):
                with_found_configs(args, lambda *_: None)

    def test_a_large_file(self, tmp_path):
        with open(tmp_path / "a.yaml", "wb") as file:
            file.truncate(1 << 33)  # sparse
        with pytest.raises(InputError, match="8,589,934,592 bytes; a configuration has at most 1,048,576"):
            read_config(str(tmp_path / "a.yaml"))

    def test_aliases_that_are_none_of_that(self, tmp_path):
        (tmp_path / "a.yaml").write_text("a: &a [1, 2]\nb: [*a, *a]\nc: {<<: &d {x: 1}, y: *d}")
        assert read_config(str(tmp_path / "a.yaml")) == {
            "a": [1, 2],
            "b": [[1, 2], [1, 2]],
            "c": {"x": 1, "y": {"x": 1}},
        }


@pytest.fixture(scope="module")
def large_image(tmp_path_factory):
    """13,000 x 13,000 pixels of one color, as a file of 20 kB."""
    tmp_path = tmp_path_factory.mktemp("images")
    for name in ("a", "b"):
        for split in ("train", "val", "test"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("L", (8, 8), 255 * (name == "a")).save(tmp_path / split / name / "0.png")
    Image.new("1", (13_000, 13_000)).save(tmp_path / "train/a/1.png")
    return tmp_path


class TestManifests:
    @pytest.mark.parametrize("content", ["sparse", "lists"])
    def test_a_manifest_of_gigabytes(self, content, tmp_path):
        tiny.outputs().save(tmp_path)
        with open(tmp_path / "manifest.json", "r+b") as file:
            if content == "sparse":
                file.truncate(1 << 40)
            else:
                file.write(b"[" + b"[]," * (1 << 21) + b"1]")
        with pytest.raises(
            InputError, match=r"manifest.json is damaged \(it has (more than 2,097,152|1,099,511,627,776)"
        ):
            ExpertOutputs.open(tmp_path)


class TestImages:
    @pytest.mark.slow
    def test_megapixels(self, large_image):
        with pytest.raises(InputError, match=r"1\.png \(169 megapixels; max_megapixels is 80\)"):
            ImageDataModule(str(large_image), image_size=8, channels=1).setup("fit")

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore")
    def test_skipped(self, large_image):
        data = ImageDataModule(str(large_image), image_size=8, channels=1, skip_unreadable=True)
        data.setup("fit")
        assert len(data.rows("train")) == 2

    @pytest.mark.slow
    def test_a_raised_limit(self, large_image, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
        data = ImageDataModule(str(large_image), image_size=8, channels=1, max_megapixels=170)
        data.setup("fit")
        assert len(data.rows("train")) == 3

    @pytest.mark.parametrize("error", [MemoryError(), KeyError("tag"), RecursionError(), ZeroDivisionError("x")])
    def test_any_exception_of_a_decoder_names_the_file(self, error, large_image, monkeypatch):
        def failing(*_, **__):
            raise error

        monkeypatch.setattr(Image, "open", failing)
        with pytest.raises(InputError, match=r"0\.png \("):
            ImageFiles([large_image / "train/a/0.png"], 1, 8)._decode(large_image / "train/a/0.png")


class TestSensors:
    HOW = RecordingFormat(("x",), 50.0)

    def test_a_compressed_array_of_gigabytes(self, tmp_path, monkeypatch):
        monkeypatch.setattr("lightning_fusion.data.sensor.files._LARGE", 1 << 24)
        path = tmp_path / "a.npz"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": "<f8", "fortran_order": False, "shape": ((20 << 20) // 8,)}
            )
            for _ in range(20):
                file.write(bytes(1 << 20))
        assert path.stat().st_size < 1 << 20
        with pytest.raises(InputError, match=r"a\.npz: its array x has 0\.0 GB in 0\.0 MB; .* store it without"):
            read_recording(str(path), self.HOW)

    def test_a_header_that_announces_terabytes(self, tmp_path):
        path = tmp_path / "a.npy"
        with open(path, "wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (1 << 42, 1)})
            file.write(bytes(80))
        with pytest.raises(InputError, match=r"a\.npy (is truncated|cannot be read)"):
            read_recording(str(path), self.HOW)

    @pytest.mark.parametrize("error", [MemoryError(), KeyError("x"), RuntimeError("broken")])
    def test_any_exception_names_the_file(self, error, tmp_path, monkeypatch):
        def failing(*_, **__):
            raise error

        monkeypatch.setattr(np, "load", failing)
        with pytest.raises(InputError, match=r"a\.npy cannot be read"):
            read_recording(str(tmp_path / "a.npy"), self.HOW)


class TestTables:
    @pytest.mark.slow
    def test_many_columns(self, tmp_path):
        names = ",".join(f"c{number}" for number in range(200_000))
        for name, text in (("a.csv", f"{names}\n{'1,' * 199_999}1\n"), ("b.csv", f"{names},c0\n{'1,' * 200_000}1\n")):
            (tmp_path / name).write_text(text)
        values, _ = read_columns(str(tmp_path / "a.csv"), ["c5"], [])
        assert values.tolist() == [[1.0]]
        rows = list(read_delimited(tmp_path / "a.csv", ["c5"]))
        assert rows[0][1]["c5"] == "1"
        with pytest.raises(InputError, match="has more than one c0 among its columns"):
            list(read_delimited(tmp_path / "b.csv", ["c5"]))

    def test_nested_json(self, tmp_path):
        path = tmp_path / "a.jsonl"
        path.write_text('{"text": "a"}\n{"text": ' + "[" * 100_000 + "\n")
        with pytest.raises(InputError, match=r"a\.jsonl, line 2: the value is nested too deeply"):
            list(read_json(path, ["text"]))

    @pytest.mark.slow
    def test_an_object_of_many_keys(self, tmp_path):
        path = tmp_path / "a.jsonl"
        path.write_text(json.dumps({f"k{number}": 0 for number in range(200_000)}))
        assert len(next(read_json(path, ["k1"]))[1]) == 200_000
