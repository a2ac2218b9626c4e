"""Input in another encoding or form is read as it is meant, or rejected with file and line."""

import numpy as np
import pytest
import torch
from helpers import tiny
from torch import nn

from lightning_fusion import ExpertOutputs
from lightning_fusion.acorl.attribution import integrated_gradients
from lightning_fusion.data.audio.files import AudioFiles
from lightning_fusion.data.sensor.recordings import SensorDataModule
from lightning_fusion.data.sensor.table import FeatureTableDataModule
from lightning_fusion.data.tables import read_columns
from lightning_fusion.data.text.readers import read_delimited, read_json
from lightning_fusion.errors import InputError


class TestJSON:
    @pytest.mark.parametrize("text", [r"a \ud83d", r"\uDE00 a", r"a \uD83Db"])
    def test_half_of_a_surrogate_pair(self, text, tmp_path):
        (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"text": "' + text + '", "label": "x"}\n')
        with pytest.raises(InputError, match=r"a\.jsonl, line 2: text has half of a surrogate pair"):
            list(read_json(tmp_path / "a.jsonl", ["text"]))

    def test_whole_pairs(self, tmp_path):
        (tmp_path / "a.jsonl").write_text(r'{"text": "a \ud83d\ude00"}')
        assert list(read_json(tmp_path / "a.jsonl", ["text"])) == [(1, {"text": "a 😀"})]


LINES = ["x,label", *(f"{n},ü{n % 2}" for n in range(4))]


class TestTables:
    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
    def test_encodings_and_line_ends(self, encoding, end, tmp_path):
        path = tmp_path / "a.csv"
        path.write_bytes(end.join(LINES).encode(encoding))
        values, texts = read_columns(str(path), ["x"], ["label"], encoding=encoding)
        assert values[:, 0].tolist() == [0, 1, 2, 3] and texts[:, 0].tolist() == ["ü0", "ü1"] * 2
        assert [row["label"] for _, row in read_delimited(path, ["label"], encoding)] == ["ü0", "ü1"] * 2

    @pytest.mark.parametrize("end", ["\n", "\r"])
    def test_a_byte_order_mark_without_a_header(self, end, tmp_path):
        path = tmp_path / "a.csv"
        path.write_bytes(end.join(LINES[1:]).encode("utf-8-sig"))
        values, texts = read_columns(str(path), ["x"], ["label"], columns=["x", "label"])
        assert values[:, 0].tolist() == [0, 1, 2, 3] and texts[0, 0] == "ü0"

    def test_another_encoding_is_named(self, tmp_path):
        path = tmp_path / "a.csv"
        path.write_bytes("\n".join(LINES).encode("utf-16"))
        with pytest.raises(InputError, match=r"a\.csv is UTF-16; set encoding: utf-16"):
            read_columns(str(path), ["x"], ["label"])
        path.write_bytes("\n".join(LINES).encode())
        with pytest.raises(InputError, match=r"a\.csv is not ascii"):
            read_columns(str(path), ["x"], ["label"], encoding="ascii")
        with pytest.raises(InputError, match="encoding is 'utf-9'"):
            read_columns(str(path), ["x"], ["label"], encoding="utf-9")

    def test_sensor_files(self, tmp_path):
        for take in range(10):
            rows = ["x,label", *(f"{n % 7 + take},{'sit' if n < 60 else 'walk'}" for n in range(120))]
            (tmp_path / f"ann_{take}.csv").write_bytes("\r".join(rows).encode("utf-16"))
        how = {"channels": ["x"], "label": "label", "window_s": 1.0}
        data = SensorDataModule(str(tmp_path), "{person}_{take}.csv", encoding="utf-16", **how)
        assert data.classes == ["sit", "walk"]
        with pytest.raises(InputError, match="set encoding: utf-16"):
            SensorDataModule(str(tmp_path), "{person}_{take}.csv", **how).classes  # noqa: B018

    def test_feature_tables(self, tmp_path):
        rows = ["x,label,person", *(f"{n},{'ab'[n % 2]},{n % 3}" for n in range(60))]
        (tmp_path / "t.csv").write_bytes("\n".join(rows).encode("utf-16"))
        data = FeatureTableDataModule(str(tmp_path / "t.csv"), domain_fields=["person"], domain=1, encoding="utf-16")
        assert data.classes == ["a", "b"]


