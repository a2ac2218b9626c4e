"""Light statistics of texts, independent of a tokenizer: a hashed bag of words."""

import zlib

import numpy as np

from lightning_fusion.data.text.texts import normalize

BUCKETS = 512
"""Number of buckets of the hashed bag of words."""


def hash_words(text: str) -> np.ndarray:
    """Hash the words of a text to buckets, (W,) int16.

    Example:
        >>> len(hash_words("A fine, fine book"))
        4
    """
    words = "".join(letter if letter.isalnum() else " " for letter in normalize(text)).split()
    return np.array([zlib.crc32(word.encode()) % BUCKETS for word in words], np.int16)


def bag_of_words(words: np.ndarray, offsets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Compute the hashed bag of words of some texts: the square root of each bucket's mean fraction of words.

    The root reduces the weight of frequent words (Hellinger); our choice. Fractions sum to 1, so the vector has norm 1.

    Args:
        words: Bucket of each word of all texts.
        offsets: (N + 1,) start of each text.
        rows: Positions of the texts.

    Returns:
        (512,) float32.

    Example:
        >>> bag_of_words(np.array([3, 3, 5]), np.array([0, 1, 3]), np.array([0, 1]))[[3, 5]]
        array([0.8660254, 0.5      ], dtype=float32)
    """
    counts = np.diff(offsets)
    weight = np.zeros(len(counts))
    weight[rows] = 1 / np.maximum(counts[rows], 1)
    share = np.bincount(words, np.repeat(weight, counts), BUCKETS)
    result: np.ndarray = np.sqrt(share / max(share.sum(), 1e-12)).astype(np.float32)
    return result
