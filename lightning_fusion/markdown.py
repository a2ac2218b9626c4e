"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def one_line(text: object) -> str:
    r"""Return a text without line breaks, which would begin other parts of a Markdown page.

    Example:
        >>> one_line("a name\n# no heading")
        'a name # no heading'
    """
    return " ".join(str(text).splitlines())


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    r"""Return the lines of a Markdown table; vertical bars in cells are escaped, line breaks are blanks.

    Example:
        >>> markdown_table(["method", "accuracy"], [["a|b", "0.5"]])
        ['| method | accuracy |', '|---|---|', '| a\\|b | 0.5 |']
    """
    lines = [" | ".join(one_line(cell).replace("|", "\\|") for cell in cells) for cells in (headings, *rows)]
    return [f"| {lines[0]} |", "|---" * len(headings) + "|", *(f"| {line} |" for line in lines[1:])]
