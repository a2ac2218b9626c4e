"""Base classes of data modules with domains: selected domains, their classes, and messages logged once."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn
from torch import Tensor

from lightning_fusion.data.base import FusionDataModule, Stage, staged_property
from lightning_fusion.data.duplicates import Samples, duplicates_message
from lightning_fusion.data.names import as_labels, as_names, canonical_label, read_labels
from lightning_fusion.data.rows import RowDataset, Rows
from lightning_fusion.data.targets import UNLABELED
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.hyperparameters import record_arguments

STATISTICS = ("mean", "std", "missing")


class MessageLog:
    """Log of a data module's warnings and messages: each text is logged once, by rank zero, and kept in ``texts``.

    Example:
        >>> messages = MessageLog()
        >>> messages.info("3 texts are cut")
        >>> messages.info("3 texts are cut"), messages.texts
        (None, ['3 texts are cut'])
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._keys: set[str] = set()

    def warn(self, message: str | None) -> None:
        """Log a warning, unless it was logged before or is None."""
        if message is not None and message not in self.texts:
            self.texts.append(message)
            rank_zero_warn(message)

    def first(self, key: str) -> bool:
        """Return whether this is the first call with a key, for messages whose text depends on the variant."""
        new = key not in self._keys
        self._keys.add(key)
        return new

    def info(self, message: str | None) -> None:
        """Log a message, unless it was logged before or is None."""
        if message is not None and message not in self.texts:
            self.texts.append(message)
            rank_zero_info(message)


def chosen_domains(
    domain: Iterable[str | int] | str | int | None, domains: Sequence[str], by_number: bool = False
) -> list[int]:
    """Return the indices of the domains that the argument ``domain`` selects, in order; all domains if it is None.

    Args:
        domain: One name or several.
        domains: Names of all domains.
        by_number: Accept the index of a domain as well; names take precedence, because a folder may be called 2019.

    Raises:
        InputError: If ``domain`` is empty or names an unknown domain.

    Example:
        >>> chosen_domains("b", ["a", "b"]), chosen_domains(None, ["a", "b"])
        ([1], [0, 1])
        >>> chosen_domains(1, ["a", "b"], by_number=True)
        [1]
    """
    if domain is None:
        return list(range(len(domains)))
    known = {str(number): number for number in range(len(domains) if by_number else 0)}
    known |= {canonical_label(name): number for number, name in enumerate(domains)}
    wanted = [canonical_label(name) for name in as_names(domain, "domain")]
    if not wanted or not set(wanted) <= set(known):
        raise InputError(
            f"domain is {domain!r}; expected one or several of the {len(domains)} domains {shorten(domains, 9)}"
            + (f", or a number below {len(domains)}" if by_number else "")
        )
    return sorted({known[name] for name in wanted})


def check_label_names(
    labels: Iterable[str | int] | Mapping[str | int, str | int] | None, ignored: Iterable[str | int] | None = None
) -> None:
    """Validate the argument ``labels``: two or more different names, or new names of some labels.

    Args:
        labels: All permitted labels, or a mapping from labels to new names; ``None`` if they are read from the data.
        ignored: Labels of samples that are left out.

    Raises:
        InputError: If there are fewer than two labels, or one is repeated.
    """
    known, renamed = read_labels(labels)
    both = [*known, *as_labels(ignored, "ignored_labels")]
    if labels is not None and not renamed and (len(known) < 2 or len(set(both)) < len(both)):
        hint = ", none of them in ignored_labels" if ignored is not None else ""
        raise InputError(f"labels is {known}; expected two or more different names{hint}")


def local_classes(classes: Sequence[int] | np.ndarray, count: int) -> np.ndarray:
    """Map the classes of a task to their indices in a subset: (count + 1,) indices, -1 for classes outside the subset.

    The last entry is -1, so that the label -1 ("no class") maps to itself.

    Args:
        classes: Indices of the classes in the subset.
        count: Number of classes of the task.

    Example:
        >>> local_classes([1, 3], 4)[[0, 1, 3, -1]].tolist()
        [-1, 0, 1, -1]
    """
    local = np.full(count + 1, -1)
    local[np.asarray(classes, np.int64)] = np.arange(len(classes))
    return local


def domain_matrix(domain: np.ndarray, count: int) -> Tensor:
    """One-hot encode domain indices (N,) as ``Batch.domain`` (N, D) bool; all False for -1.

    Example:
        >>> domain_matrix(np.array([1, -1]), 2).tolist()
        [[False, True], [False, False]]
    """
    return torch.from_numpy(domain[:, None] == np.arange(count))


