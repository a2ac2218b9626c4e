"""Names of classes, domains and columns: from configurations and from files, in one canonical form."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Set
from decimal import Decimal
from typing import Any

import numpy as np

from lightning_fusion.errors import InputError, shorten, suggestion

_INVISIBLE = {ord(letter): None for letter in "\u00ad\u180e\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"}
_WHOLE = re.compile(r"([+-]?[0-9]+)\.0*")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]{1,3})?")
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]*,(?:[0-9]{1,2}|[0-9]{4,})")  # three digits may be thousands
_QUOTES = "'\"`\u2018\u2019\u201c\u201d\u00ab\u00bb"
_ALIKE = str.maketrans(
    "\u2212\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u03bf\u03b1\u03bd\u0131", "-aeopcyxijsoavi"
)  # letters of other scripts, and the sign of minus, that look alike in lower case
_MISSING = {"nan", "NaN", "NAN", "None", "NULL", "Null", "null", "NA", "N/A", "n/a", "<NA>", "NaT", "#N/A", "?", "--"}
_MISSING |= {"unlabeled", "unlabelled", "Unlabeled", "Unlabelled"}
_BETWEEN = re.compile(r"[\s_\-\u2010-\u2015]+")
RENAME = "to merge them, set labels: {{{0}}}"
"""Remedy for nearly equal labels, for :func:`similar_message`."""


def canonical_label(value: Any) -> str:
    """Return the canonical form of a label; equal labels have equal forms in every modality.

    Unicode normalization form C, no zero-width characters, no surrounding whitespace, and whole numbers without
    decimals.

    Args:
        value: Label as written in a file or configuration.

    Example:
        >>> [canonical_label(value) for value in (" good", "cafe\u0301", "1.0", 1, 2.5)]
        ['good', 'café', '1', '1', '2.5']
    """
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    text = str(value)
    if not text.isascii():
        text = unicodedata.normalize("NFC", text.translate(_INVISIBLE))
    text = text.strip()
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def as_names(values: Iterable[Any] | str | int | None, key: str = "names") -> list[str]:
    """Convert names to a list of strings (YAML reads 33 as a number); ``None`` gives an empty list.

    Args:
        values: One name or several.
        key: Argument that holds them, for messages.

    Raises:
        InputError: If they are a mapping or a set, or one is a truth value.

    Example:
        >>> as_names([33, "b"]), as_names("b"), as_names(None)
        (['33', 'b'], ['b'], [])
    """
    if values is None:
        return []
    return [str(value) for value in _listed([values] if isinstance(values, str | int) else values, key)]


def as_labels(values: Iterable[Any] | None, key: str) -> list[str]:
    """Convert names of classes or domains to a list in canonical form; ``None`` gives an empty list.

    Args:
        values: Names, in order.
        key: Argument that holds them, for messages.

    Raises:
        InputError: If they are no list of names.

    Example:
        >>> as_labels([1, "2.0", "good "], "labels")
        ['1', '2', 'good']
    """
    return [] if values is None else [canonical_label(value) for value in _listed(values, key)]


def _listed(values: Any, key: str) -> list[Any]:
    """Return names as a list."""
    if isinstance(values, Mapping | Set | str | bytes) or not isinstance(values, Iterable):
        raise InputError(f"{key}: found {values!r:.100}; expected a list of names")
    several = list(values)
    if truths := [value for value in several if isinstance(value, bool | np.bool_)]:
        raise InputError(
            f"{key}: found the truth values {shorten(truths)}; expected names. YAML reads yes, no, on, off, true and "
            "false as truth values: put names in quotes, as in ['yes', 'no']"
        )
    return several


def read_labels(labels: Iterable[Any] | Mapping[Any, Any] | None) -> tuple[list[str], dict[str, str]]:
    """Return the names and the renamings of an argument ``labels``, in canonical form.

    Args:
        labels: All permitted labels, or a mapping from labels to new names, or None.

    Returns:
        The permitted labels (empty if none are given), and the new name of each renamed label.

    Raises:
        InputError: If it is neither a list nor a mapping of names, or a label has two new names.

    Example:
        >>> read_labels(["open", "shut"]), read_labels({"Open": "open"})
        ((['open', 'shut'], {}), ([], {'Open': 'open'}))
    """
    if not isinstance(labels, Mapping):
        return as_labels(labels, "labels"), {}
    renamed: dict[str, str] = {}
    for written, name in zip(as_labels([*labels], "labels"), as_labels([*labels.values()], "labels"), strict=True):
        if renamed.setdefault(written, name) != name:
            raise InputError(f"labels: {written!r} is renamed to {renamed[written]!r} and to {name!r}; remove one")
    return [], renamed


def rename_labels(names: Iterable[str], renamed: Mapping[str, str]) -> list[str]:
    """Return the new names of labels.

    Args:
        names: Labels of the data.
        renamed: New name of each renamed label.

    Raises:
        InputError: If the data have no such label.

    Example:
        >>> rename_labels(["Open", "open", "shut"], {"Open": "open"})
        ['open', 'open', 'shut']
    """
    known = list(names)
    if unknown := [name for name in renamed if name not in known]:
        raise InputError(
            f"labels renames {shorten(map(repr, unknown))}; the data have {shorten(map(repr, known), 20)}"
            f"{suggestion(unknown[0], known)}"
        )
    return [renamed.get(name, name) for name in known]


class LabelForms:
    """Labels as they are read: canonical forms, and in how many ways each was written.

    Example:
        >>> forms = LabelForms()
        >>> [forms(text) for text in ("1", "1.0", "2")], forms.merged
        (['1', '1', '2'], {'1': ['1', '1.0']})
    """

    def __init__(self) -> None:
        self._form: dict[str, str] = {}

    def __call__(self, written: Any) -> str:
        """Return the canonical form of a label."""
        text = written if isinstance(written, str) else canonical_label(written)
        form = self._form.get(text)
        if form is None:
            form = self._form[text] = canonical_label(text)
        return form

    @property
    def merged(self) -> dict[str, list[str]]:
        """Written forms of each label that was written in several ways."""
        return merge_forms(self._form)


def merge_forms(forms: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the written forms of each label that has several.

    Args:
        forms: Canonical form of each written one.

    Example:
        >>> merge_forms({"1": "1", "1.0": "1", "2": "2"})
        {'1': ['1', '1.0']}
    """
    found: dict[str, list[str]] = {}
    for written, form in forms.items():
        found.setdefault(form, []).append(written)
    return {form: written for form, written in found.items() if len(written) > 1}


