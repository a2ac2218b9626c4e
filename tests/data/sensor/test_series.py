import multiprocessing
import os

import numpy as np
import pytest
import torch

from lightning_fusion.data.sensor.series import GAP, NO_LABEL, Recorded, find_other_scales, load_series
from lightning_fusion.errors import InputError


def recorded(*lengths, seed=0):
    generator = np.random.default_rng(seed)
    for number, length in enumerate(lengths):
        samples = generator.normal(size=(length, 2)).astype(np.float32)
        yield Recorded(samples, np.array(["walk", "sit"])[(np.arange(length) + number) % 2])


def same(one, other):
    return (
        torch.equal(one.samples, other.samples)
        and np.array_equal(one.labels, other.labels)
        and np.array_equal(one.lengths, other.lengths)
        and np.array_equal(one.begins, other.begins)
        and np.allclose(one.rms, other.rms)
        and (one.names, one.fingerprint) == (other.names, other.fingerprint)
    )


def test_recordings_in_a_row():
    parts = list(recorded(3, 5))
    series = load_series(iter(parts))
    assert torch.equal(series.samples, torch.from_numpy(np.concatenate([part.samples for part in parts])))
    assert series.begins.tolist() == [0, 3] and series.lengths.tolist() == [3, 5]
    names = [series.names[code] for code in series.labels]
    assert names == ["walk", "sit", "walk", "sit", "walk", "sit", "walk", "sit"]
    np.testing.assert_allclose(series.rms[1], np.sqrt((parts[1].samples.astype(float) ** 2).mean(0)))


def test_samples_without_label_and_gaps():
    zeros = np.zeros((3, 1), np.float32)
    series = load_series([Recorded(zeros, None), Recorded(zeros, np.array(["a"] * 3), np.array([False, True, False]))])
    assert series.labels.tolist() == [NO_LABEL] * 3 + [0, GAP, 0]


@pytest.mark.parametrize(
    ("samples", "labels", "message"),
    [
        (np.zeros((3, 2)), None, r"recording 1 has samples float64 \(3, 2\); expected float32 \(T, channels\)"),
        (np.zeros((3, 1), np.float32), None, r"recording 1 has samples float32 \(3, 1\)"),
        (np.zeros(3, np.float32), None, r"recording 1 has samples float32 \(3,\)"),
        (np.zeros((3, 2), np.float32), ["a", "b"], "found 2 labels of 3 samples"),
        (np.zeros((40_000, 2), np.float32), np.arange(40_000), "more than 32767 different labels"),
    ],
)
def test_what_is_no_recording(samples, labels, message):
    with pytest.raises(InputError, match=message):
        load_series([*recorded(3), Recorded(samples, labels)])


class TestCache:
    def test_the_second_run_maps_what_the_first_one_wrote(self, tmp_path):
        entry = tmp_path / "cache/series_x"
        first = load_series(recorded(4, 6), entry)
        second = load_series((pytest.fail("read again") for _ in range(1)), entry)
        assert same(first, second) and same(first, load_series(recorded(4, 6)))
        assert [path.name for path in entry.parent.iterdir()] == ["series_x"]

    def test_what_is_written_to_the_samples_never_reaches_the_file(self, tmp_path):
        entry = tmp_path / "series_x"
        load_series(recorded(4), entry).samples.zero_()
        assert same(load_series(recorded(), entry), load_series(recorded(4)))

    def test_a_run_that_dies_leaves_no_entry(self, tmp_path):
        def dies():
            yield from recorded(4)
            raise InputError("no more")

        with pytest.raises(InputError, match="no more"):
            load_series(dies(), tmp_path / "series_x")
        assert not [path.name for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"]
        assert same(load_series(recorded(4), tmp_path / "series_x"), load_series(recorded(4)))

    def test_a_damaged_entry_is_rejected(self, tmp_path):
        entry = tmp_path / "series_x"
        load_series(recorded(4), entry)
        (path,) = entry.glob("data-*/0.bin")
        os.truncate(path, 10)
        with pytest.raises(InputError, match=r"sensor series: .*series_x.* is damaged .*delete the folder"):
            load_series(recorded(4), entry)

    def test_a_cached_array_goes_to_loader_processes(self, tmp_path):
        series = load_series(recorded(4), tmp_path / "series_x")
        with multiprocessing.get_context("fork").Pool(1) as pool:
            assert pool.apply(torch.sum, (series.samples,)) == series.samples.sum()


def test_scales_are_compared_with_their_like():
    rms = np.array([[1, 1, 1], [1.2, 0.9, 1], [9.8, 9.8, 1], [100, 100, 100], [90, 90, 90]])
    assert find_other_scales(rms, np.array([0, 0, 0, 1, 1])).tolist() == [2]  # two of a kind tell nothing
    turned = np.array([[9.8, 0.5, 0.5], [0.5, 9.8, 0.5], [0.5, 0.5, 9.8], [9.8, 0.5, 0.5]])
    assert not len(find_other_scales(turned, np.zeros(4)))
