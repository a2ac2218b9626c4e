import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from lightning_fusion.errors import InputError
from lightning_fusion.files import atomic_write, digest, file_key, name_of_key, write_text


def test_a_file_is_replaced_whole_or_stays(tmp_path):
    path = tmp_path / "ä.txt"
    write_text(path, "old ü")
    with pytest.raises(RuntimeError), atomic_write(path) as draft:
        draft.write_text("half")
        assert path.read_text(encoding="utf-8") == "old ü"
        raise RuntimeError
    assert path.read_text(encoding="utf-8") == "old ü"
    write_text(path, "new")
    assert [file.name for file in tmp_path.iterdir()] == ["ä.txt"] and path.read_text() == "new"


def test_a_draft_lies_beside_its_file(tmp_path):
    with atomic_write(tmp_path / "a") as draft:  # a rename from another file system would fail
        assert draft.parent == tmp_path
        draft.touch()


def test_digests_tell_contents_types_shapes_and_order_apart():
    values = np.arange(4, dtype=np.int64)
    others = [values.astype(np.int32), values.reshape(2, 2), values[::-1], np.arange(5)]
    found = [digest(values), *(digest(other) for other in others), digest(values, "a"), digest("a", values)]
    assert len(set(found)) == len(found)
    assert digest(values[::2]) == digest(np.ascontiguousarray(values[::2])) != digest(torch.arange(0, 4, 2))
    assert digest("ab", "c") != digest("a", "bc")


@given(name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
@example(name="..")
@example(name="CON")
@example(name="org/model-v1.0 ")
@example(name="%2F")
def test_any_text_has_a_file_name_of_its_own(name):
    key = file_key(name)
    assert name_of_key(key) == name
    assert not set(key) & set('./\\<>:"|?*\0\n') and key == key.strip(" ") and key.lower() != "con"


def test_names_that_no_file_can_have():
    for name, message in (("", "has 0 bytes"), ("x" * 151, "151 bytes; expected 1 to 150"), ("\ud800", "no Unicode")):
        with pytest.raises(InputError, match=message):
            file_key(name)
    assert file_key("domain_0") == "domain_0" and name_of_key("a.b") is None
