"""ACoRL for speakers: judged by verification trials."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_fusion.acorl.diagnostics import trial_warnings
from lightning_fusion.acorl.dissimilarity import Dissimilarity
from lightning_fusion.acorl.module import ACoRLModule
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.schedules import Schedule
from lightning_fusion.verification.evaluation import TrialEvaluation, TrialEvaluationMixin
from lightning_fusion.verification.loss import AngularMarginLoss, check_scale


class ACoRLVerificationModule(TrialEvaluationMixin, ACoRLModule):
    """:class:`~lightning_fusion.ACoRLModule` whose members are judged by trials of speakers that they never heard.

    It trains as that does; validation and test are those of
    :class:`~lightning_fusion.verification.module.VerificationModule`, of the new model (``val_eer``), of each frozen
    expert (``val_expert_NAME_eer``) and of the mean of all their cosine scores (``val_fused_eer``), likewise
    ``min_dcf``.

    Args:
        network: As for :class:`~lightning_fusion.verification.module.VerificationModule`.
        experts: As for :class:`~lightning_fusion.ACoRLModule`; their ``features`` are their embeddings.
        features: Submodule whose output (B, D) is the embedding.
        classes: Names of the training speakers; the command line takes them from the data module.
        trained_on: Names of the domains of the training data; from the data module on the command line.
        preprocessing: How recordings became network input; from the data module on the command line.
        schedule: As for :class:`~lightning_fusion.ACoRLModule`, and so are the next four.
        ramp_steps: See there.
        allow_imitation: See there.
        dissimilarity: See there.
        projection: See there.
        loss: An :class:`~lightning_fusion.verification.loss.AngularMarginLoss` where None.
        metric: Called as ``metric(logits (B, C), target (B,))``; accuracy where None.
        optimizer: AdamW, 1e-3, weight decay 1e-4 where None.
        scheduler: A cosine to 0 over the run where None.
        scheduler_interval: Whether a given ``scheduler`` steps each epoch or each step.
        p_target: Of the detection cost, how probable a trial of one speaker is.
    """

    def __init__(
        self,
        network: Callable[[int], nn.Module],
        experts: dict[str, Expert] | ExpertPool,
        features: str = "embedding",
        classes: list[str] | None = None,
        trained_on: list[str] | None = None,
        preprocessing: dict[str, Any] | None = None,
        schedule: Schedule | None = None,
        ramp_steps: int | None = None,
        allow_imitation: bool = False,
        dissimilarity: Callable[[int, int], Dissimilarity] | None = None,
        projection: Callable[[int, int], nn.Module] | None = None,
        loss: nn.Module | None = None,
        metric: Metric | None = None,
        optimizer: OptimizerCallable | None = None,
        scheduler: LRSchedulerCallable | None = None,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
        p_target: float = 0.01,
    ) -> None:
        given, experts = experts, {}  # recording arguments copies them: not the weights of all experts
        super().__init__(
            network,
            given,
            features,
            classes,
            trained_on,
            preprocessing,
            schedule,
            ramp_steps,
            allow_imitation,
            dissimilarity,
            projection,
            loss if loss is not None else AngularMarginLoss(),
            metric,
            optimizer=optimizer,
            scheduler=scheduler,
            scheduler_interval=scheduler_interval,
        )
        check_scale(self.network, self.loss)
        self.evaluation = TrialEvaluation(["", *self.pool.names], p_target)

    def embed(self, input: Any) -> tuple[Tensor, Tensor]:
        """Logits (B, C) and embeddings (B, D), float32, of the new model."""
        logits, z = self.forward_with_representations(input)
        return logits, z.float()

    def other_embeddings(self, input: Any) -> list[Tensor]:
        """Those of the frozen experts."""
        return list(self.pool.representations(input).values())

    def diagnostics(self, metrics: Mapping[str, float]) -> Sequence[str]:
        """What validation metrics say about a member that went wrong."""
        return trial_warnings(metrics)
