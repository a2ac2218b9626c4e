"""Training of ACoRL's projections apart from the network: several steps for each batch."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from lightning_fusion.acorl.projection import Adversary


class InnerSteps:
    """Trains the projections of an adversary on detached representations, with an optimizer of their own.

    With one step of d_k for each step of the network, d_k falls behind: the reversed gradient then scrambles z instead
    of removing what d_k finds. The optimizer is none of the Trainer's, so ``max_steps``, ``global_step``, gradient
    clipping and accumulation concern the network alone. Losses and gradients are those of float32 weights, also under
    autocast, and need no scale; the processes of a run average them. Elsewhere the weights require no gradient.

    Args:
        adversary: The projections, on the device of the training.
        steps: Steps for each batch.
        optimizer: Called with the projections' weights. ``None`` (default) uses Adam with learning rate 3e-3.
    """

    def __init__(
        self,
        adversary: Adversary,
        steps: int,
        optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None = None,
    ) -> None:
        self.adversary, self.steps = adversary, steps
        self._weights = list(adversary.projections.parameters())
        if optimizer is not None:
            self.optimizer: torch.optim.Optimizer = optimizer(self._weights)
        else:
            self.optimizer = torch.optim.Adam(self._weights, lr=3e-3)

    def __call__(self, z: Tensor, representations: Mapping[str, Tensor], target: Tensor) -> dict[str, Tensor]:
        """Train on one batch; the gradients of the last step stay in the weights.

        Args:
            z: (B, D) representation of the new model; no gradient flows into it.
            representations: (B, D_k) of each frozen model.
            target: (B,) classes, or (B, C) fractions of classes.

        Returns:
            The loss of each projection before the steps, on a batch that it has not seen.
        """
        self.adversary.update(representations, target)
        z = z.detach().to(self._weights[0].dtype)
        before: dict[str, Tensor] = {}
        with torch.autocast(z.device.type, enabled=False), torch.enable_grad():
            for _ in range(self.steps):
                self._require_gradients(True)
                losses = self.adversary.losses(z, representations, target)
                total = torch.stack(list(losses.values())).sum()
                gradients = torch.autograd.grad(total, self._weights, allow_unused=True, materialize_grads=True)
                self._require_gradients(False)
                for weight, gradient in zip(self._weights, averaged(gradients), strict=True):
                    weight.grad = gradient
                self.optimizer.step()
                before = before or {name: loss.detach() for name, loss in losses.items()}
        return before

    def _require_gradients(self, require: bool) -> None:
        for weight in self._weights:
            weight.requires_grad_(require)


def averaged(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Return gradients averaged over the processes of a run, in one exchange."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return list(gradients)
    flat = nn.utils.parameters_to_vector(gradients)
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    return [
        part.view_as(one) for part, one in zip(flat.split([one.numel() for one in gradients]), gradients, strict=True)
    ]
