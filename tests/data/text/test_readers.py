import pytest

from lightning_fusion.data.text.readers import read_delimited, read_json, read_table
from lightning_fusion.errors import InputError


def write(folder, content, name="t.json"):
    (folder / name).write_text(content)
    return folder / name


def test_lines_of_rows_that_go_over_several_lines(tmp_path):
    path = write(tmp_path, 'text,label\n"one\ntwo",a\n\nthree,b\n', "t.csv")
    assert list(read_delimited(path, ["text"])) == [
        (2, {"text": "one\ntwo", "label": "a"}),
        (5, {"text": "three", "label": "b"}),
    ]
    path = write(tmp_path, '[\n  {"a": 1},\n\n  {"a":\n 2}]\n')
    assert list(read_table(path, ["a"])) == [(2, {"a": 1}), (4, {"a": 2})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1}\n{"a": 2', r"line 2: Expecting ',' delimiter; expected JSON objects, one per line"),
        ('{"a": 1}\n[2]', r"line 2: found no JSON object; expected one per row"),
        ('{"a": 1}\n\n{"b": 2}', r"line 3, has no column a; its columns are b; set text"),
        ('{"a": 1, "a": 2}', r"line 1, has more than one a among its columns"),
        ('[{"a": 1},\n{"a" 2}]', r"line 2: .*; expected JSON objects, one per line or in an array"),
        ('{"a": 1}\n\n\nno', r"line 4: Expecting value; expected JSON objects, one per line"),
        ('[{"a": 1},\n', r"line 1: the array does not end here"),
        ('[{"a": 1}] {"a": 2}', r"line 1: the array does not end here"),
        ("[1]", r"line 1: found no JSON object"),
    ],
)
def test_what_is_no_json_is_named_by_line(tmp_path, content, message):
    with pytest.raises(InputError, match=r"t\.json, " + message):
        list(read_json(write(tmp_path, content), ["a"]))


def test_an_empty_array_has_no_row(tmp_path):
    assert list(read_json(write(tmp_path, " [ ] "), ["a"])) == []
