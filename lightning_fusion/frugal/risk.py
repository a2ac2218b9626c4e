"""Risk estimators: the expected loss of F^T for a sample, given the outputs of S."""

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
    """Base class of estimators of the expected loss of F^T at points with known outputs of S."""

    def allocate(self, num_experts: int, num_rows: int, num_classes: int) -> None:
        """Allocate the parameters that :meth:`fit` sets, so that a saved state can be loaded."""
        return

    def attach(self, search: SubsetNeighbors, outputs: Tensor, loss: LossTables, count: int) -> None:
        """Attach the calibration samples, before :meth:`fit` or after a saved state was loaded.

        Args:
            search: Neighbor search in the calibration samples.
            outputs: (K, N, C) of the calibration samples.
            loss: Held-out loss of each subset on each of them.
            count: M, the number of neighbors.
        """
        self._search, self._outputs, self._loss, self._count = search, outputs, loss, count

    def fit(self, start: int, zero_one: bool) -> None:
        """Fit the estimator on the attached samples; does nothing without parameters.

        Args:
            start: Expert that is queried first.
            zero_one: Whether the loss is 0 or 1.
        """
        return

    @abstractmethod
    def look(self, subset: Sequence[int], points: Tensor, own: Tensor | None) -> Tensor:
        """Return the (R, ...) data for estimates at R points with known outputs of ``subset``.

        Args:
            subset: Experts that were queried.
            points: (K, R, C).
            own: (R,) calibration sample of each point; ``None`` for new points.
        """

    def look_each(self, sets: Tensor, points: Tensor, own: Tensor | None) -> Tensor | None:
        """Return the data for points with different sets, if that is faster than set by set; else None.

        Args:
            sets: (R, K) bool, the experts that were queried, one at least.
            points: (K, R, C).
            own: (R,) calibration sample of each point; ``None`` for new points.
        """
        return None

    def prepare(self, states: Sequence[tuple[tuple[int, ...], Tensor]], further: bool) -> None:
        """Prepare :meth:`total` of several sets at once.

        Args:
            states: Sets of experts, and the data of :meth:`look` for their samples.
            further: :meth:`total` will be called for every set with one more expert; else for the set itself.
        """
        return

    @abstractmethod
    def total(self, looked: Tensor, base: Sequence[int], additions: Sequence[Sequence[int]]) -> Tensor:
        """Return (R, A) float64, M times the estimated loss of F^T, for T = ``base`` and each of A sets of experts."""


class KNNRisk(RiskEstimator):
    """Mean loss of the M nearest calibration samples on the outputs of S (Wang et al., ICLR 2024, section 4)."""

    def look(self, subset: Sequence[int], points: Tensor, own: Tensor | None) -> Tensor:
        """Return the (R, M) nearest calibration samples."""
        return self._search.nearest(subset, [()], points, self._count, own)[0][0]

    def look_each(self, sets: Tensor, points: Tensor, own: Tensor | None) -> Tensor:
        """Return the (R, M) nearest calibration samples."""
        return self._search.each(sets, points, self._count, own)[0]

    def prepare(self, states: Sequence[tuple[tuple[int, ...], Tensor]], further: bool) -> None:
        """Fill the loss tables of these samples."""
        self._loss.prepare([(subset, looked.unique()) for subset, looked in states], further)

    def total(self, looked: Tensor, base: Sequence[int], additions: Sequence[Sequence[int]]) -> Tensor:
        """Return the summed loss of these samples."""
        return self._loss(base, additions, looked).sum(2).T


class ParametricRisk(RiskEstimator):
    """Multilayer perceptron that predicts the error of F^(S + k) for every k from the outputs of S (our choice).

    The paper does not specify parametric estimates. The perceptron is trained on calibration samples with random sets
    S that contain the first expert; their size has a geometric distribution, because small sets are more frequent.

    Args:
        hidden: Widths of the hidden layers.
        states: Number of random sets.
        rows: Number of calibration samples drawn for each set.
        epochs: Number of passes over these sets.
        seed: Seed of draws and weights.
    """

    def __init__(
        self, hidden: Sequence[int] = (256,), states: int = 300, rows: int = 64, epochs: int = 30, seed: int = 0
    ) -> None:
        super().__init__()
        self.hidden, self.states, self.rows, self.epochs, self.seed = tuple(hidden), states, rows, epochs, seed
        self.network = nn.Sequential()

    def allocate(self, num_experts: int, num_rows: int, num_classes: int) -> None:
        """Create an untrained network."""
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
        if experts == 1:  # a single expert
            goal = goal.ravel()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the number of epochs is fixed
            model.fit(torch.cat(inputs).cpu().numpy(), goal)
        copy_perceptron(model, self.network, torch.arange(experts).numpy())
        self.to(outputs.device)

    @torch.no_grad()
    def look(self, subset: Sequence[int], points: Tensor, own: Tensor | None) -> Tensor:
        """Return the (R, K) predicted errors of F^(S + k)."""
        risk: Tensor = self.network(masked_input(points, subset)).sigmoid()
        return risk

    def total(self, looked: Tensor, base: Sequence[int], additions: Sequence[Sequence[int]]) -> Tensor:
        """Return the predicted errors, times M; that of S is the mean over its members, which add nothing."""
        if any(len(added) > 1 for added in additions):
            raise InputError("look_ahead: ParametricRisk predicts one expert ahead; set look_ahead to 1")
        columns = [looked[:, list(added) or list(base)].mean(1) for added in additions]
        return torch.stack(columns, 1).to(torch.float64) * self._count
