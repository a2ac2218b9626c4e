"""Cards of many sources in a few compressed files, for readers that wait for each file."""

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterable
from typing import Any

from lightning_fusion.errors import InputError
from lightning_fusion.files import is_sealed, sealed
from lightning_fusion.registry.card import FORMAT, Card

FOLDER = "cards"
MAX_BYTES = 32 << 20
"""Maximum size of a compressed file."""
_MAX_UNPACKED = 256 << 20


def shard_of(name: str) -> str:
    """Return the file with the card of a source, below the address of the registry; one of 256.

    Example:
        >>> shard_of("site_a") == shard_of("site_a"), len(shard_of("site_a"))
        (True, 16)
    """
    return f"{FOLDER}/{hashlib.blake2b(name.encode(), digest_size=1).hexdigest()}.json.gz"


def pack_cards(cards: Iterable[Card]) -> bytes:
    """Return the content of a file with cards; equal cards give equal bytes."""
    entries = [json.loads(card.dump()) for card in cards]
    text = json.dumps(sealed({"format": FORMAT, "cards": entries}), separators=(",", ":"))
    return gzip.compress(text.encode(), mtime=0)


def unpack_cards(content: bytes, where: str) -> dict[str, Any]:
    """Read a file with cards.

    Args:
        content: Content of the file.
        where: Path of the file, for messages.

    Returns:
        Content of each card's file by the name of the source; :meth:`~.card.Card.read` checks it.

    Raises:
        InputError: If the file is damaged, of another format, or much larger than what it was packed into.
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            text = file.read(_MAX_UNPACKED + 1)
        if len(text) > _MAX_UNPACKED:
            raise InputError(f"{where} has more than {_MAX_UNPACKED:,} bytes of cards")
        found = json.loads(text)
        whole = found["format"] == FORMAT and is_sealed(found)
        return {card["name"]: card for card in found["cards"]} if whole else _damaged(where)
    except InputError:
        raise
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{where} is no complete file of cards ({error}); publish any source again") from error


def _damaged(where: str) -> dict[str, Any]:
    raise InputError(f"{where} is no file of cards of format {FORMAT}, or damaged; publish any source again")
