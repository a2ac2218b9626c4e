import numpy as np
import pytest
import torch

from lightning_fusion.files import atomic_write, digest, write_text


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
