"""Splits: stratified samples, whole sessions, folds and class subsets."""

import math

import numpy as np

from lightning_fusion.errors import InputError


def stratified_split(strata: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split positions 0..N-1 into (kept, held out), with the same held-out fraction in each stratum.

    Of a stratum of n samples round(fraction * n) are held out: at least one if n >= 2 and fraction > 0, never all.

    Args:
        strata: (N,) labels.
        fraction: Held-out fraction, in [0, 1).
        seed: Seed of the draw.

    Example:
        >>> kept, held = stratified_split(np.array([0, 0, 0, 0, 1, 1]), fraction=0.25, seed=0)
        >>> len(kept), len(held)
        (4, 2)
    """
    generator = np.random.default_rng(seed)
    held: list[np.ndarray] = []
    for stratum in np.unique(strata):
        rows = generator.permutation(np.flatnonzero(strata == stratum))
        count = min(max(round(fraction * len(rows)), int(fraction > 0)), len(rows) - 1)
        held.append(rows[:count])
    held_out = np.sort(np.concatenate(held)) if held else np.empty(0, np.int64)
    return np.setdiff1d(np.arange(len(strata)), held_out), held_out


def stratified_sessions(
    counts: np.ndarray, scope: np.ndarray, val_fraction: float, test_fraction: float, seed: int
) -> np.ndarray:
    """Draw whole sessions for validation and testing, within each scope.

    Where every session of a scope has one class, they are drawn class by class (:func:`stratified_split`). Elsewhere
    the best of 64 draws is taken: among those that leave no class without training samples, if there are any, the
    draw with the smallest sum of squared deviations from the class fractions. The only session of a scope is used for
    training; a scope of two has no validation session; sessions without samples are used for training. (Our choices.)

    Args:
        counts: (U, C) number of samples of each session and class.
        scope: (U,) scope of each session: its domain, or its group.
        val_fraction: Fraction of the sessions for validation.
        test_fraction: Fraction of the sessions for testing.
        seed: Seed of the draws.

    Returns:
        (U,) split of each session: 0 train, 1 val, 2 test.

    Example:
        >>> stratified_sessions(np.ones((10, 3)), np.zeros(10), 0.1, 0.2, seed=0).tolist().count(2)
        2
    """
    split = np.zeros(len(counts), np.int64)
    for place, number in enumerate(np.unique(scope)):
        units = np.flatnonzero((scope == number) & (counts.sum(1) > 0))
        if ((counts[units] > 0).sum(1) == 1).all():
            label = counts[units].argmax(1)
            rest, test = stratified_split(label, test_fraction, seed * 1009 + 1)
            _, val = stratified_split(label[rest], val_fraction / (1 - test_fraction), seed * 1009 + 2)
            split[units[test]], split[units[rest[val]]] = 2, 1
            continue
        tests = min(max(round(test_fraction * len(units)), int(test_fraction > 0)), len(units) - 1)
        vals = min(max(round(val_fraction * len(units)), int(val_fraction > 0)), len(units) - tests - 1)
        generator = np.random.default_rng([seed, place])
        share = counts[units] / np.maximum(counts[units].sum(0), 1)
        best, chosen = math.inf, np.arange(len(units))
        for _ in range(64):
            order = generator.permutation(len(units))
            parts = np.split(order, [tests, tests + vals])
            sums = [share[part].sum(0) for part in parts]
            off = sum(((s - len(part) / len(units)) ** 2).sum() for s, part in zip(sums, parts, strict=True))
            off += 1e6 * ((sums[2] == 0) & (share.sum(0) > 0)).sum()
            if off < best:
                best, chosen = off, order
        split[units[chosen[:tests]]], split[units[chosen[tests : tests + vals]]] = 2, 1
    return split


def draw_class_subsets(
    num_classes: int, num_domains: int, classes_per_domain: int, groups: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
    """Draw overlapping class subsets that together cover every class.

    With ``groups`` each domain first gets one class of every group, then the rest from all remaining classes: the
    CIFAR-100 protocol of FoE (Wang et al., ICLR 2024), where the groups are the 20 super-classes. Draws that leave a
    class without a domain are repeated (our choice).

    Args:
        num_classes: C, number of classes.
        num_domains: D, number of domains.
        classes_per_domain: Number of classes of each domain.
        groups: (C,) group index of each class.
        seed: Seed of the draw.

    Returns:
        (C, D) bool, membership of each class in each domain.

    Raises:
        InputError: If the subsets cannot cover the classes.

    Example:
        >>> draw_class_subsets(10, num_domains=5, classes_per_domain=4, seed=0).sum(0).tolist()
        [4, 4, 4, 4, 4]
    """
    num_groups = 0 if groups is None else len(np.unique(groups))
    if not num_groups <= classes_per_domain <= num_classes or num_domains * classes_per_domain < num_classes:
        raise InputError(
            f"{num_domains} domains of {classes_per_domain} classes cannot cover {num_classes} classes"
            + (f" with one of each of the {num_groups} super-classes" if num_groups else "")
            + "; change num_domains or classes_per_domain"
        )
    generator = np.random.default_rng(seed)
    for _ in range(10_000):
        member = np.zeros((num_classes, num_domains), bool)
        for domain in range(num_domains):
            if groups is not None:
                for group in np.unique(groups):
                    member[generator.choice(np.flatnonzero(groups == group)), domain] = True
            others = np.flatnonzero(~member[:, domain])
            member[generator.choice(others, classes_per_domain - num_groups, replace=False), domain] = True
        if member.any(1).all():
            return member
    raise InputError(
        f"no draw of {num_domains} domains x {classes_per_domain} classes covered all {num_classes} classes; "
        "raise num_domains or classes_per_domain"
    )


def stratified_folds(strata: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Assign samples to (N,) folds; each stratum is dealt out in turn, so that folds differ by at most one sample.

    Args:
        strata: (N,) labels.
        count: Number of folds.
        seed: Seed of the order within strata.

    Example:
        >>> folds = stratified_folds(np.array([0, 0, 0, 0, 1, 1]), 2, seed=0)
        >>> np.bincount(folds).tolist(), np.bincount(folds[:4]).tolist()
        ([3, 3], [2, 2])
    """
    generator = np.random.default_rng(seed)
    order = np.concatenate([generator.permutation(np.flatnonzero(strata == one)) for one in np.unique(strata)])
    folds = np.empty(len(strata), np.int64)
    folds[order] = np.arange(len(strata)) % count
    return folds
