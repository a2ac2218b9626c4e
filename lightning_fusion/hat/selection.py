"""Selection of sources for a new domain, with the transferred bytes."""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.data.names import as_labels, canonical_label, near_message
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.preprocessing import differences
from lightning_fusion.hat.ranking import Ledger, Selection, SelectionRow, rank_correlations
from lightning_fusion.hat.similarity import cosine, statistics_similarity
from lightning_fusion.hat.tokenizers import TargetSamples, tokenizer_of
from lightning_fusion.hyperparameters import check_choices
from lightning_fusion.registry.card import Card
from lightning_fusion.registry.registry import ExpertRegistry, RepublishedError
from lightning_fusion.registry.summaries import class_sums, statistics_of

_LARGEST = torch.finfo(torch.float32).max
_DIGITS = 12  # values are compared rounded, so that equal sources tie regardless of the order of summation


def select_sources(
    registry: ExpertRegistry,
    target: FusionDataModule,
    keep_fraction: float = 0.5,
    num_sources: int = 5,
    encoder_first: bool = False,
    similarity: Literal["cosine", "euclid", "jaccard"] = "cosine",
    rank_by: Literal["product", "evidence", "centroid", "accuracy", "statistics", "random"] = "product",
    exclude: Iterable[str] = (),
    statistics: Any = None,
    seed: int = 0,
    rename: Mapping[str, str] | None = None,
) -> Selection:
    """Select sources for a new domain, coarse then fine, and count the transferred bytes.

    Stage 1 reads cards only: a_i is the similarity of the target's statistics to those of source i, each number
    z-scored over the sources. The best ``max(num_sources, ceil(keep_fraction * number of eligible sources))`` are kept.
    Stage 2 reads models and centroids of the kept sources and runs them on the target's labeled samples: the ``score``
    is r_i = coverage_i * s(c_i) * Acc_i, and the best ``num_sources`` are selected. Ties are broken by name.
    Reconstructed from Dai et al., arXiv 2412.04060, which gives the two stages and centroid similarity times accuracy;
    the statistics, the transferred files, coverage, s and the smoothing are our choice.

    A source is not eligible if it shares no class with the target, its statistics are of another kind, its files do not
    fit its card, or it fails on the target's input; the table has the reason. If this is found in stage 2, the next
    source takes its place.

    Args:
        registry: Registry of the published sources.
        target: Data module of the target; training samples with a target >= 0 are labeled. Sources receive its
            preprocessed inputs; texts are tokenized as in the training of each source.
        keep_fraction: Eta, fraction of the eligible sources that stage 2 reads, in (0, 1]. A higher fraction transfers
            more bytes.
        num_sources: N_p, number of sources to select.
        encoder_first: Read encoders and centroids of the kept sources, and heads of the selected ones only. The ranking
            then uses no accuracies: r_i = coverage_i * s(c_i). For ``rank_by`` ``product`` and ``centroid``.
        similarity: Similarity of statistics. ``cosine``; ``euclid``, 1 / (1 + distance); or ``jaccard``, the Jaccard
            index of the two sets of statistics above the sources' mean (z > 0).
        rank_by: ``product`` as above. ``evidence`` (our choice) weights the parts by what the target's labels tell of
            them, r_i = coverage_i * Acc_i * s(c_i)^rho_c * s(a_i)^rho_a: rho is the rank correlation of the part with
            the accuracies of the kept sources, 0 where it is negative or unknown. Baselines: ``centroid``, r_i =
            coverage_i * s(c_i); ``accuracy``, r_i = coverage_i * Acc_i; ``statistics``, r_i = a_i; ``random``, drawn
            from all eligible sources. The last two read the selected models only, the last three no centroids.
        exclude: Names of sources to exclude, for example those of the same person; their cards are not read.
        statistics: (S,) statistics of the target, or a function of ``target`` that returns them. ``None`` (default)
            uses ``target.statistics()``.
        seed: Random seed of ``rank_by: random``.
        rename: Classes of the sources and their names in the target, such as ``{"walking": "WALK"}``. A source in
            which two classes would have one name is not eligible.

    Raises:
        InputError: If the target has no labels or one class only, no source is eligible, an argument is invalid, or a
            network address fails.

    Example:
        >>> from functools import partial
        >>> from lightning_fusion.data.tensors import TensorDataModule
        >>> from lightning_fusion.encoders import SmallConvNet
        >>> registry, names = ExpertRegistry("memory://select"), ["cat", "dog"]
        >>> train = torch.rand(6, 1, 8, 8), torch.tensor([0, 1, 1, 1, 0, 1])
        >>> for width in (2, 3):
        ...     network = partial(SmallConvNet, width=width, in_channels=1)
        ...     expert = Expert(network(2), classes=names, features="pool")
        ...     data = TensorDataModule({"train": train}, classes=names)
        ...     _ = registry.publish(expert, data, f"site_{width}", statistics=[width, 1.0], network=network)
        >>> target = TensorDataModule({"train": (train[0], torch.tensor([0, 1, -100, -100, -100, -100]))}, names)
        >>> selection = select_sources(registry, target, num_sources=1, statistics=[2.2, 1.0])
        >>> [(row.name, row.kept) for row in selection.table], list(selection.experts)
        ([('site_2', True), ('site_3', False)], ['site_2'])
    """
    check_selection(keep_fraction, num_sources, encoder_first, similarity, rank_by)
    exclude = [exclude] if isinstance(exclude, str) else list(exclude)
    reader = registry.reader()
    search = _Search(reader, target, TargetSamples(target, reader), rank_by, encoder_first, rename or {})
    vector = statistics_of(target, statistics)
    try:
        search.read_cards(vector, similarity, exclude)
        eligible = len(search.eligible)
        if rank_by == "random":
            drawn = torch.randperm(eligible, generator=torch.Generator().manual_seed(seed))
            names = sorted(search.eligible)
            search.examine([names[position] for position in drawn], num_sources)
        elif rank_by == "statistics":
            search.examine(search.by("similarity"), num_sources)
        else:
            kept = math.ceil(round(keep_fraction * eligible, 9))  # .28 * 25 is more than 7
            search.examine(search.by("similarity"), max(num_sources, kept))
        correlations = rank_correlations([search.rows[name] for name in search.kept])
        if rank_by == "evidence":
            search.weigh(correlations, similarity)
        chosen = search.choose(num_sources)
    finally:
        registry.ledger += search.reader.ledger
    if len(chosen) < num_sources:
        warnings.warn(
            f"selected {len(chosen)} of {num_sources} sources: no other of the {len(search.rows)} sources is eligible",
            stacklevel=2,
        )
    return Selection(
        search.table(chosen),
        Ledger(search.reader.ledger, search.send_all),
        chosen,
        {name: search.cards[name] for name in chosen},
        list(target.classes),
        rank_by,
        correlations,
    )


