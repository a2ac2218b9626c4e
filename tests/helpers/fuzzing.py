"""Random damage to files: bytes, pieces, and values of JSON at random places."""

import copy
import json
import random
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ODD: list[Any] = [
    None,
    True,
    False,
    -1,
    0,
    1,
    2**31,
    -(2**63),
    10**40,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "../../x",
    "/etc/hostname",
    "evil.Payload",
    "os.system",
    "\ud800",
    "\0",
    "a" * 5000,
    [],
    {},
    [[]],
    [None],
    {"class_path": "evil.Payload", "init_args": {}},
]


def _flip(draw: random.Random, content: bytearray) -> None:
    for _ in range(draw.choice((1, 1, 2, 8))):
        if content:
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)


def _cut(draw: random.Random, content: bytearray) -> None:
    del content[draw.randrange(len(content) + 1) :]


def _remove(draw: random.Random, content: bytearray) -> None:
    start = draw.randrange(len(content) + 1)
    del content[start : start + draw.randrange(1, 64)]


def _repeat(draw: random.Random, content: bytearray) -> None:
    start = draw.randrange(len(content) + 1)
    content[start:start] = content[start : start + draw.randrange(1, 64)]


def _insert(draw: random.Random, content: bytearray) -> None:
    start = draw.randrange(len(content) + 1)
    texts = [
        b"\0",
        b'"',
        b"\n",
        b",",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"nan",
        b"-1e999",
        b"{",
        b"[" * 2000,
        b"\xed\xa0\x80",
    ]
    content[start:start] = draw.choice([*texts, draw.randbytes(16), draw.choice(string.printable).encode()])


def _swap(draw: random.Random, content: bytearray) -> None:
    length = draw.randrange(1, 64)
    if len(content) > 2 * length:
        one, other = sorted(draw.sample(range(len(content) - length), 2))
        content[one : one + length], content[other : other + length] = (
            content[other : other + length],
            content[one : one + length],
        )


BYTES: list[Callable[[random.Random, bytearray], None]] = [_flip, _flip, _cut, _remove, _repeat, _insert, _swap]


def places(value: Any) -> list[tuple[Any, Any]]:
    """All (container, key) pairs of nested lists and dicts."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [pair for key in keys for pair in ((value, key), *places(value[key]))]


def change_value(draw: random.Random, value: Any) -> None:
    """Replace, remove, rename or exchange values of nested lists and dicts in place."""
    found = places(value)
    if not found:
        return
    container, key = draw.choice(found)
    kind = draw.randrange(4)
    if kind == 0 and isinstance(container, dict):
        del container[key]
    elif kind == 1 and isinstance(container, dict):
        container[draw.choice(["x", "", "class_path", f"{key} "])] = container.pop(key)
    elif kind == 2:
        copied = [copy.deepcopy(other[place]) for other, place in found]
        number = draw.randrange(len(copied))
        container[key] = copied[number]
    else:
        container[key] = draw.choice(ODD)


def damage_checkpoint(draw: random.Random, path: Path) -> None:
    """Change values of the plain data of a checkpoint of torch in place; its tensors stay."""
    content = torch.load(path, weights_only=True)
    kept = {key: content.pop(key) for key in ("state_dict", "optimizer_states", "callbacks", "loops") if key in content}
    change_value(draw, content)
    torch.save(content | kept, path)


def damage(draw: random.Random, path: Path) -> None:
    """Damage a file in place; a JSON file by values as well."""
    if path.suffix == ".ckpt" and draw.random() < 0.6:
        damage_checkpoint(draw, path)
        return
    content = path.read_bytes()
    if path.suffix in (".json", ".jsonl") and draw.random() < 0.6:
        lines = content.decode().splitlines() if path.suffix == ".jsonl" else [content.decode()]
        number = draw.randrange(len(lines))
        value = json.loads(lines[number])
        for _ in range(draw.choice((1, 1, 2))):
            change_value(draw, value)
        lines[number] = json.dumps(value)
        path.write_text("\n".join(lines))
        return
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 3))):
        draw.choice(BYTES)(draw, changed)
    path.write_bytes(changed)
