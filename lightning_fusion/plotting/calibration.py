"""Reliability diagrams."""

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from lightning_fusion.errors import InputError
from lightning_fusion.plotting.page import label_axes, legend_below, styled


@styled
def reliability(confidence: ArrayLike, correct: ArrayLike, *, title: str, bins: int = 15) -> Figure:
    """Plot the accuracy of predictions by their confidence, with the number of samples in each bin.

    The expected calibration error in the title is the mean distance of accuracy and confidence over the bins, weighted
    by their samples. Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 2.

    Args:
        confidence: (N,) probabilities of the predicted classes.
        correct: (N,) bool, whether the predictions are correct.
        title: Title of the figure.
        bins: Number of bins of equal width from 0 to 1.

    Raises:
        InputError: If there is no sample, or shapes differ.
    """
    values, right = np.asarray(confidence, float), np.asarray(correct, bool)
    if values.shape != right.shape or values.ndim != 1 or not len(values):
        raise InputError(f"confidence has shape {values.shape}, correct {right.shape}; expected (N,) both, N above 0")
    place = np.clip((values * bins).astype(int), 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    used = counts > 0
    accuracy, mean = (np.bincount(place, part, bins)[used] / counts[used] for part in (right, values))
    error = float(np.abs(accuracy - mean) @ counts[used] / len(values))
    centers = (np.arange(bins) + 0.5) / bins
    figure = Figure(figsize=(5.2, 5.4))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    figure.suptitle(f"{title}\nexpected calibration error {error:.3f}", fontsize=10)
    upper.bar(centers[used], accuracy, 0.96 / bins, color="tab:blue", label="accuracy of the bin")
    upper.plot(mean, accuracy, "o", color="black", markersize=3, label="accuracy at the mean confidence")
    upper.plot([0, 1], [0, 1], color="gray", linestyle="--", label="calibrated")
    lower.bar(centers, 100 * counts / len(values), 0.96 / bins, color="tab:gray")
    label_axes(upper, xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
    label_axes(lower, "y", xlim=(0, 1), xlabel="confidence, probability of the predicted class", ylabel="samples (%)")
    legend_below(figure, upper)
    return figure
