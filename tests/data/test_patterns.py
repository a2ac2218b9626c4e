import os
from collections import Counter

import pytest

from lightning_fusion.data.folders import walk_files
from lightning_fusion.data.patterns import compile_pattern
from lightning_fusion.errors import InputError


class TestPattern:
    @pytest.mark.parametrize(
        ("pattern", "name", "fields"),
        [
            ("{speaker}/**", "a/x.wav", {"speaker": "a"}),
            ("{speaker}/**", "a/b/c/x.flac", {"speaker": "a"}),
            ("{speaker}/**", "x.wav", None),
            ("{label}_{speaker}_{utterance}.wav", "7_jo_1.wav", {"label": "7", "speaker": "jo", "utterance": "1"}),
            ("{label}_{speaker}_{utterance}.wav", "in/7_jo_1.wav", None),
            ("**/{speaker}-*.flac", "x/y/84-121-0001.flac", {"speaker": "84"}),
            ("**/{speaker}-*.flac", "84-1.flac", {"speaker": "84"}),
            ("{speaker}/{session}/{speaker}_*.wav", "a/1/a_2.wav", {"speaker": "a", "session": "1"}),
            ("{speaker}/{session}/{speaker}_*.wav", "a/1/b_2.wav", None),
            ("{speaker}.(1)/*", "a.(1)/x.wav", {"speaker": "a"}),
        ],
    )
    def test_what_it_matches(self, pattern, name, fields):
        match = compile_pattern(pattern).fullmatch(name)
        assert (match and match.groupdict()) == fields

    def test_a_brace_that_is_left_over(self):
        with pytest.raises(InputError, match=r"pattern: found '{speaker/' in"):
            compile_pattern("{speaker/**")


def test_a_file_that_a_reader_would_wait_for_is_named(tmp_path):
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a/pipe.wav")
    with pytest.raises(InputError, match=r"root: .*a/pipe.wav is a pipe, socket or device, no file; remove it"):
        list(walk_files(str(tmp_path), "root", Counter()))
