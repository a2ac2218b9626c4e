"""Journals of interrupted runs that are damaged or written by others: their valid answers are read, and nothing else.

The digests of the records are those of their contents, so that what is wrong must be found in the contents.
"""

import errno
import json
import os
import shutil
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers.interrupted import Service, run

from lightning_fusion.errors import InputError
from lightning_fusion.experts.outputs import journal as journals
from lightning_fusion.experts.outputs import recovery
from lightning_fusion.experts.outputs.recovery import read_journals

BATCH, ANSWER, SAMPLES = journals.BATCH, journals.ANSWER, journals.SAMPLES


@pytest.fixture
def path(tmp_path):
    with pytest.raises(InputError, match="the service is down"):
        run(tmp_path, Service())
    (path,) = (tmp_path / ".answers").glob("*.journal")
    return path


def contents(path: Path) -> list[bytes]:
    """Header, samples of the first batch, its answers, and so on."""
    rest, found = path.read_bytes(), []
    while rest:
        size = journals.RECORD.unpack_from(rest)[2]
        found.append(rest[journals.RECORD.size :][:size])
        rest = rest[journals.RECORD.size + size :]
    return found


def write(path: Path, records: list[bytes]) -> None:
    heads = [journals.RECORD.pack(journals.MAGIC, journals.digest(record), len(record)) for record in records]
    path.write_bytes(b"".join(head + record for head, record in zip(heads, records, strict=True)))


def known(path: Path) -> list[int]:
    """Indices of the answers that are read, which must be valid."""
    found = [block for journal in read_journals(path.parent.parent) for block in journal.read("test", "a")]
    assert all(np.allclose(values.sum(1), 1) and values.shape == (len(index), 2) for index, values, _ in found)
    return [number for index, _, _ in found for number in index.tolist()]


HEADERS = [
    {"experts": ["a"]}, {"experts": None}, {"experts": {"a": [1]}}, {"data": ["test"]}, {"data": 3}, {"precision": {}},
    {"overwrite": "no"}, {"_samples": {"test": {"0": 1}}}, {"_answers": {"x": 3}}, {"digests": {}}, {"further": 1},
]  # fmt: skip


def test_headers(path):
    records = contents(path)
    assert known(path) == list(range(8))
    valid = json.loads(records[0])
    for header in [*(json.dumps(valid | change) for change in HEADERS), "[]", "{}", "[" * 100_000, "\ud800"]:
        write(path, [header.encode("utf-8", "surrogatepass"), *records[1:]])
        with pytest.warns(UserWarning, match="is damaged: the answers in it cannot be read"):
            assert known(path) == [], header[:80]


def _answer(record: bytes, **changes: int) -> bytes:
    fields = dict(
        zip(("expert", "rows", "classes", "dims", "start", "sum", "also"), ANSWER.unpack_from(record, 9), strict=True)
    )
    return record[:9] + ANSWER.pack(*(fields | changes).values()) + record[9 + ANSWER.size :]


EMPTY = zlib.crc32(b"")
FIELDS = [
    {"rows": rows, "classes": classes, "sum": EMPTY} for rows in (0, 1, 2**32 - 1) for classes in (0, 1, 2**32 - 1)
]
FIELDS += [{"start": 2**60, "sum": EMPTY}, {"start": 2**63, "sum": EMPTY}, {"dims": 2**32 - 1}, {"expert": 7}]
POSITIONS = ([0, 1, 2, 99], [-1, 1, 2, 3], [0, 0, 0, 0], [3, 2, 1, 0])


def test_records(path):
    header, samples, answers, *rest = contents(path)
    others = [
        b"",
        b"a\0",
        samples[:9],
        answers[:9],
        answers + b"xyz",
        b"p" + answers[1:9],
        b"p" + answers[1:] + b"12345",
    ]
    others += [_answer(answers, **fields) for fields in FIELDS]
    others += [b"p" + answers[1:] + np.array(numbers).tobytes() for numbers in POSITIONS]
    for wrong in others:
        write(path, [header, samples, wrong, *rest])
        with pytest.warns(UserWarning, match=r"1 record\(s\) are damaged"):
            assert known(path) == [4, 5, 6, 7], wrong
    for wrong in (samples[:9] + SAMPLES.pack(2**31, 0) + samples[17:], samples[:9] + SAMPLES.pack(4, 2**31)):
        write(path, [header, wrong, answers, *rest])
        with pytest.warns(UserWarning, match=r"2 record\(s\) are damaged"):
            assert known(path) == [4, 5, 6, 7], wrong
    again = samples[:17] + np.arange(4, 8).tobytes() + samples[49:]  # a batch cannot get other samples
    write(path, [header, samples, answers, again, *rest])
    with pytest.warns(UserWarning, match=r"1 record\(s\) are damaged"):
        assert known(path) == list(range(8))


