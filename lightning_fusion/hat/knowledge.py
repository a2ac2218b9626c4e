"""Knowledge dictionary: predictions of the best mixer so far for every target sample."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch import distributed as dist

from lightning_fusion.data.splits import stratified_folds, stratified_split
from lightning_fusion.errors import InputError
from lightning_fusion.experts.layers import movement
from lightning_fusion.hyperparameters import check_choices

_HELD_SHARE = 0.2
_NEVER = -1


def default_threshold(target: Tensor, num_classes: int) -> float:
    """Return the minimum accuracy for injection: b = min(.95, max(fraction of the largest class, 1 / C) + .05).

    Args:
        target: (N,) labels, -100 for unlabeled samples.
        num_classes: C, number of classes.

    Example:
        >>> default_threshold(torch.tensor([0, 0, 0, 1, -100]), 2)
        0.8
    """
    counts = torch.bincount(target[target >= 0], minlength=num_classes)
    majority = float(counts.max()) / max(1, int(counts.sum()))
    return min(0.95, max(majority, 1 / num_classes) + 0.05)


def find_rows(known: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions of sample indices among sorted ones.

    Args:
        known: (N,) numbers in ascending order.
        index: (B,) numbers to look up.

    Returns:
        (B,) positions in ``known``, and (B,) bool, which numbers are not in ``known``.

    Example:
        >>> find_rows(torch.tensor([3, 7, 40]), torch.tensor([40, 8, 3]))
        (tensor([2, 2, 0]), tensor([False,  True, False]))
    """
    rows = torch.searchsorted(known, index).clamp_max(len(known) - 1)
    return rows, known[rows] != index


