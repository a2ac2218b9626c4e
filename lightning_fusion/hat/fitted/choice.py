"""Choice of a teacher by cross-validation on the labels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from lightning_fusion.errors import InputError
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.hat.fitted.base import Evidence, FittedTeacher, folds_of, likelihood_of
from lightning_fusion.hat.fitted.fine_tuning import FineTuned
from lightning_fusion.hat.fitted.fuser import FoE
from lightning_fusion.hat.fitted.mean import Average, Committee, likelihood_weights, weighted
from lightning_fusion.hat.fitted.stacking import Stacking

SHARPNESS = (1.0, 1.5, 2.0, 3.0)
MEMBERS = {
    "uniform": ("uniform",),
    "stacking": ("stacking",),
    "stacking_representations": ("stacking_representations",),
    "foe": ("foe",),
    "fine_tuned": ("fine_tuned",),
    "all": ("uniform", "stacking", "stacking_representations", "foe", "fine_tuned"),
}
"""Teachers that are fitted on the labels, and the members whose weighted mean they are."""


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
        >>> import torch
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


def _log_likelihood(probabilities: Tensor, target: Tensor) -> float:
    return float(likelihood_of(probabilities, target).log().mean())
