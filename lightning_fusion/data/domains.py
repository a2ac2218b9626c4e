"""What data modules with domains share: the domains in use, their own classes, and warnings that are given once."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_fusion.data.base import FusionDataModule, RowDataset, Rows, Stage, made_at
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.hyperparameters import record_arguments


class Notices:
    """Warnings and remarks of a data module; each text is given once, by one process.

    Example:
        >>> notices = Notices()
        >>> notices.inform("3 texts are cut")
        >>> notices.inform("3 texts are cut"), notices.given
        (None, {'3 texts are cut'})
    """

    def __init__(self) -> None:
        self.given: set[str] = set()

    def warn(self, message: str) -> None:
        """Give a warning, unless it was given before."""
        if message not in self.given:
            self.given.add(message)
            rank_zero_warn(message)

    def inform(self, message: str) -> None:
        """Log a remark, unless it was given before."""
        if message not in self.given:
            self.given.add(message)
            rank_zero_info(message)


def as_names(values: Iterable[str | int] | str | int | None) -> list[str]:
    """Names as texts, for YAML reads 33 as a number; one name stands for a list of one, None for an empty list.

    Example:
        >>> as_names([33, "b"]), as_names("b"), as_names(None)
        (['33', 'b'], ['b'], [])
    """
    if values is None:
        return []
    return [str(value) for value in ([values] if isinstance(values, (str, int)) else values)]


def chosen_domains(
    domain: Iterable[str | int] | str | int | None, domains: Sequence[str], by_number: bool = False
) -> list[int]:
    """Numbers of the domains that the argument ``domain`` selects, in order; all where it is None.

    Args:
        domain: Name or names.
        domains: All names.
        by_number: A domain may be given by its number as well; a name comes first, for folders may be called 2019.

    Raises:
        InputError: If ``domain`` names none, or one that is not there.

    Example:
        >>> chosen_domains("b", ["a", "b"]), chosen_domains(None, ["a", "b"])
        ([1], [0, 1])
        >>> chosen_domains(1, ["a", "b"], by_number=True)
        [1]
    """
    if domain is None:
        return list(range(len(domains)))
    known = {str(number): number for number in range(len(domains) if by_number else 0)}
    known |= {name: number for number, name in enumerate(domains)}
    wanted = as_names(domain)
    if not wanted or not set(wanted) <= set(known):
        raise InputError(
            f"domain is {domain!r}; expected one or several of the {len(domains)} domains {shorten(domains, 9)}"
            + (f", or a number below {len(domains)}" if by_number else "")
        )
    return sorted({known[name] for name in wanted})


def check_label_names(labels: Iterable[str | int] | None, ignored: Iterable[str | int] | None = None) -> None:
    """Refuse labels that no classifier can tell apart.

    Args:
        labels: All that there may be, as an argument; None where they are to be found.
        ignored: Labels that count as none.

    Raises:
        InputError: If there are less than two, or one twice.
    """
    known = as_names(labels)
    both = [*known, *as_names(ignored)]
    if labels is not None and (len(known) < 2 or len(set(both)) < len(both)):
        hint = ", none of them in ignored_labels" if ignored is not None else ""
        raise InputError(f"labels is {known}; expected two or more different names{hint}")


def local_classes(classes: Sequence[int] | np.ndarray, count: int) -> np.ndarray:
    """What each of the task's classes is among some of them: (count + 1,) numbers, -1 for the others.

    The last entry is -1, so that a label of -1 ("none of the classes") stays what it is.

    Args:
        classes: Numbers of the classes in use.
        count: All classes of the task.

    Example:
        >>> local_classes([1, 3], 4)[[0, 1, 3, -1]].tolist()
        [-1, 0, 1, -1]
    """
    local = np.full(count + 1, -1)
    local[np.asarray(classes, np.int64)] = np.arange(len(classes))
    return local


def domain_matrix(domain: np.ndarray, count: int) -> Tensor:
    """``Batch.domain`` of rows that belong to one domain each: (N, D) bool of (N,) numbers; all False for -1.

    Example:
        >>> domain_matrix(np.array([1, -1]), 2).tolist()
        [[False, True], [False, False]]
    """
    return torch.from_numpy(domain[:, None] == np.arange(count))


class ModalityDataModule(FusionDataModule):
    """What the bases of all modalities share: their arguments are recorded, and warnings are given once.

    Args:
        batch_size: Samples per batch and process.
        num_workers: Loader processes; only samples that are read batch by batch, not held in memory, gain from them.
        seed: Of splits, order, and all else that is drawn.
    """

    def __init__(self, batch_size: int = 64, num_workers: int = 0, seed: int = 0) -> None:
        super().__init__()
        record_arguments(self)
        self.notices = Notices()
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed

    def _check(self) -> None:
        self._check_loading()


class DomainsDataModule(ModalityDataModule):
    """Samples that have one label and belong to one domain each; ``domain`` selects some, with their own classes.

    A subclass implements :attr:`domains` and the properties and methods below that raise NotImplementedError.
    """

    @property
    def domains_are_classes(self) -> bool:
        """Whether each domain is a class, so that nothing is classified within one."""
        return False

    @property
    def classes(self) -> list[str]:
        """Names of the labels; with ``domain``, only of those that the chosen domains have."""
        return [self._labels[0][number] for number in self._own[1]]

    @property
    def own_domains(self) -> list[str]:
        """Names of the domains that are used: those of ``domain``, or all."""
        return [self.domains[number] for number in self._own[0]]

    def setup(self, stage: str | None = None) -> None:
        """Read and split the samples; cheap when repeated."""
        self.rows("train")

    def make_rows(self, split: str) -> RowDataset:
        """The samples of a split, of the domains in use."""
        rows, (known, label) = self._rows_of(split), self._labels
        target = torch.from_numpy(local_classes(self._own[1], len(known))[label])
        return RowDataset(self._inputs(), target, domain_matrix(self._domain_of, len(self.domains)), rows)

    @property
    def _labels(self) -> tuple[list[str], np.ndarray]:
        """Names of all classes, and the class of each sample, (N,); -1 where it has none."""
        raise NotImplementedError

    @property
    def _domain_of(self) -> np.ndarray:
        """(N,) the domain of each sample; -1 where it has none."""
        raise NotImplementedError

    def _rows_of(self, split: str) -> Tensor:
        """(n,) the samples of a split, of the domains in use."""
        raise NotImplementedError

    def _inputs(self) -> Rows:
        """What gives the inputs of samples."""
        raise NotImplementedError

    @made_at(Stage.USING)
    def _own(self) -> tuple[list[int], list[int]]:
        """Numbers of the domains, and of the classes, that are used."""
        known, label = self._labels
        chosen, classes = chosen_domains(self.domain, self.domains), list(range(len(known)))
        if self.domain is not None:
            classes = np.unique(label[np.isin(self._domain_of, chosen)]).tolist()
        self._check_own(chosen, classes)
        return chosen, classes

    def _check_own(self, chosen: list[int], classes: list[int]) -> None:
        """Refuse domains in which there is nothing to tell apart."""
        if len(classes) < 2 and not self.domains_are_classes:
            raise InputError(
                f"domain {shorten(self.domains[number] for number in chosen)} has "
                f"{shorten(self._labels[0][number] for number in classes) or 'no'} as its only class; a classifier "
                "needs two: leave this domain out, choose several, or change what tells domains apart"
            )
