"""Fusion rules of the methods as plain torch modules, which a program can contain."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_fusion.errors import InputError
from lightning_fusion.foe.module import FoEFuserModule
from lightning_fusion.frugal.policy import FrugalFoE
from lightning_fusion.frugal.rounding import rounded
from lightning_fusion.frugal.subset_fusers import KNNFuser, MaskedMLPFuser


class Answers(NamedTuple):
    """Answers of K experts on a batch.

    Attributes:
        outputs: (B, sum of C_k) probabilities of each expert's own classes.
        spread: (B, K, C) the same in the classes of the task, zero for classes that an expert does not have.
        representations: Representations (B, D_k) of each expert; none if the rule does not read them.
    """

    outputs: Tensor
    spread: Tensor
    representations: Sequence[Tensor]


class Rule(nn.Module):
    """Base class of fusion rules.

    Attributes:
        method: What answers, for the description of a program.
        reads_representations: Whether the rule reads the representations of the experts.
        output: What the rule returns: ``probabilities`` (B, C) or an ``embedding`` (B, D).
        facts: What else the description of a program says.
    """

    method = "average"
    reads_representations = False
    output = "probabilities"

    def __init__(self) -> None:
        super().__init__()
        self.facts: dict[str, Any] = {}

    def forward(self, answers: Answers) -> Tensor:
        """Map the answers of a batch to probabilities (B, C), or an embedding (B, D)."""
        raise NotImplementedError(f"{type(self).__name__} must implement forward(answers)")


class MeanRule(Rule):
    """The mean of the experts' probabilities; of a single expert its own.

    Args:
        weights: (K,) weights with sum 1. ``None`` (default) means equal ones.
        method: What answers, for the description of a program.
    """

    weights: Tensor | None

    def __init__(self, weights: Tensor | None = None, method: str = "average") -> None:
        super().__init__()
        self.method = method
        self.register_buffer("weights", None if weights is None else weights.to(torch.float32))
        if weights is not None:
            self.facts["weights"] = weights.tolist()

    def forward(self, answers: Answers) -> Tensor:
        """Return the mean."""
        if self.weights is None:
            return answers.spread.mean(1)
        return (answers.spread * self.weights[:, None]).sum(1)


class ConfidentRule(Rule):
    """The probabilities of the expert with the largest one."""

    method = "most confident"

    def forward(self, answers: Answers) -> Tensor:
        """Return the probabilities of the selected expert."""
        return _selected(answers.spread, answers.spread.amax(2).argmax(1))


class VoteRule(Rule):
    """The fractions of the experts' votes; half a vote for the mean probability decides ties."""

    method = "majority vote"

    def forward(self, answers: Answers) -> Tensor:
        """Return the fractions."""
        spread = answers.spread
        votes = F.one_hot(spread.argmax(2), spread.shape[2]).sum(1) + 0.5 * spread.mean(1)
        return votes / votes.sum(1, keepdim=True)


class StackingRule(Rule):
    """Logistic regression on the outputs of all experts.

    Args:
        state: State of a fitted :class:`~lightning_fusion.baselines.LogisticStacking`.
        num_classes: C, number of classes of the task.
    """

    method = "logistic stacking"

    def __init__(self, state: Mapping[str, np.ndarray], num_classes: int) -> None:
        super().__init__()
        columns, classes = torch.from_numpy(state["columns"]), torch.from_numpy(state["classes"]).long()
        weights, intercept = torch.zeros(num_classes, len(columns)), torch.full((num_classes,), -torch.inf)
        intercept[classes] = 0.0
        if "weights" in state:
            known = torch.from_numpy(state["weights"]).float()
            of = classes[-len(known) :]  # a single row for two classes is that of the second
            weights[of[:, None], columns.nonzero().flatten()[None]] = known
            intercept[of] = torch.from_numpy(state["intercept"]).float()
        self.register_buffer("weights", weights)
        self.register_buffer("intercept", intercept)
        self.weights: Tensor
        self.intercept: Tensor

    def forward(self, answers: Answers) -> Tensor:
        """Return the probabilities of the regression."""
        logits: Tensor = answers.spread.flatten(1) @ self.weights.T + self.intercept
        return logits.softmax(-1)


class HeadRule(Rule):
    """Late fusion: a head on the concatenated representations.

    Args:
        head: The trained head, which maps (B, D) representations to (B, C) logits.
    """

    method = "late fusion"
    reads_representations = True

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, answers: Answers) -> Tensor:
        """Return the probabilities of the head."""
        logits: Tensor = self.head(torch.cat(list(answers.representations), dim=1))
        return logits.float().softmax(-1)


