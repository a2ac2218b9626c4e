import errno
import os
import subprocess
import threading
import time

import numpy as np
import pytest
from helpers import sealed, warm

from lightning_fusion import store as module
from lightning_fusion.errors import InputError
from lightning_fusion.store import (
    ArrayStore,
    DamagedStoreError,
    ForeignFolderError,
    MissingStoreError,
    StoreWriter,
    cached,
    release,
)

ARRAYS = {
    "train/x": np.arange(12, dtype=np.float32).reshape(3, 4),
    "train/org/model": np.array([True, False]),
    "names": np.array(["a", "long name", "ü"]),
    "scalar": np.array(3, np.int64),
    "empty": np.zeros((0, 2), np.int16),
    "no columns": np.zeros((4, 0), bool),
}


def save(folder, arrays=ARRAYS, metadata=None, **arguments):
    with StoreWriter(folder, "test", **arguments) as writer:
        for name, values in arrays.items():
            writer[name] = values
        writer.commit(metadata or {})
    return ArrayStore(folder, "test")


def same(store, arrays):
    pairs = [(store[name], values) for name, values in arrays.items()]
    return list(store) == list(arrays) and all(
        a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b) for a, b in pairs
    )


def edit(folder, change):
    sealed.edit(folder / "manifest.json", lambda manifest: change(manifest) and None)


class TestRoundTrip:
    def test_arrays_and_metadata_are_what_was_written(self, tmp_path):
        metadata = {"seed": 1, "names": ["ü", "a/b"], "deep": {"none": None, "x": 0.1}}
        stored = save(tmp_path, metadata=metadata)
        assert same(stored, ARRAYS) and stored.metadata == metadata and len(stored) == 6
        assert stored.group("train").keys() == {"x", "org/model"}
        assert isinstance(stored["train/x"], np.memmap) and not stored["train/x"].flags.writeable

    def test_names_are_free_text_and_files_have_keys_of_their_own(self, tmp_path):
        arrays = {name: np.array([1.0]) for name in ("../../evil", "a\nb", "", "x" * 500, "CON", "é", "a", "A")}
        assert same(save(tmp_path / "s"), ARRAYS)
        assert same(save(tmp_path / "s", arrays, overwrite=True), arrays)
        assert sorted(path.name for path in (tmp_path / "s").glob("data-*/*")) == [f"{n}.bin" for n in range(8)]

    def test_a_name_need_not_be_unicode(self, tmp_path):
        arrays = {os.fsdecode(b"caf\xe9"): np.array([1.0])}  # of a folder that another system made
        assert same(save(tmp_path, arrays), arrays)

    def test_rows_are_appended_and_arrays_filled(self, tmp_path):
        with StoreWriter(tmp_path, "test") as writer:
            for start in range(0, 10, 4):
                writer.append("rows", ARRAYS["train/x"] + start)
            filled = writer.create("filled", (5, 2), np.int32)
            filled[...] = 7
            assert writer.create("none", (0, 2), bool).shape == (0, 2)
            writer.append("gone", np.arange(4))
            writer.discard("gone")
            writer["gone"] = np.arange(4)[::-1]
            writer.commit({})
        stored = ArrayStore(tmp_path, "test")
        assert np.array_equal(stored["rows"], np.concatenate([ARRAYS["train/x"] + start for start in (0, 4, 8)]))
        assert np.array_equal(stored["filled"], np.full((5, 2), 7, np.int32)) and stored["none"].shape == (0, 2)
        assert stored["gone"].tolist() == [3, 2, 1, 0]
        assert len(list(tmp_path.glob("data-*/*"))) == 4  # the withdrawn file is gone
        release(stored["filled"], np.zeros(3))
        assert stored["filled"].sum() == 70

    def test_a_writable_map_leaves_the_file_as_it_is(self, tmp_path):
        save(tmp_path)
        ArrayStore(tmp_path, "test", writable=True)["train/x"][...] = -1
        assert same(ArrayStore(tmp_path, "test"), ARRAYS)

    @pytest.mark.parametrize(
        "bad",
        [
            lambda writer: writer.append("a", np.zeros((2, 3))),
            lambda writer: writer.append("a", np.zeros((2, 2), np.float32)),
            lambda writer: writer.create("a", (1,), bool),
            lambda writer: writer.__setitem__("b", np.array([{}])),
            lambda writer: writer.__setitem__("b", np.zeros(2, [("x", "i4")])),
        ],
    )
    def test_what_does_not_fit_is_rejected(self, tmp_path, bad):
        with StoreWriter(tmp_path, "test") as writer:
            writer.append("a", np.zeros((2, 2)))
            with pytest.raises(ValueError, match=r"do not match|is stored already|arrays of objects"):
                bad(writer)


