"""Files and folders that are there whole or not at all, whoever is killed while writing them."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def undrafted(name: str) -> str:
    """The name of the file that a draft of :func:`atomic_write` is for; any other name as it is.

    Example:
        >>> undrafted("run.json.417.part"), undrafted("run.json")
        ('run.json', 'run.json')
    """
    return re.sub(r"\.\d+\.part$", "", name)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A draft beside a file, which takes the file's place where the block ends well; other processes may do the same.

    The draft is on the disk before it is renamed: a machine that goes down leaves the one or the other.

    Args:
        path: Of the file; its folder is there.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with atomic_write(path) as draft:
        ...     _ = draft.write_text("all of it")
        >>> path.read_text(), [file.name for file in path.parent.iterdir()]
        ('all of it', ['a.txt'])
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield draft
        with open(draft, "r+b") as written:
            os.fsync(written.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8), whole or not at all."""
    with atomic_write(path) as draft:
        draft.write_text(text, encoding="utf-8")


def digest(*parts: Any) -> str:
    """A short BLAKE2 fingerprint of texts, arrays and tensors, in their order.

    Example:
        >>> digest("a", np.arange(3)) == digest("a", np.arange(3)), len(digest("a"))
        (True, 32)
    """
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Tensor):
            part = part.detach().cpu().contiguous()
            state.update(f"{part.dtype}{tuple(part.shape)}".encode())
            if part.numel():  # an empty tensor may have a stride that cannot be viewed
                state.update(part.reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(part, np.ndarray):
            state.update(f"{part.dtype}{part.shape}".encode())
            state.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
        else:
            state.update(str(part).encode())
        state.update(b"\0")
    return state.hexdigest()
