"""Exception for invalid user input."""

from collections.abc import Iterable
from difflib import get_close_matches


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
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def input_error(error: BaseException | None) -> InputError | None:
    """Return the InputError at the origin of a chain of exceptions, if any."""
    while error is not None:
        if isinstance(error, InputError):
            return error
        error = error.__cause__ or error.__context__
    return None
