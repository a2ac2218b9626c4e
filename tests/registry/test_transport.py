import uuid

import pytest

from lightning_fusion.errors import InputError
from lightning_fusion.registry.transport import Transport


@pytest.fixture(params=["folder", "memory"])
def files(request, tmp_path) -> Transport:
    return Transport(str(tmp_path) if request.param == "folder" else f"memory://{uuid.uuid4().hex}")


def test_what_is_written_is_read_and_counted(files):
    files.write_folder(files.path("b", "1"), {"encoder": b"abc", "head": b"de"})
    files.write(files.path("b", "card.json"), b"{}")
    files.write(files.path("b", "card.json"), b"[]")
    counted = []
    assert files.read(files.path("b", "1", "encoder"), bytes.decode, counted.append) == "abc"
    assert files.read(files.path("b", "card.json"), bytes.decode, counted.append) == "[]"
    assert counted == [3, 2]
    assert files.folders_with("card.json") == ["b"] and files.folders_with("encoder") == []
    files.remove(files.path("b"))
    files.remove(files.path("b"))
    assert files.folders_with("card.json") == []
    with pytest.raises(FileNotFoundError):
        files.read(files.path("b", "card.json"), bytes.decode, counted.append)


def test_a_name_is_given_once(files):
    files.write_folder(files.path("a"), {})
    files.write(files.path("a", "card.json"), b"first", exclusive=True)
    with pytest.raises(FileExistsError):
        files.write(files.path("a", "card.json"), b"second", exclusive=True)
    assert files.read(files.path("a", "card.json"), bytes, lambda _: None) == b"first"


def test_results_come_in_order(files):
    assert files.each(lambda item: 2 * item, range(40)) == list(range(0, 80, 2))


def test_what_is_no_address_is_rejected(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is no folder; set it to the folder that contains the sources"):
        Transport(str(tmp_path / "file"))
    with pytest.raises(InputError, match="cannot be opened by fsspec"):
        Transport("gopher://somewhere")
