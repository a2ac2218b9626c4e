"""Fusers of any subset of the experts: families of functions F^S for all S."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_fusion.errors import InputError
from lightning_fusion.frugal.neighbors import SubsetNeighbors

_MIN_STEPS = 500  # of 200 rows, scikit-learn's batch


class SubsetFuser(nn.Module, ABC):
    """Base class of families of fusers F^S for every subset S of the experts."""

    smoothing: float = 1e-3
    """Weight of the uniform distribution that is mixed in before taking a logarithm."""

    def allocate(self, num_experts: int, num_rows: int, num_classes: int) -> None:
        """Allocate the parameters that :meth:`fit` sets, so that a saved state can be loaded."""
        return

    def attach(self, search: SubsetNeighbors, outputs: Tensor, targets: Tensor, leave_one_out: bool) -> None:
        """Attach the calibration samples, before :meth:`fit` or after a saved state was loaded.

        Args:
            search: Neighbor search in these samples.
            outputs: (K, N, C) outputs of the experts.
            targets: (N,) classes.
            leave_one_out: Whether :meth:`held_out` excludes a sample from its own neighbors.
        """
        self._search, self._outputs, self._targets, self._leave = search, outputs, targets, leave_one_out
        self.num_experts = len(outputs)

    def fit(self) -> None:
        """Fit the fusers on the attached samples; does nothing without parameters."""
        return

    @abstractmethod
    def predict(self, subset: Sequence[int], points: Tensor) -> Tensor:
        """Return the (R, C) class probabilities at R points from the experts in ``subset``.

        Args:
            subset: Experts that were queried.
            points: (K, R, C); outputs of other experts are not read.
        """

    @abstractmethod
    def held_out(self, base: Sequence[int], additions: Sequence[Sequence[int]], rows: Tensor) -> Tensor:
        """Return the (A, R, C) held-out class probabilities of fitted samples for A subsets.

        Args:
            base: Experts in every subset.
            additions: For each of A subsets, its experts in addition to ``base``.
            rows: (R,) positions of fitted samples.
        """

    def held_out_many(self, sets: Tensor, rows: Tensor, further: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield :meth:`held_out` of many sets and samples at once, if that is faster than set by set; else nothing.

        Args:
            sets: (Q, K) bool, sets S of experts.
            rows: (Q,) position of a fitted sample for each set.
            further: For S + k instead.

        Yields:
            (q,) indices of some of the Q pairs, and class probabilities: (q, 1, C) in S or, if ``further``,
            (q, K, C) in S + k; in S if k is in S.
        """
        return iter(())