class TestReplacing:
    def test_overwriting_is_asked_for_and_leaves_nothing_of_the_old(self, tmp_path):
        old = save(tmp_path)
        with pytest.raises(InputError, match=r"contains a store already; set overwrite \(--overwrite=true\)"):
            save(tmp_path, {})
        new = {"x": np.ones(3)}
        with StoreWriter(tmp_path, "test", overwrite=True) as writer:
            writer["x"] = new["x"]
            assert writer.exists and same(ArrayStore(tmp_path, "test"), ARRAYS)  # valid until the swap
            writer.commit({})
        assert same(ArrayStore(tmp_path, "test"), new)
        assert same(old, ARRAYS)  # what is mapped stays
        assert len(list(tmp_path.glob("data-*"))) == 1

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_a_failure_leaves_the_old_store(self, tmp_path, error):
        save(tmp_path)
        with pytest.raises(error), StoreWriter(tmp_path, "test", overwrite=True) as writer:
            writer.append("x", np.ones(3))
            raise error
        assert same(ArrayStore(tmp_path, "test"), ARRAYS)
        assert len(list(tmp_path.glob("data-*"))) == 1

    def test_remains_of_killed_writers_are_removed_and_reported(self, tmp_path):
        save(tmp_path)
        (tmp_path / "data-000000000000").mkdir()
        (tmp_path / "manifest.json.12.part").write_text("{")
        assert same(ArrayStore(tmp_path, "test"), ARRAYS)
        with pytest.warns(UserWarning, match=r"removed 1 half-written store.*; the earlier store is complete"):
            save(tmp_path, overwrite=True)
        assert sorted(path.name.partition("-")[0] for path in tmp_path.iterdir()) == [".lock", "data", "manifest.json"]

    def test_a_reader_follows_a_swap(self, tmp_path, monkeypatch):
        save(tmp_path)
        opened = module._open_array

        def swap(*arguments):
            monkeypatch.setattr(module, "_open_array", opened)
            save(tmp_path, {"x": np.ones(3)}, overwrite=True)
            return opened(*arguments)

        monkeypatch.setattr(module, "_open_array", swap)
        assert same(ArrayStore(tmp_path, "test"), {"x": np.ones(3)})

    def test_a_reader_keeps_no_array_of_the_store_before_a_swap(self, tmp_path, monkeypatch):
        save(tmp_path, {"old": np.zeros(2), "x": np.zeros(3)})
        opened = module._open_array

        def swap(data, name, *others):
            if name == "x":
                monkeypatch.setattr(module, "_open_array", opened)
                save(tmp_path, {"x": np.ones(3)}, overwrite=True)
            return opened(data, name, *others)

        monkeypatch.setattr(module, "_open_array", swap)
        assert same(ArrayStore(tmp_path, "test"), {"x": np.ones(3)})

    @pytest.mark.slow
    def test_a_second_writer_is_kept_out(self, tmp_path):
        code = (
            f"from lightning_fusion.store import StoreWriter\nwith StoreWriter({str(tmp_path)!r}, 'test', True): pass"
        )
        with StoreWriter(tmp_path, "test"):
            with pytest.raises(InputError, match=r"another process is writing .*; wait for it"):
                save(tmp_path, overwrite=True)
            other = subprocess.run([warm.python(), "-c", code], capture_output=True, text=True, check=False)
            assert other.returncode and "another process is writing" in other.stderr
        save(tmp_path)


