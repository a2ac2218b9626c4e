import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_fusion.data.audio.trials import draw_trials, read_trials
from lightning_fusion.errors import InputError

NUMBERS = {"a/0.wav": 0, "a/1.wav": 1, "b/0.wav": 2}


def written(tmp_path, text):
    path = tmp_path / "trials.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


class TestRead:
    def test_lines_are_label_enrol_test(self, tmp_path):
        text = "\ufeff1 a/0.wav a/1.wav\r\n\n0 b/0.wav a/1.wav\n0\ta/0.wav b/0.wav"
        trials = read_trials(written(tmp_path, text), NUMBERS)
        assert trials.pairs.tolist() == [[0, 1], [2, 1], [0, 2]]
        assert trials.same.tolist() == [True, False, False]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("1 a/0.wav a/1.wav\n0 a/0.wav\n", "line 2: found '0 a/0.wav'; expected '1 enrol test'"),
            ("1 a/0.wav a/1.wav\n\na/0.wav b/0.wav 0\n", "line 3: found 'a/0.wav b/0.wav 0'"),
            ("1 a/0.wav\n0 a/1.wav b/0.wav 0\n", "line 1: found '1 a/0.wav'"),
            ("2 a/0.wav a/1.wav", "line 1"),
            ("1 a/0.wav a/1.wav\n", "1 trials of one speaker and 0 of two; both kinds are needed"),
            ("", "0 trials of one speaker and 0 of two"),
            (b"\xff\xfe\x00\x01", "is no text"),
        ],
    )
    def test_malformed_lists_are_rejected(self, tmp_path, text, message):
        with pytest.raises(InputError, match=f"^val_trials: .*{message}"):
            read_trials(written(tmp_path, text), NUMBERS, "val_trials")

    def test_the_first_five_missing_files_are_listed_and_all_are_counted(self, tmp_path):
        lines = [f"0 a/0.wav x/{number}.wav" for number in range(7)] * 2
        with pytest.raises(
            InputError,
            match=r"names 7 file\(s\) that are not under root: x/0.wav, x/1.wav, x/2.wav, x/3.wav, x/4.wav and 2 more; "
            "names are relative to that folder, as in a/0.wav",
        ):
            read_trials(written(tmp_path, "\n".join(["1 a/0.wav a/1.wav", *lines])), NUMBERS)

    def test_no_file(self, tmp_path):
        with pytest.raises(InputError, match="test_trials: found no file"):
            read_trials(tmp_path / "none.txt", NUMBERS, "test_trials")

    @pytest.mark.slow
    def test_half_a_million_lines_are_read_in_seconds(self, tmp_path):
        names = [f"id{speaker:05}/video{clip:02}/{clip:05}.wav" for speaker in range(1000) for clip in range(50)]
        sides = np.random.default_rng(0).integers(len(names), size=(500_000, 2))
        lines = [f"{(one + other) % 2} {names[one]} {names[other]}" for one, other in sides.tolist()]
        path = written(tmp_path, "\n".join(lines))
        began = time.process_time()
        trials = read_trials(path, {name: number for number, name in enumerate(names)})
        assert time.process_time() - began < 4  # about 0.5 s on an idle core
        assert np.array_equal(trials.pairs, sides)


def allowed(speakers, recordings):
    """All pairs by hand: target pairs between recordings, or within the only one; all others."""
    target, other = set(), set()
    for one in range(len(speakers)):
        for two in range(one + 1, len(speakers)):
            if speakers[one] != speakers[two]:
                other.add((one, two))
            elif recordings[one] != recordings[two] or len(set(recordings[speakers == speakers[one]])) == 1:
                target.add((one, two))
    return target, other


class TestDraw:
    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=2, max_size=14), st.integers(2, 60))
    def test_against_all_pairs_by_hand(self, samples, most):
        speakers = np.array([speaker for speaker, _ in samples])
        recordings = np.array([10 * speaker + recording for speaker, recording in samples])
        index = 100 + 3 * np.arange(len(samples))
        target, other = allowed(speakers, recordings)
        if not target or not other:
            with pytest.raises(InputError):
                draw_trials(index, speakers, recordings, most, seed=0)
            return
        trials = draw_trials(index, speakers, recordings, most, seed=0)
        pairs = [tuple(sorted((pair - 100) // 3)) for pair in trials.pairs.numpy()]
        drawn = [
            {pair for pair, same in zip(pairs, trials.same, strict=True) if same == kind} for kind in (True, False)
        ]
        assert drawn[0] <= target and drawn[1] <= other
        assert len(set(pairs)) == len(pairs) == min(most, len(target) + len(other))  # none twice
        assert min(len(drawn[0]), len(target)) >= min(most // 2, len(target))
        assert len(drawn[1]) >= min(len(other), most - most // 2)

    def test_of_too_many_pairs_half_are_of_one_speaker_and_all_speakers_come_up(self):
        speakers = np.arange(5000) // 50
        trials = draw_trials(np.arange(5000), speakers, np.arange(5000), max_trials=10_000, seed=0)
        assert trials.same.sum() == 5000
        sides = speakers[trials.pairs.numpy()]
        assert np.array_equal(sides[:, 0] == sides[:, 1], trials.same)
        for kind in (True, False):
            share = np.bincount(sides[trials.same.numpy() == kind].reshape(-1), minlength=100) / 10_000
            assert share.min() > 0.004
            assert share.max() < 0.018
        again, other = (draw_trials(np.arange(5000), speakers, np.arange(5000), 10_000, seed) for seed in (0, 1))
        assert np.array_equal(trials.pairs, again.pairs)
        assert not np.array_equal(trials.pairs, other.pairs)

    def test_a_large_split_is_not_enumerated(self):
        trials = draw_trials(np.arange(150_000), np.arange(150_000) // 100, np.arange(150_000), 1000, seed=0)
        assert len(trials.same) == 1000

    def test_one_recording_per_speaker_says_how_to_cut_it(self):
        with pytest.raises(InputError, match=r"no two recordings of the val split are of one speaker.*val_segments: 2"):
            draw_trials(np.arange(4), np.arange(4), np.arange(4), 10, seed=0)

    def test_one_speaker_is_not_enough(self):
        with pytest.raises(InputError, match=r"the test split has one speaker.*test_speakers"):
            draw_trials(np.arange(4), np.zeros(4), np.arange(4), 10, seed=0, split="test")
