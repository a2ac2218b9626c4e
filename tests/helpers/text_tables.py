"""A small table of labeled texts of two domains, and what tests of text data modules ask."""

from pathlib import Path
from typing import Any

import pytest

from helpers.splits import SPLITS
from lightning_fusion import TextDataModule
from lightning_fusion.data.text.datamodule import BaseTextDataModule
from lightning_fusion.errors import InputError

NAMES = ("text", "label", "domain")
ROWS = [(f"{word} {noun} {n}", label, domain) for domain, noun in (("a", "book"), ("b", "pan"))
        for label, word in (("good", "great"), ("bad", "poor")) for n in range(20)]  # fmt: skip
FEW: dict[str, Any] = {"domain_fields": ["domain"], "vocab_size": 300, "batch_size": 8}


def table(path: Path, rows: Any = ROWS, names: str = "text,label,domain") -> str:
    path.write_text("\n".join([names, *(",".join(row) for row in rows)]) + "\n")
    return str(path)


def delimited(root: str, **arguments: Any) -> TextDataModule:
    return TextDataModule(root=root, **(FEW | arguments))


def sizes(data: BaseTextDataModule) -> list[int]:
    return [len(data.rows(split)) for split in SPLITS]


def refused(data: BaseTextDataModule) -> str:
    with pytest.raises(InputError) as caught:
        data.setup()
    return str(caught.value)