class TestCache:
    def test_an_entry_is_made_once(self, tmp_path):
        made = []

        def write(writer):
            made.append(writer)
            writer["x"] = np.arange(3)
            return {"n": 3}

        for _ in range(2):
            entry = cached(tmp_path / "cache" / "key", "test", write, writable=True)
            assert entry["x"].tolist() == [0, 1, 2] and entry.metadata == {"n": 3} and entry["x"].flags.writeable
        assert len(made) == 1

    def test_the_entry_of_a_faster_process_is_taken(self, tmp_path):
        begun, go_on = threading.Event(), threading.Event()
        made = []

        def write(writer):
            made.append(threading.current_thread().name)
            begun.set()
            go_on.wait(30)
            writer["x"] = np.arange(3)
            return {}

        slow, waiting = (threading.Thread(target=cached, args=(tmp_path, "test", write)) for _ in range(2))
        slow.start()
        begun.wait(30)
        waiting.start()
        time.sleep(0.2)
        go_on.set()
        for thread in (slow, waiting):
            thread.join(30)
        assert made == [slow.name] and ArrayStore(tmp_path, "test")["x"].tolist() == [0, 1, 2]

    def test_a_failure_leaves_no_entry(self, tmp_path):
        def fail(writer):
            writer["x"] = np.arange(3)
            raise InputError("no such file")

        with pytest.raises(InputError, match="no such file"):
            cached(tmp_path, "test", fail)
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
        with pytest.raises(MissingStoreError):
            ArrayStore(tmp_path, "test")


