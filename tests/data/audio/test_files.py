import os
import wave

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_fusion.data.audio.files import AudioFiles, Recordings, find_recordings
from lightning_fusion.errors import InputError


def tone(frames, rate=16_000, hz=300.0):
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(frames) / rate)


def sound(path, samples, rate=16_000, **arguments):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **arguments)
    return str(path)


class TestFinding:
    def test_names_are_sorted_and_hidden_files_passed_over(self, tmp_path):
        for name in ("b/2.WAV", "b/1/x.flac", "a/3.wav", "a/._3.wav", ".cache/x/4.wav", "a/notes.txt"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        found = find_recordings(tmp_path, "{speaker}/**")
        assert [recording.name for recording in found] == ["a/3.wav", "b/1/x.flac", "b/2.WAV"]

    def test_speakers_may_be_links(self, tmp_path):
        sound(tmp_path / "far/x.wav", tone(9))
        (tmp_path / "root").mkdir()
        (tmp_path / "root/a").symlink_to(tmp_path / "far")
        assert [recording.name for recording in find_recordings(tmp_path / "root", "{speaker}/**")] == ["a/x.wav"]

    def test_what_does_not_match_is_counted(self, tmp_path):
        sound(tmp_path / "a/x.wav", tone(9))
        sound(tmp_path / "stray.wav", tone(9))
        with pytest.warns(UserWarning, match="1 of 2 audio files under .* are left out: stray.wav"):
            assert len(find_recordings(tmp_path, "{speaker}/**")) == 1

    def test_nothing_matches(self, tmp_path):
        sound(tmp_path / "7_jo_1.wav", tone(9))
        with pytest.raises(
            InputError, match=r"none of the 1 audio files under .* matches the pattern .*; one is 7_jo_1"
        ):
            find_recordings(tmp_path, "{speaker}/**")

    def test_no_audio(self, tmp_path):
        (tmp_path / "a").mkdir()
        with pytest.raises(InputError, match=r"val_root: there is no audio file .* found no file at all"):
            find_recordings(tmp_path, "{speaker}/**", "val_root")
        (tmp_path / "a/x.m4a").touch()
        with pytest.raises(InputError, match=r"which should contain {speaker}/\*\*; found 1 \.m4a"):
            find_recordings(tmp_path, "{speaker}/**")

    def test_skipped_audio_is_reported(self, tmp_path):
        sound(tmp_path / "a/x.wav", tone(9))
        (tmp_path / "b").mkdir()
        (tmp_path / "b/x.m4a").touch()
        (tmp_path / "b/notes.txt").touch()
        with pytest.warns(UserWarning, match=r"^1 \.m4a file\(s\) under .* are left out; .* end in \.aif, "):
            assert len(find_recordings(tmp_path, "{speaker}/**")) == 1

    @pytest.mark.parametrize("target", [".", "..", "../.."])
    def test_a_link_to_a_folder_that_it_lies_in(self, tmp_path, target):
        sound(tmp_path / "a/s/x.wav", tone(9))
        (tmp_path / "a/s/loop").symlink_to(target)
        with pytest.raises(InputError, match=r"root: .*a/s/loop links to one of its parent folders; remove the link"):
            find_recordings(tmp_path, "{speaker}/**")

    def test_a_folder_that_cannot_be_opened(self, tmp_path, monkeypatch):
        sound(tmp_path / "a/x.wav", tone(9))
        sound(tmp_path / "b/x.wav", tone(9))
        scan = os.scandir

        def forbid(path):  # file modes do not hold for an administrator
            if str(path).endswith("b"):
                raise PermissionError(13, "Permission denied", str(path))
            return scan(path)

        monkeypatch.setattr(os, "scandir", forbid)
        with pytest.raises(InputError, match=r"root: the folder .*b cannot be opened \(Permission denied\)"):
            find_recordings(tmp_path, "{speaker}/**")

    def test_no_folder(self, tmp_path):
        with pytest.raises(InputError, match=r"test_root: found no folder .*none; expected audio files"):
            find_recordings(tmp_path / "none", "{speaker}/**", "test_root")


class TestReading:
    def test_two_channels_are_mixed_down(self, tmp_path):
        both = np.stack([tone(100), -0.2 * tone(100)], 1)
        path = sound(tmp_path / "x.wav", both, subtype="FLOAT")
        found = AudioFiles([path], 16_000).read(0, 10, 50)
        np.testing.assert_allclose(found, both.mean(1)[10:60], atol=1e-6)

    @pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "opus", "aiff"])
    def test_a_slice_is_a_slice(self, tmp_path, suffix):
        how = {"format": "OGG", "subtype": "OPUS"} if suffix == "opus" else {}
        path = sound(tmp_path / f"x.{suffix}", np.random.default_rng(0).uniform(-0.4, 0.4, 40_000), **how)
        files = AudioFiles([path], 16_000)
        assert files.frames.tolist() == [40_000]
        part, whole = files.read(0, 31_234, 1000), files.read(0, 0, 40_000)
        torch.testing.assert_close(part, whole[31_234:32_234], rtol=0, atol=1e-6)

    @pytest.mark.slow
    @settings(max_examples=40, deadline=None)
    @given(st.sampled_from([8000, 11_025, 22_050, 44_100, 48_000]), st.data())
    def test_a_slice_of_another_rate_is_a_slice_of_the_whole_resampled(self, tmp_path_factory, rate, data):
        samples = np.random.default_rng(0).uniform(-0.4, 0.4, data.draw(st.integers(1, rate // 4)))
        path = sound(tmp_path_factory.mktemp("x") / "x.wav", samples, rate, subtype="FLOAT")
        whole = torchaudio.functional.resample(torch.from_numpy(samples).float(), rate, 16_000)
        files = AudioFiles([path], 16_000)
        assert files.frames.tolist() == [len(whole)]
        start = data.draw(st.integers(0, len(whole) - 1))
        count = data.draw(st.integers(1, len(whole) - start))
        torch.testing.assert_close(files.read(0, start, count), whole[start : start + count], rtol=0, atol=1e-5)

    def test_in_memory_and_on_disk_are_the_same(self, tmp_path):
        paths = [sound(tmp_path / f"{n}.flac", tone(900 + n, 8000), 8000 * (1 + n % 2)) for n in range(4)]
        memory, disk = (Recordings.of_files(paths, 16_000, limit) for limit in (1.0, 1e-9))
        assert memory.samples is not None and disk.samples is None
        assert torch.equal(memory.frames, disk.frames)
        numbers, starts = torch.tensor([3, 0, 2]), torch.tensor([5, 700, 0])
        spans = torch.tensor([300, 20, 100])
        for length in (20, 100, 250):
            torch.testing.assert_close(*(part.read(numbers, starts, spans, length) for part in (memory, disk)))

    def test_what_is_short_is_repeated(self):
        recordings = Recordings.of_waveforms([torch.arange(3) / 10, torch.arange(9) / 10])
        found = recordings.read(torch.tensor([0, 1]), torch.tensor([1, 2]), torch.tensor([2, 6]), 5)
        assert (found * 10).round().tolist() == [[1, 2, 1, 2, 1], [2, 3, 4, 5, 6]]

    def test_samples_stay_within_one(self, tmp_path):
        path = sound(tmp_path / "x.wav", np.array([1.5, -3.0, 0.5]), subtype="FLOAT")
        assert AudioFiles([path], 16_000).read(0, 0, 3).tolist() == [1.0, -1.0, 0.5]


class TestBadFiles:
    def refused(self, path):
        with pytest.raises(InputError) as caught:
            Recordings.of_files([str(path)], 16_000, 1.0)
        return str(caught.value)

    def test_empty(self, tmp_path):
        assert "x.wav (empty); repair or remove" in self.refused(sound(tmp_path / "x.wav", np.zeros(0)))
        (tmp_path / "y.wav").touch()
        assert "y.wav (empty)" in self.refused(tmp_path / "y.wav")

    def test_no_files(self, tmp_path):
        os.mkfifo(tmp_path / "x.wav")
        assert "x.wav (no file)" in self.refused(tmp_path / "x.wav")
        (tmp_path / "y.wav").symlink_to("nowhere")
        assert "y.wav (no such file or directory)" in self.refused(tmp_path / "y.wav")

    def test_a_name_that_is_no_text(self, tmp_path):
        path = os.fsencode(sound(tmp_path / "x.wav", tone(9)))
        os.rename(path, path.replace(b"x.wav", b"\xff.wav"))
        assert r"\udcff.wav' (its name is no UTF-8)" in self.refused(tmp_path / os.fsdecode(b"\xff.wav"))

    def test_a_rate_whose_filter_would_not_fit_into_memory(self, tmp_path):
        path = sound(tmp_path / "x.wav", tone(9), 44_101)
        assert "x.wav (44101 Hz, which has no small ratio to 16000 Hz)" in self.refused(path)

    @pytest.mark.parametrize("link", [os.symlink, os.link])
    def test_one_file_under_two_names(self, tmp_path, link):
        path, other = sound(tmp_path / "x.wav", tone(9)), str(tmp_path / "y.wav")
        link(path, other)
        with pytest.raises(InputError, match=r"1 audio file\(s\) are found twice, .*: .*y.wav is .*x.wav; remove one"):
            AudioFiles([path, other], 16_000).check_different()

    def test_no_audio_and_the_first_three_are_listed(self, tmp_path):
        paths = [tmp_path / f"{n}.wav" for n in range(5)]
        for path in paths:
            path.write_text("no audio " * 20)
        with pytest.raises(InputError, match=r"5 audio file\(s\) cannot be read: .*0.wav .*2.wav .*and 2 more;"):
            AudioFiles([str(path) for path in paths], 16_000)

    @pytest.mark.parametrize("suffix", ["wav", "flac"])
    @pytest.mark.parametrize("share", [0.5, 0.97])
    def test_truncated(self, tmp_path, suffix, share):
        path = tmp_path / f"x.{suffix}"
        sound(path, np.random.default_rng(0).uniform(-0.5, 0.5, 16_000))
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        assert "(truncated" in self.refused(path)

    def test_a_stream_whose_header_knows_no_length_is_whole(self, tmp_path):
        path = tmp_path / "x.wav"
        sound(path, tone(800))
        content = bytearray(path.read_bytes())
        at = content.index(b"data") + 4
        content[at : at + 4] = content[4:8] = b"\xff\xff\xff\xff"
        path.write_bytes(content)
        assert Recordings.of_files([str(path)], 16_000, 1.0).frames.tolist() == [800]

    @pytest.mark.parametrize(
        ("value", "message"),
        [(np.nan, "samples that are NaN or infinite"), (np.inf, "NaN or infinite"), (32000.0, "samples up to 32000;")],
    )
    @pytest.mark.parametrize("channels", [1, 2])
    def test_samples_that_are_no_audio(self, tmp_path, value, message, channels):
        samples = np.tile(tone(800)[:, None], channels)
        samples[400] = value
        assert message in self.refused(sound(tmp_path / "x.wav", samples, subtype="FLOAT"))

    def test_a_file_that_goes_away_is_named(self, tmp_path):
        path = sound(tmp_path / "x.wav", tone(800))
        files = AudioFiles([path], 16_000)
        (tmp_path / "x.wav").unlink()
        with pytest.raises(InputError, match=r"x.wav cannot be decoded"):
            files.read(0, 0, 10)

    def test_pythons_own_wave_writer(self, tmp_path):
        with wave.open(str(tmp_path / "x.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16_000)
            file.writeframes((tone(800) * 2**15).astype("<i2").tobytes())
        found = AudioFiles([str(tmp_path / "x.wav")], 16_000).read(0, 0, 800)
        np.testing.assert_allclose(found, tone(800), atol=1e-4)
