"""Teachers that are fitted on the labels before the student is trained, and their selection by cross-validation."""

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_fusion.data.batch import num_samples
from lightning_fusion.data.splits import stratified_folds
from lightning_fusion.errors import InputError
from lightning_fusion.experts.answers import take_rows
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.names import NamedModules
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.foe.fusers import MLPFuser
from lightning_fusion.hat.mixer import aligned
from lightning_fusion.hat.sources import TINY, run_sources

FLOOR = 1e-4
"""Smallest probability whose logarithm a teacher reads: beyond it, small samples tell nothing."""
SHARPNESS = (1.0, 1.5, 2.0, 3.0)
_PENALTIES = (0.3, 3.0, 30.0)
_FOLDS = 3
_MIXTURE_STEPS = 200
_ROWS = 64  # of a step of gradient descent


class Evidence(NamedTuple):
    """Outputs of the sources on N samples of the target.

    Attributes:
        input: N preprocessed inputs.
        log_probabilities: (N, S, C) of the target's classes, by source; about -1e30 for classes that it lacks.
        representations: (N, D_1 + ... + D_S) concatenated representations.
    """

    input: Any
    log_probabilities: Tensor
    representations: Tensor

    def take(self, rows: Tensor) -> "Evidence":
        """Return the samples in rows (B,)."""
        return Evidence(take_rows(self.input, rows), self.log_probabilities[rows], self.representations[rows])


@torch.no_grad()
def evidence_of(pool: ExpertPool, columns: Mapping[str, Sequence[int]], input: Any, count: int) -> Evidence:
    """Run the sources on samples, 64 at a time.

    Args:
        pool: The sources; each names its ``features``.
        columns: For each source and each target class, the source's output of that class; -1 if it lacks the class.
        input: Preprocessed input of the samples.
        count: N, number of samples.
    """
    parts = []
    for rows in torch.arange(count).split(_ROWS):
        answer = run_sources(pool, take_rows(input, rows), with_scores=True)
        assert answer.scores is not None
        scores = [
            aligned(found, torch.tensor(list(columns[name]), device=found.device))
            for name, found in answer.scores.items()
        ]
        parts.append((torch.stack(scores, 1), torch.cat(list(answer.representations.values()), 1)))
    return Evidence(input, *(torch.cat(part) for part in zip(*parts, strict=True)))


class FittedTeacher(nn.Module):
    """Base class of models of the sources' outputs that are fitted on labeled samples of the target.

    Weights need no gradient after :meth:`fit`; the fitted state is in the ``state_dict``.
    """

    @abstractmethod
    def fit(self, evidence: Evidence, target: Tensor, seed: int) -> Self:
        """Fit on labeled samples.

        Args:
            evidence: Outputs of the sources on N labeled samples.
            target: (N,) classes.
            seed: Random seed.
        """

    def convert_from(self, found: Mapping[str, Any] | None) -> None:
        """Convert the input of fine-tuned sources as :meth:`ExpertPool.convert_from` does that of the sources."""
        for part in self.modules():
            if isinstance(part, Expert):
                part.convert_from(found, None)

    @abstractmethod
    def forward(self, evidence: Evidence) -> Tensor:
        """Return (N, C) float32 probabilities of the target's classes."""


class Average(FittedTeacher):
    """Mean of the sources' probabilities: nothing is fitted.

    Example:
        >>> evidence = Evidence(None, torch.tensor([[[0.8, 0.2], [0.4, 0.6]]]).log(), torch.zeros(1, 0))
        >>> Average()(evidence)
        tensor([[0.6000, 0.4000]])
    """

    def fit(self, evidence: Evidence, target: Tensor, seed: int) -> Self:
        """Return itself."""
        return self

    def forward(self, evidence: Evidence) -> Tensor:
        """Return (N, C) mean probabilities."""
        return evidence.log_probabilities.exp().mean(1)


