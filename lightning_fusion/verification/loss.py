"""Additive angular margin softmax on logits that are scaled cosines."""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from lightning_fusion.errors import InputError
from lightning_fusion.extras import require


class AngularMarginLoss(nn.Module):
    """Additive angular margin softmax: cross-entropy with ``margin`` added to the angle of the target class.

    With cos(theta_c) = logits / scale, the logit of the target class becomes scale * cos(theta + margin), or scale *
    (cos(theta) - margin * sin(margin)) if theta + margin > pi, as in ArcFaceLoss of pytorch-metric-learning. The class
    directions are weights of the network's cosine head, not of the loss, so the trained network is an ordinary
    classifier. In evaluation mode the margin is 0. Source: Deng et al., ArcFace, CVPR 2019, equation 3; margin and
    scale are the toolkits' VoxCeleb setting.

    Args:
        margin: Margin in radians; an attribute that :class:`~lightning_fusion.callbacks.ScheduledAttribute` can
            increase during training.
        scale: Scale of the network's cosine head.

    Raises:
        InputError: If ``margin`` is outside [0, pi / 2) or ``scale`` is not above 0.

    Example:
        >>> import torch
        >>> loss = AngularMarginLoss(margin=0.2, scale=30.0)
        >>> logits = torch.tensor([[24.0, 12.0]])
        >>> round(loss(logits, torch.tensor([0])).item(), 4), round(loss.eval()(logits, torch.tensor([0])).item(), 6)
        (0.0004, 6e-06)
    """

    def __init__(self, margin: float = 0.2, scale: float = 30.0) -> None:
        super().__init__()
        if not 0 <= margin < math.pi / 2:
            raise InputError(f"margin is {margin}; expected radians in [0, pi / 2), such as 0.2")
        if not 0 < scale < math.inf:
            raise InputError(f"scale is {scale}; expected a number above 0, that of the network's cosine head")
        self.margin, self.scale = margin, scale
        self.reduction = "mean"
        losses = require("pytorch_metric_learning.losses", "audio")  # imported here: it takes four seconds
        self._arcface = losses.ArcFaceLoss(num_classes=1, embedding_size=1, weight_init_func=nn.init.zeros_)
        del self._arcface.W  # the class directions are in the network's head

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the mean loss over the samples whose target is not -100, a scalar; 0 if there are none.

        With the attribute ``reduction`` "none", compute the loss of each sample, (B,).

        Args:
            logits: (B, C) scaled cosines.
            target: (B,) int64; -100 for samples without a known class.

        Raises:
            InputError: If the absolute value of a logit is above the scale.
        """
        logits = logits.float()
        if (largest := logits.detach().abs().amax().item() if logits.numel() else 0.0) > 1.001 * self.scale:
            raise InputError(
                f"AngularMarginLoss got a logit of size {largest:.4g}; expected scaled cosines within "
                f"+-{self.scale:g}: give the network a CosineHead of the same scale, or change scale"
            )
        if self.training and self.margin:
            logits = self._with_margin(logits, target)
        if self.reduction == "none":
            return F.cross_entropy(logits, target, reduction="none")
        return F.cross_entropy(logits, target, reduction="sum") / (target != -100).sum().clamp(min=1)

    def _with_margin(self, logits: Tensor, target: Tensor) -> Tensor:
        rows = (target != -100).nonzero()[:, 0]
        places = rows, target[rows]
        # acos has no finite gradient at 1, which a trained network reaches in float32
        cosines = (logits[places] / self.scale).clamp(-1 + 1e-6, 1 - 1e-6)
        self._arcface.margin = self.margin
        return logits.index_put(places, self.scale * self._arcface.modify_cosine_of_target_classes(cosines))


def check_scale(network: nn.Module, loss: nn.Module) -> None:
    """Check that an angular loss has the scale of the network's head.

    Raises:
        InputError: If the scales differ; the message gives both.
    """
    scale = getattr(getattr(network, "head", None), "scale", None)
    if isinstance(loss, AngularMarginLoss) and scale is not None and scale != loss.scale:
        raise InputError(f"scale: the network's head has {scale}, the loss {loss.scale}; give both the same number")
