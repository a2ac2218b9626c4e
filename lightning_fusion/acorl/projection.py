"""Projections of ACoRL: small networks, each of which predicts the representation of a frozen model."""

from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_fusion.acorl.dissimilarity import Dissimilarity, StandardizedResidualMSE, class_fractions
from lightning_fusion.acorl.reversal import reverse_gradient
from lightning_fusion.errors import InputError
from lightning_fusion.experts.names import NamedModules


class ProjectionMLP(nn.Module):
    """Linear layers with ReLU between them and no final normalization.

    Args:
        num_inputs: Size of the new model's representation.
        num_outputs: Size of the frozen model's representation.
        depth: Number of linear layers (2 is our choice).
        hidden: Width of the hidden layers. ``None`` (default) uses the larger of ``num_inputs`` and ``num_outputs``.

    Example:
        >>> import torch
        >>> ProjectionMLP(8, 3)(torch.zeros(2, 8)).shape
        torch.Size([2, 3])
    """

    def __init__(self, num_inputs: int, num_outputs: int, depth: int = 2, hidden: int | None = None) -> None:
        super().__init__()
        if depth < 1 or (hidden is not None and hidden < 1):
            raise InputError(f"ProjectionMLP: depth is {depth}, hidden {hidden}; expected at least 1")
        hidden = hidden or max(num_inputs, num_outputs)
        widths = [num_inputs, *[hidden] * (depth - 1), num_outputs]
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(pairwise(widths)):
            layers += [nn.ReLU()] * (number > 0) + [nn.Linear(before, after)]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Map (B, num_inputs) to (B, num_outputs)."""
        predicted: Tensor = self.layers(z)
        return predicted


class Adversary(nn.Module):
    """Predicts the representations of K frozen models from z, behind a gradient reversal.

        L_a = mean over k of D(d_k(GRL(z)), v_k)

    Sign and strength apply in the reversal only, so the learning rate of d_k does not depend on the strength. Source:
    Kang et al., arXiv 2404.15704.

    Args:
        num_features: Size of z.
        members: Size of the representation of each frozen model, by name.
        num_classes: C, number of classes.
        projection: Called as ``projection(size of the input, size of v_k)``; the input is z, followed by the C
            fractions of classes where the dissimilarity is conditional. ``None`` (default) uses
            :class:`ProjectionMLP`.
        dissimilarity: Called as ``dissimilarity(size of v_k, C)``. ``None`` (default) uses
            :class:`~lightning_fusion.acorl.dissimilarity.StandardizedResidualMSE`.
        layer_norm: Normalize z before the projections, so that the new model gains nothing by its scale; for z of size
            3 or more.
        apart: Whether the projections are trained apart, by :meth:`losses`, and not by the reversed loss itself.

    Example:
        >>> import torch
        >>> adversary = Adversary(4, {"first": 3}, num_classes=2)
        >>> loss = adversary(torch.rand(5, 4), {"first": torch.rand(5, 3)}, torch.zeros(5, dtype=torch.long), 1.0)
        >>> sorted(loss)
        ['first']
    """

    def __init__(
        self,
        num_features: int,
        members: Mapping[str, int],
        num_classes: int,
        projection: Callable[[int, int], nn.Module] | None = None,
        dissimilarity: Callable[[int, int], Dissimilarity] | None = None,
        layer_norm: bool = True,
        apart: bool = False,
    ) -> None:
        super().__init__()
        self.sizes = dict(members)
        self.num_features, self.num_classes = num_features, num_classes
        self.layer_norm, self.apart = layer_norm, apart
        project, compare = projection or ProjectionMLP, dissimilarity or StandardizedResidualMSE
        for what, made in (("projection", project), ("dissimilarity", compare)):
            if isinstance(made, nn.Module) or not callable(made):
                raise InputError(f"{what}: found an instance of {type(made).__name__}; give its class")
        if layer_norm and num_features < 3:
            raise InputError(
                f"layer_norm: normalizing a representation of size {num_features} leaves its sign at most; set "
                "layer_norm to false"
            )
        self.dissimilarities = NamedModules({name: compare(size, num_classes) for name, size in members.items()})
        for measure in self.dissimilarities.values():
            if not isinstance(measure, Dissimilarity):
                raise InputError(f"dissimilarity: {type(measure).__name__} is no acorl.dissimilarity.Dissimilarity")
        widths = {
            name: num_features + num_classes * measure.conditional for name, measure in self.dissimilarities.items()
        }
        self.projections = NamedModules({name: project(widths[name], size) for name, size in members.items()})

    def forward(
        self, z: Tensor, representations: Mapping[str, Tensor], target: Tensor, strength: float | Tensor
    ) -> dict[str, Tensor]:
        """Compute D of each member, behind the reversal; their mean is L_a.

        Args:
            z: (B, D) representation of the new model.
            representations: (B, D_k) representation of each frozen model, by name, without gradient.
            target: (B,) classes, or (B, C) class fractions of mixed samples.
            strength: lambda of the reversal.

        Raises:
            InputError: If a representation has another number of rows or columns.
        """
        turned = reverse_gradient(z, strength)
        if not self.apart:
            return self.losses(turned, representations, target)
        result = {}
        for name, projected in self.project(turned, representations, target).items():
            result[name] = self.measure_of(name).bound(projected, representations[name], target)
        return result

    def losses(self, z: Tensor, representations: Mapping[str, Tensor], target: Tensor) -> dict[str, Tensor]:
        """Compute D of each member as the projections minimize it; see :meth:`forward` for the arguments."""
        result: dict[str, Tensor] = {}
        for name, projected in self.project(z, representations, target).items():
            measure = self.measure_of(name)
            result[name] = measure(projected, representations[name], target)
            if result[name].ndim:
                raise InputError(
                    f"dissimilarity: {type(measure).__name__} gave shape {tuple(result[name].shape)}; expected one "
                    "number, the mean of the batch"
                )
        return result

    def project(self, z: Tensor, representations: Mapping[str, Tensor], target: Tensor) -> dict[str, Tensor]:
        """Compute d_k(z) of each member, (B, D_k); see :meth:`forward` for the arguments."""
        if self.layer_norm:
            z = F.layer_norm(z, z.shape[1:])
        conditional = z
        if any(self.measure_of(name).conditional for name in self.sizes):
            conditional = torch.cat([z, class_fractions(target, self.num_classes, z.dtype)], 1)
        result = {}
        for name, projection in self.projections.items():
            v = representations[name]
            if v.ndim != 2 or len(v) != len(z) or v.shape[1] != self.sizes[name]:
                raise InputError(
                    f"experts: the representation of {name} has shape {tuple(v.shape)}; expected "
                    f"{(len(z), self.sizes[name])}: name a layer with one vector for each sample as its features"
                )
            result[name] = projection(conditional if self.measure_of(name).conditional else z)
            if result[name].shape != v.shape:
                raise InputError(
                    f"projection: found an output of shape {tuple(result[name].shape)}; expected {tuple(v.shape)}"
                )
        return result

    def measure_of(self, name: str) -> Dissimilarity:
        """Return the dissimilarity of a member."""
        found: Dissimilarity = self.dissimilarities[name]  # type: ignore[assignment]  # checked when they are built
        return found

    def update(self, representations: Mapping[str, Tensor], target: Tensor) -> None:
        """Count a training batch in the statistics of the dissimilarities."""
        for name in self.sizes:
            self.measure_of(name).update(representations[name], target)


def check_projection_arguments(adversary_steps: int, layer_norm: bool) -> None:
    """Raise InputError if the arguments of :class:`~lightning_fusion.ACoRLModule` of these names are invalid.

    Example:
        >>> check_projection_arguments(adversary_steps=5, layer_norm=True)
    """
    if isinstance(adversary_steps, bool) or not isinstance(adversary_steps, int) or adversary_steps < 0:
        raise InputError(f"adversary_steps is {adversary_steps!r}; expected a number of at least 0, joint training")
    if not isinstance(layer_norm, bool):
        raise InputError(f"layer_norm is {layer_norm!r}; expected true or false")