@dataclass
class _Search:
    """State of one selection."""

    reader: ExpertRegistry
    target: FusionDataModule
    samples: TargetSamples
    rank_by: str
    encoder_first: bool
    rename: Mapping[str, str]
    rows: dict[str, SelectionRow] = field(default_factory=dict)
    cards: dict[str, Card] = field(default_factory=dict)
    encoders: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    experts: dict[str, Expert] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    send_all: int = 0
    num_statistics: int = 0

    def __post_init__(self) -> None:
        self.classes = classes = as_labels(self.target.classes, "classes")
        self.targets = torch.cat([torch.empty(0, dtype=torch.int64), *(batch.target for batch in self.samples.labeled)])
        self.present = [classes[number] for number in self.targets.unique().tolist()]
        if len(self.present) < 2:
            what = f"only of class {self.present[0]}" if self.present else "none at all"
            raise InputError(
                f"target: its train split has labeled samples {what}; a selection needs at least 2 classes"
            )

    # ----------------------------------------------------------- stage 1: cards

    def _check_rename(self) -> None:
        """Reject names that rename gives to no class, such as those of a mapping in the other direction."""
        theirs = list(dict.fromkeys(label for card in self.cards.values() for label in card.classes))
        for what, names, known in (
            ("sources", self.rename, theirs),
            ("the target", self.rename.values(), self.classes),
        ):
            if other := sorted({canonical_label(name) for name in names} - set(known)):
                raise InputError(
                    f"rename: {shorten(other)} is no class of {what} ({shorten(known)}); give {{name in the sources: "
                    "name in the target}"
                )

    def read_cards(self, vector: Tensor, similarity: str, exclude: Sequence[str]) -> None:
        """Fill ``rows`` with eligibility and similarity of the statistics."""
        self.reader.stage, self.num_statistics = "statistics", len(vector)
        self.cards = self.reader.cards(exclude)
        if not self.cards:
            besides = f" besides the {len(exclude)} excluded" if exclude else ""
            raise InputError(
                f"registry: {self.reader.address} has no source that can be read{besides}; publish one, or correct the "
                "address"
            )
        self._check_rename()
        for name, card in self.cards.items():
            shared = self.shared(card)
            row = self.rows[name] = SelectionRow(name, coverage=len(shared) / len(self.classes))
            row.reason = self._unfit(card, shared, len(vector))
            if message := near_message(self.classes_of(card), self.classes, f"source {name}", "the target"):
                warnings.warn(message, stacklevel=4)
        names = list(self.eligible)
        if not names:
            reasons = shorten([f"{row.name}: {row.reason}" for row in self.rows.values()])
            raise InputError(f"registry: none of {len(self.rows)} sources is eligible ({reasons})")
        pool = torch.tensor([self.cards[name].statistics for name in names], dtype=torch.float64)
        for name, value in zip(names, statistics_similarity(vector, pool, similarity).tolist(), strict=True):
            self.rows[name].similarity = value
        read = sum(one.num_bytes for one in self.reader.ledger)
        cards = [self.cards[name] for name in names]
        self.send_all = read + sum(card.num_bytes for card in cards) + self.samples.bytes_of_others(cards)

    @property
    def eligible(self) -> dict[str, SelectionRow]:
        return {name: row for name, row in self.rows.items() if not row.reason}

    def shared(self, card: Card) -> list[str]:
        known = set(self.classes_of(card))
        return [label for label in self.classes if label in known]

    def classes_of(self, card: Card) -> list[str]:
        """Return the classes of a source in the order of its outputs, by the names of the target where they differ."""
        table = {canonical_label(old): canonical_label(new) for old, new in self.rename.items()}
        return [table.get(label, label) for label in card.classes]

    def _unfit(self, card: Card, shared: Sequence[str], num_statistics: int) -> str:
        own = self.classes_of(card)
        if not shared:
            return f"shares no class with the target: its classes are {shorten(own, 3)}; set rename"
        if double := [label for label in own if own.count(label) > 1]:
            return f"two of its classes would be {double[0]} by rename"
        ours, theirs = getattr(self.target, "preprocessing", None) or {}, card.preprocessing or {}
        if (message := other_channels(theirs.get("channels"), ours.get("channels"))) is not None:
            return message
        if not set(shared) & set(self.present):
            return f"no labeled sample is of a shared class ({shorten(shared, 3)})"
        if len(card.statistics) != num_statistics:
            return f"its statistics are {len(card.statistics)} numbers, the target's {num_statistics}"
        if not all(abs(value) <= _LARGEST for value in card.statistics):  # a larger value would make all deviations NaN
            return "its statistics are NaN, infinite or outside of float32"
        return ""

    def by(self, what: str) -> list[str]:
        """Names of the eligible sources, best first, ties by name."""
        found = {name: getattr(row, what) for name, row in self.eligible.items()}
        return sorted((n for n in found if found[n] is not None), key=lambda n: (-round(found[n], _DIGITS), n))

    # ---------------------------------------------------------- stage 2: models

    def examine(self, names: Sequence[str], wanted: int) -> None:
        """Read and run sources in this order until ``wanted`` of them ran."""
        self.reader.stage = "encoders" if self.encoder_first else "models"
        for name in names:
            if len(self.kept) == wanted:
                break
            if self._tried(name, self._run):
                self.kept.append(name)
                self.rows[name].kept = True
        self._warn_of_preprocessing()

    def weigh(self, correlations: Mapping[str, float | None], similarity: str) -> None:
        """Multiply the scores of ``evidence`` by the parts, each to the power of its rank correlation."""
        powers = {part: max(0.0, value or 0.0) for part, value in correlations.items()}
        for name in self.kept:
            row = self.rows[name]
            assert row.score is not None and row.similarity is not None and row.centroid_score is not None
            alike = (1 + row.similarity) / 2 if similarity == "cosine" else row.similarity
            row.score *= row.centroid_score ** powers["centroid"] * alike ** powers["statistics"]

    def choose(self, num_sources: int) -> dict[str, Expert]:
        """Return the best of the kept sources, with all of their weights."""
        order = self.kept if self.rank_by == "random" else self.by("score")
        chosen: dict[str, Expert] = {}
        self.reader.stage = "heads" if self.encoder_first else "models"
        for name in order:
            if len(chosen) == num_sources:
                break
            first = self.cards[next(iter(chosen), name)]
            if tokenizer_of(self.cards[name].preprocessing) != tokenizer_of(first.preprocessing):
                self.rows[name].reason = f"its tokenizer is another than that of {first.name}, the best source"
                continue
            if name in self.experts or self._tried(name, self._complete):
                chosen[name] = self.experts[name]
                self.rows[name].chosen = True
        if not chosen:
            reasons = shorten([f"{row.name}: {row.reason}" for row in self.rows.values() if row.reason])
            raise InputError(f"registry: none of {len(self.rows)} sources can be used ({reasons})")
        return chosen

    def _tried(self, name: str, what: Any) -> bool:
        row = self.rows[name]
        try:
            try:
                what(row, self.cards[name])
            except RepublishedError:  # once more, with the current card
                self.cards[name] = self.reader.card(name)
                if reason := self._unfit(self.cards[name], self.shared(self.cards[name]), self.num_statistics):
                    raise InputError(reason) from None
                self._run(row, self.cards[name])
                if what == self._complete:
                    self._complete(row, self.cards[name])
        except Exception as error:  # a foreign network may raise anything, and a connection break
            kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            row.reason = f"cannot be used: {kind}{error}"
            row.kept, row.score = False, None
            self.kept = [kept for kept in self.kept if kept != name]
            warnings.warn(f"source {name} {row.reason}", stacklevel=4)
        return not row.reason

    def _run(self, row: SelectionRow, card: Card) -> None:
        """Read one source and fill its row."""
        means = None
        if self.rank_by in ("product", "evidence", "centroid"):
            labels, values = self.reader.centroids(card)
            table = dict(zip(card.classes, self.classes_of(card), strict=True))
            means = {table[label]: mean for label, mean in zip(labels, values, strict=True)}
        weights = self.reader.weights(card, "encoder")
        partial = self.encoder_first and card.splits
        if not partial and card.splits:
            weights |= self.reader.weights(card, "head")
        expert = self.reader.build(card, weights, whole=not partial)
        expert.classes = self.classes_of(card)
        self._measure(row, expert, means, accuracy=not self.encoder_first)
        if self.encoder_first:
            self.encoders[row.name] = weights
        else:
            self.experts[row.name] = expert
        row.score = self._score(row)

    def _score(self, row: SelectionRow) -> float | None:
        factors: dict[str, tuple[float | None, ...]] = {
            "product": (row.coverage, row.centroid_score, row.accuracy),
            "evidence": (row.coverage, row.accuracy),  # until the evidence of all sources is known
            "centroid": (row.coverage, row.centroid_score),
            "accuracy": (row.coverage, row.accuracy),
            "statistics": (row.similarity,),
        }
        if self.rank_by == "random":
            return None
        return math.prod(factor for factor in factors[self.rank_by] if factor is not None)  # no heads, no accuracy

    def _complete(self, row: SelectionRow, card: Card) -> None:
        """Read the head of a source whose encoder was read."""
        head = self.reader.weights(card, "head") if card.splits else {}
        expert = self.reader.build(card, self.encoders[row.name] | head)
        expert.classes = self.classes_of(card)
        self._measure(row, expert, None, accuracy=True)
        self.experts[row.name] = expert

    def _measure(self, row: SelectionRow, expert: Expert, means: Mapping[str, Tensor] | None, accuracy: bool) -> None:
        """Run a source on the labeled samples, and compute its centroid similarity and accuracy."""
        shared = self.shared(self.cards[row.name])
        place = [shared.index(label) if label in shared else -1 for label in self.classes]
        found, labeled, tokenizer = self.samples.read_by(self.cards[row.name])
        expert.convert_from(found, None)  # differences are reported together
        sums, counts, outputs = class_sums(expert, labeled, place, len(shared))
        if tokenizer is not None:
            expert.new_sample_facts = {"trained_tokenizer": tokenizer}
        expert.convert_from(None)
        if means is not None:
            both = [number for number, label in enumerate(shared) if counts[number] and label in means]
            if not both:
                raise InputError("it has no centroid of a class with labeled target samples")
            ours = sums[both] / counts[both, None]
            theirs = torch.stack([means[shared[number]] for number in both]).double()
            row.centroid_similarity = float(cosine(ours, theirs).mean())
            row.centroid_score = (1 + row.centroid_similarity) / 2
        if accuracy:
            own = torch.tensor(place)[self.targets]
            columns = [expert.classes.index(label) for label in shared]
            right = (outputs[:, columns].argmax(1) == own).sum()  # also the maximum of the softmax over shared classes
            row.accuracy = (int(right) + 1) / (int((own >= 0).sum()) + len(shared))

    def _warn_of_preprocessing(self) -> None:
        found = {}
        for name in self.kept:
            card = self.cards[name]
            found[name] = differences(card.preprocessing, self.samples.read_by(card)[0], converted=False)
        if other := {name: settings for name, settings in found.items() if settings}:
            name, settings = next(iter(other.items()))
            keys = sorted(settings)
            warnings.warn(
                f"source(s) {shorten(sorted(other))} were trained with another preprocessing than the "
                f"target's: {name} differs in {shorten(keys)}; give the same {shorten(keys)} to the data "
                "modules of sources and target",
                stacklevel=4,
            )

    def table(self, chosen: Mapping[str, Expert]) -> list[SelectionRow]:
        """Return the rows in the order of :class:`Selection`."""
        ranked = [*chosen, *self.by("score"), *self.kept, *self.by("similarity"), *self.rows]
        return [self.rows[name] for name in dict.fromkeys(ranked)]