class KNNFuser(SubsetFuser):
    """Uniform vote of the nearest samples on the outputs of S, the paper's fuser (Wang et al., ICLR 2024, section 4).

    Args:
        neighbors: Number of neighbors; 9 in the paper.
    """

    def __init__(self, neighbors: int = 9) -> None:
        super().__init__()
        if not neighbors >= 1:
            raise InputError(f"fuser_neighbors is {neighbors}; expected at least 1")
        self.neighbors = neighbors
        self.smoothing = 1 / (neighbors + 1)

    def attach(self, search: SubsetNeighbors, outputs: Tensor, targets: Tensor, leave_one_out: bool) -> None:
        """Store the samples.

        Raises:
            InputError: If there are fewer samples than neighbors.
        """
        super().attach(search, outputs, targets, leave_one_out)
        if self.neighbors > len(targets) - leave_one_out:
            raise InputError(
                f"fuser_neighbors is {self.neighbors} for {len(targets)} calibration samples; expected at most "
                f"{len(targets) - leave_one_out}: add samples, or lower fuser_neighbors"
            )

    def predict(self, subset: Sequence[int], points: Tensor) -> Tensor:
        """Return the frequencies of the votes."""
        return self.vote(self._search.nearest(subset, [()], points, self.neighbors)[0])[0]

    def held_out(self, base: Sequence[int], additions: Sequence[Sequence[int]], rows: Tensor) -> Tensor:
        """Return the frequencies of the votes of other samples."""
        own = rows if self._leave else None
        return self.vote(self._search.nearest(base, additions, self._outputs[:, rows], self.neighbors, own)[0])

    def held_out_many(self, sets: Tensor, rows: Tensor, further: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the frequencies of the votes of other samples."""
        for some, voters in self._search.supersets(sets, rows, self.neighbors, self._leave, further):
            yield some, self.vote(voters)

    def vote(self, voters: Tensor) -> Tensor:
        """Return the (A, R, C) frequencies of the votes of the samples (A, R, k)."""
        counts = torch.zeros(*voters.shape[:2], self._outputs.shape[2], device=voters.device)
        ones = torch.ones((), device=voters.device).expand(voters.shape)
        counts.scatter_add_(2, self._targets[voters], ones)
        return counts / self.neighbors


class MaskedMLPFuser(SubsetFuser):
    """Multilayer perceptron for all subsets (our extension): outputs of other experts are 0, with mask indicators.

    It is trained with expert dropout: each epoch draws another random subset for each sample, of uniform size in 1..K.
    Held-out predictions come from cross-fitting.

    Args:
        hidden: Widths of the hidden layers.
        epochs: Number of passes over the samples; more if these are fewer than 500 steps of 200 samples.
        folds: Number of folds of the cross-fitting.
        seed: Seed of weights, order, subsets and folds.
    """

    def __init__(self, hidden: Sequence[int] = (256, 256), epochs: int = 60, folds: int = 3, seed: int = 0) -> None:
        super().__init__()
        if folds < 2 or epochs < 1:
            raise InputError(f"MaskedMLPFuser: found {folds} folds and {epochs} epochs; expected at least 2 and 1")
        self.hidden, self.epochs, self.folds, self.seed = tuple(hidden), epochs, folds, seed
        self.networks = nn.ModuleList()  # one for each fold, then one for all samples

    def allocate(self, num_experts: int, num_rows: int, num_classes: int) -> None:
        """Create untrained networks."""
        widths = [num_experts * (num_classes + 1), *self.hidden, num_classes]
        self.networks = nn.ModuleList(perceptron(widths) for _ in range(self.folds + 1))
        self.register_buffer("fold", torch.zeros(num_rows, dtype=torch.int64))

    def fit(self) -> None:
        """Train one network for each held-out fold, and one on all samples."""
        outputs, targets = self._outputs, self._targets
        if len(targets) < self.folds:
            raise InputError(f"MaskedMLPFuser: found {len(targets)} rows for {self.folds} folds; add samples")
        experts, rows, classes = outputs.shape
        self.allocate(experts, rows, classes)
        self.to(outputs.device)
        order = np.random.default_rng(self.seed).permutation(rows)
        self.fold = torch.from_numpy(order % self.folds).to(outputs.device)
        data = outputs.transpose(0, 1).to("cpu", torch.float32).numpy()
        goal = targets.cpu().numpy()
        for number, network in enumerate(self.networks):
            seen = np.flatnonzero(order % self.folds != number)
            self._train(network, data[seen], goal[seen])

    def _train(self, network: nn.Module, data: np.ndarray, goal: np.ndarray) -> None:
        from sklearn.neural_network import MLPClassifier

        generator = np.random.default_rng(self.seed)
        model = MLPClassifier(self.hidden, random_state=self.seed)
        rows, experts, _ = data.shape
        labels = np.unique(goal)
        if len(labels) == 1:
            raise InputError(f"MaskedMLPFuser: found one class ({labels[0]}) among {rows} rows; expected two at least")
        for _ in range(max(self.epochs, -(-_MIN_STEPS * 200 // max(rows, 200)))):
            sizes = generator.integers(1, experts + 1, (rows, 1))
            mask = (generator.random((rows, experts)).argsort(1).argsort(1) < sizes).astype(np.float32)
            given = _masked(torch.from_numpy(data), torch.from_numpy(mask)).numpy()
            model.partial_fit(given, goal, classes=labels)
        copy_perceptron(model, network, labels)

    @torch.no_grad()
    def predict(self, subset: Sequence[int], points: Tensor) -> Tensor:
        """Return the softmax of the network."""
        return self._predict(self.networks[-1], subset, points)

    @torch.no_grad()
    def held_out(self, base: Sequence[int], additions: Sequence[Sequence[int]], rows: Tensor) -> Tensor:
        """Return the softmax of the networks for which the samples were held out."""
        points, fold = self._outputs[:, rows], self.fold[rows]
        result = torch.empty(len(additions), len(rows), points.shape[2], device=rows.device)
        for number, added in enumerate(additions):
            for part in fold.unique().tolist():
                some = fold == part
                result[number, some] = self._predict(self.networks[part], [*base, *added], points[:, some])
        return result

    def _predict(self, network: nn.Module, subset: Sequence[int], points: Tensor) -> Tensor:
        probabilities: Tensor = network(masked_input(points, subset)).softmax(-1)
        return probabilities


def masked_input(points: Tensor, subset: Sequence[int]) -> Tensor:
    """Return the (R, K (C + 1)) masked input of a perceptron.

    Args:
        points: (K, R, C) outputs.
        subset: Experts that are not masked.
    """
    mask = torch.zeros(points.shape[1], len(points), device=points.device)
    mask[:, list(subset)] = 1
    return _masked(points.transpose(0, 1).to(torch.float32), mask)


def _masked(points: Tensor, mask: Tensor) -> Tensor:
    return torch.cat([(points * mask[:, :, None]).reshape(len(points), -1), mask], 1)


def perceptron(widths: Sequence[int]) -> nn.Sequential:
    """Create linear layers of these widths with ReLU between them."""
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(widths):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@torch.no_grad()
def copy_perceptron(model, network: nn.Module, labels: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    """Copy the weights of scikit-learn's perceptron; unseen classes get a very small logit.

    Args:
        model: Fitted MLPClassifier of scikit-learn.
        network: Result of :func:`perceptron`; its gradients are disabled.
        labels: Class of each output of the model.
    """
    linear = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    for number, (layer, weight, bias) in enumerate(zip(linear, model.coefs_, model.intercepts_, strict=True)):
        weight, bias = torch.from_numpy(weight.T.copy()), torch.from_numpy(bias.copy())
        if number < len(linear) - 1:
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
            continue
        if len(labels) == 2 and len(bias) == 1:  # one logit for two classes
            weight, bias = F.pad(weight, (0, 0, 1, 0)), F.pad(bias, (1, 0))
        layer.weight.zero_()
        layer.bias.fill_(-30.0)
        layer.weight[torch.from_numpy(labels)] = weight.to(layer.weight)
        layer.bias[torch.from_numpy(labels)] = bias.to(layer.bias)
    network.requires_grad_(False)
