"""The exception for invalid user input, and the origin and reason of other errors."""

import errno
import os
import sysconfig
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

_FOLDERS = [*map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")), str(Path(__file__).parent)]
_LIBRARIES = tuple(f"{Path(path).resolve()}{os.sep}" for path in _FOLDERS)


class InputError(ValueError):
    """Invalid user input; the message names what was found, what was expected and what to change.

    The command line prints it as one line and exits with status 2; in Python it is an ordinary :class:`ValueError`.

    Example:
        >>> raise InputError("found 3 classes, expected 4")
        Traceback (most recent call last):
        ...
        lightning_fusion.errors.InputError: found 3 classes, expected 4
    """


class EmptySplitError(InputError):
    """A split of a data module has no sample."""


class NotImportedError(InputError):
    """A file names a class that is not imported, and a file must not import code by itself."""


_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REMEDIES = {
    **dict.fromkeys(_DISK, "make space, or choose another folder"),
    errno.EFBIG: "raise the largest size of files, as in: ulimit -f unlimited",
    errno.EROFS: "choose another folder",
    errno.EACCES: "change its permissions, or choose another one",
    errno.EPERM: "change its permissions, or choose another one",
    errno.EMFILE: "raise the limit of open files, as in: ulimit -n 4096",
    errno.ENFILE: "raise the limit of open files of the system",
    errno.ENAMETOOLONG: "shorten it",
    errno.EISDIR: "name a file",
    errno.ENOTDIR: "name a folder",
    errno.EEXIST: "choose another one",
    errno.EIO: "the disk, or the network that it is on, fails",
}


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error says that a disk, a quota or the largest size of a file is exhausted.

    Example:
        >>> is_disk_full(OSError(errno.ENOSPC, "No space left on device")), is_disk_full(OSError(errno.EIO, "failed"))
        (True, False)
    """
    if isinstance(error, RuntimeError):  # torch.save: the file is shorter than what was written
        return "PytorchStreamWriter failed" in str(error) or "unexpected pos" in str(error)
    return isinstance(error, OSError) and error.errno in _DISK


def disk_message(error: BaseException, size: str) -> str:
    """Return what is exhausted, with the free space, and the remedy.

    Args:
        error: Error of a full disk, a quota or the largest size of a file.
        size: What is needed, and free.

    Example:
        >>> disk_message(OSError(errno.ENOSPC, "No space left on device"), "9 bytes free")
        'no space left on the disk (9 bytes free); make space, or choose another folder'
    """
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EFBIG:
        return f"a file has reached the largest size that this system permits; {_REMEDIES[number]}"
    what = "the quota is exhausted" if number == errno.EDQUOT else "no space left on the disk"
    return f"{what} ({size}); {_REMEDIES[errno.ENOSPC]}"


def system_error(error: BaseException | None) -> InputError | None:
    """Return an InputError for an error of the system that an exception is, or was raised from; None if there is none.

    These are errors with the name of a file, those of a full disk or of too many open files, and names that the system
    cannot encode.

    Example:
        >>> system_error(OSError(errno.EROFS, "Read-only file system", "/run/a.ckpt"))
        InputError('/run/a.ckpt: Read-only file system; choose another folder')
    """
    causes: list[BaseException] = []
    while error is not None and error not in causes:
        causes.append(error)
        error = error.__cause__
    for each in causes:
        if isinstance(each, UnicodeEncodeError):
            return InputError(
                f"{ascii(each.object)[:100]} cannot be encoded as {each.encoding} ({each.reason}); rename it, or set "
                "PYTHONUTF8=1"
            )
        if isinstance(each, ValueError) and "embedded null" in str(each):
            return InputError("the name of a file contains a null character; rename it")
        if is_disk_full(each) and not isinstance(each, OSError):
            return InputError(f"No space left on the disk ({' '.join(str(each).split())}); {_REMEDIES[errno.ENOSPC]}")
        if isinstance(each, OSError) and each.errno is not None and (each.filename or each.errno in _REMEDIES):
            where = f"{each.filename}: " if each.filename else ""
            remedy = f"; {_REMEDIES[each.errno]}" if each.errno in _REMEDIES else ""
            return InputError(f"{where}{each.strerror}{remedy}")
    return None


def shorten(values: Iterable[object], limit: int = 5) -> str:
    """List the first few of many values for a message.

    Example:
        >>> shorten(range(7), limit=3)
        '0, 1, 2 and 4 more'
    """
    listed = [str(value) for value in values]
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return a suggestion for an unknown name: the most similar known one, or an empty text.

    Example:
        >>> suggestion("fruga", ["foe", "frugal"]), suggestion("xyz", ["foe"])
        ('; did you mean frugal?', '')
    """
    names = list(known)
    close = [each for each in names if each.casefold() == name.casefold()] or get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def nearest_path(path: Any) -> str:
    """Return a suggestion for a path that does not exist: the most similar one that does, or an empty text.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "digits/outputs").mkdir(parents=True)
        >>> nearest_path(folder / "digitz/outputs") == f"; did you mean {folder}/digits/outputs?"
        True
        >>> nearest_path(folder / "other")
        ''
    """
    wanted = Path(path)
    missing = next((part for part in reversed([wanted, *wanted.parents]) if not part.exists()), None)
    if missing is None:
        return ""
    try:
        names = [each.name for each in missing.parent.iterdir()]
        close = get_close_matches(missing.name, names, n=1, cutoff=0.75)
    except OSError:
        return ""
    found = missing.with_name(close[0]) if close else missing
    rest = wanted.relative_to(missing)
    return f"; did you mean {found / rest if (found / rest).exists() else found}?" if close else ""


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and its causes, the outermost first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def input_error(error: BaseException | None) -> InputError | None:
    """Return the InputError at the origin of a chain of exceptions, if any."""
    return next((each for each in chain(error) if isinstance(each, InputError)), None)


def is_code_of_user(file: str) -> bool:
    """Return whether a source file is none of this library, of Python's own modules and of installed packages.

    Args:
        file: Path of the file, as of a code object.

    Example:
        >>> is_code_of_user("/home/me/mine.py"), is_code_of_user(sysconfig.__file__), is_code_of_user("<string>")
        (True, False, False)
    """
    return not file.startswith("<") and not str(Path(file).resolve()).startswith(_LIBRARIES)