class Stacking(FittedTeacher):
    """Multinomial regression that corrects the average of the sources (stacking: Wolpert, 1992).

        log q = log p_avg + W v + b + const,     v = standardized log-probabilities or representations, / sqrt(D)

    The offset, log p_avg, is the average of the sources' probabilities (our choice): the L2 penalty of W and b draws
    the result to that average where labels are few, not to a constant. The penalty is chosen by cross-validated
    likelihood.

    Args:
        num_inputs: D, S C for log-probabilities, or the sum of the representations' widths.
        num_classes: C.
        representations: Read representations instead of log-probabilities.
    """

    weight: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, num_inputs: int, num_classes: int, representations: bool = False) -> None:
        super().__init__()
        self.of_representations = representations
        self.register_buffer("weight", torch.zeros(num_inputs + 1, num_classes))
        self.register_buffer("mean", torch.zeros(num_inputs))
        self.register_buffer("scale", torch.ones(num_inputs))

    def fit(self, evidence: Evidence, target: Tensor, seed: int) -> Self:
        """Fit W and b on labeled samples."""
        raw, offset = self._raw(evidence), self._offset(evidence)
        self.mean.copy_(raw.mean(0))
        self.scale.copy_(raw.std(0, correction=0).clamp_min(1e-3) * math.sqrt(raw.shape[1]))
        values = self._standardized(raw).double()
        penalty = _PENALTIES[-1]
        if len(target) >= 2 * _FOLDS:
            fold = folds_of(target, seed)
            losses = []
            for candidate in _PENALTIES:
                loss = 0.0
                for number in range(_FOLDS):
                    held = fold == number
                    weight = _regress(values[~held], offset[~held], target[~held], candidate)
                    loss += float(F.cross_entropy(offset[held] + values[held] @ weight, target[held], reduction="sum"))
                losses.append(loss)
            penalty = _PENALTIES[losses.index(min(losses))]
        self.weight.copy_(_regress(values, offset, target, penalty))
        return self

    def forward(self, evidence: Evidence) -> Tensor:
        """Return (N, C) probabilities."""
        logits = self._offset(evidence) + self._standardized(self._raw(evidence)).double() @ self.weight.double()
        return logits.softmax(1).float()

    def _raw(self, evidence: Evidence) -> Tensor:
        if self.of_representations:
            return evidence.representations.float()
        return evidence.log_probabilities.clamp_min(math.log(FLOOR)).flatten(1)

    def _offset(self, evidence: Evidence) -> Tensor:
        return evidence.log_probabilities.exp().mean(1).clamp_min(FLOOR).log().double()

    def _standardized(self, raw: Tensor) -> Tensor:
        return torch.cat([(raw - self.mean) / self.scale, raw.new_ones(len(raw), 1)], 1)