def merge_message(merged: Mapping[str, Iterable[str]], what: str) -> str | None:
    """Return a message about labels that were written in several ways; ``None`` if there are none.

    Args:
        merged: Written forms of each such label.
        what: Meaning of the names: ``labels`` or ``domains``.

    Example:
        >>> merge_message({"1": ["1", "1.0"]}, "labels")
        "1 of the labels is written in several ways, which count as one: '1', '1.0'"
    """
    if not merged:
        return None
    listed = shorten("; ".join([", ".join(map(_shown, forms))]) for forms in merged.values())
    count = f"1 of the {what} is" if len(merged) == 1 else f"{len(merged)} of the {what} are"
    return f"{count} written in several ways, which count as one: {listed}"


def _folded(name: str) -> str:
    """Return what nearly equal names have in common."""
    text = unicodedata.normalize("NFKC", name).casefold().translate(_ALIKE)
    if len(text) > 2 and text[0] == "b" and text[1] in _QUOTES and text[1] == text[-1]:  # Python's form of bytes
        text = text[1:]
    text = text.strip(_QUOTES).rstrip(".,;:").strip() or text
    number = text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text) else text
    if _NUMBER.fullmatch(number):
        value = Decimal(number)
        return f"{value.normalize() if value else 0:f}"
    return _BETWEEN.sub(" ", text)


def similar_names(names: Iterable[str]) -> list[list[str]]:
    """Return names that differ only in how they are written.

    That is in case, in spaces, hyphens and underscores, in quotes or a final full stop, in letters of several scripts
    that look alike, or in the form of a number.

    Args:
        names: Different names in canonical form.

    Example:
        >>> similar_names(["open", "Open", "bar-bell", "bar_bell", "tea"])
        [['open', 'Open'], ['bar-bell', 'bar_bell']]
        >>> similar_names(["1", "01", "1e0", "-1", "1,5", "1.5", "'tea'", "tea."])
        [['1', '01', '1e0'], ['1,5', '1.5'], ["'tea'", 'tea.']]
    """
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(_folded(name), []).append(name)
    return [alike for alike in found.values() if len(alike) > 1]


