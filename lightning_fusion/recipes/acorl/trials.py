"""Chains of speaker networks on new recordings: probabilities of the training speakers, and scores of trials."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_fusion.data.batch import Batch
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.export.network import ExportedNetwork
from lightning_fusion.export.rules import EmbeddingRule
from lightning_fusion.recipes.pool_modules import PoolModule
from lightning_fusion.verification.evaluation import TrialEvaluation


class ChainTrialsModule(PoolModule):
    """Members of a chain on new recordings.

    Args:
        pool: The members.
        calibration: Weight of the score of each member, and an intercept: calibrated fusion. ``None`` (default) means
            the mean of the scores.
    """

    def __init__(self, pool: ExpertPool, calibration: Sequence[float] | None = None) -> None:
        super().__init__(pool)
        self.calibration = calibration
        self.evaluation = TrialEvaluation(pool.names if len(pool.names) > 1 else [""])
        self.trial_scores: dict[str, Tensor] | None = None

    def answer(self, input: Any) -> dict[str, Tensor]:
        """Return the mean probabilities of the training speakers, and the embeddings of the members."""
        outputs, embeddings = self.pool.forward_with_representations(input)
        return {"probabilities": torch.stack(list(outputs.values())).mean(0)} | embeddings

    def exported_network(self) -> ExportedNetwork:
        """Return the network of the members' embeddings."""
        return ExportedNetwork(self.pool, EmbeddingRule(self.calibration))

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Return ``index`` and ``probabilities`` of a batch, and keep its embeddings for the trials."""
        found = super().predict_step(batch, batch_idx, dataloader_idx)
        own = [found.pop(name) for name in self.pool.names]
        if self.evaluation.scores_new:
            index = found["index"]
            empty = torch.zeros(len(index), 0, dtype=torch.bool)
            self.evaluation.collect(Batch(None, torch.full_like(index, -100), empty, index), "predict", own)
        return found

    def setup(self, stage: str) -> None:
        """Read the trials."""
        super().setup(stage)
        self.evaluation.setup(self, stage)

    def on_predict_epoch_start(self) -> None:
        """Forget the embeddings of an earlier run."""
        self.evaluation.reset("predict")

    def on_predict_epoch_end(self) -> None:
        """Score the trials: ``trial_scores``, which the writer of predictions adds."""
        scores = self.evaluation.scores()
        if scores is not None and self.calibration is not None:
            *weights, intercept = self.calibration
            each = [scores[name] for name in self.pool.names]
            scores["score"] = sum(w * s for w, s in zip(weights, each, strict=True)) + intercept  # type: ignore[assignment]
        self.trial_scores = scores
        self.evaluation.reset("predict")