def _regress(values: Tensor, offset: Tensor, target: Tensor, penalty: float) -> Tensor:
    """Return the (D, C) weights that minimize cross entropy plus ``penalty / 2`` times their squared norm.

    They lie in the span of the N samples: Newton's method with conjugate gradients solves for at most N coordinates,
    each scaled by a bound of its curvature.
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax, softmax

    left, singular, basis = np.linalg.svd(values.cpu().numpy(), full_matrices=False)
    scale = 1 / np.sqrt(singular**2 / 4 + penalty)
    inputs, known, truth = left * (singular * scale), offset.cpu().numpy(), target.cpu().numpy()
    rows, pull = np.arange(len(inputs)), (penalty * scale**2)[:, None]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight = flat.reshape(len(scale), -1)
        logs = log_softmax(known + inputs @ weight, axis=1)
        error = np.exp(logs)
        error[rows, truth] -= 1
        slope = inputs.T @ error + pull * weight
        return (pull * weight**2).sum() / 2 - logs[rows, truth].sum(), slope.ravel()

    def curvature(flat: np.ndarray, direction: np.ndarray) -> np.ndarray:
        weight, step = flat.reshape(len(scale), -1), direction.reshape(len(scale), -1)
        found = softmax(known + inputs @ weight, axis=1)
        change = found * (inputs @ step)
        bent: np.ndarray = inputs.T @ (change - found * change.sum(1, keepdims=True)) + pull * step
        return bent.ravel()

    start = np.zeros(len(scale) * known.shape[1])
    found = minimize(objective, start, jac=True, hessp=curvature, method="Newton-CG", options={"xtol": 1e-9})
    return torch.from_numpy(basis.T @ (scale[:, None] * found.x.reshape(len(scale), -1))).to(values.device)


class FineTuned(FittedTeacher):
    """Average of the sources after each was fine-tuned on the labels.

    Copies of the sources stay in eval mode, so that neither dropout nor the statistics of batch normalization change on
    few samples (our choice). Copies of sources in 16-bit precision are in float32, in which AdamW is stable. Sources
    without weights in torch, and those whose outputs have no gradient, answer as they are.

    Args:
        pool: The sources.
        columns: For each source and each target class, the source's output of that class; -1 if it lacks the class.
        epochs: Passes over the labeled samples.
        rate: Learning rate of AdamW, which is annealed to 0.

    Attributes:
        untrained: Names of the sources whose outputs have no gradient, after :meth:`fit`.
    """

    def __init__(
        self, pool: ExpertPool, columns: Mapping[str, Sequence[int]], epochs: int = 20, rate: float = 1e-3
    ) -> None:
        super().__init__()
        self.sources = NamedModules({name: _in_float32(expert) for name, expert in pool.members.items()})
        self.columns = {name: list(columns[name]) for name in pool.names}
        self.epochs, self.rate = epochs, rate
        self.untrained: list[str] = []

    def fit(self, evidence: Evidence, target: Tensor, seed: int) -> Self:
        """Fine-tune each source on the labeled samples of its classes.

        Raises:
            InputError: If the outputs of a fine-tuned source are not finite.
        """
        self.untrained = []
        for name, source in self.sources.items():
            places = torch.tensor(self.columns[name], device=target.device)
            known = (places[target] >= 0).nonzero().flatten()
            weights = [weight for weight in source.parameters() if weight.is_floating_point()]
            if not len(known) or not weights:
                continue
            if not descend(source, weights, take_rows(evidence.input, known), target[known], places, self, seed):
                self.untrained.append(name)
        return self

    @torch.no_grad()
    def forward(self, evidence: Evidence) -> Tensor:
        """Return (N, C) mean probabilities of the fine-tuned sources."""
        return torch.stack(list(self.answers(evidence.input).values())).mean(0)

    @torch.no_grad()
    def answers(self, input: Any) -> dict[str, Tensor]:
        """Return (N, C) probabilities of each fine-tuned source, by name, computed for 64 samples at a time.

        Raises:
            InputError: If they are not finite.
        """
        found = {}
        for name, source in self.sources.items():
            parts = [source(take_rows(input, rows)) for rows in torch.arange(num_samples(input) or 0).split(_ROWS)]
            probabilities = torch.cat(parts)
            if not bool(probabilities.isfinite().all()):
                raise InputError(
                    f"teacher: the outputs of source {name} are NaN or infinite after it was fine-tuned; leave it out "
                    "of experts, or set teacher: stacking"
                )
            places = torch.tensor(self.columns[name], device=probabilities.device)
            found[name] = aligned(probabilities.clamp_min(TINY).log(), places).exp()
        return found


def _in_float32(expert: Expert) -> Expert:
    """Return a copy of an expert whose weights in 16-bit precision are in float32."""
    copied = copy.deepcopy(expert)
    half = any(weight.is_floating_point() and weight.element_size() < 4 for weight in copied.parameters())
    return copied.float() if half else copied


def descend(
    source: Expert, weights: list[nn.Parameter], input: Any, target: Tensor, places: Tensor, how: Any, seed: int
) -> bool:
    """Minimize the cross entropy of a source on labeled samples with AdamW, in batches of 64 samples.

    Returns whether its outputs have a gradient; if not, it stays as it is.

    Args:
        source: The source, which stays in eval mode.
        weights: Its weights.
        input: N inputs.
        target: (N,) classes of the target.
        places: (C,) the source's output of each class of the target, -1 if it lacks the class.
        how: Object with ``epochs`` and ``rate``.
        seed: Random seed of the order.
    """
    parts = math.ceil(len(target) / _ROWS)
    optimizer = torch.optim.AdamW(weights, lr=how.rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, how.epochs * parts)
    generator = torch.Generator().manual_seed(seed)
    source.requires_grad_(True)
    try:
        with torch.enable_grad():
            for _ in range(how.epochs):
                for rows in torch.randperm(len(target), generator=generator).chunk(parts):
                    optimizer.zero_grad()
                    scores = source.trainable_forward(take_rows(input, rows)).clamp_min(TINY).log()
                    if not scores.requires_grad:
                        return False
                    wanted = target[rows.to(target.device)]
                    F.nll_loss(aligned(scores, places), wanted).backward()
                    optimizer.step()
                    schedule.step()
    finally:
        source.requires_grad_(False)
    return True


class FoE(FittedTeacher):
    """Fuser network of FoE on the sources' probabilities (:class:`~lightning_fusion.FoEFuserModule` trains it in full).

    Args:
        num_sources: S.
        num_classes: C.
        epochs: Passes over the labeled samples, in batches of 64.
        rate: Learning rate of Adam.
    """

    def __init__(self, num_sources: int, num_classes: int, epochs: int = 100, rate: float = 1e-3) -> None:
        super().__init__()
        self.num_inputs, self.num_classes, self.epochs, self.rate = num_sources * num_classes, num_classes, epochs, rate
        self.network = MLPFuser(self.num_inputs, num_classes, (64, 64)).float().requires_grad_(False)

    def fit(self, evidence: Evidence, target: Tensor, seed: int) -> Self:
        """Train the fuser."""
        values = evidence.log_probabilities.exp().flatten(1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = MLPFuser(self.num_inputs, self.num_classes, (64, 64)).to(values)
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.rate, weight_decay=1e-2)
        generator = torch.Generator().manual_seed(seed)
        with torch.enable_grad():
            for _ in range(self.epochs):
                for rows in torch.randperm(len(target), generator=generator).split(_ROWS):
                    optimizer.zero_grad()
                    F.cross_entropy(network(values[rows]), target[rows]).backward()
                    optimizer.step()
        self.network.load_state_dict(network.state_dict())
        return self

    @torch.no_grad()
    def forward(self, evidence: Evidence) -> Tensor:
        """Return (N, C) probabilities of the fuser."""
        logits: Tensor = self.network(evidence.log_probabilities.exp().flatten(1))
        return logits.softmax(1)


class Committee(FittedTeacher):
    """Weighted mean of several teachers.

    Args:
        members: The K teachers.

    Attributes:
        weights: (K,) weights, equal until they are set.
    """

    weights: Tensor

    def __init__(self, members: Sequence[FittedTeacher]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.register_buffer("weights", torch.full((len(members),), 1 / len(members)))

    def fit(self, evidence: Evidence, target: Tensor, seed: int) -> Self:
        """Fit every member."""
        for member in self.members:
            member.fit(evidence, target, seed)  # type: ignore[operator]
        return self

    def forward(self, evidence: Evidence) -> Tensor:
        """Return (N, C) mean probabilities."""
        return weighted([member(evidence) for member in self.members], self.weights)


def weighted(answers: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Return the (N, C) mean of K members' probabilities with weights (K,)."""
    mean: Tensor = torch.tensordot(weights.to(answers[0]), torch.stack(list(answers)), 1)
    return mean


