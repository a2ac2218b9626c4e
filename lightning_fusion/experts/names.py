"""Names of experts."""

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from torch import nn

from lightning_fusion.errors import InputError


def check_name(name: str, what: str, file: bool = True) -> None:
    """Check that a name is valid for a submodule, and optionally for a file.

    Args:
        name: Name of an expert, or of a domain.
        what: Meaning of the name, for the message.
        file: Whether the name is used for a file or folder.

    Raises:
        InputError: If it is empty, contains a dot or control character, or is an attribute of torch modules; of a file,
            if it is too long or contains a slash as well.
    """
    unusable = not name or re.search(r"[.\x00-\x1f]", name) or hasattr(nn.ModuleDict(), name)
    if unusable or (file and (len(name.encode()) > 150 or re.search(r"[/\\]", name))):
        slash = ", too long, or contains a slash," if file else ""
        raise InputError(
            f"{what} {name!r} cannot name an expert: it is empty{slash} or contains a dot or control character, or is "
            "an attribute of torch modules; rename it"
        )


def check_expert_names(names: Iterable[Any]) -> None:
    """Check that names of experts are different texts that also look different.

    Raises:
        InputError: If one is no text or empty, or two differ in invisible characters only.
    """
    seen: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"experts: {name!r} cannot name an expert; expected a text")
        form = unicodedata.normalize("NFC", "".join(each for each in name if unicodedata.category(each) != "Cf"))
        if form in seen:
            raise InputError(
                f"experts: the names {seen[form]!a} and {name!a} differ in invisible characters only; rename one"
            )
        seen[form] = name
