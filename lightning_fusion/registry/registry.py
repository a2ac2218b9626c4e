"""Published experts behind one address: for each a card, the means of its classes, and its weights."""

import copy
import io
import json
import os
import re
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import numpy as np
import safetensors.torch
import torch
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from torch import Tensor

from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.expert import Expert, build_network
from lightning_fusion.experts.pool import check_name
from lightning_fusion.files import digest
from lightning_fusion.hyperparameters import check_trusted, describe_factory, is_plain
from lightning_fusion.registry.card import FORMAT, PARTS, Card, Transfer, as_json
from lightning_fusion.registry.publish import _after_features, _as_safetensors, _class_means, _network_of
from lightning_fusion.registry.summaries import statistics_of

CARD, INDEX = "card.json", "index.json"

_ATTEMPTS, _PAUSE_S = 3, 0.2
_THREADS = 16  # that wait for a network
_Read = TypeVar("_Read")


class UnreachableError(InputError):
    """An address in the network that did not give a file."""


class ExpertRegistry:
    """Experts that others may build on, behind one address.

    ::

        ADDRESS/index.json                               names of the sources: what http reads
        ADDRESS/<name>/card.json                         written last, whole or not at all: makes a source visible
        ADDRESS/<name>/<version>/centroids.safetensors   (C_i, D_i) means of the representation by class
        ADDRESS/<name>/<version>/encoder.safetensors     weights up to the representation
        ADDRESS/<name>/<version>/head.safetensors        the other weights

    A folder and ``memory://`` are published to and read; ``http(s)://``, a web server before such a folder, is read.
    Other file systems that fsspec knows may work and are not tested. Weights are safetensors and a network is built
    only from a class that is imported already, so that nothing in a registry is executed. Nothing is cached.

    Args:
        address: A folder, or an address that fsspec knows.
        timeout_s: Without a byte from a network address, after which a connection counts as dead. A read is tried
            three times.

    Attributes:
        ledger: Every file that was read or written, as :class:`Transfer`, with the bytes that really went over.
        stage: What the ledger says the next files are for.

    Raises:
        InputError: If fsspec does not know the address's kind.

    Example:
        >>> from functools import partial
        >>> from lightning_fusion.data.base import TensorDataModule
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

    def __init__(self, address: str, timeout_s: float = 30.0) -> None:
        self.address = str(address).rstrip("/") or "/"
        self._http = re.match(r"https?://", self.address) is not None
        options: dict[str, Any] = {}
        if self._http:
            from aiohttp import ClientTimeout

            timeout = ClientTimeout(total=None, sock_connect=timeout_s, sock_read=timeout_s)
            options = {"client_kwargs": {"timeout": timeout}}
        try:
            self._fs, root = url_to_fs(self.address, **options)
        except (ValueError, ImportError, OSError) as error:
            raise InputError(f"address: {self.address} is none that fsspec can open ({error})") from error
        self._root = root.rstrip("/")
        self._local = isinstance(self._fs, LocalFileSystem)
        if not address or (self._local and os.path.exists(self._root) and not os.path.isdir(self._root)):
            raise InputError(f"address: {str(address)!r} is no folder; name the one that holds the sources")
        self.ledger: list[Transfer] = []
        self.stage = ""

    def __repr__(self) -> str:
        return f"ExpertRegistry({self.address!r})"

    def reader(self) -> "ExpertRegistry":
        """The same registry with a ledger of its own."""
        other = copy.copy(self)
        other.ledger = []
        return other

    # ------------------------------------------------------------------- read

    @property
    def names(self) -> list[str]:
        """Names of the sources whose card is whole, sorted."""
        return list(self.cards())

    def cards(self, exclude: Iterable[str] = ()) -> dict[str, Card]:
        """The cards by name, sorted. Cards that cannot be read are left out with a warning.

        Args:
            exclude: Names of sources whose cards are not read.

        Raises:
            InputError: If ``exclude`` names a source that there is not, or a network address fails.
        """
        exclude, listed = set(exclude), self._listed()
        if unknown := sorted(exclude - set(listed)):
            raise InputError(f"exclude: {self.address} has no source {shorten(unknown)}; it has {shorten(listed)}")
        wanted = [name for name in listed if name not in exclude]
        if self._local or isinstance(self._fs, MemoryFileSystem):
            found = [self._card_or_error(name) for name in wanted]
        else:
            with ThreadPoolExecutor(_THREADS) as threads:
                found = list(threads.map(self._card_or_error, wanted))
        broken = [str(card) for card in found if isinstance(card, InputError)]
        if broken:
            warnings.warn(f"left out {len(broken)} source(s): {shorten(broken, 3)}", stacklevel=2)
        return {card.name: card for card in found if isinstance(card, Card)}

    def card(self, name: str) -> Card:
        """The card of one source.

        Raises:
            InputError: If there is no such source, or its card is not whole.
        """
        path = self._path(name, CARD)
        try:
            return self._read(name, CARD, path, lambda content: Card.parse(content, name, path))
        except FileNotFoundError as error:
            raise InputError(
                f"{self.address} has no source {name!r}; it has {shorten(self._listed()) or 'none'}"
            ) from error

    def centroids(self, name: str) -> tuple[list[str], Tensor]:
        """The classes of which a source had samples, C_i of them, and its mean representation of each.

        Returns:
            Names of the classes, and (C_i, D_i) float32.
        """
        return self.read_centroids(self.card(name))

    def read_centroids(self, card: Card) -> tuple[list[str], Tensor]:
        """As :meth:`centroids`, of the version that a card names."""
        tensors = self.weights(card, "centroids")
        seen = [label for label, count in zip(card.classes, card.counts, strict=True) if count]
        means = tensors.get("means", torch.empty(0))
        if means.shape != (len(seen), card.width):
            raise InputError(
                f"source {card.name}: its centroids have shape {tuple(means.shape)}; its card says "
                f"({len(seen)}, {card.width})"
            )
        return seen, means

    def load(self, name: str) -> Expert:
        """A source as an expert.

        Raises:
            InputError: If there is no such source, its files do not fit its card, or its network is of no imported
                class.
        """
        card = self.card(name)
        weights = {
            key: value for part in PARTS[1:] if part in card.files for key, value in self.weights(card, part).items()
        }
        return self.build(card, weights)

    def weights(self, card: Card, part: str) -> dict[str, Tensor]:
        """The tensors of one of the files of a source: ``centroids``, ``encoder`` or ``head``.

        Raises:
            InputError: If the file is not the one that the card names.
        """
        file, wanted = f"{part}.safetensors", card.files[part]["fingerprint"]
        path = self._path(card.name, card.version, file)

        def parse(content: bytes) -> dict[str, Tensor]:
            found = digest(np.frombuffer(content, np.uint8))
            if found != wanted:
                raise InputError(
                    f"source {card.name}: its card names a {file} of fingerprint {wanted}; {path} has {found} "
                    f"({len(content)} bytes instead of {card.files[part]['bytes']}); publish {card.name} again"
                )
            try:
                return safetensors.torch.load(content)
            except Exception as error:  # whatever a foreign file makes it raise
                raise InputError(f"source {card.name}: {path} holds no safetensors ({error})") from error

        try:
            return self._read(card.name, file, path, parse)
        except FileNotFoundError as error:
            raise InputError(
                f"source {card.name}: {path} is gone; it was published anew or removed meanwhile, so start again"
            ) from error

    def build(self, card: Card, weights: Mapping[str, Tensor], whole: bool = True) -> Expert:
        """The expert of a card and its weights.

        Args:
            card: Says how.
            weights: By name.
            whole: Whether these are all weights; else only the representations of the expert mean anything.

        Raises:
            InputError: If the network's class is not imported, or the weights are not the card's.
        """
        where = f"the card of source {card.name}"
        check_trusted(card.network, where)
        expert = _restored(card.network, weights, where, whole, **{key: getattr(card, key) for key in _EXPERT_FACTS})
        if whole and expert.fingerprint != card.fingerprint:
            raise InputError(
                f"source {card.name}: its card is of an expert of fingerprint {card.fingerprint}, its files give one "
                f"of {expert.fingerprint}; publish {card.name} again"
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
    ) -> Card:
        """Make an expert a source that others find; visible when all of it is written, and not before.

        The expert is run once over the labelled samples of the training split, for the means of its classes.

        Args:
            expert: Must name its ``features``.
            data: What it was trained on.
            name: Of the source.
            statistics: (S,) light statistics of the data, or a function of ``data`` that gives them;
                ``data.statistics()`` where None.
            overwrite: Replace a source of this name.
            network: How others build the network: a class whose first argument is the number of classes, a
                ``functools.partial`` of one, or a dict of ``class_path`` and ``init_args``. Known where the expert was
                read from a checkpoint of :class:`~lightning_fusion.ExpertModule` or from a registry.

        Raises:
            InputError: If the name is taken, the expert cannot be described or does not fit the data, or there are no
                statistics.
        """
        check_name(name, "the source's name")
        if self._http:
            raise InputError(f"address: {self.address} is only read; publish to the folder behind it")
        old = None
        with suppress(InputError):
            old = self.card(name)
        if old is not None and not overwrite:
            raise InputError(f"name: {self.address} has a source {name!r} already; rename it, or set overwrite")
        given = _network_of(expert)
        spec = network if isinstance(network, Mapping) else describe_factory(network) if network else expert.spec
        if not spec or not is_plain(dict(spec)):
            raise InputError(
                f"network: nothing says how to build the network of {name}; give the class, a functools.partial of it, "
                "or a dict of class_path and init_args"
            )
        spec, way = as_json(spec) or {}, as_json(expert.preprocessing or getattr(data, "preprocessing", None))
        vector = statistics_of(data, statistics)
        facts = {key: getattr(expert, key) for key in _EXPERT_FACTS}
        facts["domains"] = facts["domains"] or getattr(data, "own_domains", None) or data.domains or None
        where = f"the description of {name}"
        check_trusted(spec, where)
        twin = _restored(spec, given.state_dict(), where, **facts)
        original = Expert(given, **facts)
        if twin.fingerprint != original.fingerprint:
            raise InputError(
                f"network: {spec} gives another network than that of {name} (fingerprints {twin.fingerprint} and "
                f"{original.fingerprint})"
            )
        means, counts, first = _class_means(expert, data, name)
        late = _after_features(twin, first)
        state = given.state_dict()
        parts = {
            "centroids": {"means": means[counts > 0].to(torch.float32), "counts": counts},
            "encoder": {key: value for key, value in state.items() if key not in late},
            "head": {key: value for key, value in state.items() if key in late},
        }
        contents = {part: _as_safetensors(tensors) for part, tensors in parts.items() if tensors or part == "encoder"}
        card = Card(
            name=name,
            version=uuid.uuid4().hex[:12],
            counts=counts.tolist(),
            statistics=[float(str(value)) for value in vector.numpy()],  # the shortest text of a float32
            width=means.shape[1],
            preprocessing=way,
            network=spec,
            fingerprint=original.fingerprint,
            files={
                part: {"bytes": len(content), "fingerprint": digest(np.frombuffer(content, np.uint8))}
                for part, content in contents.items()
            },
            **facts,
        )
        Card.parse(card.dump(), name, f"the card of {name}")
        self._write(card, contents, overwrite)
        if old is not None:
            with suppress(FileNotFoundError):
                self._fs.rm(self._path(name, old.version), recursive=True)
        return card

    def _write(self, card: Card, contents: Mapping[str, bytes], overwrite: bool) -> None:
        folder, path, dumped = self._path(card.name, card.version), self._path(card.name, CARD), card.dump()
        self._fs.makedirs(folder, exist_ok=True)
        for part, content in contents.items():
            file = f"{part}.safetensors"
            self._fs.pipe_file(f"{folder}/{file}", content)
            self.ledger.append(Transfer(self.stage, "up", card.name, file, len(content)))
        try:
            self._put(path, dumped, exclusive=not overwrite)
        except FileExistsError as error:
            self._fs.rm(folder, recursive=True)
            raise InputError(
                f"name: {self.address} has a source {card.name!r} already; rename it, or set overwrite"
            ) from error
        self.ledger.append(Transfer(self.stage, "up", card.name, CARD, len(dumped)))
        while True:  # until it says what there is: the last of several processes that publish at once sees all of them
            names = self._listed()
            listed = json.dumps({"format": FORMAT, "sources": names}).encode()
            self._put(f"{self._root}/{INDEX}", listed)
            self.ledger.append(Transfer(self.stage, "up", "", INDEX, len(listed)))
            if self._listed() == names:
                return

    # -------------------------------------------------------------- internals

    def _path(self, name: str, *parts: str) -> str:
        return "/".join([self._root, quote(name) if self._http else name, *parts])

    def _listed(self) -> list[str]:
        """Names of what has a card, or what the index names where folders cannot be listed."""
        if self._http:
            path = f"{self._root}/{INDEX}"
            try:
                return self._read("", INDEX, path, lambda content: _parse_index(content, path))
            except FileNotFoundError as error:
                raise InputError(
                    f"address: found no {path}; 'publish' writes it into the folder that the server shows"
                ) from error
        if self._local:
            with suppress(FileNotFoundError), os.scandir(self._root) as entries:
                return sorted(entry.name for entry in entries if os.path.isfile(os.path.join(entry.path, CARD)))
            return []
        self._fs.invalidate_cache()
        parts = (path[len(self._root) + 1 :].split("/") for path in self._fs.find(self._root, maxdepth=2))
        return sorted(found[0] for found in parts if found[1:] == [CARD])

    def _card_or_error(self, name: str) -> Card | InputError:
        try:
            return self.card(name)
        except UnreachableError:
            raise
        except InputError as error:
            return error

    def _read(self, source: str, file: str, path: str, parse: Callable[[bytes], _Read]) -> _Read:
        """Read a file whole and parse it. What a network breaks is read again; what arrived of it is counted."""
        attempts = 1 if self._local or isinstance(self._fs, MemoryFileSystem) else _ATTEMPTS
        for attempt in range(1, attempts + 1):
            arrived = io.BytesIO()
            try:
                self._fs.get_file(path, arrived)
                return parse(arrived.getvalue())
            except FileNotFoundError:
                raise
            except InputError:  # cut short without a word, perhaps
                if attempt == attempts:
                    raise
            except Exception as error:  # each file system has its own
                if attempt == attempts:
                    what = f"{type(error).__name__}: {error}".removesuffix(": ")
                    tried = f"tried {attempts} times; the last one broke after {arrived.tell()} bytes, nothing was kept"
                    kind = UnreachableError if attempts > 1 else InputError
                    raise kind(f"address: {path} could not be read ({what}; {tried})") from error
            finally:
                self.ledger.append(Transfer(self.stage, "down", source, file, arrived.tell()))
            time.sleep(_PAUSE_S * attempt)
        raise AssertionError("the last attempt returns or raises")

    def _put(self, path: str, content: bytes, exclusive: bool = False) -> None:
        """Write a file in one step; where ``exclusive``, only if there is none."""
        if not self._local:
            self._fs.pipe_file(path, content, mode="create" if exclusive else "overwrite")
            return
        draft = Path(f"{path}.{uuid.uuid4().hex}")
        try:
            draft.write_bytes(content)
            if exclusive:
                _claim(draft, path)
            else:
                os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)


def _claim(draft: Path, path: str) -> None:
    """Give a file its name only where there is none of that name."""
    try:
        os.link(draft, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.exists(path):
            raise FileExistsError(path) from None
        os.replace(draft, path)


_EXPERT_FACTS = ("classes", "output", "features", "domains", "cost")


def _restored(
    spec: Mapping[str, Any], weights: Mapping[str, Tensor], where: str, whole: bool = True, **facts: Any
) -> Expert:
    """An expert of a described network and its weights."""
    with torch.random.fork_rng(devices=[]):  # weights that are replaced move no random number of the run
        try:
            network = build_network(spec, len(facts["classes"]), where)
        except TypeError as error:
            raise InputError(f"network: {where} names {spec['class_path']}, which does not take it: {error}") from error
    try:
        missing, unknown = network.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise InputError(f"network: the weights do not fit {where}: {error}") from error
    if unknown or (whole and missing):
        raise InputError(
            f"network: {where} and the weights differ: missing {shorten(sorted(missing)) or 'none'}; unknown "
            f"{shorten(sorted(unknown)) or 'none'}"
        )
    expert = Expert(network, **facts)
    expert.spec = dict(spec)
    return expert


def _parse_index(content: bytes, where: str) -> list[str]:
    try:
        found = json.loads(content)
        names = found["sources"] if found["format"] == FORMAT else None
    except (ValueError, KeyError, TypeError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{where} is no whole index of format {FORMAT}; publish any source again")
    for name in names:
        check_name(name, f"{where}: the name")
    return sorted(set(names))
