"""Card of a published source: its description and its files."""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from lightning_fusion.errors import InputError, shorten
from lightning_fusion.files import is_sealed, sealed
from lightning_fusion.hyperparameters import is_plain

FORMAT = 3
PARTS = ("centroids", "encoder", "head")
"""Further files of a source, each ``<part>.safetensors``; without a head if the network cannot be split."""

TOKENIZER = "tokenizer"
"""Name, among the files of a card, of the tokenizer that was trained with a source of texts: ``tokenizer.json``."""


def file_of(part: str) -> str:
    """Return the name of the file of a part.

    Example:
        >>> file_of("head"), file_of("tokenizer")
        ('head.safetensors', 'tokenizer.json')
    """
    return f"{part}.{'json' if part == TOKENIZER else 'safetensors'}"


VERSION = "[0-9a-f]{12}"
"""Pattern of the names of the folders of versions."""


class Transfer(NamedTuple):
    """Transfer of one file, or of the part that was transferred before a connection broke.

    Attributes:
        stage: Purpose of the transfer.
        direction: ``down`` from the registry, ``up`` to it.
        source: Name of the source; empty for the index.
        file: Name of the file.
        num_bytes: Number of bytes transferred.
    """

    stage: str
    direction: Literal["down", "up"]
    source: str
    file: str
    num_bytes: int


@dataclass(frozen=True)
class Card:
    """Description of a source, which the first stage of a selection reads.

    Attributes:
        name: Name of the source.
        version: Folder of the files that belong to this card.
        classes: The C_i classes of the source, in the order of its outputs.
        counts: Number of training samples of each class.
        statistics: (S,) light statistics of its training data.
        domains: Names of the domains it was trained on, where known.
        features: Name of the layer whose output is the representation.
        width: D_i, size of the representation.
        output: Output of the network, ``logits`` or ``probabilities``.
        cost: Cost of a query.
        preprocessing: Preprocessing of its input, where known.
        network: ``class_path`` and ``init_args`` of the network.
        fingerprint: Fingerprint of the expert.
        agreement: Fraction of the labeled training samples to which weights rounded to int8 give the answer of the
            exact ones; ``None`` for exact weights.
        files: ``bytes`` and ``fingerprint`` of each part, and of the tokenizer of texts where one was trained.
    """

    name: str
    version: str
    classes: list[str]
    counts: list[int]
    statistics: list[float]
    domains: list[str] | None
    features: str
    width: int
    output: str
    cost: float
    preprocessing: dict[str, Any] | None
    network: dict[str, Any]
    fingerprint: str
    agreement: float | None
    files: dict[str, dict[str, Any]]

    @property
    def num_bytes(self) -> int:
        """Size of class means and weights."""
        return sum(file["bytes"] for part, file in self.files.items() if part in PARTS)

    @property
    def splits(self) -> bool:
        """Whether encoder and head are in separate files."""
        return "head" in self.files

    def dump(self) -> bytes:
        """Return the content of the card's file."""
        return json.dumps(sealed({"format": FORMAT} | asdict(self)), allow_nan=False, separators=(",", ":")).encode()

    @classmethod
    def parse(cls, content: bytes, name: str, where: str) -> "Card":
        """Read a card's file.

        Args:
            content: Content of the file.
            name: Name under which the source is listed.
            where: Path of the file, for messages.

        Raises:
            InputError: If the file is truncated, of another format or source, or has unknown or invalid entries.
        """
        try:
            found = json.loads(content)
        except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError as well
            raise InputError(f"{where} is no complete card ({error}); publish {name} again, with overwrite") from error
        return cls.read(found, name, where)

    @classmethod
    def read(cls, found: Any, name: str, where: str) -> "Card":
        """Check the JSON of a card's file; arguments and errors are those of :meth:`parse`."""
        try:
            whole = isinstance(found, dict) and is_sealed(found)
        except RecursionError as error:
            raise InputError(f"{where} is no complete card ({error}); publish {name} again, with overwrite") from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise InputError(f"{where} is no card of format {FORMAT}; publish {name} again, with overwrite")
        found = {key: value for key, value in found.items() if key not in ("format", "digest")}
        wrong = set(found) ^ {field.name for field in dataclasses.fields(cls)}
        wrong |= {key for key in set(found) - wrong if not _FIELDS[key](found[key])}
        if not wrong and len(found["counts"]) != len(found["classes"]):
            wrong = {"counts"}
        if wrong:
            raise InputError(
                f"{where}: its {shorten(sorted(wrong))} is missing, of an unknown type, or no part of a card"
            )
        if found["name"] != name:
            raise InputError(f"{where} is the card of {found['name']!r}, not of {name!r}")
        if not whole:
            raise InputError(f"{where} is damaged (it has another digest); publish {name} again, with overwrite")
        return cls(**found)


def as_json(value: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Convert plain data to the form in which it is read from a card: tuples become lists.

    Raises:
        InputError: If it contains anything but plain data.

    Example:
        >>> as_json({"mean": (0.5, 0.5)})
        {'mean': [0.5, 0.5]}
    """
    if value is None:
        return None
    if not is_plain(dict(value)):
        raise InputError(f"a card contains numbers, texts, lists and dicts only; found {value}")
    result: dict[str, Any] | None = json.loads(json.dumps(dict(value)))
    return result


def _list_of(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(type(item) in kinds for item in value)


def _is_network(value: Any) -> bool:
    known = isinstance(value, dict) and set(value) <= {"class_path", "init_args"}
    return known and isinstance(value.get("class_path"), str) and isinstance(value.get("init_args", {}), dict)


def _is_files(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and {"centroids", "encoder"} <= set(value) <= {*PARTS, TOKENIZER}
        and all(isinstance(file, dict) and set(file) == {"bytes", "fingerprint"} for file in value.values())
        and all(type(file["bytes"]) is int and file["bytes"] >= 0 for file in value.values())
        and all(type(file["fingerprint"]) is str for file in value.values())
    )


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "name": lambda value: isinstance(value, str),
    "version": lambda value: isinstance(value, str) and re.fullmatch(VERSION, value) is not None,
    "classes": lambda value: _list_of(str)(value) and 0 < len(value) == len(set(value)),
    "counts": lambda value: _list_of(int)(value) and min(value, default=0) >= 0,
    "statistics": _list_of(float, int),
    "domains": lambda value: value is None or _list_of(str)(value),
    "features": lambda value: isinstance(value, str),
    "width": lambda value: type(value) is int and value > 0,
    "output": lambda value: value in ("logits", "probabilities"),
    "cost": lambda value: type(value) in (float, int) and 0 <= value < float("inf"),
    "preprocessing": lambda value: value is None or isinstance(value, dict),
    "network": _is_network,
    "fingerprint": lambda value: isinstance(value, str),
    "agreement": lambda value: value is None or (type(value) in (float, int) and 0 <= value <= 1),
    "files": _is_files,
}