def likelihood_weights(answers: Sequence[Tensor], target: Tensor) -> Tensor:
    """Weigh members so that their mixture predicts labels best that they were not fitted on.

    Stacking of predictive distributions (Yao et al., *Using Stacking to Average Bayesian Predictive Distributions*,
    Bayesian Analysis 2018), by expectation maximization; a prior that counts as one sample draws the weights towards
    equal ones (our choice), so that few labels exclude no member.

    Args:
        answers: (N, C) probabilities of each of the K members.
        target: (N,) classes.

    Returns:
        (K,) float32 weights.

    Example:
        >>> answers = [torch.tensor([[0.9, 0.1], [0.9, 0.1]]), torch.tensor([[0.3, 0.7], [0.3, 0.7]])]
        >>> likelihood_weights(answers, torch.tensor([0, 0]))
        tensor([0.7743, 0.2257])
    """
    likelihood = torch.stack([_of_labels(answer, target) for answer in answers], 1)
    weights = likelihood.new_full((len(answers),), 1 / len(answers))
    for _ in range(_MIXTURE_STEPS):
        shares = weights * likelihood
        shares = shares / shares.sum(1, keepdim=True)
        weights = (shares.sum(0) + 1 / len(answers)) / (len(target) + 1)
    return weights.float()


def folds_of(target: Tensor, seed: int) -> Tensor:
    """Return the (N,) fold of each labeled sample: three stratified folds, fewer where there are fewer samples."""
    fold = stratified_folds(target.cpu().numpy(), min(_FOLDS, len(target)), seed)
    return torch.from_numpy(fold).to(target.device)


def cross_fit(make: Callable[[], FittedTeacher], evidence: Evidence, target: Tensor, seed: int) -> Tensor:
    """Return (N, C) predictions of each labeled sample by a teacher that was fitted without its fold."""
    fold = folds_of(target, seed)
    result = evidence.log_probabilities.new_zeros(len(target), evidence.log_probabilities.shape[2])
    for number in fold.unique().tolist():
        held = (fold == number).nonzero().flatten()
        kept = (fold != number).nonzero().flatten()
        result[held] = make().fit(evidence.take(kept), target[kept], seed)(evidence.take(held))
    return result


def sharpen(probabilities: Tensor, sharpness: float) -> Tensor:
    """Raise (N, C) probabilities to a power and normalize them.

    Example:
        >>> sharpen(torch.tensor([[0.75, 0.25]]), 2.0)
        tensor([[0.9000, 0.1000]])
    """
    return (sharpness * probabilities.log()).softmax(1)  # in logarithms, as powers of all entries may be 0


