"""Exception for invalid user input."""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any


class InputError(ValueError):
    """Invalid user input; the message names what was found, what was expected and what to change.

    The command line prints it as one line and exits with status 2; in Python it is an ordinary :class:`ValueError`.

    Example:
        >>> raise InputError("found 3 classes, expected 4")
        Traceback (most recent call last):
        ...
        lightning_fusion.errors.InputError: found 3 classes, expected 4
    """


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
