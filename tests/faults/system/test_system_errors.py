"""Errors of the operating system end in one line that names the file, and leave what was there."""

import errno
import os
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from helpers import tiny
from helpers.limited import largest_file
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_fusion import FoEFuserModule, collect, diagnose
from lightning_fusion.cli.main import main
from lightning_fusion.errors import InputError, system_error
from lightning_fusion.files import atomic_write, exclusive, write_text
from lightning_fusion.store import ArrayStore, StoreWriter, check_open_files


class Full:
    """A file on a disk that takes some bytes and no more."""

    def __init__(self, file, error) -> None:
        self.file, self.error = file, error

    def write(self, content):
        self.file.write(bytes(content)[:10])
        raise self.error

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "make space"),
        (errno.EROFS, "choose another folder"),
        (errno.ENAMETOOLONG, "shorten it"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EACCES, "change its permissions"),
        (errno.EISDIR, "name a file"),
    ],
)
def test_the_command_line_names_file_and_remedy(number, remedy, monkeypatch, capsys):
    error = OSError(number, os.strerror(number), "/data/a.bin")
    monkeypatch.setattr("lightning_fusion.cli.main._dispatch", Mock(side_effect=error))  # no code of the user's
    with pytest.raises(InputError, match=f"^/data/a.bin: {os.strerror(number)}; .*{remedy}"):
        main(["fit"])
    with pytest.raises(SystemExit):
        monkeypatch.setattr("sys.argv", ["lightning-fusion", "fit"])
        main()
    assert capsys.readouterr().err.count("\n") == 1


def test_other_errors_keep_their_traceback():
    assert system_error(ConnectionRefusedError(errno.ECONNREFUSED, "refused")) is None
    assert system_error(ValueError("wrong")) is None
    wrapped = ValueError("wrong")
    wrapped.__context__ = FileNotFoundError(errno.ENOENT, "No such file", "optional.txt")
    assert system_error(wrapped) is None  # it was handled


@pytest.mark.parametrize(("name", "message"), [("\ud800", "cannot be encoded as utf-8"), ("a\0b", "null character")])
def test_names_that_the_system_cannot_encode(name, message, tmp_path):
    """In an ASCII locale these are all names with other characters."""
    folder = tmp_path / name
    for action in (
        lambda: tiny.outputs().save(folder),
        lambda: collect(tiny.pool(), tiny.data(), folder, trainer=tiny.trainer()),
        lambda: exclusive(folder / ".lock", "output").__enter__(),
    ):
        with pytest.raises(InputError, match=message):
            action()
    with pytest.raises(InputError, match="'\\\\u65e5' cannot be encoded as ascii"):
        try:
            "\u65e5".encode("ascii")
        except UnicodeEncodeError as error:
            raise system_error(error) from error


class TestFullDisk:
    @pytest.mark.parametrize(
        ("number", "message"),
        [
            (errno.ENOSPC, r"no space left on the disk \([\d,]+ free\); make space"),
            (errno.EDQUOT, r"the quota is exhausted \([\d,]+ free\); make space"),
            (errno.EFBIG, "a file has reached the largest size that this system permits; raise .* ulimit -f unlimited"),
        ],
    )
    def test_of_a_text_leaves_the_old_one(self, tmp_path, number, message):
        write_text(tmp_path / "a.json", "old")
        with pytest.raises(InputError, match=message), atomic_write(tmp_path / "a.json") as draft:
            draft.write_text("half of i")
            raise OSError(number, os.strerror(number))
        assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
        assert (tmp_path / "a.json").read_text() == "old"

    def test_of_weights(self, tmp_path):
        message = "no space left on the disk"
        with (
            largest_file(4096),
            pytest.raises(InputError, match=message),
            atomic_write(tmp_path / "a.ckpt") as draft,
        ):
            torch.save({"weights": torch.zeros(10_000)}, draft)
        assert not list(tmp_path.iterdir())

    @pytest.mark.slow
    def test_of_a_checkpoint_leaves_the_old_one(self, tmp_path, monkeypatch):
        pool, data, saved = tiny.pool(), tiny.data(), ModelCheckpoint(tmp_path, "a", enable_version_counter=False)
        trainer = tiny.trainer(2, enable_checkpointing=True, callbacks=[saved])
        module, writes = FoEFuserModule(experts=pool, classes=pool.classes), []
        save = torch.save

        def full(content, file, *others):
            save(content, file, *others)
            writes.append(file)
            if len(writes) == 2:
                os.truncate(file, 100)
                raise OSError(errno.ENOSPC, "full")

        monkeypatch.setattr("torch.save", full)
        with pytest.raises(InputError, match="no space left on the disk"):
            trainer.fit(module, datamodule=data)
        assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"] and len(writes) == 2
        assert torch.load(tmp_path / "a.ckpt", weights_only=True)["epoch"] == 0

    @pytest.mark.parametrize("how", ["whole", "append"])
    def test_of_a_store_leaves_the_old_one(self, tmp_path, monkeypatch, how):
        with StoreWriter(tmp_path, "test") as writer:
            writer["x"] = np.arange(3)
            writer.commit({})
        opened = open

        def full(path, mode="r", *others, **more):
            file = opened(path, mode, *others, **more)
            return Full(file, OSError(errno.ENOSPC, "full")) if "w" in mode else file

        monkeypatch.setattr("builtins.open", full)
        message = r"no space left on the disk \([\d,]+ bytes needed, [\d,]+ free\)"
        with pytest.raises(InputError, match=message), StoreWriter(tmp_path, "test", overwrite=True) as writer:
            if how == "append":
                writer.append("x", np.zeros((4, 2)))
            else:
                writer["x"] = np.zeros((4, 2))
            writer.commit({})
        monkeypatch.undo()
        assert ArrayStore(tmp_path, "test")["x"].tolist() == [0, 1, 2]
        assert len(list(tmp_path.glob("data-*"))) == 1

    def test_of_a_diagnosis(self, tmp_path, monkeypatch):
        found = diagnose(tiny.outputs(), "train", "test")
        monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(InputError, match="no space left on the disk"):
            found.save(tmp_path / "d")


class TestOpenFiles:
    def test_more_arrays_than_files_are_reported_before_a_query(self, tmp_path):
        resource = pytest.importorskip("resource")
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        pool = tiny.pool()
        used = len(os.listdir("/dev/fd"))
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, before[1]))
            with pytest.raises(InputError, match=r"open files: \d+ arrays of the store .* limit .* ulimit -n 1024"):
                collect(pool, tiny.data(), tmp_path / "s", trainer=tiny.trainer())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert not (tmp_path / "s").exists()
        check_open_files(10, "files")