class TestErrors:
    """A missing store, a damaged one and a folder of other things are told apart."""

    def test_missing(self, tmp_path):
        for folder in (tmp_path, tmp_path / "none"):
            with pytest.raises(MissingStoreError, match=r"test: found no manifest.json in"):
                ArrayStore(folder, "test")

    def test_foreign(self, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        (tmp_path / "data-2024").mkdir()
        with pytest.raises(ForeignFolderError, match=r"contains other files \(data-2024, notes.txt\)"):
            ArrayStore(tmp_path, "test")
        for overwrite in (False, True):
            with pytest.raises(
                ForeignFolderError, match=r"contains other files \(data-2024, notes.txt\); choose another"
            ):
                save(tmp_path, overwrite=overwrite)
        with pytest.raises(InputError, match="is a file; name a folder"):
            save(tmp_path / "notes.txt")
        assert sorted(os.listdir(tmp_path)) == ["data-2024", "notes.txt"]

    def test_a_store_of_another_kind(self, tmp_path):
        save(tmp_path)
        with pytest.raises(ForeignFolderError, match=r"policy: .* contains test; name a folder of policy"):
            ArrayStore(tmp_path, "policy")
        with pytest.raises(ForeignFolderError), StoreWriter(tmp_path, "policy", overwrite=True):
            pass
        assert same(ArrayStore(tmp_path, "test"), ARRAYS)

    @pytest.mark.parametrize("text", ["{}", '{"format": 99}', "[]", "null", "3"])
    def test_another_format(self, tmp_path, text):
        save(tmp_path)
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(ForeignFolderError, match=r"has format .*; this version reads 2"):
            ArrayStore(tmp_path, "test")

    @pytest.mark.parametrize("text", ["", "{", '{"format": 1', "\x00\x00"])
    def test_a_damaged_manifest(self, tmp_path, text):
        save(tmp_path)
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(DamagedStoreError, match=r"manifest.json is damaged .*; delete the folder, and create it"):
            ArrayStore(tmp_path, "test")
        with pytest.raises(DamagedStoreError):
            save(tmp_path)
        with pytest.warns(UserWarning, match="removed 1 half-written store"):
            assert same(save(tmp_path, overwrite=True), ARRAYS)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda m: m.update(more=1), "the manifest has the keys arrays, data, digest, format, kind"),
            (lambda m: m.pop("kind"), "the manifest has the keys arrays, data, digest, format, metadata; expected"),
            (lambda m: m.update(data="../.."), r"data is \.\./\.\."),
            (lambda m: m.update(data=3), "expected string"),
            (lambda m: m.update(metadata=[]), "metadata is a list, not a mapping"),
            (lambda m: m["arrays"].update(names=[]), "array names is a list"),
            (lambda m: m["arrays"]["names"].pop("digest"), "array names has the keys dtype, file, shape"),
            (lambda m: m["arrays"]["names"].update(file="../x.bin"), r"array names is {'file': '\.\./x.bin'"),
            (lambda m: m["arrays"]["names"].update(dtype="object"), "array names is"),
            (lambda m: m["arrays"]["names"].update(dtype="nonsense"), "nonsense"),
            (lambda m: m["arrays"]["empty"].update(dtype=None), "array empty is"),
            (lambda m: m["arrays"]["empty"].update(dtype="int16"), "array empty is"),
            (lambda m: m["arrays"]["names"].update(shape=[-1]), "array names is"),
            (lambda m: m["arrays"]["names"].update(shape=3), "not iterable"),
            (lambda m: m["arrays"]["names"].update(shape=[4]), r"2.bin of names has 108 bytes, the manifest has 144"),
        ],
    )
    def test_a_manifest_of_another_schema(self, tmp_path, change, message):
        save(tmp_path)
        edit(tmp_path, change)
        with pytest.raises(DamagedStoreError, match=message):
            ArrayStore(tmp_path, "test")

    def test_damaged_arrays(self, tmp_path):
        save(tmp_path)
        (file,) = tmp_path.glob("data-*/0.bin")
        content = file.read_bytes()
        file.write_bytes(content[:-3])
        with pytest.raises(DamagedStoreError, match=r"0.bin of train/x has 45 bytes, the manifest has 48"):
            ArrayStore(tmp_path, "test", verify=False)
        file.write_bytes(b"\1" + content[1:])
        with pytest.raises(DamagedStoreError, match=r"0.bin of train/x has another digest"):
            ArrayStore(tmp_path, "test")
        assert ArrayStore(tmp_path, "test", verify=False)["train/x"].shape == (3, 4)
        file.unlink()
        with pytest.raises(DamagedStoreError, match=r"0.bin is damaged \(the file is missing\)"):
            ArrayStore(tmp_path, "test")

    def test_a_folder_that_the_system_refuses(self, tmp_path):
        (tmp_path / "file").write_text("")
        for folder in (tmp_path / "file" / "s", tmp_path / ("x" * 300)):
            with pytest.raises(
                InputError, match=r"^test: .* cannot be written \(.*\); change its permissions, or name"
            ):
                save(folder)
        with pytest.raises(InputError, match=r"cannot be read \(File name too long\)"):
            ArrayStore(tmp_path / ("x" * 300), "test")
        save(tmp_path / "s")
        array = next((tmp_path / "s").glob("data-*/0.bin"))
        array.unlink()
        array.symlink_to(array.name)
        with pytest.raises(DamagedStoreError, match="is a link; expected a file of the store itself"):
            ArrayStore(tmp_path / "s", "test")

    @pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system reserves no space")
    def test_a_full_disk_is_noticed_before_mapping(self, tmp_path, monkeypatch):
        def full(*_):
            raise OSError(errno.ENOSPC, "full")

        monkeypatch.setattr(os, "posix_fallocate", full)
        message = r"no space left on the disk \(8,000 bytes needed, [\d,]+ free\)"
        with pytest.raises(InputError, match=message), StoreWriter(tmp_path, "test") as writer:
            writer.create("x", (1000,), np.float64)
        with pytest.raises(MissingStoreError):
            ArrayStore(tmp_path, "test")

    def test_without_reservation_the_free_space_is_read(self, tmp_path, monkeypatch):
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
        with StoreWriter(tmp_path, "test") as writer:
            with pytest.raises(InputError, match=r"\(8,000,000,000,000,000 bytes needed"):
                writer.create("x", (10**15,), np.float64)
            writer.create("y", (10,), np.float64)[...] = 1
            with pytest.raises(ValueError, match="stored already"):
                writer.create("y", (1,), bool)
