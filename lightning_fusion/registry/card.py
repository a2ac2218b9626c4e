"""What a source says of itself, and the files that belong to it."""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from lightning_fusion.errors import InputError, shorten
from lightning_fusion.hyperparameters import is_plain

FORMAT = 1
PARTS = ("centroids", "encoder", "head")
"""Files of a source beside its card, each ``<part>.safetensors``; there is no head where the network does not split."""


class Transfer(NamedTuple):
    """One file that was read or written, or the part of it that came before a connection broke.

    Attributes:
        stage: What it was read for.
        direction: ``down`` from the registry, ``up`` to it.
        source: Its name; empty for the index.
        file: Its name.
        num_bytes: Really transferred.
    """

    stage: str
    direction: Literal["down", "up"]
    source: str
    file: str
    num_bytes: int


@dataclass(frozen=True)
class Card:
    """What a source says of itself: all that the first stage of a selection reads.

    Attributes:
        name: Of the source.
        version: Folder of the files that belong to this card.
        classes: The C_i classes that it knows, in the order of its outputs.
        counts: Training samples of each class.
        statistics: (S,) light statistics of its training data.
        domains: Names of the domains it was trained on, where known.
        features: Layer that gives its representation.
        width: D_i, of the representation.
        output: What its network gives, ``logits`` or ``probabilities``.
        cost: Of asking it.
        preprocessing: How raw values became its input, where known.
        network: ``class_path`` and ``init_args`` of the network.
        fingerprint: Of the expert.
        files: For each part its ``bytes`` and its ``fingerprint``.
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
    files: dict[str, dict[str, Any]]

    @property
    def num_bytes(self) -> int:
        """Of all files but the card itself."""
        return sum(file["bytes"] for file in self.files.values())

    @property
    def splits(self) -> bool:
        """Whether the encoder has a file of its own."""
        return "head" in self.files

    def dump(self) -> bytes:
        """The content of the card's file."""
        return json.dumps({"format": FORMAT} | asdict(self), allow_nan=False, separators=(",", ":")).encode()

    @classmethod
    def parse(cls, content: bytes, name: str, where: str) -> "Card":
        """Read a card's file.

        Args:
            content: Of the file.
            name: That the source is listed under.
            where: The file's path, for messages.

        Raises:
            InputError: If it is not whole, of another format or source, or holds anything that a card does not.
        """
        try:
            found = json.loads(content)
        except (ValueError, RecursionError) as error:  # a wrong encoding as well
            raise InputError(f"{where} is no whole card ({error}); publish {name} again, with overwrite") from error
        if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
            raise InputError(f"{where} is no card of format {FORMAT}; publish {name} again, with overwrite")
        wrong = set(found) ^ {field.name for field in dataclasses.fields(cls)}
        wrong |= {key for key in set(found) - wrong if not _FIELDS[key](found[key])}
        if not wrong and len(found["counts"]) != len(found["classes"]):
            wrong = {"counts"}
        if wrong:
            raise InputError(
                f"{where}: its {shorten(sorted(wrong))} is missing, of no known kind, or no part of a card"
            )
        if found["name"] != name:
            raise InputError(f"{where} is the card of {found['name']!r}, not of {name!r}")
        return cls(**found)


def as_json(value: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Plain data as it will be read from a card: tuples are lists.

    Raises:
        InputError: If it is no plain data.

    Example:
        >>> as_json({"mean": (0.5, 0.5)})
        {'mean': [0.5, 0.5]}
    """
    if value is None:
        return None
    if not is_plain(dict(value)):
        raise InputError(f"a card holds numbers, texts, lists and dicts only; found {value}")
    return json.loads(json.dumps(dict(value)))


def _list_of(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(type(item) in kinds for item in value)


def _is_network(value: Any) -> bool:
    known = isinstance(value, dict) and set(value) <= {"class_path", "init_args"}
    return known and isinstance(value.get("class_path"), str) and isinstance(value.get("init_args", {}), dict)


def _is_files(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and {"centroids", "encoder"} <= set(value) <= set(PARTS)
        and all(isinstance(file, dict) and set(file) == {"bytes", "fingerprint"} for file in value.values())
        and all(type(file["bytes"]) is int and file["bytes"] >= 0 for file in value.values())
        and all(type(file["fingerprint"]) is str for file in value.values())
    )


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "name": lambda value: isinstance(value, str),
    "version": lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{12}", value) is not None,
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
    "files": _is_files,
}
