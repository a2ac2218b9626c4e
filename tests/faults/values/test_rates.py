"""The sample rate of a recording is that of its samples, whatever lies between them."""

import numpy as np
import pytest

from lightning_fusion import SensorDataModule
from lightning_fusion.data.sensor.files import RecordingFormat, read_recording
from lightning_fusion.errors import InputError


def read(tmp_path, times, values=None, **how):
    values = np.zeros(len(times)) if values is None else values
    np.savez(tmp_path / "one.npz", x=values, t=times)
    return read_recording(str(tmp_path / "one.npz"), RecordingFormat(("x",), timestamp="t", **how))


def hundred_hz(pause_s=0.0, count=1000):
    times = np.arange(count) / 100
    return times + pause_s * (times >= times[count // 2])


class TestPauses:
    def test_a_long_one_leaves_the_rate_as_it_is(self, tmp_path):
        """100 Hz with 80 s between the halves: 11 Hz by first and last timestamp."""
        one = read(tmp_path, hundred_hz(pause_s=80), sample_rate_hz=50.0, recorded_rate_hz=100.0)
        assert len(one.samples) == pytest.approx(50 * 10, abs=3)
        assert one.gaps.sum() == 1

    def test_do_not_hide_another_rate(self, tmp_path):
        with pytest.raises(InputError, match=r"the timestamps imply 100 Hz, recorded_rate_hz is 20"):
            read(tmp_path, hundred_hz(pause_s=80), sample_rate_hz=50.0, recorded_rate_hz=20.0)

    def test_do_not_look_like_another_unit(self, tmp_path):
        one = read(tmp_path, hundred_hz(pause_s=4000), sample_rate_hz=50.0)
        assert int((~one.gaps).sum()) == pytest.approx(500, abs=3)

    def test_leave_the_averaging_of_faster_recordings_as_it_is(self, tmp_path):
        """+1, -1, +1...: the mean over 1/50 s is 0; interpolation takes every second sample."""
        times = hundred_hz(pause_s=80)
        values = np.where(np.arange(len(times)) % 2, -1.0, 1.0)
        one = read(tmp_path, times, values, sample_rate_hz=50.0)
        assert np.abs(one.samples[2:200]).max() < 1e-4

    @pytest.mark.parametrize("row", [0, -1])
    def test_a_wrong_timestamp_is_a_piece_of_its_own(self, tmp_path, row):
        """Milliseconds since 1970 with one 0, or one of the year 2100: years of samples if the gap were resampled."""
        times = 1.7e9 + hundred_hz()
        times[row] = 0 if row == 0 else 4.1e9
        one = read(tmp_path, times, np.arange(1000.0), sample_rate_hz=50.0)
        assert len(one.samples) == 502 and one.gaps.sum() == 1
        assert one.samples[row] == (0 if row == 0 else 999) and one.samples[250] == pytest.approx(500, abs=3)

    def test_cut_pieces_begin_at_their_own_first_timestamp(self, tmp_path):
        times = np.concatenate([np.arange(10) / 10, 3600.03 + np.arange(10) / 10])
        one = read(tmp_path, times, np.arange(20.0), sample_rate_hz=10.0)
        assert one.samples[~one.gaps, 0] == pytest.approx(np.arange(20.0), abs=1e-4)
        assert np.flatnonzero(one.gaps).tolist() == [10]


class TestUnevenSteps:
    @pytest.mark.parametrize("seed", range(3))
    def test_missing_samples(self, tmp_path, seed):
        kept = np.sort(np.random.default_rng(seed).permutation(1000)[:700])
        read(tmp_path, hundred_hz()[kept], sample_rate_hz=50.0, recorded_rate_hz=100.0)

    def test_a_coarse_clock(self, tmp_path):
        times = np.floor(np.arange(500) / 50 / 0.0156) * 0.0156  # 50 Hz, ticks of 15.6 ms: a median of 64 Hz
        read(tmp_path, times, sample_rate_hz=50.0, recorded_rate_hz=50.0)

    def test_samples_that_come_in_groups(self, tmp_path):
        times = np.arange(500) // 5 / 10  # five every 0.1 s
        read(tmp_path, times, sample_rate_hz=50.0, recorded_rate_hz=50.0)

    def test_slower_than_a_sample_in_max_gap_s(self, tmp_path):
        one = read(tmp_path, np.arange(20.0), np.arange(20.0), sample_rate_hz=1.0, recorded_rate_hz=1.0)
        assert one.samples[:, 0].tolist() == list(range(20))


class TestTimestamps:
    """Of several samples with one timestamp the mean is used, which is said; times that are no numbers are rejected."""

    @staticmethod
    def data(root, stamps):
        for take in range(4):
            lines = [f"{stamp},{row % 7 + take},{'sit' if row < 60 else 'walk'}" for row, stamp in enumerate(stamps)]
            (root / f"ann_{take}.csv").write_text("\n".join(["t,x,activity", *lines]))
        names = {"channels": ["x"], "label": "activity", "timestamp": "t"}
        return SensorDataModule(str(root), "{person}_{take}.csv", **names, window_s=0.5)

    def test_equal_ones_are_reported(self, tmp_path, recwarn):
        self.data(tmp_path, [row // 2 / 50 for row in range(120)]).rows("train")
        found = [str(each.message) for each in recwarn if "equal timestamps" in str(each.message)]
        assert len(found) == 1 and found[0].startswith(
            "4 of 4 recordings have samples of equal timestamps, whose mean is used (up to 100% of the samples of one):"
        )

    def test_others_are_not(self, tmp_path, recwarn):
        self.data(tmp_path, [row / 50 for row in range(120)]).rows("train")
        assert not any("equal timestamps" in str(each.message) for each in recwarn)

    @pytest.mark.parametrize("form", ["2024-03-31T01:59:59.{:06}+01:00", "2024-03-31 01:59:59.{:06}", "01:59:59.{:06}"])
    def test_dates_and_times_are_rejected(self, form, tmp_path):
        says = r"ann_0.csv, row 2: t is '.*'; expected a number: .*; dates and times are not read: convert them"
        with pytest.raises(InputError, match=says):
            self.data(tmp_path, [form.format(row) for row in range(120)]).rows("train")

    def test_a_clock_that_is_set_back_is_rejected(self, tmp_path):
        with pytest.raises(InputError, match=r"ann_0.csv, row 72: the timestamp .* is before the .* of the row above"):
            self.data(tmp_path, [row / 50 - 3600 * (row >= 70) for row in range(120)]).rows("train")


class TestUpsampling:
    """Interpolation adds no content: it is said once, with how many and which."""

    def module(self, root, slow, **arguments):
        for number in range(10):
            rate = 5 if number in slow else 10
            lines = [f"{row / rate},{row % 3 + number / 10},{'ab'[2 * row // (6 * rate)]}" for row in range(6 * rate)]
            (root / f"p_{number}.csv").write_text("\n".join(["t,x,label", *lines]))
        shared = {"timestamp": "t", "window_s": 1.0} | arguments
        return SensorDataModule(str(root), "{person}_{take}.csv", ["x"], **shared)

    def said(self, data, recwarn):
        recwarn.clear()
        data.setup()
        return [str(one.message) for one in recwarn]

    @pytest.mark.parametrize("arguments", [{}, {"piece_s": 1.0}])
    def test_is_said_once(self, tmp_path, recwarn, arguments):
        data = self.module(tmp_path, [2, 7], sample_rate_hz=10, cache=str(tmp_path / "cache"), **arguments)
        message = (
            "2 of 10 recordings have a lower sample rate (5 Hz) than sample_rate_hz 10 and are interpolated, without "
            "content above half their rate: p_2.csv, p_7.csv; lower sample_rate_hz to avoid it"
        )
        assert self.said(data, recwarn) == [message]
        assert self.said(data.variant(batch_size=2), recwarn) == []
        again = self.module(tmp_path, [2, 7], sample_rate_hz=10, cache=str(tmp_path / "cache"), **arguments)
        assert self.said(again, recwarn) == [message]  # from the cache

    def test_lower_and_equal_rates_are_silent(self, tmp_path, recwarn):
        assert self.said(self.module(tmp_path, [], sample_rate_hz=10.5), recwarn) == []
        assert self.said(self.module(tmp_path, [2], sample_rate_hz=4), recwarn) == []

    def test_of_a_declared_rate(self, tmp_path, recwarn):
        (found,) = self.said(self.module(tmp_path, [], sample_rate_hz=20, timestamp=None, recorded_rate_hz=10), recwarn)
        assert found.startswith("10 of 10 recordings have a lower sample rate (10 Hz) than sample_rate_hz 20 and are")
