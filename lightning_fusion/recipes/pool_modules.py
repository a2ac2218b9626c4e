"""Modules that answer for raw input with a pool of experts and a rule, for predictions of finished runs."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor, nn

from lightning_fusion.baselines import Baseline
from lightning_fusion.data.batch import as_batch
from lightning_fusion.data.indexed import numbered
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.experts.preprocessing import data_preprocessing
from lightning_fusion.experts.queries import PoolQueries
from lightning_fusion.experts.vocabulary import Vocabulary


class PoolModule(LightningModule, ABC):
    """Base class of modules that predict with a pool of experts.

    Args:
        pool: The experts.
    """

    def __init__(self, pool: ExpertPool) -> None:
        super().__init__()
        self.pool = pool
        self.vocabulary = Vocabulary.of(pool, None)
        self._queries = PoolQueries()

    @property
    def classes(self) -> list[str]:
        """Names of the classes of the task."""
        return self.vocabulary.classes

    @property
    def expert_classes(self) -> dict[str, list[str]]:
        """Classes of each expert, in the order of its outputs."""
        return self.vocabulary.expert_classes

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
