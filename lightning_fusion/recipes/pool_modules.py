"""Modules that answer for raw input with a pool of experts and a rule, for predictions of finished runs."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor, nn

from lightning_fusion.acorl.fusion import average_outputs
from lightning_fusion.baselines import (
    Baseline,
    BestSingle,
    LogisticStacking,
    MajorityVote,
    MostConfident,
    SoftmaxAverage,
)
from lightning_fusion.data.batch import as_batch
from lightning_fusion.data.indexed import numbered
from lightning_fusion.errors import InputError
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.experts.preprocessing import data_preprocessing
from lightning_fusion.experts.queries import PoolQueries
from lightning_fusion.experts.vocabulary import ClassesOfVocabulary, Vocabulary
from lightning_fusion.export.network import ExportedNetwork
from lightning_fusion.export.rules import ConfidentRule, HeadRule, MeanRule, Rule, StackingRule, VoteRule


class PoolModule(ClassesOfVocabulary, LightningModule, ABC):
    """Base class of modules that predict with a pool of experts.

    Args:
        pool: The experts.
    """

    def __init__(self, pool: ExpertPool) -> None:
        super().__init__()
        self.pool = pool
        self.vocabulary = Vocabulary.of(pool, None)
        self._queries = PoolQueries()

    def exported_network(self) -> ExportedNetwork:
        """Return the network that a program contains.

        Raises:
            InputError: If the rule has no program.
        """
        raise InputError(f"method: the answers of a {type(self).__name__} have no program; choose another method")

    @abstractmethod
    def answer(self, input: Any) -> dict[str, Tensor]:
        """Return ``probabilities`` (B, C) of a batch, and what else is known of each sample."""

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Return ``index`` (B,) and the answers of a batch."""
        batch = numbered(as_batch(batch, "the predict loader", labeled=False), self, batch_idx, dataloader_idx)
        return {"index": batch.index, **self.answer(batch.input)}

    def setup(self, stage: str) -> None:
        """Convert the input of each expert to the preprocessing of its training."""
        self._queries.preprocessing = data_preprocessing(self.trainer) or {}
        self.pool.convert_from(self._queries.preprocessing or None)

    def teardown(self, stage: str) -> None:
        """Release the experts."""
        self.pool.convert_from(None)


_RULES: dict[type, type[Rule]] = {MostConfident: ConfidentRule, MajorityVote: VoteRule}
"""Programs of the rules without parameters."""


class NoProgramError(InputError):
    """A rule that no program contains, such as one that compares each sample with stored ones."""


class BaselineModule(PoolModule):
    """A fitted baseline on raw input; only the experts that it needs are queried.

    Args:
        pool: The experts, in the order in which the baseline was fitted.
        rule: The fitted baseline.
    """

    def __init__(self, pool: ExpertPool, rule: Baseline) -> None:
        super().__init__(pool)
        self.rule = rule
        self.needed = list(range(len(pool.names))) if (needed := rule.experts()) is None else needed
        members = list(pool.members.items())
        self.queried = ExpertPool(dict(members[number] for number in self.needed), pool.classes)

    def answer(self, input: Any) -> dict[str, Tensor]:
        """Return the probabilities of the rule, and the selected expert if there is one."""
        found = torch.cat(list(self._queries(self.queried, input).values()), dim=1)
        spread = Vocabulary.of(self.queried, None).scatter(found).cpu().numpy()
        outputs = np.full((len(spread), len(self.expert_classes), len(self.classes)), np.nan, np.float32)
        outputs[:, self.needed] = spread
        answers = {"probabilities": torch.from_numpy(self.rule.probabilities(outputs))}
        selected = self.rule.selected(outputs) if len(self.pool.names) > 1 else None
        return answers if selected is None else answers | {"expert": torch.from_numpy(selected)}

    def exported_network(self) -> ExportedNetwork:
        """Return the network of the rule, if it is a mean, or the outputs of one expert."""
        kind = type(self.rule)
        if kind in (SoftmaxAverage, BestSingle) or isinstance(self.rule, WeightedAverage):
            weights = self.rule.weights if isinstance(self.rule, WeightedAverage) else None
            method = "average" if len(self.queried.names) > 1 else self.queried.names[0]
            return ExportedNetwork(self.queried, MeanRule(weights, method))
        if kind in _RULES:
            return ExportedNetwork(self.queried, _RULES[kind]())
        if isinstance(self.rule, LogisticStacking):
            return ExportedNetwork(self.queried, StackingRule(self.rule.state(), len(self.classes)))
        raise NoProgramError(
            f"method: the rule of this row ({kind.__name__}) is no part of a program; choose an average, the best "
            "single expert, the most confident one, a vote, stacking or a trained fuser with --method"
        )


class WeightedAverage(Baseline):
    """The mean of the experts' outputs with fitted weights.

    Args:
        weights: (K,) weights with sum 1.
    """

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """Return the class with the largest weighted mean."""
        result: np.ndarray = self.probabilities(outputs).argmax(1)
        return result

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Return the weighted mean."""
        result: np.ndarray = average_outputs(torch.from_numpy(outputs), self.weights).numpy()
        return result


class LateFusionModule(PoolModule):
    """A head on the concatenated representations of a chain's members.

    Args:
        pool: The members, in the order in which the head was trained.
        head: The trained head, which maps (B, D) representations to (B, C) logits.
    """

    def __init__(self, pool: ExpertPool, head: nn.Module) -> None:
        super().__init__(pool)
        self.head = head

    def answer(self, input: Any) -> dict[str, Tensor]:
        """Return the probabilities of the head."""
        found = torch.cat(list(self.pool.representations(input).values()), dim=1)
        return {"probabilities": self.head(found).float().softmax(-1)}

    def exported_network(self) -> ExportedNetwork:
        """Return the network of the members and the head."""
        return ExportedNetwork(self.pool, HeadRule(self.head))