@dataclass(frozen=True)
class Fit:
    """A teacher, and how well it predicted the labels that it was not fitted on.

    Attributes:
        name: Name of the teacher.
        weights: (K,) weights of its K members.
        held_out: (N, C) predictions of the labeled samples by teachers fitted without them, sharpened.
        sharpness: Power of the probabilities with the best cross-validated likelihood.
        log_likelihood: Mean cross-validated log-likelihood of the labels, for each teacher that was compared.
        accuracy: Cross-validated accuracy, for each teacher that was compared.
    """

    name: str
    weights: Tensor
    held_out: Tensor
    sharpness: float
    log_likelihood: dict[str, float]
    accuracy: dict[str, float]


MEMBERS = {
    "uniform": ("uniform",),
    "stacking": ("stacking",),
    "stacking_representations": ("stacking_representations",),
    "foe": ("foe",),
    "fine_tuned": ("fine_tuned",),
    "all": ("uniform", "stacking", "stacking_representations", "foe", "fine_tuned"),
}
"""Teachers that are fitted on the labels, and the members whose weighted mean they are."""


def make_teacher(
    name: str, pool: ExpertPool, columns: Mapping[str, Sequence[int]], widths: Mapping[str, int], num_classes: int
) -> FittedTeacher:
    """Create a teacher that is not fitted.

    Args:
        name: One of :data:`MEMBERS`.
        pool: The sources.
        columns: For each source and each target class, the source's output of that class; -1 if it lacks the class.
        widths: Size of the representation, by source.
        num_classes: C.
    """
    makers: dict[str, Callable[[], FittedTeacher]] = {
        "uniform": Average,
        "stacking": lambda: Stacking(len(pool.names) * num_classes, num_classes),
        "stacking_representations": lambda: Stacking(sum(widths.values()), num_classes, representations=True),
        "foe": lambda: FoE(len(pool.names), num_classes),
        "fine_tuned": lambda: FineTuned(pool, columns),
    }
    members = [makers[member]() for member in MEMBERS[name]]
    return members[0] if len(members) == 1 else Committee(members)


def choose_teacher(
    names: Sequence[str],
    make: Callable[[str], FittedTeacher],
    evidence: Evidence,
    target: Tensor,
    seed: int,
    powers: Sequence[float] = SHARPNESS,
) -> Fit:
    """Choose the teacher with the best cross-validated likelihood of the labels, and its sharpness.

    Args:
        names: Names of teachers, of :data:`MEMBERS`; the first of equal ones is chosen.
        make: Creates a teacher by its name.
        evidence: Outputs of the sources on N labeled samples.
        target: (N,) classes.
        seed: Random seed of folds and teachers.
        powers: Powers of the probabilities to choose from.

    Raises:
        InputError: If there are fewer than two labeled samples.
    """
    if len(target) < 2:
        raise InputError(f"data: found {len(target)} labeled sample(s) of classes of the sources; expected two or more")
    bases = dict.fromkeys(member for name in names for member in MEMBERS[name])
    held = {base: cross_fit(lambda base=base: make(base), evidence, target, seed) for base in bases}  # type: ignore[misc]
    likelihood, accuracy, sharpest, predictions, weights = {}, {}, {}, {}, {}
    for name in names:
        answers = [held[member] for member in MEMBERS[name]]
        weights[name] = likelihood_weights(answers, target)
        mean = weighted(answers, weights[name])
        of_power = {power: _log_likelihood(sharpen(mean, power), target) for power in powers}
        sharpest[name] = max(of_power, key=lambda power: of_power[power])
        likelihood[name], predictions[name] = of_power[sharpest[name]], sharpen(mean, sharpest[name])
        accuracy[name] = float((mean.argmax(1) == target).double().mean())
    best = max(names, key=lambda name: likelihood[name])
    return Fit(best, weights[best], predictions[best], sharpest[best], likelihood, accuracy)


def fit_chosen(found: Fit, teacher: FittedTeacher, evidence: Evidence, target: Tensor, seed: int) -> FittedTeacher:
    """Fit a teacher on all labeled samples, with the weights of its members that were found on folds.

    Args:
        found: Result of :func:`choose_teacher`.
        teacher: The teacher of this name, not fitted.
        evidence: Outputs of the sources on N labeled samples.
        target: (N,) classes.
        seed: Random seed.
    """
    teacher.fit(evidence, target, seed)
    if isinstance(teacher, Committee):
        teacher.weights.copy_(found.weights)
    return teacher


def _of_labels(probabilities: Tensor, target: Tensor) -> Tensor:
    return probabilities.double().gather(1, target[:, None])[:, 0].clamp_min(FLOOR)


def _log_likelihood(probabilities: Tensor, target: Tensor) -> float:
    return float(_of_labels(probabilities, target).log().mean())
