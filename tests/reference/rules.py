"""The rules as loops, written from their papers, to be read beside them."""

import itertools
import math

import numpy as np


def split(strata: list[int], share: float) -> dict[int, int]:
    """How many rows of each stratum are held out."""
    counts = {}
    for stratum in set(strata):
        rows = strata.count(stratum)
        held = round(share * rows)
        if share > 0:
            held = max(held, 1)
        counts[stratum] = min(held, rows - 1)
    return counts


def scatter(outputs: np.ndarray, columns: list[list[int]], num_classes: int) -> np.ndarray:
    """(B, K, C): column by column."""
    result = np.zeros((len(outputs), len(columns), num_classes), outputs.dtype)
    for row in range(len(outputs)):
        position = 0
        for expert, own in enumerate(columns):
            for column in own:
                result[row, expert, column] = outputs[row, position]
                position += 1
    return result


def vote(predictions: list[int], mean: np.ndarray) -> int:
    """The class with most votes; among equals the one with the larger mean probability, then the lower one."""
    votes = [predictions.count(label) for label in range(len(mean))]
    most = [label for label in range(len(mean)) if votes[label] == max(votes)]
    return max(most, key=lambda label: (mean[label], -label))


def knora_eliminate(fitted: np.ndarray, targets: np.ndarray, query: np.ndarray, neighbors: int) -> int:
    """Ko, Sabourin and Britto, 2008, KNORA-ELIMINATE, for one (K, C) query."""
    distances = [float(((row - query) ** 2).sum()) for row in fitted]
    nearest = sorted(range(len(fitted)), key=lambda row: (distances[row], row))[:neighbors]
    experts = range(query.shape[0])
    chosen: list[int] = []
    for size in range(len(nearest), 0, -1):
        chosen = [k for k in experts if all(fitted[row, k].argmax() == targets[row] for row in nearest[:size])]
        if chosen:
            break
    chosen = chosen or list(experts)
    return vote([int(query[k].argmax()) for k in chosen], query[chosen].mean(0))


def diversity(predictions: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
    """Kuncheva and Whitaker, 2003, table 1, from the contingency table of each pair."""
    rows, experts = predictions.shape
    names = ("disagreement", "double_fault", "q_statistic", "error_correlation")
    result = {name: np.full((experts, experts), np.nan) for name in names}
    for i, k in itertools.product(range(experts), repeat=2):
        table = {(a, b): 0 for a in (True, False) for b in (True, False)}
        for row in range(rows):
            table[bool(predictions[row, i] == target[row]), bool(predictions[row, k] == target[row])] += 1
        n11, n10, n01, n00 = (table[key] for key in ((True, True), (True, False), (False, True), (False, False)))
        result["disagreement"][i, k] = (n10 + n01) / rows
        result["double_fault"][i, k] = n00 / rows
        if n11 * n00 + n01 * n10:
            result["q_statistic"][i, k] = (n11 * n00 - n01 * n10) / (n11 * n00 + n01 * n10)
        margins = (n11 + n10) * (n01 + n00) * (n11 + n01) * (n10 + n00)
        if margins:
            result["error_correlation"][i, k] = (n11 * n00 - n01 * n10) / math.sqrt(margins)
    return result


def calibration_error(probabilities: np.ndarray, target: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error: the mean gap of confidence and accuracy over equally wide bins."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == target
    error = 0.0
    for number in range(bins):
        inside = (confidence >= number / bins) & (confidence < (number + 1) / bins)
        if number == bins - 1:
            inside |= confidence == 1
        if inside.any():
            error += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    return error
