"""Warnings of this library in a run, which stand in its report too."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_PACKAGE = str(Path(__file__).parents[1])


@dataclass
class Notes:
    """Warnings of a run in their order, each once.

    Attributes:
        texts: The warnings; those of a seed begin with it.
        seed: The seed that runs. None: the run is before or after its seeds.
    """

    texts: list[str] = field(default_factory=list)
    seed: int | None = None

    def add(self, text: str) -> None:
        """Add a warning.

        Example:
            >>> notes = Notes()
            >>> notes.add("ten rows have no label"), notes.add("a.csv lacks 3 samples")
            (None, None)
            >>> notes.texts
            ['Ten rows have no label.', 'a.csv lacks 3 samples.']
        """
        if self.seed is not None:
            text = f"Seed {self.seed}: {text}"
        elif text.split(maxsplit=1)[0].isalpha():  # no path
            text = text[0].upper() + text[1:]
        text = text if text.endswith(".") else f"{text}."
        if text not in self.texts:
            self.texts.append(text)

    def beyond(self, others: Sequence[str]) -> list[str]:
        """Return the warnings that no other note contains.

        Example:
            >>> notes = Notes(["Seed 0: too few rows.", "Ten rows have no label."])
            >>> notes.beyond(["Seed 0, FoE: too few rows"])
            ['Ten rows have no label.']
        """
        plain = [text.removesuffix(".").partition(": ")[2] if text.startswith("Seed ") else text for text in self.texts]
        return [
            text
            for text, own in zip(self.texts, plain, strict=True)
            if not any(own.removesuffix(".").lower() in other.lower() for other in others)
        ]


_CURRENT: ContextVar[Notes | None] = ContextVar("notes", default=None)


@contextmanager
def noting() -> Iterator[Notes]:
    """Context in which the library's warnings are shown as usual and kept; an inner one adds to the outer one.

    Example:
        >>> with noting() as notes, noting() as inner:
        ...     inner is notes
        True
    """
    if (current := _CURRENT.get()) is not None:
        yield current
        return
    notes = Notes()
    token = _CURRENT.set(notes)
    with warnings.catch_warnings():
        show = warnings.showwarning

        def keep(message: Any, category: Any, filename: str, *rest: Any, **more: Any) -> None:
            if category is UserWarning and filename.startswith(_PACKAGE):
                notes.add(" ".join(str(message).split()))
            show(message, category, filename, *rest, **more)

        warnings.showwarning = keep
        try:
            yield notes
        finally:
            _CURRENT.reset(token)
