"""Fields of file names: a name that can be read in several ways is no fact."""

import warnings

import pytest

from lightning_fusion.data.patterns import compile_pattern, find_files
from lightning_fusion.errors import InputError


class TestFieldsThatTouch:
    @pytest.mark.parametrize(
        "pattern",
        [
            "{speaker}{text}{label}{version}.wav",  # Emo-DB, whose labels became 'a' and 'b'
            "{speaker}{text:3}{label}.wav",
            "{speaker}*.wav",
            "*{label}.wav",
            "**{label}.wav",
            "{speaker}{speaker}{label}.wav",
        ],
    )
    def test_raise(self, pattern):
        with pytest.raises(InputError, match=r"pattern: nothing between .* decides where one ends; give widths"):
            compile_pattern(pattern)

    def test_widths_read_the_names_of_emo_db(self):
        pattern = compile_pattern("{speaker:2}{text:3}{label:1}{version:1}.wav")
        fields = {"speaker": "03", "text": "a01", "label": "F", "version": "a"}
        assert pattern.fullmatch("03a01Fa.wav").groupdict() == fields
        assert pattern.fullmatch("03a01F.wav") is None

    def test_one_field_may_have_no_width(self):
        match = compile_pattern("{speaker:2}{text}{label:1}.wav").fullmatch("03hello worldF.wav")
        assert match.groupdict() == {"speaker": "03", "text": "hello world", "label": "F"}

    @pytest.mark.parametrize("pattern", ["{speaker:0}.wav", "{speaker:x}.wav", "{:2}.wav"])
    def test_a_width_that_is_none(self, pattern):
        with pytest.raises(InputError, match=r"a field is a name in braces, as \{speaker\}, or with a width"):
            compile_pattern(pattern)


class TestSeparatorsWithinValues:
    def found(self, root, names, pattern):
        for name in names:
            (root / name).write_text("x")
        return [file.fields for file in find_files(root, pattern, {".csv"}, "recording", "a field")]

    def test_are_named(self, tmp_path):
        with pytest.warns(
            UserWarning,
            match=r"1 of 2 recordings .* in several ways: ann_lee_1.csv has person 'ann', take 'lee_1', or "
            r"person 'ann_lee', take '1'. The first is used; give widths, as \{person:2\}",
        ):
            self.found(tmp_path, ["ann_lee_1.csv", "bob_2.csv"], "{person}_{take}.csv")

    def test_a_name_with_one_reading_is_silent(self, tmp_path):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fields = self.found(tmp_path, ["ann_1.csv", "bob_2.csv"], "{person}_{take}.csv")
        assert fields == [{"person": "ann", "take": "1"}, {"person": "bob", "take": "2"}]