class KnowledgeDictionary(nn.Module):
    """Probabilities of every sample by its index, replaced when the mixer has improved (HaT, section 3).

    During an epoch :meth:`keep` stores the mixer's predictions on each batch. At its end :meth:`update` compares the
    accuracy over the labeled samples with the best so far; if it is higher, the entries of all samples of the epoch are
    replaced. The state is in buffers, so a run can be resumed; values are float32 in any precision.

    With several processes the predictions are gathered; that of the process that processed a sample last is used.

    Args:
        index: (N,) sample numbers, in any order, not necessarily contiguous.
        num_classes: C, number of classes.
        target: (N,) labels in the order of ``index``, -100 for unlabeled samples.
        update_rule: Replace if the accuracy is greater (``gt``, as in the paper), or greater or equal (``ge``).
        accuracy_source: Samples of the accuracy: ``train``, all labeled samples, on which the mixer is trained (as in
            the paper); ``holdout``, a stratified fifth of them, which is excluded from training the mixer;
            ``crossfit``, all of them, each predicted by a mixer that was not trained on it.
        num_folds: Number of mixers of ``crossfit``.
        seed: Random seed of the held-out samples and folds.

    Raises:
        InputError: If sample numbers are repeated, or there are too few labeled samples for the accuracy source.

    Example:
        >>> knowledge = KnowledgeDictionary(torch.tensor([70, 7]), 2, target=torch.tensor([1, -100]))
        >>> rows = knowledge.rows(torch.tensor([7, 70]))
        >>> knowledge.keep(rows, torch.tensor([[0.9, 0.1], [0.2, 0.8]]))
        >>> knowledge.update(), knowledge(rows)[0].tolist()
        (True, [[0.8999999761581421, 0.10000000149011612], [0.20000000298023224, 0.800000011920929]])
    """

    index: Tensor
    target: Tensor
    fold: Tensor
    probabilities: Tensor
    filled: Tensor
    best: Tensor
    accuracy: Tensor
    updates: Tensor

    def __init__(
        self,
        index: Tensor,
        num_classes: int,
        target: Tensor,
        update_rule: Literal["gt", "ge"] = "gt",
        accuracy_source: Literal["train", "holdout", "crossfit"] = "train",
        num_folds: int = 3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_choices(KnowledgeDictionary.__init__, locals())
        order = index.argsort()
        index = index[order].to(torch.int64)
        if bool((index[1:] == index[:-1]).any()):
            double = index[1:][index[1:] == index[:-1]][0]
            raise InputError(f"Batch.index must be unique; the number {int(double)} stands for several samples")
        rows = len(index)
        if len(target) != rows:
            raise InputError(f"found {len(target)} targets of {rows} samples")
        target = target[order]
        self.update_rule, self.accuracy_source = update_rule, accuracy_source
        self.num_mixers = num_folds if accuracy_source == "crossfit" else 1
        self.register_buffer("index", index)
        self.register_buffer("target", target)
        self.register_buffer("fold", self._folds(target, num_folds, seed))
        self.register_buffer("probabilities", torch.zeros(rows, num_classes))
        self.register_buffer("filled", torch.zeros(rows, dtype=torch.bool))
        self.register_buffer("best", torch.zeros(()))
        self.register_buffer("accuracy", torch.zeros(()))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        # state of one epoch and process; DDP would overwrite buffers with those of the first process
        self.pending, self.seen = torch.zeros(rows, num_classes), torch.full((rows,), _NEVER)
        self.strange = torch.zeros((), dtype=torch.bool)
        self._step = 0

    def _folds(self, target: Tensor, num_folds: int, seed: int) -> Tensor:
        """Return (N,) number of the mixer that must not use the label: 0 if held out, the fold in crossfit, else -1."""
        fold = torch.full_like(target, -1)
        if self.accuracy_source == "train":
            return fold
        known = (target >= 0).nonzero().flatten()
        if self.accuracy_source == "holdout":
            held = torch.from_numpy(stratified_split(target[known].numpy(), _HELD_SHARE, seed)[1])
            fold[known[held]] = 0
            if not len(held):
                raise InputError(
                    "accuracy_source: holdout needs a class with two labeled samples; label more, or use train"
                )
            return fold
        if num_folds < 2 or len(known) < num_folds:
            raise InputError(
                f"accuracy_source: crossfit with {num_folds} folds of {len(known)} labeled samples; expected 2 folds "
                "or more, and a sample for each"
            )
        fold[known] = torch.from_numpy(stratified_folds(target[known].numpy(), num_folds, seed))
        return fold

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move, but do not cast: a run in true half precision must not round the dictionary."""
        move = movement(fn)
        self.pending, self.seen, self.strange = map(move, (self.pending, self.seen, self.strange))
        apply: Callable[..., Any] = super()._apply  # untyped in torch
        return apply(move, recurse)

    def is_of(self, index: Tensor, target: Tensor) -> bool:
        """Return whether sample numbers and labels, (N,) in ascending order of the numbers, are those stored."""
        return torch.equal(self.index, index) and torch.equal(self.target, target)

    def rows(self, index: Tensor) -> Tensor:
        """Return the (B,) rows of samples by their numbers (B,), which the other methods take.

        Raises:
            InputError: If a number is not in the dictionary; on a GPU the check is deferred to :meth:`update`, to avoid
                a synchronization.
        """
        rows, strange = find_rows(self.index, index)
        if strange.device.type != "cpu":
            self.strange |= strange.any()
        elif bool(strange.any()):
            raise InputError(
                f"sample number {int(index[strange][0])} is not a training sample; Batch.index must not change"
            )
        return rows

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the entries (B, C) of rows (B,), zeros for missing ones, and (B,) bool, which are present."""
        return self.probabilities[rows], self.filled[rows]

    def taught(self, rows: Tensor, target: Tensor, mixer: int = 0) -> Tensor:
        """Return the (B,) targets that a mixer is trained on: -100 for samples held out from it.

        Args:
            rows: (B,) rows of the batch.
            target: (B,) targets of the batch.
            mixer: Number of the mixer; 0 except for ``crossfit``.
        """
        return target if self.accuracy_source == "train" else target.where(self.fold[rows] != mixer, -100)

    def combine(self, rows: Tensor, probabilities: list[Tensor]) -> Tensor:
        """Combine the predictions of several mixers (B, C): held-out ones for labeled samples, else their mean.

        Args:
            rows: (B,) rows of the batch.
            probabilities: (B, C) probabilities of each mixer.
        """
        if len(probabilities) == 1:
            return probabilities[0]
        stacked, fold = torch.stack(probabilities, 1), self.fold[rows]
        own = stacked[torch.arange(len(fold), device=fold.device), fold.clamp_min(0)]
        return own.where((fold >= 0)[:, None], stacked.mean(1))

    @torch.no_grad()
    def keep(self, rows: Tensor, probabilities: Tensor) -> None:
        """Store the mixer's predictions on a batch until :meth:`update`; later predictions replace earlier ones.

        Args:
            rows: (B,) rows of the batch.
            probabilities: (B, C) probabilities of the mixer.
        """
        self.pending[rows] = probabilities.to(self.pending.dtype)
        self.seen[rows] = self._step
        self._step += 1

    @torch.no_grad()
    def fill(self, index: Tensor, probabilities: Tensor, accuracy: float) -> None:
        """Store the predictions of a teacher that does not change during the training.

        Args:
            index: (M,) sample numbers.
            probabilities: (M, C) probabilities.
            accuracy: Accuracy of the teacher on labels that it was not fitted on.
        """
        rows = self.rows(index)
        self.probabilities[rows] = probabilities.to(self.probabilities)
        self.filled[rows] = True
        self.accuracy.fill_(accuracy)
        self.best.fill_(accuracy)
        self.updates.fill_(1)

    @torch.no_grad()
    def update(self) -> bool:
        """End the epoch: replace its predictions if the accuracy is the best so far; return whether it is.

        Raises:
            InputError: If the epoch has no labeled sample of ``accuracy_source``.
        """
        self._gather()
        if bool(self.strange):
            raise InputError("found sample numbers that are not training samples; Batch.index must not change")
        seen = self.seen != _NEVER
        judged = seen & (self.target >= 0)
        if self.accuracy_source == "holdout":
            judged &= self.fold >= 0
        if not bool(judged.any()):
            raise InputError("the epoch had none of the labeled samples that determine the mixer's accuracy")
        right = self.pending[judged].argmax(1) == self.target[judged]
        accuracy = float(right.double().mean())
        self.accuracy.fill_(accuracy)
        better = bool(self.accuracy > self.best)  # both have the same rounding
        if self.update_rule == "ge":
            better |= bool(self.accuracy == self.best) and accuracy > 0
        if better:
            self.probabilities[seen] = self.pending[seen]
            self.filled |= seen
            self.best.copy_(self.accuracy)
            self.updates += 1
        self.seen.fill_(_NEVER)
        self._step = 0
        return better

    def _gather(self) -> None:
        """Give every process each row from the process that processed it last."""
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return
        last = self.seen.clone()
        dist.all_reduce(last, dist.ReduceOp.MAX)
        own = (self.seen == last) & (last != _NEVER)
        parts = torch.cat([self.pending * own[:, None], own[:, None].to(self.pending.dtype)], 1)
        dist.all_reduce(parts)
        self.pending.copy_(parts[:, :-1] / parts[:, -1:].clamp_min(1))
        self.seen.copy_(last)

    def alpha(self, alpha_0: float, threshold: float, scaled: bool = True) -> Tensor:
        """Return the strength of the injection, 0 where the accuracy is below the threshold.

        Args:
            alpha_0: Maximum strength.
            threshold: b, see :func:`~lightning_fusion.hat.knowledge.default_threshold`.
            scaled: Return alpha_0 times the accuracy, as in the paper, instead of alpha_0.
        """
        strength = alpha_0 * self.accuracy if scaled else torch.full_like(self.accuracy, alpha_0)
        return strength * reaches(self.accuracy, threshold)


def reaches(accuracy: Tensor, threshold: float) -> Tensor:
    """Return whether an accuracy is a threshold or more, both rounded to the data type of the accuracy.

    Example:
        >>> reaches(torch.tensor(17 / 30), 17 / 30), torch.tensor(17 / 30).item() >= 17 / 30
        (tensor(True), False)
    """
    return accuracy >= torch.full_like(accuracy, threshold)
