import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_fusion.data import tables
from lightning_fusion.data.tables import read_columns, read_header
from lightning_fusion.errors import InputError


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return str(path)


class TestTables:
    def test_missing_values_and_texts(self, tmp_path):
        path = write(tmp_path / "a.csv", "1,?,a,u", ",2, b ,v", " ? ,3,c,?", "4,5,d,w")
        values, texts = read_columns(path, ["0", "1"], ["2", "3"], ["0", "1", "2", "3"], ",", "?")
        np.testing.assert_array_equal(values, [[1, np.nan], [np.nan, 2], [np.nan, 3], [4, 5]])
        assert texts.tolist() == [["a", "u"], ["b", "v"], ["c", "?"], ["d", "w"]]

    def test_a_number_is_still_a_number(self, tmp_path):
        path = write(tmp_path / "a.csv", "a,b", "1,?", "2,x?")
        with pytest.raises(InputError, match=r"row 3: b is 'x\?'"):
            read_columns(path, ["a", "b"], [], missing="?")

    def test_header(self, tmp_path):
        assert read_header(write(tmp_path / "a.csv", 'a, "b c" ,d'), ",")[2] == "d"
        assert read_header(write(tmp_path / "a.csv", "a  b"), " ") == ["a", "b"]

    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_long_labels_stay_different(self, tmp_path, end):
        labels = ["w" * 70 + "a", "w" * 70 + "b", "ä, ö"]
        (tmp_path / "a.csv").write_text(end.join(["x,y", *(f'{n},"{label}"' for n, label in enumerate(labels))]))
        assert read_columns(str(tmp_path / "a.csv"), ["x"], ["y"])[1][:, 0].tolist() == labels

    def test_numbers_are_read_to_the_last_bit(self, tmp_path):
        bits = np.random.default_rng(0).integers(0, 2**63, 2000).view(np.float64)
        values = bits[np.isfinite(bits)]
        path = write(tmp_path / "a.csv", "x", *map(repr, values.tolist()))
        assert np.array_equal(read_columns(path, ["x"], [])[0][:, 0], values)

    def test_labels_are_texts_even_where_they_look_like_numbers(self, tmp_path):
        path = write(tmp_path / "a.csv", "x,y", "1,01", "2,1.0", "3,1")
        assert read_columns(path, ["x"], ["y"])[1][:, 0].tolist() == ["01", "1.0", "1"]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"x,y\n1,a\n\n2\n", r"row 4: found 1 columns, expected 2 \(x, y\); the file may be truncated"),
            (b"x,y\n1,a\n1_0,b\n", "row 3: x is '1_0'; expected a number"),
            (b"x,y\nTrue,a\nFalse,b\n", "row 2: x is 'True'; expected a number"),
            (b"x,y\n1,\xff\n2,\n", r"a\.csv cannot be read \('utf-8' codec"),
        ],
    )
    def test_bad_rows(self, tmp_path, content, message):
        (tmp_path / "a.csv").write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_columns(str(tmp_path / "a.csv"), ["x"], ["y"])

    def test_white_space(self, tmp_path):
        path = write(tmp_path / "a.txt", "", "  1.5   a ", "2\tb", "", " -3e2 c")
        values, texts = read_columns(path, ["0"], ["1"], ["0", "1"], " ")
        assert values.tolist() == [[1.5], [2], [-300]] and texts.tolist() == [["a"], ["b"], ["c"]]
        with pytest.raises(InputError, match=r"row 2: found 3 columns, expected 2 \(x, y\)"):
            read_columns(write(tmp_path / "a.txt", "x y", "1 2 3"), ["x"], [], delimiter=" ")

    CELLS = st.sampled_from(
        ["1", "2.5", " 3", "4 ", "-1e300", "", "?", " ? ", "nan", "inf", "x", "True", '"5"', '"a,b"']
    )

    @pytest.mark.slow
    @given(
        rows=st.lists(st.lists(CELLS, min_size=1, max_size=4), max_size=4),
        numbers=st.integers(0, 3),
        missing=st.sampled_from([None, "?"]),
    )
    @settings(max_examples=60, deadline=None)
    def test_all_at_once_is_what_row_by_row_gives(self, tmp_path_factory, rows, numbers, missing):
        path = write(tmp_path_factory.mktemp("x") / "a.csv", "x,y,z", *(",".join(row) for row in rows))

        def read():
            try:
                found = read_columns(path, "xyz"[:numbers], "xyz"[numbers:], missing=missing)
            except InputError as error:
                return str(error)
            return [repr(part.tolist()) for part in found]

        fast = read()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tables, "_read_fast", lambda *_: None)
            assert fast == read()
