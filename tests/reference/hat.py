"""HaT's formulas in NumPy, row by row, as they stand in the paper's summary."""

import numpy as np


def softmax(values: np.ndarray) -> np.ndarray:
    exponents = np.exp(values - values.max())
    return exponents / exponents.sum()


def answer(scores: np.ndarray, columns: list[int]) -> np.ndarray:
    """One source's p_i over the target's classes: the softmax over what both know, 0 elsewhere."""
    shared = [place for place, column in enumerate(columns) if column >= 0]
    result = np.zeros(len(columns))
    result[shared] = softmax(np.array([scores[columns[place]] for place in shared]))
    return result


def attention(z_t, features, query, key, maps, dim, temperature):
    """w_i of one row; query, key and maps are pairs of weights and bias."""
    q = query[0] @ z_t + query[1]
    logits = [q @ (key[0] @ (maps[i][0] @ z + maps[i][1])) for i, z in enumerate(features)]
    return softmax(np.array(logits) / (temperature * np.sqrt(dim)))


def fused(weights: np.ndarray, answers: list[np.ndarray]) -> np.ndarray:
    return sum(weight * p for weight, p in zip(weights, answers, strict=True))


def cross_entropy(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Mean over the rows with a target; 0 where none has one."""
    values = [-np.log(p[y]) for p, y in zip(probabilities, targets, strict=True) if y >= 0]
    return float(np.mean(values)) if values else 0.0


def divergence(knowledge: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean KL(knowledge || probabilities) over the rows that have knowledge."""
    values = []
    for p, q in zip(knowledge, probabilities, strict=True):
        if p.sum() > 0:
            values.append(sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0))
    return float(np.mean(values)) if values else 0.0


def strength(accuracy: float, targets: np.ndarray, classes: int, alpha_0: float = 1.0) -> float:
    labels = targets[targets >= 0]
    majority = max((labels == c).mean() for c in range(classes))
    threshold = min(0.95, max(majority, 1 / classes) + 0.05)
    return alpha_0 * accuracy if accuracy >= threshold else 0.0
