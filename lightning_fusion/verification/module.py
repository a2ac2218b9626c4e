"""LightningModule that trains a speaker expert and evaluates it by verification trials."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lightning_fusion.errors import InputError
from lightning_fusion.experts.layers import catch_output, check_layer
from lightning_fusion.experts.module import ExpertModule
from lightning_fusion.verification.evaluation import TrialEvaluation, TrialEvaluationMixin
from lightning_fusion.verification.loss import AngularMarginLoss, check_scale


class VerificationModule(TrialEvaluationMixin, ExpertModule):
    """Train a speaker classifier, and evaluate its embeddings by verification trials of unseen speakers.

    Training is that of :class:`~lightning_fusion.ExpertModule`: a classifier of the training speakers, whose checkpoint
    is an expert. Validation and test collect the embedding of every sample and score the trials of the data module: its
    method ``trials(split)`` returns ``pairs`` (T, 2) int64 of sample numbers and ``same`` (T,) bool, or ``None``. The
    module logs ``val_eer`` and ``val_min_dcf``, ``test_eer`` and ``test_min_dcf``, as fractions, and loss and accuracy
    of the samples of known speakers, if there are any (the target of the others is -100).

    Args:
        network: Factory of the network, called with the number of speakers. The default loss requires a head that
            outputs scaled cosines, as those of :mod:`lightning_fusion.encoders.speaker` do.
        classes: Names of the training speakers; the command line takes them from the data module.
        features: Submodule whose output (B, D) is the embedding.
        loss: Called as ``loss(logits (B, C), target)``. ``None`` (default) uses
            :class:`~lightning_fusion.verification.loss.AngularMarginLoss` with margin 0.2 and scale 30.
        p_target: Prior probability of a same-speaker trial in the detection cost.
        **expert: Further arguments of :class:`~lightning_fusion.ExpertModule`.

    Raises:
        InputError: If the network has no submodule ``features``, or its head's scale is not the loss's.

    Example:
        >>> import torch
        >>> from lightning_fusion.encoders import SmallSpeakerNet
        >>> module = VerificationModule(SmallSpeakerNet, classes=["anna", "ben"])
        >>> module(torch.zeros(3, 80, 200)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        network: Callable[[int], nn.Module],
        classes: list[str] | None = None,
        features: str = "embedding",
        loss: nn.Module | None = None,
        p_target: float = 0.01,
        **expert: Any,
    ) -> None:
        chosen = loss if loss is not None else AngularMarginLoss()
        super().__init__(network=network, classes=classes, features=features, loss=chosen, **expert)
        check_layer(self.network, features, "the network")
        check_scale(self.network, self.loss)
        self.evaluation = TrialEvaluation(p_target=p_target)

    def embed(self, input: Any) -> tuple[Tensor, Tensor]:
        """Return logits (B, C) and embeddings (B, D), float32, from one pass.

        Raises:
            InputError: If the output of the layer ``features`` is not a (B, D) tensor.
        """
        with catch_output(self.network, str(self.features)) as caught:
            logits = self(input)
        if caught[-1].ndim != 2:
            raise InputError(
                f"features: the layer {self.features!r} gave {tuple(caught[-1].shape)}; expected an embedding (batch, "
                "features)"
            )
        return logits, caught[-1].float()
