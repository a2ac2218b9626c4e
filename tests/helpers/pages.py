"""What stands in a report.html, as a browser would read it."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any


class Page(HTMLParser):
    """The tags with their attributes, the table of methods, and the data of the scripts.

    Args:
        path: Path of the page.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.table: list[list[str]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self._script: str | None = None
        self._data: dict[str, str] = {}
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        if tag not in ("meta", "img", "input", "br"):
            self._open.append(tag)
        if tag == "script":
            self._script = given.get("id")
        if "thead" in self._open or "tbody" in self._open:
            if tag == "tr":
                self.table.append([])
            if tag in ("th", "td"):
                self.table[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag  # every element is closed, in its order

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            if self._script is not None:
                self._data[self._script] = self._data.get(self._script, "") + data
            return
        if self._open and {"th", "td"} & set(self._open):
            self.table[-1][-1] += data
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)

    def data(self, name: str) -> Any:
        """The JSON of a script."""
        return json.loads(self._data[name])


def samples_of(folder: Path) -> dict[str, Any]:
    """The samples in the page of a run."""
    return Page(folder / "report.html").data("inspection")
