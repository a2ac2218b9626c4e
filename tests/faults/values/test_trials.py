"""Trial lists with pairs that distort error rates."""

import warnings

import pytest

from lightning_fusion.data.audio.trials import read_trials
from lightning_fusion.errors import InputError

NUMBERS = {name: number for number, name in enumerate(["a0", "a1", "b0", "b1"])}


def read(folder, *lines):
    path = folder / "trials.txt"
    path.write_text("\n".join(lines))
    return read_trials(path, NUMBERS)


def test_sound_lists_are_silent(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(tmp_path, "1 a0 a1", "0 a0 b0", "0 b1 a1", "1 b1 b0").same.tolist() == [True, False, False, True]


def test_a_recording_beside_itself(tmp_path):
    with pytest.warns(UserWarning, match=r"2 trial\(s\) compare a recording with itself, as '1 a0 a0'"):
        read(tmp_path, "1 a0 a0", "0 a0 b0", "1 b0 b0")


def test_pairs_that_count_twice(tmp_path):
    with pytest.warns(UserWarning, match=r"2 of 4 trials repeat a pair, in either order, as '1 a0 a1'"):
        read(tmp_path, "1 a0 a1", "0 a0 b0", "0 b0 a0", "1 a0 a1")


def test_pairs_of_both_labels(tmp_path):
    with pytest.raises(InputError, match=r"1 pair\(s\) have the label 1 and the label 0, as .*a0"):
        read(tmp_path, "1 a0 a1", "0 a0 b0", "0 a1 a0")
