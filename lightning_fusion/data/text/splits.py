"""Splits of texts, named by the source or drawn; equal texts stay together."""

import numpy as np

from lightning_fusion.data.splits import stratified_split

TRAIN, VAL, TEST, FUSER_TRAIN, FUSER_VAL, LEFT_OUT = 0, 1, 2, 3, 4, -1


def draw_splits(
    label: np.ndarray,
    domain: np.ndarray,
    named: np.ndarray,
    group: np.ndarray,
    *,
    val_fraction: float,
    test_fraction: float,
    fuser_fraction: float,
    seed: int,
) -> np.ndarray:
    """Assign texts to splits; if the source names none they are drawn by domain and label, group by group.

    A group is in the latest split that one of its texts names; its texts that name an earlier split are left out.

    Args:
        label: (N,) label indices.
        domain: (N,) domain indices, -1 for none.
        named: (N,) 0, 1, 2 for train, val and test, -1 where the source names none.
        group: (N,) group indices, the same for equal texts.
        val_fraction: Fraction of all texts (of the training texts, if the source names a test split) for
            validation, and of the fuser's texts for the validation split of the fuser.
        test_fraction: Fraction of all texts for testing.
        fuser_fraction: Fraction of the texts outside the test split that is held out for the fuser.
        seed: Seed of the draws.

    Returns:
        (N,) :data:`TRAIN`, :data:`VAL`, :data:`TEST`, :data:`FUSER_TRAIN`, :data:`FUSER_VAL` or :data:`LEFT_OUT`.

    Example:
        >>> zeros, rows = np.zeros(10, int), np.arange(10)
        >>> split = draw_splits(
        ...     zeros, zeros, zeros - 1, rows, val_fraction=0.1, test_fraction=0.2, fuser_fraction=0.0, seed=0
        ... )
        >>> np.bincount(split).tolist()
        [7, 1, 2]
    """
    _, first, of_row = np.unique(group, return_index=True, return_inverse=True)
    strata = (domain * (label.max() + 1) + label)[first]
    latest = np.full(len(first), -1)
    np.maximum.at(latest, of_row, named)
    split = np.where(latest >= 0, latest, TRAIN)
    free = np.flatnonzero(split == TRAIN)

    def draw(rows: np.ndarray, fraction: float, purpose: int) -> tuple[np.ndarray, np.ndarray]:
        if not fraction or not len(rows):
            return rows, rows[:0]
        kept, held = stratified_split(strata[rows], fraction, seed * 1009 + purpose)
        return rows[kept], rows[held]

    fraction = val_fraction
    if (latest < 0).all():
        free, test = draw(free, test_fraction, 1)
        split[test] = TEST
        fraction /= 1 - test_fraction
    free, fuser = draw(free, fuser_fraction, 2)
    split[fuser] = FUSER_TRAIN
    if not (latest == VAL).any():
        split[draw(free, fraction, 3)[1]] = VAL
        split[draw(fuser, fraction, 4)[1]] = FUSER_VAL
    result = split[of_row]
    result[(named >= 0) & (named < latest[of_row])] = LEFT_OUT
    return result
