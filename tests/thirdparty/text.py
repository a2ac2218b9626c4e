"""A source of texts of somebody else: a folder per domain, with a file per label, a text per line."""

from pathlib import Path
from typing import Any

from lightning_fusion.data.text.datamodule import BaseTextDataModule
from lightning_fusion.data.text.texts import Texts
from lightning_fusion.errors import InputError


def write_lines(folder: Path) -> Path:
    """Two domains with two labels of 20 texts each, and a comment in every file."""
    for domain in ("shop", "film"):
        (folder / domain).mkdir(parents=True)
        for label in ("good", "bad"):
            lines = [f"{domain} {label} {n}" for n in range(20)]
            (folder / domain / f"{label}.txt").write_text("\n".join(["% written by hand", *lines]))
    return folder


class LinesTextDataModule(BaseTextDataModule):
    """Texts in ``<domain>/<label>.txt``, a line each; lines that begin with ``comment`` are left out."""

    def __init__(self, root: str, comment: str = "#", **shared: Any) -> None:
        super().__init__(**shared)
        self.root, self.comment = root, comment
        self._configure()

    def files(self) -> list[Path]:
        return sorted(Path(self.root).glob("*/*.txt"))

    def read(self) -> Texts:
        texts = Texts()
        for path in self.files():
            for line, text in enumerate(path.read_text().splitlines(), 1):
                if not text.startswith(self.comment):
                    texts.add(text, path.stem, path.parent.name, (str(path), line))
        return texts

    def _check(self) -> None:
        if len(self.comment) != 1:
            raise InputError(f"comment is {self.comment!r}; expected one character")
        super()._check()
