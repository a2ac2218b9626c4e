"""Gradient reversal."""

import torch
from torch import Tensor


def reverse_gradient(x: Tensor, strength: float | Tensor) -> Tensor:
    """Identity with reversed gradient: the backward pass multiplies by -``strength``.

    It affects only what is computed from the returned tensor; other uses of ``x`` keep their gradient. Source: Ganin
    and Lempitsky, Unsupervised Domain Adaptation by Backpropagation, ICML 2015, section 3.

    Args:
        x: Any tensor; returned unchanged if it requires no gradient.
        strength: lambda >= 0; a negative value keeps the sign (imitation), 0 stops the gradient.

    Example:
        >>> x = torch.ones(2, requires_grad=True)
        >>> (x.sum() + reverse_gradient(x, 0.5).sum()).backward()
        >>> x.grad
        tensor([0.5000, 0.5000])
    """
    if not (torch.is_grad_enabled() and x.requires_grad):
        return x
    view = x.view_as(x)  # a hook on x itself would reverse the gradients of its other uses as well
    view.register_hook(lambda gradient: gradient * -strength)
    return view
