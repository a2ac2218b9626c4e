"""What asking more experts is expected to bring: the risk of F^T for one sample, given the outputs of S."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_fusion.errors import InputError
from lightning_fusion.frugal.neighbors import SubsetNeighbors
from lightning_fusion.frugal.subset_fusers import copy_perceptron, masked_input, perceptron
from lightning_fusion.frugal.tables import LossTables


class RiskEstimator(nn.Module, ABC):
    """Estimates the expected loss of F^T at a point whose outputs of S are known. Subclass it to estimate otherwise."""

    def allocate(self, num_experts: int, num_rows: int, num_classes: int) -> None:
        """Make room for what :meth:`fit` learns, so that a saved state can be loaded."""
        return

    def attach(self, search: SubsetNeighbors, outputs: Tensor, loss: LossTables, count: int) -> None:
        """Take hold of the calibration samples, before :meth:`fit` or after a saved state was loaded.

        Args:
            search: Among the calibration samples.
            outputs: (K, N, C) of the calibration samples.
            loss: Held-out loss of each subset on each of them.
            count: M, the number of neighbors.
        """
        self._search, self._outputs, self._loss, self._count = search, outputs, loss, count

    def fit(self, start: int, zero_one: bool) -> None:
        """Learn from the attached rows, where there is something to learn.

        Args:
            start: The expert that is queried first.
            zero_one: Whether the loss is 0 or 1.
        """
        return

    @abstractmethod
    def look(self, subset: Sequence[int], points: Tensor, own: Tensor | None) -> Tensor:
        """(R, ...) what the estimates need to know about R points whose outputs of ``subset`` are known.

        Args:
            subset: Experts that were queried.
            points: (K, R, C).
            own: (R,) the calibration sample that each point is itself; None for new points.
        """

    def look_each(self, sets: Tensor, points: Tensor, own: Tensor | None) -> Tensor | None:
        """The same for points that each know a set of their own, where that is faster than set by set; else None.

        Args:
            sets: (R, K) bool, the experts that were queried, one at least.
            points: (K, R, C).
            own: (R,) the calibration sample that each point is itself; None for new points.
        """
        return None

    def prepare(self, states: Sequence[tuple[tuple[int, ...], Tensor]], further: bool) -> None:
        """Get ready for :meth:`total` of several sets at once.

        Args:
            states: Sets of experts, and what was looked up for the samples in question.
            further: :meth:`total` will be called for every set with one more expert; else for the set itself.
        """
        return

    @abstractmethod
    def total(self, looked: Tensor, base: Sequence[int], additions: Sequence[Sequence[int]]) -> Tensor:
        """(R, A) float64: M times the estimated loss of F^T, for T = ``base`` and each of A sets of more experts."""


class KNNRisk(RiskEstimator):
    """The mean loss of the M calibration samples nearest on the outputs of S (Wang et al., ICLR 2024, section 4)."""

    def look(self, subset: Sequence[int], points: Tensor, own: Tensor | None) -> Tensor:
        """(R, M) the nearest rows."""
        return self._search.nearest(subset, [()], points, self._count, own)[0][0]

    def look_each(self, sets: Tensor, points: Tensor, own: Tensor | None) -> Tensor:
        """(R, M) the nearest rows."""
        return self._search.each(sets, points, self._count, own)[0]

    def prepare(self, states: Sequence[tuple[tuple[int, ...], Tensor]], further: bool) -> None:
        """Fill the tables of these rows."""
        self._loss.prepare([(subset, looked.unique()) for subset, looked in states], further)

    def total(self, looked: Tensor, base: Sequence[int], additions: Sequence[Sequence[int]]) -> Tensor:
        """The summed loss of these rows."""
        return self._loss(base, additions, looked).sum(2).T


class ParametricRisk(RiskEstimator):
    """One perceptron that predicts, from the outputs of S, the error of F^(S + k) for every k (our choice).

    The paper leaves parametric estimates open. It is trained on calibration samples in random states S, all of which
    contain the first expert; its size is geometric, as small states are met more often.

    Args:
        hidden: Widths of the hidden layers.
        states: Random states.
        rows: Validation rows drawn for each state.
        epochs: Passes over these states.
        seed: Of the draws and the weights.
    """

    def __init__(
        self, hidden: Sequence[int] = (256,), states: int = 300, rows: int = 64, epochs: int = 30, seed: int = 0
    ) -> None:
        super().__init__()
        self.hidden, self.states, self.rows, self.epochs, self.seed = tuple(hidden), states, rows, epochs, seed
        self.network = nn.Sequential()

    def allocate(self, num_experts: int, num_rows: int, num_classes: int) -> None:
        """Make an untrained network."""
        self.network = perceptron([num_experts * (num_classes + 1), *self.hidden, num_experts])

    def fit(self, start: int, zero_one: bool) -> None:
        """Train the network.

        Raises:
            InputError: If the loss is not 0 or 1.
        """
        if not zero_one:
            raise InputError("risk: ParametricRisk predicts errors; use loss: zero_one, or the default risk")
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier

        outputs, loss = self._outputs, self._loss
        experts, known, classes = outputs.shape
        generator = torch.Generator().manual_seed(self.seed)
        inputs, goals = [], []
        for _ in range(self.states):
            more = min(experts - 1, int(torch.empty(()).geometric_(0.4, generator=generator)) - 1)
            others = [k for k in torch.randperm(experts, generator=generator).tolist() if k != start]
            state = [start, *others[:more]]
            rows = torch.randint(known, (self.rows,), generator=generator).to(outputs.device)
            inputs.append(masked_input(outputs[:, rows], state))
            wrong = torch.empty(self.rows, experts, dtype=torch.float64, device=outputs.device)
            wrong[:, state] = loss(state, [()], rows).T
            free = [k for k in range(experts) if k not in state]
            if free:
                wrong[:, free] = loss(state, [(k,) for k in free], rows).T
            goals.append(wrong)
        model = MLPClassifier(self.hidden, max_iter=self.epochs, random_state=self.seed)
        goal = torch.cat(goals).cpu().numpy().astype(int)
        self.allocate(experts, known, classes)
        if experts == 1:  # nothing to choose
            goal = goal.ravel()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a fixed number of epochs is what is wanted
            model.fit(torch.cat(inputs).cpu().numpy(), goal)
        copy_perceptron(model, self.network, torch.arange(experts).numpy())
        self.to(outputs.device)

    @torch.no_grad()
    def look(self, subset: Sequence[int], points: Tensor, own: Tensor | None) -> Tensor:
        """(R, K) the predicted errors of F^(S + k)."""
        risk: Tensor = self.network(masked_input(points, subset)).sigmoid()
        return risk

    def total(self, looked: Tensor, base: Sequence[int], additions: Sequence[Sequence[int]]) -> Tensor:
        """The predicted errors, times M. That of S is the mean over its members, each of which adds nothing."""
        if any(len(added) > 1 for added in additions):
            raise InputError("look_ahead: ParametricRisk sees one expert ahead; set look_ahead to 1")
        columns = [looked[:, list(added) or list(base)].mean(1) for added in additions]
        return torch.stack(columns, 1).to(torch.float64) * self._count
