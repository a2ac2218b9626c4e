"""Fusers that read any subset of the experts: one family of functions F^S for all S."""

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
    """F^S for every subset S of the experts. Subclass it to fuse in another way."""

    smoothing: float = 1e-3
    """Weight of the uniform distribution that is mixed in before a logarithm is taken."""

    def allocate(self, num_experts: int, num_rows: int, num_classes: int) -> None:
        """Make room for what :meth:`fit` learns, so that a saved state can be loaded."""
        return

    def attach(self, search: SubsetNeighbors, outputs: Tensor, targets: Tensor, leave_one_out: bool) -> None:
        """Take hold of the labeled rows, before :meth:`fit` or after a saved state was loaded.

        Args:
            search: Among these rows.
            outputs: (K, N, C) outputs of the experts.
            targets: (N,) classes.
            leave_one_out: Whether :meth:`held_out` must not let a row vote for itself.
        """
        self._search, self._outputs, self._targets, self._leave = search, outputs, targets, leave_one_out
        self.num_experts = len(outputs)

    def fit(self) -> None:
        """Learn from the attached rows, where there is something to learn."""
        return

    @abstractmethod
    def predict(self, subset: Sequence[int], points: Tensor) -> Tensor:
        """(R, C) class probabilities at R points from the experts in ``subset``.

        Args:
            subset: Experts that were queried.
            points: (K, R, C); outputs of other experts are not read.
        """

    @abstractmethod
    def held_out(self, base: Sequence[int], additions: Sequence[Sequence[int]], rows: Tensor) -> Tensor:
        """(A, R, C) class probabilities of fitted rows for A subsets, as if each row were new.

        Args:
            base: Experts in every subset.
            additions: For each of A subsets, the experts it has beside ``base``.
            rows: (R,) indices of fitted rows.
        """

    def held_out_many(self, sets: Tensor, rows: Tensor, further: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """The same for many sets and rows at once, where a family can do better than set by set; else nothing.

        Args:
            sets: (Q, K) bool, a set S of experts each.
            rows: (Q,) a fitted row each.
            further: For S + k, too.

        Yields:
            (q,) numbers of some of the Q pairs, and class probabilities: (q, 1, C) in S or, where ``further``,
            (q, K, C) in S + k; in S where k is in S.
        """
        return iter(())


class KNNFuser(SubsetFuser):
    """Uniform vote of the nearest rows on the outputs of S: FrugalFoE's fuser (Wang et al., ICLR 2024, section 4).

    Args:
        neighbors: Voters; 9 in the paper.
    """

    def __init__(self, neighbors: int = 9) -> None:
        super().__init__()
        if not neighbors >= 1:
            raise InputError(f"fuser_neighbors is {neighbors}; expected at least 1")
        self.neighbors = neighbors
        self.smoothing = 1 / (neighbors + 1)

    def attach(self, search: SubsetNeighbors, outputs: Tensor, targets: Tensor, leave_one_out: bool) -> None:
        """Keep the rows.

        Raises:
            InputError: If there are fewer rows than voters.
        """
        super().attach(search, outputs, targets, leave_one_out)
        if self.neighbors > len(targets) - leave_one_out:
            raise InputError(
                f"fuser_neighbors is {self.neighbors} for {len(targets)} calibration samples; expected at most "
                f"{len(targets) - leave_one_out}: give more samples, or fewer neighbors"
            )

    def predict(self, subset: Sequence[int], points: Tensor) -> Tensor:
        """The frequencies of the votes."""
        return self.vote(self._search.nearest(subset, [()], points, self.neighbors)[0])[0]

    def held_out(self, base: Sequence[int], additions: Sequence[Sequence[int]], rows: Tensor) -> Tensor:
        """The frequencies of the votes of other rows."""
        own = rows if self._leave else None
        return self.vote(self._search.nearest(base, additions, self._outputs[:, rows], self.neighbors, own)[0])

    def held_out_many(self, sets: Tensor, rows: Tensor, further: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """The frequencies of the votes of other rows."""
        for some, voters in self._search.supersets(sets, rows, self.neighbors, self._leave, further):
            yield some, self.vote(voters)

    def vote(self, voters: Tensor) -> Tensor:
        """(A, R, C) frequencies of the votes of the rows (A, R, k)."""
        counts = torch.zeros(*voters.shape[:2], self._outputs.shape[2], device=voters.device)
        ones = torch.ones((), device=voters.device).expand(voters.shape)
        counts.scatter_add_(2, self._targets[voters], ones)
        return counts / self.neighbors


class MaskedMLPFuser(SubsetFuser):
    """One perceptron for all subsets (our extension): outputs of other experts are 0, and indicators say so.

    It is trained with random expert dropout: each row is seen in each epoch with another random subset, whose size is
    uniform in 1..K. What it says about the fitted rows comes from cross-fitting: a network that did not see the row.

    Args:
        hidden: Widths of the hidden layers.
        epochs: Passes over the rows; more where these are fewer than 500 steps of 200 rows.
        folds: Of the cross-fitting.
        seed: Of weights, order, subsets and folds.
    """

    def __init__(self, hidden: Sequence[int] = (256, 256), epochs: int = 60, folds: int = 3, seed: int = 0) -> None:
        super().__init__()
        if folds < 2 or epochs < 1:
            raise InputError(f"MaskedMLPFuser: found {folds} folds and {epochs} epochs; expected at least 2 and 1")
        self.hidden, self.epochs, self.folds, self.seed = tuple(hidden), epochs, folds, seed
        self.networks = nn.ModuleList()  # of each fold, then of all rows

    def allocate(self, num_experts: int, num_rows: int, num_classes: int) -> None:
        """Make untrained networks."""
        widths = [num_experts * (num_classes + 1), *self.hidden, num_classes]
        self.networks = nn.ModuleList(perceptron(widths) for _ in range(self.folds + 1))
        self.register_buffer("fold", torch.zeros(num_rows, dtype=torch.int64))

    def fit(self) -> None:
        """Train one network on each choice of all folds but one, and one on all rows."""
        outputs, targets = self._outputs, self._targets
        if len(targets) < self.folds:
            raise InputError(f"MaskedMLPFuser: found {len(targets)} rows for {self.folds} folds; give more rows")
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
        """The network's softmax."""
        return self._ask(self.networks[-1], subset, points)

    @torch.no_grad()
    def held_out(self, base: Sequence[int], additions: Sequence[Sequence[int]], rows: Tensor) -> Tensor:
        """The softmax of the networks that did not see the rows."""
        points, fold = self._outputs[:, rows], self.fold[rows]
        result = torch.empty(len(additions), len(rows), points.shape[2], device=rows.device)
        for number, added in enumerate(additions):
            for part in fold.unique().tolist():
                some = fold == part
                result[number, some] = self._ask(self.networks[part], [*base, *added], points[:, some])
        return result

    def _ask(self, network: nn.Module, subset: Sequence[int], points: Tensor) -> Tensor:
        probabilities: Tensor = network(masked_input(points, subset)).softmax(-1)
        return probabilities


def masked_input(points: Tensor, subset: Sequence[int]) -> Tensor:
    """(R, K (C + 1)) input of a perceptron that reads some experts.

    Args:
        points: (K, R, C) outputs.
        subset: The experts it may read.
    """
    mask = torch.zeros(points.shape[1], len(points), device=points.device)
    mask[:, list(subset)] = 1
    return _masked(points.transpose(0, 1).to(torch.float32), mask)


def _masked(points: Tensor, mask: Tensor) -> Tensor:
    return torch.cat([(points * mask[:, :, None]).reshape(len(points), -1), mask], 1)


def perceptron(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them."""
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(widths):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@torch.no_grad()
def copy_perceptron(model, network: nn.Module, labels: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    """Copy the weights of scikit-learn's perceptron; classes it has not seen get a very small logit.

    Args:
        model: scikit-learn's fitted MLPClassifier.
        network: What :func:`perceptron` made, without gradient from here on.
        labels: The output that each of the model's outputs stands for.
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