@pytest.mark.parametrize("row", [[np.inf, 0], [1, 1], [-1, 2], [np.nan, 1]])
def test_values_that_no_expert_gives(path, row):
    file, (header, samples, answers, *rest) = path.with_suffix(".0.0.bin"), contents(path)
    values = np.frombuffer(file.read_bytes(), np.float32).reshape(-1, 2).copy()
    values[1] = row
    file.write_bytes(values.tobytes())
    write(path, [header, samples, _answer(answers, sum=zlib.crc32(values[:4].tobytes())), *rest])
    with pytest.warns(UserWarning, match=r"1 record\(s\) are damaged"):
        assert known(path) == [4, 5, 6, 7]


@pytest.mark.parametrize("piece", ["heads", "long records"])
def test_a_search_for_intact_records_ends(path, piece, monkeypatch):
    monkeypatch.setattr(recovery, "_DAMAGED_BYTES", 1 << 24)
    heads = [
        journals.RECORD.pack(journals.MAGIC, bytes(16), 32 * (n if piece == "heads" else 0)) for n in range(1 << 14)
    ]
    path.write_bytes(path.read_bytes() + b"".join(reversed(heads)))
    started = time.perf_counter()
    with pytest.warns(UserWarning, match=r"record\(s\) and the rest of the file are damaged"):
        assert known(path) == list(range(8))
    assert time.perf_counter() - started < 5


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("change", [_link, _pipe, _folder])
def test_files_of_another_kind(path, change):
    change(path)
    with pytest.raises(InputError, match=r"\.journal is not a file of the store itself, such as a link; remove it"):
        run(path.parent.parent, Service())


@pytest.mark.parametrize("kind", ["link", "dangling", "file"])
def test_a_folder_of_journals_that_is_elsewhere(tmp_path, kind):
    """Journals are removed at the end, which must not reach files elsewhere."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "000001-0.journal").write_text("mine")
    folder = tmp_path / "store"
    folder.mkdir()
    if kind == "file":
        (folder / ".answers").touch()
    else:
        (folder / ".answers").symlink_to(mine if kind == "link" else tmp_path / "nowhere")
    service = Service()
    with pytest.raises(InputError, match=r"\.answers is not a folder of the store itself"):
        run(folder, service)
    assert not service.queried and (mine / "000001-0.journal").read_text() == "mine"


def test_other_files_stay(path):
    others = [path.with_name(name) for name in ("2024-01.csv", "0abc-1.x", "notes-1.journal")]
    for other in others:
        other.write_text("mine")
    service = Service()
    service.fails = False
    run(path.parent.parent, service)
    assert service.queried == 4 and all(other.read_text() == "mine" for other in others)


@pytest.mark.parametrize("arguments", [{"on_failure": "skip"}, {"retries": 3}])
@pytest.mark.parametrize("number", ["ENOSPC", "EIO"])
def test_an_answer_that_cannot_be_written_is_not_queried_again(tmp_path, monkeypatch, arguments, number):
    """The expert has answered: the disk has failed."""
    service, write_all = Service(), journals._write_all

    def full(file, content):
        if service.queried > 4:
            raise OSError(getattr(errno, number), "cannot")
        return write_all(file, content)

    service.fails = False
    monkeypatch.setattr(journals, "_write_all", full)
    with pytest.raises(InputError, match=r"no space left on the disk|cannot be written"):
        run(tmp_path, service, **arguments)
    assert service.queried == 8


@pytest.mark.parametrize("removed", [".answers", "."])
def test_a_folder_that_is_removed_meanwhile(tmp_path, removed):
    class Removing(Service):
        fails = False

        def __call__(self, x):
            if x.max() == 7:
                shutil.rmtree(tmp_path / removed)
            return super().__call__(x)

    with pytest.raises(InputError, match=r"was removed while the run went on|cannot be written") as raised:
        run(tmp_path, Removing())
    assert "\n" not in str(raised.value)
