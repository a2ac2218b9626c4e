"""Registry of published experts: for each a card, class means, and weights."""

import copy
import dataclasses
import json
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.expert import Expert
from lightning_fusion.files import digest, file_key, is_sealed, name_of_key, sealed
from lightning_fusion.hyperparameters import check_choices
from lightning_fusion.registry.card import FORMAT, PARTS, TOKENIZER, VERSION, Card, Transfer, file_of
from lightning_fusion.registry.publish import EXPERT_METADATA, describe_source, restore_expert
from lightning_fusion.registry.quantization import dequantize
from lightning_fusion.registry.shards import MAX_BYTES, pack_cards, shard_of, unpack_cards
from lightning_fusion.registry.transport import Transport, UnreachableError

CARD, INDEX = "card.json", "index.json"
_CARD_BYTES, _INDEX_BYTES, _MAX_SOURCES = 4 << 20, 1 << 20, 10_000
_TOKENIZER_BYTES = 64 << 20
_ATTEMPTS = 3
_Read = TypeVar("_Read")


class RepublishedError(InputError):
    """The files of a card are gone: the source was published again, or removed."""


class ExpertRegistry:
    """Registry of published experts in a folder or behind a URL.

    ::

        ADDRESS/index.json                               names of the sources
        ADDRESS/cards/<two digits>.json.gz               cards of all sources in up to 256 files
        ADDRESS/<name>/card.json                         written last, whole or not at all: makes a source visible
        ADDRESS/<name>/<version>/centroids.safetensors   (C_i, D_i) means of the representation by class
        ADDRESS/<name>/<version>/encoder.safetensors     weights up to the representation
        ADDRESS/<name>/<version>/head.safetensors        the other weights
        ADDRESS/<name>/<version>/tokenizer.json          of texts, where one was trained for them

    Where each file is waited for (http, s3), cards are read from the first two, which every publication updates: 10,000
    sources take some 256 files of together 8 MB. In a local folder the cards themselves are read.

    Folders and ``memory://`` can be read and published to; ``http(s)://``, a web server for such a folder, can be read.
    Other file systems of fsspec may work but are not tested. Weights are safetensors, and a network is built only from
    a class that is already imported, so that no code of a registry is executed. Nothing is cached. A card has at most 4
    MiB, a registry 10,000 sources, and no file more bytes than its card says.

    Args:
        address: A folder, or a URL that fsspec supports.
        timeout_s: Seconds without data from a network address after which a connection fails. Reads are tried three
            times, and given up below 100 kB/s. Redirects to another host are rejected.
        max_source_gb: Maximum size of the weights of a source.
        deadline_s: Seconds after which cards that were not read yet are left out.

    Attributes:
        ledger: Every file read or written, as :class:`Transfer`, with the number of bytes transferred.
        stage: Stage recorded in the ledger for the next transfers.

    Raises:
        InputError: If fsspec does not support the protocol of the address.

    Example:
        >>> from functools import partial
        >>> from lightning_fusion.data.tensors import TensorDataModule
        >>> from lightning_fusion.encoders import SmallConvNet
        >>> network = partial(SmallConvNet, width=2, in_channels=1)
        >>> expert = Expert(network(2), classes=["cat", "dog"], features="pool")
        >>> train = torch.rand(6, 1, 8, 8), torch.tensor([0, 1, 1, 1, 0, 1])
        >>> data = TensorDataModule({"train": train}, classes=["cat", "dog"])
        >>> registry = ExpertRegistry("memory://published")
        >>> card = registry.publish(expert, data, "site_a", statistics=[0.5, 0.3], network=network)
        >>> registry.names, card.counts, registry.load("site_a").fingerprint == expert.fingerprint
        (['site_a'], [2, 4], True)
    """

    def __init__(
        self, address: str, timeout_s: float = 30.0, max_source_gb: float = 4.0, deadline_s: float = 600.0
    ) -> None:
        self.address = str(address).rstrip("/") or "/"
        if not address:
            raise InputError(f"address: {str(address)!r} is no folder; set it to the folder that contains the sources")
        self.files = Transport(self.address, timeout_s)
        self.max_source_gb, self.deadline_s = max_source_gb, deadline_s
        self.ledger: list[Transfer] = []
        self.stage = ""

    def __repr__(self) -> str:
        return f"ExpertRegistry({self.address!r})"

    def reader(self) -> "ExpertRegistry":
        """Return the same registry with a separate ledger."""
        other = copy.copy(self)
        other.ledger = []
        return other

    # ------------------------------------------------------------------- read

    @property
    def names(self) -> list[str]:
        """Sorted names of the sources with a complete card."""
        return list(self.cards())

    def cards(self, exclude: Iterable[str] = ()) -> dict[str, Card]:
        """Return the cards by name, sorted; cards that cannot be read are left out with a warning.

        Args:
            exclude: Names of sources whose cards are not read.

        Raises:
            InputError: If ``exclude`` names an unknown source, or no card can be read from a network address.
        """
        exclude, listed = set(exclude), self._listed()
        if unknown := sorted(exclude - set(listed)):
            raise InputError(f"exclude: {self.address} has no source {shorten(unknown)}; it has {shorten(listed)}")
        wanted = [name for name in listed if name not in exclude]
        end = time.monotonic() + self.deadline_s
        packed = self._packed(wanted, end) if self.files.is_remote else {}
        found = [packed[name] for name in wanted if name in packed]
        found += self.files.each(partial(self._card_or_error, end=end), [n for n in wanted if n not in packed])
        unreachable = [card for card in found if isinstance(card, UnreachableError)]
        if found and len(unreachable) == len(found):
            raise unreachable[0]
        broken = [str(card) for card in found if isinstance(card, InputError)]
        if broken:
            warnings.warn(f"left out {len(broken)} source(s): {shorten(broken, 3)}", stacklevel=2)
        cards = [card for card in found if isinstance(card, Card)]
        return {card.name: card for card in sorted(cards, key=lambda card: card.name)}

    def card(self, name: str) -> Card:
        """Return the card of one source.

        Raises:
            InputError: If there is no such source, or its card is incomplete.
        """
        path = self._path(name, CARD)
        try:
            return self._read(name, CARD, path, lambda content: Card.parse(content, name, path), _CARD_BYTES)
        except FileNotFoundError as error:
            raise InputError(
                f"{self.address} has no source {name!r}; it has {shorten(self._listed()) or 'none'}"
            ) from error

    def centroids(self, card: Card) -> tuple[list[str], Tensor]:
        """Return the C_i classes with training samples of a source, and its mean representation of each.

        Returns:
            Names of the classes, and (C_i, D_i) float32.

        Raises:
            InputError: If the file does not match the card.
        """
        tensors = self.weights(card, "centroids")
        seen = [label for label, count in zip(card.classes, card.counts, strict=True) if count]
        means = tensors.get("means", torch.empty(0))
        if means.shape != (len(seen), card.width):
            raise InputError(
                f"source {card.name}: its centroids have shape {tuple(means.shape)}; expected, from its card, "
                f"({len(seen)}, {card.width})"
            )
        return seen, means

    def load(self, name: str) -> Expert:
        """Load a source as an expert; one that is published again meanwhile is read again.

        Raises:
            InputError: If there is no such source, its files do not match its card, or the class of its network is
                not imported.
        """
        for _ in range(_ATTEMPTS):
            card = self.card(name)
            parts = [part for part in PARTS[1:] if part in card.files]
            try:
                expert = self.build(card, {k: v for part in parts for k, v in self.weights(card, part).items()})
                if (tokenizer := self.tokenizer(card)) is not None:
                    expert.new_sample_facts = {"trained_tokenizer": tokenizer}
                return expert
            except RepublishedError as error:
                gone = error
        raise gone

    def weights(self, card: Card, part: str) -> dict[str, Tensor]:
        """Read the tensors of one file of a source: ``centroids``, ``encoder`` or ``head``.

        Raises:
            InputError: If the file does not match the card; RepublishedError if it does not exist any more.
        """
        if card.num_bytes > self.max_source_gb * 1e9:
            raise InputError(
                f"source {card.name}: its files have {card.num_bytes / 1e9:.1f} GB; max_source_gb is "
                f"{self.max_source_gb:g}: raise it to read them"
            )

        def parse(content: bytes, path: str) -> dict[str, Tensor]:
            try:
                tensors = safetensors.torch.load(content)
            except Exception as error:  # safetensors raises various types for invalid files
                raise InputError(f"source {card.name}: {path} is no safetensors file ({error})") from error
            try:
                return dequantize(tensors)
            except InputError as error:
                raise InputError(f"source {card.name}: {path}: {error}") from error

        return self._part(card, part, parse)

    def tokenizer(self, card: Card) -> str | None:
        """Read the text of the tokenizer that was trained with a source of texts; ``None`` if none was published.

        Raises:
            InputError: If the file does not match the card; RepublishedError if it does not exist any more.
        """
        if TOKENIZER not in card.files:
            return None
        if (size := card.files[TOKENIZER]["bytes"]) > _TOKENIZER_BYTES:
            raise InputError(f"source {card.name}: its tokenizer has {size:,} bytes; at most {_TOKENIZER_BYTES:,}")

        def parse(content: bytes, path: str) -> str:
            try:
                return content.decode()
            except UnicodeDecodeError as error:
                raise InputError(f"source {card.name}: {path} is no text ({error})") from error

        return self._part(card, TOKENIZER, parse)

    def _part(self, card: Card, part: str, parse: Callable[[bytes, str], _Read]) -> _Read:
        """Read one file of a source, whose content must match the card."""
        file, wanted = file_of(part), card.files[part]["fingerprint"]
        path = self._path(card.name, card.version, file)

        def checked(content: bytes) -> _Read:
            found = digest(np.frombuffer(content, np.uint8))
            if found != wanted:
                raise InputError(
                    f"source {card.name}: its card names {file} of fingerprint {wanted}; {path} has {found} "
                    f"({len(content)} bytes instead of {card.files[part]['bytes']}); publish {card.name} again"
                )
            return parse(content, path)

        try:
            return self._read(card.name, file, path, checked, card.files[part]["bytes"])
        except FileNotFoundError as error:
            raise RepublishedError(
                f"source {card.name}: {path} does not exist; it was republished or removed in the meantime: retry"
            ) from error

    def build(self, card: Card, weights: Mapping[str, Tensor], whole: bool = True) -> Expert:
        """Build the expert of a card from weights.

        Args:
            card: Card of the source.
            weights: Weights by name.
            whole: Whether these are all weights; else only the representations of the expert are valid.

        Raises:
            InputError: If the network's class is not imported, or the weights do not match the card.
        """
        where = f"the card of source {card.name}"
        expert = restore_expert(
            card.network, weights, where, whole, **{key: getattr(card, key) for key in EXPERT_METADATA}
        )
        if whole and expert.fingerprint != card.fingerprint:
            raise InputError(
                f"source {card.name}: its card names an expert of fingerprint {card.fingerprint}, its files give "
                f"{expert.fingerprint}; publish {card.name} again"
            )
        expert.preprocessing, expert.checkpoint = card.preprocessing, f"{self.address}/{card.name}"
        return expert

    # ---------------------------------------------------------------- publish

    def publish(
        self,
        expert: Expert,
        data: FusionDataModule,
        name: str,
        statistics: Any = None,
        overwrite: bool = False,
        network: Any = None,
        weights: Literal["float32", "int8"] = "float32",
    ) -> Card:
        """Publish an expert as a source, which becomes visible when it is written completely.

        The expert is run once on the labeled samples of the training split, to compute its class means.

        Args:
            expert: Expert with a layer ``features``.
            data: Data module that it was trained on.
            name: Name of the source.
            statistics: (S,) light statistics of the data, or a function of ``data`` that returns them. ``None``
                (default) uses ``data.statistics()``.
            overwrite: Replace a source of this name.
            network: Specification of the network: a class whose first argument is the number of classes, a
                ``functools.partial`` of one, or a dict of ``class_path`` and ``init_args``. Optional for experts loaded
                from a checkpoint of :class:`~lightning_fusion.ExpertModule` or from a registry.
            weights: ``int8`` rounds matrices and kernels to 8 bits, which takes a quarter of the bytes; the card says
                how often the answer stays the same on the training data.

        Raises:
            InputError: If the name is taken, the expert cannot be described or does not match the data, or there are
                no statistics.
        """
        check_choices(ExpertRegistry.publish, locals())
        file_key(name, "the source's name")  # raises for names that no file can have
        if self.files.is_http:
            raise InputError(f"address: {self.address} is read-only; publish to the folder that the server serves")
        old = self._current(name)
        if old is not None and not overwrite:
            interrupted = name not in self._indexed()
            self._write_index(name)  # a publication that was killed before is visible now
            if not interrupted:
                raise InputError(f"name: {self.address} has a source {name!r} already; rename it, or set overwrite")
        card, contents = describe_source(expert, data, name, statistics, network, weights)
        if old is not None and not overwrite:
            if dataclasses.replace(card, version=old.version) == old:
                return old
            raise InputError(f"name: {self.address} has another source {name!r} already; rename it, or set overwrite")
        with self.files.writing():
            old = self._current(name)
            self._write(card, contents, overwrite)
            if old is not None:
                self.files.remove(self._path(name, old.version))
            self.files.remove_all_but(self._path(name), card.version, VERSION)
        return card

    def _current(self, name: str) -> Card | None:
        """Return the card of a source; ``None`` if there is none, or it is damaged."""
        with suppress(InputError):
            return self.card(name)
        return None

    def _write(self, card: Card, contents: dict[str, bytes], overwrite: bool) -> None:
        folder, dumped = self._path(card.name, card.version), card.dump()
        self.files.write_folder(folder, contents)
        for file, content in contents.items():
            self._count("up", card.name, file, len(content))
        try:
            self.files.write(self._path(card.name, CARD), dumped, exclusive=not overwrite)
        except FileExistsError as error:
            self.files.remove(folder)
            raise InputError(
                f"name: {self.address} has a source {card.name!r} already; rename it, or set overwrite"
            ) from error
        self._count("up", card.name, CARD, len(dumped))
        self._write_index(card.name)

    def _write_index(self, name: str) -> None:
        """Write the cards for readers that wait for each file, then the names of all sources.

        Cards are packed again for a source, and for all that are not in the index: their publication was killed. Where
        one was killed that replaced a source, its files remain, and the packed card names them.
        """
        new = {name, *self._folders()} - {*self._indexed()} | {name}
        self._pack({shard_of(name) for name in new})
        while True:  # repeated until the index is complete: the last of several concurrent publishers sees all sources
            names = self._folders()
            listed = json.dumps(sealed({"format": FORMAT, "sources": names})).encode()
            self.files.write(self.files.path(INDEX), listed)
            self._count("up", "", INDEX, len(listed))
            if self._folders() == names:
                return

    def _pack(self, files: set[str]) -> None:
        """Write packed files; repeated until their cards are those that are published."""
        packed: dict[str, bytes] = {}
        reader = self.reader()  # what a publication reads of others is not its traffic
        while files:
            names: dict[str, list[str]] = {file: [] for file in files}
            for name in self._folders():
                names.get(shard_of(name), []).append(name)
            for file in sorted(files):
                found = self.files.each(partial(reader._card_or_error, end=float("inf")), names[file])
                content = pack_cards(card for card in found if isinstance(card, Card))
                if packed.get(file) == content:
                    files = files - {file}
                    continue
                self.files.write_below(self.files.path(*file.split("/")), content)
                self._count("up", "", file, len(content))
                packed[file] = content

    def _packed(self, names: list[str], end: float) -> dict[str, Card | InputError]:
        """Read the packed cards of sources; a source that is not among them is missing in the result."""
        files = sorted({shard_of(name) for name in names})
        contents = dict(zip(files, self.files.each(partial(self._unpacked, end=end), files), strict=True))
        found: dict[str, Card | InputError] = {}
        for name in names:
            content = contents[file := shard_of(name)]
            if isinstance(content, InputError):
                found[name] = content
            elif name in content:
                try:
                    found[name] = Card.read(content[name], name, f"{self.files.path(file)} ({name})")
                except InputError as error:
                    found[name] = error
        return found

    def _unpacked(self, file: str, end: float) -> dict[str, Any] | InputError:
        if time.monotonic() > end:
            return InputError(f"{self.address}: {file} was not read within deadline_s, {self.deadline_s:g}")
        path = self.files.path(*file.split("/"))
        try:
            return self._read("", file, path, lambda content: unpack_cards(content, path), MAX_BYTES)
        except FileNotFoundError:
            return {}
        except InputError as error:
            return error

    # -------------------------------------------------------------- internals

    def _path(self, name: str, *parts: str) -> str:
        """Return the path of a source, or of a file of it."""
        return self.files.path(file_key(name), *parts)

    def _listed(self) -> list[str]:
        """Names of the folders with a card, or the names in the index where each file is waited for."""
        if not self.files.is_remote:
            return self._folders()
        path = self.files.path(INDEX)
        try:
            return self._read("", INDEX, path, lambda content: _parse_index(content, path), _INDEX_BYTES)
        except FileNotFoundError as error:
            raise InputError(
                f"address: found no {path}; 'publish' writes it into the folder that the server serves"
            ) from error

    def _folders(self) -> list[str]:
        """Names of the folders with a card."""
        return sorted(name for name in map(name_of_key, self.files.folders_with(CARD)) if name is not None)

    def _indexed(self) -> list[str]:
        """Names in the index; none if there is none, or it is damaged."""
        path = self.files.path(INDEX)
        with suppress(InputError, FileNotFoundError):
            return self._read("", INDEX, path, lambda content: _parse_index(content, path), _INDEX_BYTES)
        return []

    def _card_or_error(self, name: str, end: float) -> Card | InputError:
        if time.monotonic() > end:
            return InputError(f"{self.address}: the card of {name} was not read within deadline_s, {self.deadline_s:g}")
        try:
            return self.card(name)
        except InputError as error:
            return error

    def _read(self, source: str, file: str, path: str, parse: Callable[[bytes], _Read], limit: int) -> _Read:
        return self.files.read(path, parse, partial(self._count, "down", source, file), limit)

    def _count(self, direction: Any, source: str, file: str, num_bytes: int) -> None:
        self.ledger.append(Transfer(self.stage, direction, source, file, num_bytes))


def _parse_index(content: bytes, where: str) -> list[str]:
    try:
        found = json.loads(content)
        names = found["sources"] if found["format"] == FORMAT and is_sealed(found) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{where} is no complete index of format {FORMAT}; publish any source again")
    if len(names) > _MAX_SOURCES:
        raise InputError(f"{where} names {len(names):,} sources; at most {_MAX_SOURCES:,} are read")
    for name in names:
        file_key(name, f"{where}: the name")
    return sorted(set(names))