class ModalityDataModule(FusionDataModule):
    """Base class of the data modules of all modalities: records the arguments and logs each message once.

    Args:
        batch_size: Samples per batch and process.
        num_workers: Number of loader processes; useful only if samples are read batch by batch, not held in memory.
        seed: Seed of splits, order and all other draws.
        predict_root: File or folder of any layout with new samples, for ``predict`` alone, which needs no labels and no
            labeled data then. ``None`` (default) predicts the test split.
    """

    def __init__(
        self, batch_size: int = 64, num_workers: int = 0, seed: int = 0, predict_root: str | None = None
    ) -> None:
        super().__init__()
        record_arguments(self)
        self.messages = MessageLog()
        self.predict_root = predict_root
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self._carried: Mapping[str, Any] = {}  # statistics of a model's training

    def use_preprocessing(self, known: Mapping[str, Any] | None) -> None:
        """Normalize with the statistics of a model's training, in place of those that are not given as arguments.

        Args:
            known: Preprocessing of the training; ``None`` means statistics of the data again. Statistics of other
                channels are not used.
        """
        carried = dict(known) if known and self._are_of_channels(known) else {}
        if carried == self._carried:
            return
        if self._carried:
            self._carried = {}
            self._configure()
        if carried and self._statistics_of_data() != {name: carried.get(name) for name in STATISTICS}:
            self._carried = carried
            self._configure()
            if None in (getattr(self, "mean", ()), getattr(self, "std", ())):
                self.messages.info("normalization: mean and std are those of the model's training, not of these data")

    def _statistics_of_data(self) -> dict[str, Any]:
        """Return the statistics of the normalization by arguments and data."""
        try:
            own = self.preprocessing  # type: ignore[attr-defined]  # of all modules with statistics
        except InputError:  # these data have no training samples
            own = {}
        return {name: own.get(name) for name in STATISTICS}

    def _are_of_channels(self, known: Mapping[str, Any]) -> bool:
        """Whether statistics are of the channels of this data module; by default it has none."""
        return False

    def _report_duplicates(
        self,
        source: object,
        what: str,
        equal: Callable[[], np.ndarray | None],
        samples: Callable[[], Samples],
        across: str = "domains",
    ) -> None:
        """Count samples of equal content, once for a source, however many variants share it.

        Args:
            source: Object that holds the samples; variants share it.
            what: Meaning of the samples.
            equal: Function that returns the first sample of the same content for each; None if that is unknown.
            samples: Function that returns what is known of the samples.
            across: Meaning of the domains.
        """
        if getattr(rank_zero_only, "rank", 0) or not self.messages.first(f"duplicates of {id(source)}"):
            return  # one process compares
        first = equal()
        if first is None or (first == np.arange(len(first))).all():
            return
        message, kinds = duplicates_message(first, what, samples(), across)
        if kinds - {"others"}:
            self.messages.warn(f"{message}; remove the copies")
        else:
            self.messages.info(message)

    def _check(self) -> None:
        self._check_loading()


class DomainsDataModule(ModalityDataModule):
    """Base class for samples of one label and one domain each; ``domain`` selects domains, with their own classes.

    A subclass implements :attr:`domains` and the properties and methods below that raise NotImplementedError.
    """

    @property
    def domains_are_classes(self) -> bool:
        """Whether each domain is a class, so that a single domain is no classification task."""
        return False

    @property
    def classes(self) -> list[str]:
        """Names of the classes; with ``domain``, only those of the selected domains."""
        return [self._labels[0][number] for number in self._own[1]]

    @property
    def own_domains(self) -> list[str]:
        """Names of the selected domains; all if ``domain`` is None."""
        return [self.domains[number] for number in self._own[0]]

    def _read_samples(self) -> None:
        self.rows("train")

    def make_rows(self, split: str) -> RowDataset:
        """Return the samples of a split that belong to the selected domains."""
        rows, (known, label) = self._rows_of(split), self._labels
        local = local_classes(self._own[1], len(known))[label]
        target = torch.from_numpy(np.where(local < 0, UNLABELED, local))
        return RowDataset(self._inputs(), target, domain_matrix(self._domain_of, len(self.domains)), rows)

    @property
    def _labels(self) -> tuple[list[str], np.ndarray]:
        """Names of all classes, and the (N,) class index of each sample; -1 where it has none."""
        raise NotImplementedError

    @property
    def _domain_of(self) -> np.ndarray:
        """(N,) domain index of each sample; -1 where it has none."""
        raise NotImplementedError

    def _rows_of(self, split: str) -> Tensor:
        """Return (n,) positions of the samples of a split that belong to the selected domains."""
        raise NotImplementedError

    def _inputs(self) -> Rows:
        """Inputs of all samples, indexed by a tensor."""
        raise NotImplementedError

    @staged_property(Stage.USING)
    def _own(self) -> tuple[list[int], list[int]]:
        """Indices of the selected domains and of their classes."""
        known, label = self._labels
        chosen, classes = chosen_domains(self.domain, self.domains), list(range(len(known)))
        if self.domain is not None:
            classes = np.unique(label[np.isin(self._domain_of, chosen) & (label >= 0)]).tolist()
        self._check_own(chosen, classes)
        return chosen, classes

    def _check_own(self, chosen: list[int], classes: list[int]) -> None:
        """Raise InputError for domains with fewer than two classes."""
        if len(classes) < 2 and not self.domains_are_classes:
            raise InputError(
                f"domain {shorten(self.domains[number] for number in chosen)} has "
                f"{shorten(self._labels[0][number] for number in classes) or 'no'} as its only class; a classifier "
                "needs two: leave this domain out, select several, or change the fields that define domains"
            )
