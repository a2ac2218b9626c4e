"""Rounding of squared distances, so that equally distant rows compare as equal."""

from torch import Tensor

SPLIT = 4097.0
"""2^12 + 1: splitting by it keeps 41 of the 53 significant bits of float64."""


def rounded(values: Tensor) -> Tensor:
    """Return float64 values rounded to 41 significant bits.

    Sums of the same terms in another order differ by some units of the last bit, which decides between equally distant
    rows; the rounded sums are equal. Source: Veltkamp's splitting, in Dekker, A floating-point technique for extending
    the available precision, Numerische Mathematik 18, 1971.

    Args:
        values: Values in float64, at most 1e300.

    Example:
        >>> import torch
        >>> sums = torch.tensor([0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1], dtype=torch.float64)
        >>> bool(sums[0] == sums[1]), bool(rounded(sums)[0] == rounded(sums)[1])
        (False, True)
    """
    split = SPLIT * values
    return split - (split - values)