class TestOutputs:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_tensors_of_any_type_and_with_gradients(self, dtype):
        given = torch.tensor([[0.5, 0.5], [0.25, 0.75]], dtype=dtype, requires_grad=True)
        split = {"probabilities": {"a": given}, "target": torch.tensor([0, 1])}
        split["representations"] = {"a": (given * 2).to(dtype)}
        found = ExpertOutputs.from_arrays({"test": split}, {"a": ["x", "y"]})
        assert found["test"].probabilities["a"].tolist() == [[0.5, 0.5], [0.25, 0.75]]

    def test_rounded_probabilities(self):
        given = np.array([[0.333, 0.333, 0.333], [0.3, 0.3, 0.4]], np.float32)
        split = {"probabilities": {"a": given - np.float32(0.001)}, "target": [0, 1]}
        with pytest.raises(InputError, match=r"\(sum 0\.996; expected 1 within 0\.001\); divide each row by its sum"):
            ExpertOutputs.from_arrays({"test": split}, {"a": tiny.CLASSES})


def test_a_first_layer_that_works_in_place():
    torch.manual_seed(0)
    layers = nn.Linear(4, 3), torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    in_place, apart = (nn.Sequential(nn.ReLU(inplace=flag), layers[0]).eval() for flag in (True, False))
    input = layers[1].clone()
    found = integrated_gradients(in_place, input, layers[2])
    assert torch.equal(found, integrated_gradients(apart, layers[1], layers[2])) and torch.equal(input, layers[1])


class TestAudio:
    @pytest.mark.parametrize("error", [MemoryError(), KeyError("chunk"), TypeError("broken")])
    def test_any_exception_names_the_file(self, error, tmp_path, monkeypatch):
        soundfile = pytest.importorskip("soundfile")
        for name in ("a", "b"):
            soundfile.write(tmp_path / f"{name}.wav", np.random.default_rng(ord(name)).normal(size=800) / 9, 8000)
        files = AudioFiles([str(tmp_path / "a.wav"), str(tmp_path / "b.wav")], 8000)

        def failing(*_, **__):
            raise error

        monkeypatch.setattr(soundfile, "SoundFile", failing)
        with pytest.raises(InputError, match=r"a\.wav cannot be decoded"):
            files.read(0, 0, 10)
        with pytest.raises(InputError, match=r"2 audio file\(s\) cannot be read: .*a\.wav"):
            AudioFiles([str(tmp_path / "a.wav"), str(tmp_path / "b.wav")], 8000)

    def test_a_header_that_announces_more_samples_than_the_file_has(self, tmp_path):
        soundfile = pytest.importorskip("soundfile")
        path = tmp_path / "a.wav"
        soundfile.write(path, np.zeros(100, np.int16), 8000)
        content = bytearray(path.read_bytes())
        for announced in (2**31 - 2**17, 2**31 + 5, 2**32 - 2):
            content[40:44] = announced.to_bytes(4, "little")
            path.write_bytes(content)
            try:
                files = AudioFiles([str(path)], 8000)
            except InputError as error:
                assert "a.wav" in str(error)
            else:
                assert files.frames.tolist() == [100]  # the header of a stream

    def test_a_long_silence_is_not_read_at_once(self, tmp_path, monkeypatch):
        soundfile = pytest.importorskip("soundfile")
        monkeypatch.setattr("lightning_fusion.data.audio.files._BLOCK_S", 1.0)
        for name, last in (("silent", 0), ("loud", 9000)):
            samples = np.zeros(80_000, np.int16)
            samples[-8000::2] = last
            soundfile.write(tmp_path / f"{name}.flac", samples, 8000)
        files, counts = AudioFiles([str(tmp_path / f"{name}.flac") for name in ("silent", "loud")], 8000), []
        decode = files._decode
        monkeypatch.setattr(files, "_decode", lambda *given: (counts.append(given[2]), decode(*given))[1])
        assert files.probe(1.0).tolist() == [True, False] and max(counts) == 8000
