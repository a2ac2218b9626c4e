"""Training of ACoRL's projections apart from the network: several steps for each batch."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_fusion.acorl.projection import Adversary
from lightning_fusion.errors import InputError
from lightning_fusion.optimization import check_eps, default_eps, made_by


class InnerSteps:
    """Trains the projections of an adversary on detached representations, with an optimizer of their own.

    With one step of d_k for each step of the network, d_k falls behind: the reversed gradient then scrambles z instead
    of removing what d_k finds. The optimizer is none of the Trainer's, so ``max_steps``, ``global_step``, gradient
    clipping and accumulation concern the network alone. Losses and gradients are those of float32 weights, also under
    autocast, and need no scale; the processes of a run average them. Elsewhere the weights require no gradient.

    Args:
        adversary: The projections, on the device of the training.
        steps: Steps for each batch.
        optimizer: Called with the projections' weights. ``None`` (default) uses Adam with learning rate 3e-3, and with
            eps 1e-4 where weights are in float16.

    Raises:
        InputError: If the projections have no weights, or the optimizer does not suit.
    """

    def __init__(
        self,
        adversary: Adversary,
        steps: int,
        optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None = None,
    ) -> None:
        self.adversary, self.steps = adversary, steps
        self._weights = list(adversary.projections.parameters())
        if not self._weights:
            raise InputError("projection: found no weights, so that steps of their own train nothing; give it a layer")
        chosen = optimizer or partial(torch.optim.Adam, lr=3e-3, eps=default_eps(self._weights))
        self.optimizer = made_by(chosen, self._weights, "adversary_optimizer")
        kind = type(self.optimizer).__name__
        if not isinstance(self.optimizer, torch.optim.Optimizer):
            raise InputError(f"adversary_optimizer: it returned a {kind}; expected an optimizer of torch")
        if inspect.signature(self.optimizer.step).parameters["closure"].default is inspect.Parameter.empty:
            raise InputError(
                f"adversary_optimizer: {kind} computes its loss several times in a step; use another, as Adam"
            )
        check_eps(self.optimizer, "adversary_optimizer")

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer, with the name of its class."""
        return self.optimizer.state_dict() | {"kind": type(self.optimizer).__name__}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of the optimizer.

        Raises:
            InputError: If it is that of another class.
        """
        kind = type(self.optimizer).__name__
        if state.get("kind", kind) != kind:
            raise InputError(
                f"adversary_optimizer is {kind}; the checkpoint is of a run with {state['kind']}: continue with its "
                "settings, or start anew"
            )
        self.optimizer.load_state_dict({name: value for name, value in state.items() if name != "kind"})

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
