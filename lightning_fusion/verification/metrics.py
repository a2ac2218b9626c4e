"""Cosine scores of verification trials, and their metric."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_fusion.errors import InputError, shorten
from lightning_fusion.verification.error_rates import check_kinds, check_pairs, error_curve


def trial_scores(embeddings: Tensor, rows: Tensor, chunk: int = 4096) -> Tensor:
    """Compute the cosine scores of pairs of embeddings; each embedding is normalized once.

    Args:
        embeddings: (N, D) embeddings.
        rows: (T, 2) int64, the two rows of ``embeddings`` of each trial.
        chunk: Number of trials per step, which bounds the memory.

    Returns:
        (T,) scores in [-1, 1], float32 or the embeddings' wider type. An embedding of zeros scores 0.

    Raises:
        InputError: If shapes are wrong or a row does not exist.

    Example:
        >>> trial_scores(torch.tensor([[2.0, 0.0], [1.0, 1.0]]), torch.tensor([[0, 0], [0, 1]]))
        tensor([1.0000, 0.7071])
    """
    if embeddings.ndim != 2:
        raise InputError(f"embeddings has shape {tuple(embeddings.shape)}; expected (utterances, features)")
    check_pairs(rows, "rows")
    if len(rows) and not (rows.min() >= 0 and rows.max() < len(embeddings)):
        raise InputError(f"rows: found {int(rows.min())} to {int(rows.max())}; there are {len(embeddings)} embeddings")
    if chunk < 1:
        raise InputError(f"chunk is {chunk}; expected 1 or more")
    unit = F.normalize(embeddings.detach().to(torch.promote_types(embeddings.dtype, torch.float32)))
    scores = unit.new_empty(len(rows))
    for some, out in zip(rows.split(chunk), scores.split(chunk), strict=True):
        torch.linalg.vecdot(unit[some[:, 0]], unit[some[:, 1]], out=out)
    return scores.clamp_(-1, 1)  # rounding


class Verification(Metric):
    """EER and minDCF of a list of trials, for each member and for their fusion, from embeddings of utterances.

    Scores are cosines; the fused score is the mean of the members' cosines, which is the cosine of the concatenated
    unit embeddings. An utterance that occurs more than once, as with a distributed sampler, counts once, by its sample
    number. :meth:`reset` keeps the trials.

    Args:
        num_members: K, number of models.
        p_target: Prior probability of a same-speaker trial, see
            :func:`~lightning_fusion.verification.error_rates.min_dcf`.

    Example:
        >>> metric = Verification()
        >>> metric.set_trials(torch.tensor([[7, 8], [7, 9]]), torch.tensor([True, False]))
        >>> metric.update([torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])], torch.tensor([7, 8, 9]))
        >>> metric.compute()
        {'eer': tensor(0.), 'min_dcf': tensor(0.)}
    """

    full_state_update = False
    index: list[Tensor]

    def __init__(self, num_members: int = 1, p_target: float = 0.01) -> None:
        super().__init__(compute_with_cache=False)  # the trials may change between two calls
        if num_members < 1:
            raise InputError(f"num_members is {num_members}; expected 1 or more")
        self.num_members, self.p_target = num_members, p_target
        self.trials: tuple[Tensor, Tensor] | None = None
        self.add_state("index", [], dist_reduce_fx="cat")
        for member in range(num_members):
            self.add_state(f"embeddings_{member}", [], dist_reduce_fx="cat")
        self.reset()

    def reset(self) -> None:
        """Reset the embeddings; the trials are kept."""
        super().reset()
        # empty, with the final types: processes without samples take part in gathering
        self.index.append(torch.empty(0, dtype=torch.int64, device=self.device))
        for member in range(self.num_members):
            self._state(member).append(torch.empty(0, device=self.device))
        self.widths: list[int] = []

    def _state(self, member: int) -> list[Tensor]:
        embeddings: list[Tensor] = getattr(self, f"embeddings_{member}")
        return embeddings

    def set_trials(self, pairs: Tensor, same: Tensor) -> None:
        """Set the trials that :meth:`compute` scores.

        Args:
            pairs: (T, 2) int64, the sample numbers of either side.
            same: (T,) bool, or 0 and 1: which trials are of one speaker.

        Raises:
            InputError: If shapes are wrong, or all trials are of one kind.
        """
        check_pairs(pairs, "pairs")
        self.trials = pairs, check_kinds(same, len(pairs), "pairs")

    def update(self, embeddings: Sequence[Tensor], index: Tensor) -> None:
        """Update the state with the embeddings of a batch, as float32.

        Args:
            embeddings: One (B, D_k) tensor per member.
            index: (B,) int64 sample numbers.

        Raises:
            InputError: If there is not one matrix per member, or shapes are wrong.
        """
        if isinstance(embeddings, Tensor) or len(embeddings) != self.num_members:
            found = "one tensor" if isinstance(embeddings, Tensor) else f"{len(embeddings)} tensors"
            raise InputError(f"embeddings: found {found}; expected a list of {self.num_members}: change num_members")
        shapes = [tuple(part.shape) for part in embeddings]
        if index.ndim != 1 or any(len(shape) != 2 or shape[0] != len(index) for shape in shapes):
            raise InputError(
                f"embeddings have shapes {shorten(shapes)}, index {tuple(index.shape)}; expected (batch, features) "
                "for each member and (batch,)"
            )
        widths = [shape[1] for shape in shapes]
        if self.widths and widths != self.widths:
            raise InputError(f"embeddings have {widths} features; those before had {self.widths}")
        self.widths = widths
        self.index.append(index.detach().to(torch.int64))
        for member, part in enumerate(embeddings):
            self._state(member).append(part.detach().to(torch.float32).flatten())

    def scores(self) -> Tensor:
        """Return (T, K) cosine scores of the trials from the embeddings of this process.

        Raises:
            InputError: If no trials are set, a sample of the trials has no embedding, or embeddings are not finite.
        """
        if self.trials is None:
            raise InputError("no trials to score: call set_trials(pairs, same) first")
        index, order = dim_zero_cat(self.index).sort(stable=True)
        first = torch.ones_like(index, dtype=torch.bool)
        first[1:] = index[1:] != index[:-1]
        index, kept = index[first], order[first]
        pairs = self.trials[0].to(index.device)
        named = pairs.unique()
        if len(missing := named[~torch.isin(named, index)]):
            raise InputError(
                f"trials: {len(missing)} of {len(named)} samples were never seen: {shorten(missing.tolist())}; "
                "expected an embedding of every sample that the trials name"
            )
        rows = torch.searchsorted(index, pairs)
        found = []
        for member in range(self.num_members):
            embeddings = dim_zero_cat(self._state(member)).view(len(order), -1)[kept]
            bad = index[~embeddings.isfinite().all(1)]
            if len(bad):
                raise InputError(
                    f"embeddings: member {member} gave NaN or infinite values for {len(bad)} samples: "
                    f"{shorten(bad.tolist())}"
                )
            found.append(trial_scores(embeddings, rows))
        return torch.stack(found, 1)

    def compute(self) -> dict[str, Tensor]:
        """Return ``eer`` and ``min_dcf``, (K,) float32; for K > 1 also the scalars ``fused_eer`` and ``fused_min_dcf``.

        For K = 1 torchmetrics returns scalars.

        Raises:
            InputError: If no trials are set, a sample of the trials has no embedding, or embeddings are not finite.
        """
        scores = self.scores()
        assert self.trials is not None
        same = self.trials[1].to(scores.device)
        curves = [error_curve(column, same) for column in scores.unbind(1)]
        values = {
            "eer": torch.stack([curve.equal_error_rate() for curve in curves]),
            "min_dcf": torch.stack([curve.min_dcf(self.p_target) for curve in curves]),
        }
        if self.num_members > 1:
            fused = error_curve(scores.mean(1), same)
            values |= {"fused_eer": fused.equal_error_rate(), "fused_min_dcf": fused.min_dcf(self.p_target)}
        return {name: value.to(torch.float32) for name, value in values.items()}
