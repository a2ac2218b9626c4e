"""Synthetic product reviews: no files, no network."""

from typing import Any

import numpy as np

from lightning_fusion.data.text.datamodule import BaseTextDataModule
from lightning_fusion.data.text.texts import Texts
from lightning_fusion.errors import InputError


def synthetic_texts(overlap: float = 0.3, num_domains: int = 4, rows: int = 240, seed: int = 0) -> Texts:
    """Generate product reviews in which domains share a fraction of the sentiment words.

    A text is a template filled with nouns of the domain and with sentiment words that determine the label. Sentiment
    words are drawn from a common vocabulary with probability ``overlap``, else from that of the domain: with 0 an
    expert of one domain cannot classify another, with 1 all domains are identical.

    Args:
        overlap: Probability of a common sentiment word, from 0 (disjoint) to 1 (identical domains).
        num_domains: D, number of domains.
        rows: Number of texts of each domain, half of them of each label.
        seed: Seed of the draws.

    Example:
        >>> texts = synthetic_texts(num_domains=2, rows=4)
        >>> texts.domains[0], texts.labels[:2], len(texts.texts)
        ('domain_0', ['bad', 'good'], 8)
    """
    generator = np.random.default_rng(seed)
    letters, vowels = list("bdfgklmnprstvz"), list("aeiou")
    words: dict[str, None] = {}
    while len(words) < 24 * (num_domains + 1):
        words["".join(generator.choice(letters) + generator.choice(vowels) for _ in range(3))] = None
    pool = np.array(list(words)).reshape(num_domains + 1, 3, 8)  # last: common words; bad, good, nouns
    templates = (
        "the {n} was {w} and the {m} {v}",
        "i found this {n} {w} , its {m} rather {v} for the price",
        "{w} {n} !",
        "after a week with it the {n} seems {w} , my {m} too : {v} as they said it would be , and i called them twice",
    )
    texts = Texts()

    def word(domain: int, kind: int) -> str:
        return str(pool[num_domains if generator.random() < overlap else domain, kind, generator.integers(8)])

    for domain in range(num_domains):
        for row in range(rows):
            kind = row % 2
            text = templates[generator.integers(len(templates))].format(
                n=word(domain, 2), m=word(domain, 2), w=word(domain, kind), v=word(domain, kind)
            )
            texts.add(text, ("bad", "good")[kind], f"domain_{domain}", ("synthetic", len(texts.texts)))
    return texts


class SyntheticTextDataModule(BaseTextDataModule):
    """Synthetic reviews of four domains, from :func:`synthetic_texts`.

    Args:
        overlap: Probability of a common sentiment word, from 0 (disjoint) to 1 (identical domains).
        **shared: Arguments of :class:`~lightning_fusion.data.text.datamodule.BaseTextDataModule`.

    Raises:
        InputError: If an argument is out of range.

    Example:
        >>> data = SyntheticTextDataModule(domain="domain_0", batch_size=16)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> sorted(batch.input), data.classes, data.vocab_size <= 2048, data.statistics().shape
        (['attention_mask', 'input_ids'], ['bad', 'good'], True, torch.Size([512]))
    """

    def __init__(self, overlap: float = 0.3, **shared: Any) -> None:
        super().__init__(**shared)
        self.overlap = overlap
        self._configure()

    def read(self) -> Texts:
        """Generate all texts."""
        return synthetic_texts(self.overlap)

    def _check(self) -> None:
        if not 0 <= self.overlap <= 1:
            raise InputError(f"overlap is {self.overlap}; expected 0 (disjoint) to 1 (identical)")
        super()._check()