def other_channels(source: Any, target: Any) -> str | None:
    """Return why a source does not read the target's channels, names or a number of them; ``None`` if it may.

    Example:
        >>> other_channels(["x", "y", "z"], ["x", "y"])
        'it reads the channels x, y, z, and the target has x, y'
        >>> other_channels(["ax", "ay"], ["x", "y"])
    """
    if isinstance(source, int) and isinstance(target, int) and source != target:
        return f"it reads {source} channel(s), and the target has {target}"
    if isinstance(source, list) and isinstance(target, list) and len(source) != len(target):
        return f"it reads the channels {shorten(source, 9)}, and the target has {shorten(target, 9)}"
    return None


def check_selection(
    keep_fraction: float = 0.5,
    num_sources: int = 5,
    encoder_first: bool = False,
    similarity: str = "cosine",
    rank_by: str = "product",
) -> None:
    """Check the arguments of :func:`select_sources` that do not depend on a registry.

    Raises:
        InputError: If one is invalid.
    """
    check_choices(select_sources, locals())
    if not 0 < keep_fraction <= 1:
        raise InputError(f"keep_fraction is {keep_fraction}; expected a fraction of the sources, above 0 and at most 1")
    if num_sources < 1:
        raise InputError(f"num_sources is {num_sources}; expected at least 1")
    if encoder_first and rank_by not in ("product", "centroid"):
        raise InputError(f"encoder_first ranks by centroids, but rank_by is {rank_by!r}; change one of them")
