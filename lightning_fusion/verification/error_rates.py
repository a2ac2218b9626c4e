"""Error rates of verification scores: EER, minDCF, and their confidence intervals."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_fusion.errors import InputError

_CELLS = 2_000_000
"""Maximum number of weights that :func:`bootstrap_eer` holds in memory."""


class ErrorCurve(NamedTuple):
    """Error rates at each distinct threshold; a trial is accepted if its score is at least the threshold.

    Attributes:
        threshold: (U + 1,) the U distinct scores in ascending order, then infinity, which accepts no trial.
        false_alarm: (U + 1,) fraction of the trials of two speakers that are accepted, from 1 down to 0.
        miss: (U + 1,) fraction of the trials of one speaker that are rejected, from 0 up to 1.
    """

    threshold: Tensor
    false_alarm: Tensor
    miss: Tensor

    def equal_error_rate(self) -> Tensor:
        """Return the rate at which both errors are equal, a scalar; see :func:`equal_error_rate`."""
        return _crossing(self.false_alarm, self.miss)

    def min_dcf(self, p_target: float = 0.01, c_miss: float = 1.0, c_false_alarm: float = 1.0) -> Tensor:
        """Return the minimum normalized detection cost over all thresholds, a scalar; see :func:`min_dcf`."""
        if not 0 < p_target < 1:
            raise InputError(f"p_target is {p_target}; expected a number between 0 and 1")
        for name, cost in (("c_miss", c_miss), ("c_false_alarm", c_false_alarm)):
            if not 0 < cost < float("inf"):
                raise InputError(f"{name} is {cost}; expected a finite number > 0")
        missed, alarmed = c_miss * p_target, c_false_alarm * (1 - p_target)
        return (missed * self.miss + alarmed * self.false_alarm).min() / min(missed, alarmed)


def error_curve(scores: Tensor, same: Tensor) -> ErrorCurve:
    """Compute both error rates at every distinct score, in O(T log T) time and O(T) memory.

    Equal scores share one threshold.

    Args:
        scores: (T,) scores of any range; a larger score means "same speaker".
        same: (T,) bool, or 0 and 1: which trials are of one speaker.

    Returns:
        The curve, float64, on the device of the scores.

    Raises:
        InputError: If lengths differ, scores are NaN, or all trials are of one kind.

    Example:
        >>> curve = error_curve(torch.tensor([0.9, 0.2, 0.2, -3.0]), torch.tensor([True, True, False, False]))
        >>> curve.false_alarm.tolist(), curve.miss.tolist()
        ([1.0, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 1.0])
    """
    scores, same = _trials(scores, same)
    values, order = scores.sort()
    rejected = same[order].cumsum(0)  # of one speaker, up to each place
    starts = _starts(values)
    below = torch.cat((starts, starts.new_tensor([len(values)])))  # trials under each threshold
    missed = torch.cat((rejected.new_zeros(1), rejected))[below]
    targets = rejected[-1]
    return ErrorCurve(
        threshold=torch.cat((values[starts], values.new_tensor([torch.inf]))),
        false_alarm=1 - (below - missed).to(torch.float64) / (len(values) - targets),
        miss=missed.to(torch.float64) / targets,
    )


def equal_error_rate(scores: Tensor, same: Tensor) -> Tensor:
    """Compute the equal error rate (EER), at the threshold where false-alarm rate and miss rate are equal.

    Both rates are interpolated linearly between neighboring thresholds; the EER is the rate at which they cross. Equal
    scores share one threshold, so the result does not depend on the order of the trials.

    Args:
        scores: (T,) scores of any range; a larger score means "same speaker".
        same: (T,) bool, or 0 and 1: which trials are of one speaker.

    Returns:
        A scalar in [0, 1], float64.

    Raises:
        InputError: If lengths differ, scores are NaN, or all trials are of one kind.

    Example:
        >>> equal_error_rate(torch.tensor([3.0, 1.0, 2.0, 0.0]), torch.tensor([True, True, False, False])).item()
        0.5
    """
    return error_curve(scores, same).equal_error_rate()


def min_dcf(
    scores: Tensor, same: Tensor, p_target: float = 0.01, c_miss: float = 1.0, c_false_alarm: float = 1.0
) -> Tensor:
    """Compute the minimum normalized detection cost (minDCF) over all thresholds.

    DCF(t) = (c_miss p_target miss(t) + c_false_alarm (1 - p_target) false_alarm(t)) / min(c_miss p_target,
    c_false_alarm (1 - p_target)): 1 is the cost of accepting all trials or none, whichever is lower. Source: NIST 2016
    Speaker Recognition Evaluation Plan, section 3; the defaults are VoxCeleb's.

    Args:
        scores: (T,) scores of any range; a larger score means "same speaker".
        same: (T,) bool, or 0 and 1: which trials are of one speaker.
        p_target: Prior probability of a trial of one speaker.
        c_miss: Cost of rejecting a trial of one speaker.
        c_false_alarm: Cost of accepting a trial of two speakers.

    Returns:
        A scalar in [0, 1], float64.

    Raises:
        InputError: If lengths differ, scores are NaN, all trials are of one kind, or a cost is out of range.

    Example:
        >>> min_dcf(torch.tensor([3.0, 1.0, 2.0, 0.0]), torch.tensor([True, True, False, False])).item()
        0.5
    """
    return error_curve(scores, same).min_dcf(p_target, c_miss, c_false_alarm)


def bootstrap_eer(
    scores: Tensor, same: Tensor, groups: Tensor, repeats: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Compute a 95 % bootstrap interval of the EER over speakers, which accounts for several trials of one speaker.

    Args:
        scores: Argument of :func:`bootstrap_eers`.
        same: Argument of :func:`bootstrap_eers`.
        groups: Argument of :func:`bootstrap_eers`.
        repeats: Argument of :func:`bootstrap_eers`.
        seed: Argument of :func:`bootstrap_eers`.

    Returns:
        The 2.5 % and 97.5 % quantiles of the EER.

    Example:
        >>> scores, same = torch.tensor([0.9, 0.8, 0.3, 0.4]), torch.tensor([True, True, False, False])
        >>> bootstrap_eer(scores, same, torch.tensor([[0, 0], [1, 1], [0, 1], [1, 0]]), repeats=50)
        (0.0, 0.0)
    """
    rates = bootstrap_eers(scores, same, groups, repeats, seed)
    low, high = torch.quantile(rates, rates.new_tensor([0.025, 0.975])).tolist()
    return low, high


