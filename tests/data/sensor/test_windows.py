from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import periodogram

from lightning_fusion.data.sensor.series import Recorded, load_series
from lightning_fusion.data.sensor.windows import Windows, cut_windows
from lightning_fusion.data.statistics import BANDS, mean_and_deviation, window_statistics


def series(*labels, gaps=None):
    """Recordings with these labels, letters; samples count up."""
    parts = []
    for number, text in enumerate(labels):
        samples = np.arange(len(text), dtype=np.float32)[:, None] + 100 * number
        parts.append(Recorded(samples, np.array(list(text)), None if gaps is None else gaps[number]))
    return load_series(parts)


class TestCutting:
    def test_windows_do_not_cross_recordings(self):
        cut = cut_windows(series("aaaaa", "bb", "bbbbbb"), length=3, step=2, min_agreement=1)
        assert cut.starts.tolist() == [0, 2, 7, 9] and cut.recording.tolist() == [0, 0, 2, 2]
        assert cut.label.tolist() == [0, 0, 1, 1] and (cut.too_short, cut.dropped) == (1, 0)

    @pytest.mark.parametrize(("share", "expected"), [(0.5, "aabb"), (0.75, "aab"), (1.0, "ab")])
    def test_most_samples_must_agree(self, share, expected):
        data = series("aaaa" + "aaab" + "abab" + "bbbb")
        cut = cut_windows(data, 4, 4, share)
        names = "".join(data.names[label] for label in cut.label)
        assert names == {0.5: "aaab", 0.75: "aab", 1.0: "ab"}[share] and len(expected) == len(names)

    def test_ignored_labels_count_as_none(self):
        data = series("aa00" + "0000" + "bbb0")
        assert cut_windows(data, 4, 4, 0.5, {"0"}).label.tolist() == [data.names.index("a"), data.names.index("b")]
        assert len(cut_windows(data, 4, 4, 0.75, {"0"}).label) == 1

    def test_a_window_across_a_gap_is_left_out(self):
        cut = cut_windows(series("aaaaaaaa", gaps=[np.arange(8) == 5]), 2, 2, 0.1)
        assert cut.starts.tolist() == [0, 2, 6] and cut.dropped == 1

    @given(
        text=st.lists(st.text("abc", min_size=1, max_size=20), min_size=1, max_size=4),
        length=st.integers(1, 6),
        step=st.integers(1, 6),
        share=st.sampled_from([0.3, 0.5, 0.75, 1.0]),
    )
    @settings(max_examples=100, deadline=None)
    def test_against_a_loop(self, text, length, step, share):
        data = series(*text)
        cut = cut_windows(data, length, step, share)
        found = [(int(s), data.names[label]) for s, label in zip(cut.starts, cut.label, strict=True)]
        expected, begin = [], 0
        for word in text:
            for start in range(0, len(word) - length + 1, step):
                window = word[start : start + length]
                best = max(data.names, key=window.count)
                if window.count(best) / length >= share:
                    expected.append((begin + start, best))
            begin += len(word)
        assert found == expected


class TestRows:
    def test_windows_are_views_of_one_array(self):
        samples = torch.arange(12.0).view(6, 2)
        windows = Windows(samples, torch.tensor([0, 1, 3]), 3)
        batch = windows[torch.tensor([2, 0])]
        assert batch.tolist() == [[[6, 8, 10], [7, 9, 11]], [[0, 2, 4], [1, 3, 5]]] and batch.is_contiguous()
        batch.zero_()
        assert samples[1, 0] == 2  # a batch is a copy
        assert windows.samples is samples


class TestFacts:
    @pytest.mark.parametrize("length", [2, 7, 50, 100])
    def test_against_numpy_and_scipy(self, length):
        windows = np.random.default_rng(0).normal(1, 2, (3, 2, length)).astype(np.float32)
        facts = window_statistics(torch.from_numpy(windows)).numpy()
        x = windows.astype(float)
        moving = x - x.mean(-1, keepdims=True)
        hertz, power = periodogram(x, fs=1, detrend="constant", scaling="spectrum")
        bands = [power[..., (hertz * 2 > a) & (hertz * 2 <= b)].sum(-1) for a, b in pairwise(BANDS)]
        crossings = (np.diff(np.where(moving >= 0, 1, -1)) != 0).sum(-1) / length
        steps = np.abs(np.diff(x)).mean(-1)
        expected = [x.mean(-1), x.std(-1), x.min(-1), x.max(-1), steps, np.sqrt((x**2).mean(-1)), crossings, *bands]
        np.testing.assert_allclose(facts, np.stack(expected, -1), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(facts[..., 7:].sum(-1), x.var(-1), rtol=1e-4)

    def test_a_flat_channel_has_finite_metadata(self):
        assert window_statistics(torch.full((1, 1, 10), 9.81)).isfinite().all()

    @pytest.mark.parametrize("offset", [0.0, 1e6])
    def test_mean_and_deviation_of_parts(self, offset):
        values = offset + torch.randn(1000, 3, dtype=torch.float64)
        mean, deviation = mean_and_deviation(iter(values.split(300)))
        torch.testing.assert_close(mean, values.mean(0))
        torch.testing.assert_close(deviation, values.std(0, correction=0))
