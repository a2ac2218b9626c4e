"""Row labels of pandas tables that are read beside each other."""

from collections.abc import Mapping
from typing import Any

from lightning_fusion.errors import InputError


def check_row_labels(tables: Mapping[str, Any], where: str) -> None:
    """Check that tables of pandas have the same rows in the same order, as far as their labels tell.

    Rows that are only numbered from 0, as pandas does by default, have no labels, except beside the same numbers in
    another order.

    Args:
        tables: Series, frames and any other values by name; only the former two have row labels.
        where: What they are of, for messages.

    Raises:
        InputError: If two tables of equal length have other row labels, or the same ones in another order.

    Example:
        >>> import pandas
        >>> one, other = pandas.Series([0, 1], index=["a", "b"]), pandas.Series([0, 1], index=["b", "a"])
        >>> check_row_labels({"one": one, "other": other}, "train")
        Traceback (most recent call last):
        ...
        lightning_fusion.errors.InputError: train: the rows of one and of other have the same labels in another \
order; sort them, or give values, as in table.to_numpy()
    """
    labeled = {name: list(table.index) for name, table in tables.items() if hasattr(table, "iloc")}
    named = {name: labels for name, labels in labeled.items() if labels != list(range(len(labels)))}
    if not named:
        return
    first = next(iter(named))
    for name, labels in labeled.items():
        if labels == named[first] or len(labels) != len(named[first]):
            continue  # other lengths are errors of their own
        same = set(labels) == set(named[first])
        if same or name in named:
            which = "the same labels in another order; sort them" if same else "other labels; select the same rows"
            raise InputError(
                f"{where}: the rows of {first} and of {name} have {which}, or give values, as in table.to_numpy()"
            )