class EmbeddingRule(Rule):
    """The concatenated unit-norm embeddings of the experts.

    The cosine of two results is the mean of the experts' cosines: the score of a trial.

    Args:
        calibration: Weight of the score of each expert, and an intercept. ``None`` (default): the mean is the score.
    """

    method = "embeddings"
    reads_representations = True
    output = "embedding"

    def __init__(self, calibration: Sequence[float] | None = None) -> None:
        super().__init__()
        self.facts["score"] = "the cosine of two embeddings"
        if calibration is not None:
            *weights, intercept = calibration
            self.facts["score"] = "the sum of weight times cosine of each part of two embeddings, and the intercept"
            self.facts |= {"weights": weights, "intercept": intercept}

    def forward(self, answers: Answers) -> Tensor:
        """Return the (B, sum of D_k) embedding; each part has norm 1 / sqrt(K)."""
        parts = [F.normalize(values.float(), dim=1) for values in answers.representations]
        embedding: Tensor = torch.cat(parts, dim=1) / len(parts) ** 0.5
        return embedding


class FuserRule(Rule):
    """The fuser of FoE; the ``fuse`` of a subclass is what answers.

    Args:
        fuser: The trained fuser.
    """

    method = "FoE"

    def __init__(self, fuser: FoEFuserModule) -> None:
        super().__init__()
        self.network, self.target, self.mean_weight = fuser.network, fuser.target, fuser.mean_weight
        self.reads_representations = bool(fuser.representation_dims)
        self.own: FoEFuserModule | None = None
        if type(fuser).fuse is not FoEFuserModule.fuse and fuser.target == "label":
            self.own = copy.copy(fuser)
            self.own._modules = {name: part for name, part in fuser._modules.items() if name != "pool"}
            self.own.pool = None
        self.facts["target"] = fuser.target

    def forward(self, answers: Answers) -> Tensor:
        """Return the fused probabilities."""
        read = answers.outputs
        if self.reads_representations:
            read = torch.cat([read, *answers.representations], dim=1)
        if self.own is not None:
            fused: Tensor = self.own.fuse(read)
            return fused.float().softmax(-1)
        logits: Tensor = self.network(read)
        if self.target == "expert":
            return _selected(answers.spread, logits.argmax(1))
        probabilities = logits.softmax(-1)
        if self.mean_weight:
            return torch.lerp(probabilities, answers.spread.mean(1), self.mean_weight)
        return probabilities


class PolicyRule(Rule):
    """The fuser of all experts of a FrugalFoE policy: what it answers once it has queried every expert.

    Args:
        policy: The fitted policy.

    Raises:
        InputError: If its fuser is of another class than those of the library.
    """

    method = "FrugalFoE, the fuser of all experts"

    def __init__(self, policy: FrugalFoE) -> None:
        super().__init__()
        fuser = policy.fuser
        self.network = fuser.networks[-1] if isinstance(fuser, MaskedMLPFuser) else None
        if self.network is None and type(fuser) is not KNNFuser:
            raise InputError(
                f"policy: its fuser is a {type(fuser).__name__}, whose program is not known; expected a KNNFuser or a "
                "MaskedMLPFuser"
            )
        self.facts["decisions"] = (
            "not part of the program, which queries all experts and answers with the fuser of all of them; "
            "FrugalFoEModule queries as few as each sample needs"
        )
        self.count = getattr(fuser, "neighbors", 0)
        num_classes = policy.outputs.shape[2]
        if self.network is None:
            rows = policy.outputs.to(torch.float64).transpose(0, 1).flatten(1)  # (N, K C)
            self.register_buffer("rows", rows)
            self.register_buffer("votes", F.one_hot(policy.targets, num_classes).to(torch.float32))
        self.rows: Tensor
        self.votes: Tensor

    def forward(self, answers: Answers) -> Tensor:
        """Return the fused probabilities."""
        points = answers.spread.flatten(1)
        if self.network is not None:
            known = torch.ones_like(answers.spread[:, :, 0])
            logits: Tensor = self.network(torch.cat([points.to(torch.float32), known], 1))
            return logits.softmax(-1)
        wide = points.to(torch.float64)
        squares = self.rows.square().sum(1)
        distances = wide.square().sum(1, keepdim=True) + squares - 2 * wide @ self.rows.T
        distances = rounded(distances.clamp_min(0))
        last = distances.topk(self.count, dim=1, largest=False).values[:, -1:]
        nearer, equal = (distances < last).to(torch.int64), (distances == last).to(torch.int64)
        places = self.count - nearer.sum(1, keepdim=True)
        voters = nearer + equal * (equal.cumsum(1) <= places).to(torch.int64)  # of equally distant ones the first
        return voters.to(torch.float32) @ self.votes / self.count


def _selected(spread: Tensor, expert: Tensor) -> Tensor:
    """Return the (B, C) probabilities of one expert for each sample."""
    chosen = expert.reshape(-1, 1, 1).expand(-1, 1, spread.shape[2])
    return spread.gather(1, chosen).squeeze(1)
