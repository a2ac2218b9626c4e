"""Additive angular margin softmax on logits that are scaled cosines."""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from lightning_fusion.errors import InputError
from lightning_fusion.extras import require


class AngularMarginLoss(nn.Module):
    """Additive angular margin softmax: cross-entropy with ``margin`` added to the angle of the target class.

    With cos(theta_c) = logits / scale the logit of the target class becomes scale * cos(theta + margin), or
    scale * (cos(theta) - margin * sin(margin)) where theta + margin > pi, as pytorch-metric-learning's ArcFaceLoss
    has it. That class holds a matrix of class directions of its own; here the network's cosine head does, so that the
    trained network is an ordinary classifier. Evaluation has no margin: it is cross-entropy of the logits. Source:
    Deng et al., ArcFace, CVPR 2019, equation 3; margin and scale are the toolkits' VoxCeleb setting.

    Args:
        margin: In radians; an attribute, which :class:`~lightning_fusion.callbacks.ScheduledAttribute` may raise
            from 0 in training.
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
            raise InputError(f"margin is {margin}; expected radians in [0, pi / 2), 0.2 say")
        if not 0 < scale < math.inf:
            raise InputError(f"scale is {scale}; expected a number above 0, that of the network's cosine head")
        self.margin, self.scale = margin, scale
        losses = require("pytorch_metric_learning.losses", "audio")  # here: it takes four seconds
        self._arcface = losses.ArcFaceLoss(num_classes=1, embedding_size=1, weight_init_func=nn.init.zeros_)
        del self._arcface.W  # the head has the directions

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The mean loss over the rows whose target is not -100, a scalar; 0 where there is none.

        Args:
            logits: (B, C) scaled cosines.
            target: (B,) int64; -100 for rows of no known class.

        Raises:
            InputError: If a logit lies beyond the scale.
        """
        logits = logits.float()
        if (largest := logits.detach().abs().amax().item() if logits.numel() else 0.0) > 1.001 * self.scale:
            raise InputError(
                f"AngularMarginLoss got a logit of size {largest:.4g}; expected scaled cosines within "
                f"+-{self.scale:g}: give the network a CosineHead of the same scale, or change scale"
            )
        if self.training and self.margin:
            logits = self._with_margin(logits, target)
        return F.cross_entropy(logits, target, reduction="sum") / (target != -100).sum().clamp(min=1)

    def _with_margin(self, logits: Tensor, target: Tensor) -> Tensor:
        rows = (target != -100).nonzero()[:, 0]
        places = rows, target[rows]
        # acos has no finite gradient at 1, which a trained network reaches in float32
        cosines = (logits[places] / self.scale).clamp(-1 + 1e-6, 1 - 1e-6)
        self._arcface.margin = self.margin
        return logits.index_put(places, self.scale * self._arcface.modify_cosine_of_target_classes(cosines))


def check_scale(network: nn.Module, loss: nn.Module) -> None:
    """Reject an angular loss whose scale is not that of the network's head.

    Raises:
        InputError: With both.
    """
    scale = getattr(getattr(network, "head", None), "scale", None)
    if isinstance(loss, AngularMarginLoss) and scale is not None and scale != loss.scale:
        raise InputError(f"scale: the network's head has {scale}, the loss {loss.scale}; give both the same number")
