"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    r"""Return the lines of a Markdown table; vertical bars in cells are escaped, line breaks are blanks.

    Example:
        >>> markdown_table(["method", "accuracy"], [["a|b", "0.5"]])
        ['| method | accuracy |', '|---|---|', '| a\\|b | 0.5 |']
    """
    lines = [
        " | ".join(" ".join(cell.splitlines()).replace("|", "\\|") for cell in cells) for cells in (headings, *rows)
    ]
    return [f"| {lines[0]} |", "|---" * len(headings) + "|", *(f"| {line} |" for line in lines[1:])]
