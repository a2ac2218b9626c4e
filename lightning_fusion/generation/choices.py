"""Multiple-choice questions from folders of CSV files, as those of MMLU."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lightning_fusion.errors import InputError, shorten
from lightning_fusion.files import digest

LETTERS = "ABCD"


@dataclass
class Choices:
    """Multiple-choice questions in order.

    Attributes:
        questions: N texts.
        options: Four options of each question.
        answers: Number of the correct option of each question.
        subjects: Name of the subject of each question.
    """

    questions: list[str] = field(default_factory=list)
    options: list[list[str]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    subjects: list[str] = field(default_factory=list)

    def fingerprint(self) -> str:
        """Fingerprint of questions, options, answers and subjects."""
        return digest(self.questions, self.options, self.answers, self.subjects)

    def numbers(self, categories: Mapping[str, str], names: list[str]) -> np.ndarray:
        """Return the (N,) index in ``names`` of each question's category."""
        return np.array([names.index(categories.get(subject, subject)) for subject in self.subjects])


def read_choices(root: str | Path, split: str) -> Choices:
    """Read the questions of a split from ``<root>/<split>/<subject>_<split>.csv``, six columns without header.

    The columns are the question, four options and the letter of the correct option.

    Raises:
        InputError: If there are no files, or a row is invalid; the message gives the row.
    """
    folder = Path(root) / split
    files = sorted(folder.glob(f"*_{split}.csv"))
    if not files:
        raise InputError(f"root: found no <subject>_{split}.csv in {folder}; name the folder that contains {split}/")
    result = Choices()
    for path in files:
        for number, row in _rows(path):
            if len(row) != 6 or row[5].strip() not in tuple(LETTERS):
                found = f"{len(row)} values" if len(row) != 6 else f"the answer {row[5]!r}"
                raise InputError(
                    f"{path}, row {number}: found {found}; expected question, four options and a letter from A to D"
                )
            result.questions.append(row[0].strip())
            result.options.append([option.strip() for option in row[1:5]])
            result.answers.append(LETTERS.index(row[5].strip()))
            result.subjects.append(path.name.removesuffix(f"_{split}.csv"))
    return result


def read_categories(path: str | Path) -> dict[str, str]:
    """Read subjects and their categories from a CSV file of two columns without header.

    Raises:
        InputError: If a row is invalid, or a subject is repeated.
    """
    if not Path(path).is_file():
        raise InputError(f"categories: found no file {path}; give a CSV file with a subject and a category per row")
    result: dict[str, str] = {}
    for number, row in _rows(Path(path)):
        names = [value.strip() for value in row]
        if len(names) != 2 or not all(names) or names[0] in result:
            found = f"{names[0]} again" if len(names) == 2 and names[0] in result else shorten(map(repr, row))
            raise InputError(f"{path}, row {number}: found {found}; expected a subject and its category, each once")
        result[names[0]] = names[1]
    return result


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Yield the number and values of each row of a CSV file that is not blank."""
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""), strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}; expected a CSV file in UTF-8") from error
    return [(number, row) for number, row in enumerate(rows, 1) if row]