def missing_message(names: Iterable[str], what: str, remedy: str) -> str | None:
    """Return a warning about names that stand for missing values in other programs; ``None`` if there are none.

    Args:
        names: Names in canonical form.
        what: Meaning of the names: ``labels`` or ``classes``.
        remedy: What to do if they are no classes.

    Example:
        >>> missing_message(["good", "NaN", "bad"], "labels", "remove these rows")
        "the labels 'NaN' count as classes; if they mark missing values, remove these rows"
    """
    found = [name for name in names if name in _MISSING]
    if not found:
        return None
    return f"the {what} {shorten(map(repr, found))} count as classes; if they mark missing values, {remedy}"


def check_discrete(names: Iterable[str], what: str) -> None:
    """Check that names of classes are not values of a continuous quantity.

    Args:
        names: Different names in canonical form.
        what: Meaning of the names, for the message: ``labels`` or ``classes``.

    Raises:
        InputError: If at least ten names, and more than three of four, are numbers with a fraction.

    Example:
        >>> check_discrete([f"{value / 2:g}" for value in range(1, 11)], "labels")  # half stars
        >>> check_discrete([f"{value / 7:.3f}" for value in range(50)], "labels")
        Traceback (most recent call last):
        ...
        lightning_fusion.errors.InputError: labels: 42 of 50 are numbers with a fraction (0.143, 0.286, 0.429, 0.571, \
0.714 and 37 more); continuous targets (regression) are not supported: cut the values into classes, name another \
column, or list all values in labels
    """
    several = list(names)
    numbers = [name for name in several if _NUMBER.fullmatch(name) or _DECIMAL_COMMA.fullmatch(name)]
    broken = [name for name in numbers if float(name.replace(",", ".")) % 1]
    if len(broken) < 10 or len(broken) <= 0.75 * len(several):
        return
    raise InputError(
        f"{what}: {len(broken)} of {len(several)} are numbers with a fraction ({shorten(broken)}); continuous targets "
        f"(regression) are not supported: cut the values into classes, name another column, or list all values in "
        "labels"
    )


def similar_message(names: Iterable[str], what: str, remedy: str) -> str | None:
    """Return a warning about names that are nearly equal; ``None`` if there are none.

    Args:
        names: Different names in canonical form.
        what: Meaning of the names: ``labels`` or ``domains``.
        remedy: How to merge them; ``{0}`` stands for a renaming of every name to the first of its group.

    Example:
        >>> similar_message(["open", "Open"], "labels", "rename one")
        "the labels 'open' and 'Open' are nearly equal and count as 2: rename one"
        >>> similar_message(["Run", "run", "SIT", "sit"], "labels", RENAME)[61:]
        "and count as 4: to merge them, set labels: {'run': 'Run', 'sit': 'SIT'}"
    """
    found = similar_names(names)
    if not found:
        return None
    listed = shorten(" and ".join(map(repr, alike)) for alike in found)
    count = sum(map(len, found))
    renaming = ", ".join(f"{name!r}: {alike[0]!r}" for alike in found for name in alike[1:])
    return f"the {what} {listed} are nearly equal and count as {count}: {remedy.format(renaming)}"


def near_message(names: Iterable[str], others: Iterable[str], whose: str, other: str) -> str | None:
    """Return a warning about names that are nearly those of another list; ``None`` if there are none.

    Args:
        names: Names in canonical form.
        others: Names that they are compared with, in canonical form.
        whose: Owner of the names.
        other: Owner of the others.

    Example:
        >>> near_message(["Cat", "dog"], ["cat", "dog"], "source a", "the target")
        "the class 'Cat' of source a is nearly equal to 'cat' of the target and counts as another: rename one"
    """
    own, theirs = list(names), list(others)
    pairs = [
        f"{name!r} of {whose} is nearly equal to {known!r} of {other}"
        for name in own
        for known in theirs
        if name not in theirs and known not in own and similar_names([name, known])
    ]
    return f"the class {shorten(pairs)} and counts as another: rename one" if pairs else None


def _shown(written: Any) -> str:
    """Show a name so that invisible differences are visible."""
    return ascii(written)
