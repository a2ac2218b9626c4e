"""ACoRL for speaker verification."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lightning_fusion.acorl.diagnostics import trial_warnings
from lightning_fusion.acorl.module import ACoRLModule
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.verification.evaluation import TrialEvaluation, TrialEvaluationMixin
from lightning_fusion.verification.loss import AngularMarginLoss, check_scale


class ACoRLVerificationModule(TrialEvaluationMixin, ACoRLModule):
    """:class:`~lightning_fusion.ACoRLModule` with verification trials of unseen speakers as evaluation.

    Training is that of :class:`~lightning_fusion.ACoRLModule`. Validation and test log the EER of the new model
    (``val_eer``), of each frozen expert (``val_expert_NAME_eer``) and of the mean of all their cosine scores
    (``val_fused_eer``), and ``min_dcf`` likewise, as :class:`~lightning_fusion.verification.module.VerificationModule`
    does.

    Args:
        network: Factory of the network, called with the number of speakers. The default loss requires a head that
            outputs scaled cosines, as those of :mod:`lightning_fusion.encoders.speaker` do.
        experts: The frozen experts by name, or a pool; their ``features`` are their embeddings.
        features: Submodule whose output (B, D) is the embedding.
        loss: Called as ``loss(logits (B, C), target)``. ``None`` (default) uses
            :class:`~lightning_fusion.verification.loss.AngularMarginLoss` with margin 0.2 and scale 30.
        p_target: Prior probability of a same-speaker trial in the detection cost.
        **complementary: Further arguments of :class:`~lightning_fusion.ACoRLModule`.
    """

    def __init__(
        self,
        network: Callable[[int], nn.Module],
        experts: dict[str, Expert] | ExpertPool,
        features: str = "embedding",
        loss: nn.Module | None = None,
        p_target: float = 0.01,
        **complementary: Any,
    ) -> None:
        given, experts = experts, {}  # recording arguments copies them: not the weights of all experts
        chosen = loss if loss is not None else AngularMarginLoss()
        super().__init__(network=network, experts=given, features=features, loss=chosen, **complementary)
        check_scale(self.network, self.loss)
        self.evaluation = TrialEvaluation(["", *self.pool.names], p_target)

    def embed(self, input: Any) -> tuple[Tensor, Tensor]:
        """Return logits (B, C) and embeddings (B, D), float32, of the new model."""
        logits, z = self.forward_with_representations(input)
        return logits, z.float()

    def other_embeddings(self, input: Any) -> list[Tensor]:
        """Return the embeddings of the frozen experts."""
        return list(self.pool.representations(input).values())

    def diagnostics(self, metrics: Mapping[str, float]) -> Sequence[str]:
        """Return warnings from validation metrics."""
        return trial_warnings(metrics)
