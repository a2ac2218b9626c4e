"""Sections of docstrings under the names that griffe reads."""

from typing import Any

from griffe import Extension


class Sections(Extension):
    """Reads ``Example:``, which Google's style permits, as a section of examples."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Rename the section in the docstring of a class, function or module."""
        if obj.docstring:
            lines = obj.docstring.value.split("\n")
            obj.docstring.value = "\n".join("Examples:" if line == "Example:" else line for line in lines)