def bootstrap_eers(scores: Tensor, same: Tensor, groups: Tensor, repeats: int = 1000, seed: int = 0) -> Tensor:
    """Compute the EER on bootstrap draws of the speakers; the draws do not depend on the scores.

    Each repeat draws as many speakers as there are, with replacement. The weight of a trial of two speakers is the
    product of their counts in the draw; that of a trial of one speaker is the speaker's count (our choice: copies of a
    speaker are not compared with one another). Draws without trials of both kinds are discarded.

    Args:
        scores: (T,) scores of any range; a larger score means "same speaker".
        same: (T,) bool, or 0 and 1: which trials are of one speaker.
        groups: (T, 2) int64, the speakers of either side, or coarser groups of speakers.
        repeats: Number of draws.
        seed: Random seed of the draws.

    Returns:
        The EER of each draw that has trials of both kinds, float64.

    Raises:
        InputError: If lengths differ, scores are NaN, trials are of one kind, ``groups`` contradicts ``same``, or no
            draw has trials of both kinds.
    """
    scores, same = _trials(scores, same)
    check_pairs(groups, "groups")
    if len(groups) != len(scores):
        raise InputError(f"found {len(scores)} scores and {len(groups)} rows of groups; expected as many")
    if repeats < 1:
        raise InputError(f"repeats is {repeats}; expected 1 or more")
    groups = groups.to(scores.device)
    within = groups[:, 0] == groups[:, 1]
    if len(apart := (same & ~within).nonzero()[:, 0]):
        raise InputError(
            f"groups: {len(apart)} trials of one speaker lie in two groups, the first at row {int(apart[0])}; expected "
            "same to be False there"
        )
    values, order = scores.sort()
    speakers, members = groups[order].unique(return_inverse=True)
    starts, within, same = _starts(values), within[order], same[order]
    ends = torch.cat((starts[1:], starts.new_tensor([len(values)]))) - 1
    rng = np.random.default_rng(seed)
    found = []
    step = max(1, _CELLS // len(values))
    for begin in range(0, repeats, step):
        count = min(step, repeats - begin)
        draws = rng.multinomial(len(speakers), np.full(len(speakers), 1 / len(speakers)), size=count)
        drawn = torch.from_numpy(draws).to(scores)
        weight = drawn[:, members[:, 0]] * torch.where(within, 1.0, drawn[:, members[:, 1]])
        rejected, accepted = ((weight * kind).cumsum(1)[:, ends] for kind in (same, ~same))
        usable = (rejected[:, -1] > 0) & (accepted[:, -1] > 0)
        miss, false_alarm = (part[usable] / part[usable, -1:] for part in (rejected, accepted))
        none = miss.new_zeros(len(miss), 1)
        found.append(_crossing(1 - torch.cat((none, false_alarm), 1), torch.cat((none, miss), 1)))
    rates = torch.cat(found)
    if not len(rates):
        raise InputError(f"groups: none of {repeats} draws of {len(speakers)} speakers has trials of both kinds")
    return rates


def _crossing(false_alarm: Tensor, miss: Tensor) -> Tensor:
    """Return the (...) rate at which two (..., P) piecewise linear curves cross, one decreasing, one increasing."""
    gap = miss - false_alarm  # from -1 to 1, not decreasing
    after = torch.searchsorted(gap, gap.new_zeros((*gap.shape[:-1], 1)))
    before = after - 1
    start, end = gap.gather(-1, before), gap.gather(-1, after)
    low, high = miss.gather(-1, before), miss.gather(-1, after)
    return (low - start / (end - start) * (high - low)).squeeze(-1)


def _starts(values: Tensor) -> Tensor:
    """Return the start of each run of equal values."""
    new = torch.ones_like(values, dtype=torch.bool)
    torch.ne(values[1:], values[:-1], out=new[1:])
    return new.nonzero()[:, 0]


def _trials(scores: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores as float64 and kinds as bool, on one device."""
    if scores.ndim != 1:
        raise InputError(f"scores has shape {tuple(scores.shape)}; expected (trials,)")
    same = check_kinds(same, len(scores), "scores")
    if bad := int(scores.isnan().sum()):
        raise InputError(f"scores: found {bad} NaN; expected none")
    return scores.detach().to(torch.float64), same.to(scores.device)


def check_kinds(same: Tensor, count: int, what: str) -> Tensor:
    """Return which trials are of one speaker, (T,) bool; both kinds are present.

    Raises:
        InputError: If the length is not ``count``, the length of ``what``, or all trials are of one kind.
    """
    if tuple(same.shape) != (count,):
        raise InputError(f"same has shape {tuple(same.shape)}, {what} has {count} rows; expected as many")
    if same.dtype != torch.bool and not ((same == 0) | (same == 1)).all():
        raise InputError("same: expected True and False, or 0 and 1")
    same = same.to(torch.bool)
    targets = int(same.sum())
    if not 0 < targets < count:
        raise InputError(
            f"same: found {targets} trials of one speaker and {count - targets} of two; expected some of either kind"
        )
    return same


def check_pairs(pairs: Tensor, where: str) -> None:
    """Check that the argument contains pairs of numbers.

    Raises:
        InputError: If the argument is not a (T, 2) tensor of integers.
    """
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.is_floating_point or pairs.dtype == torch.bool:
        raise InputError(
            f"{where} has shape {tuple(pairs.shape)} and type {pairs.dtype}; expected (trials, 2) integers"
        )
