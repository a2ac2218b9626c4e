import pytest

from lightning_fusion.data.text.synthetic import SyntheticTextDataModule, synthetic_texts
from lightning_fusion.errors import InputError


def test_overlap_is_a_dial():
    def shared(overlap):
        texts = synthetic_texts(overlap, num_domains=2)
        parts = (texts.texts[:240], texts.texts[240:])
        sets = [set(" ".join(part).split()) for part in parts]
        return len(sets[0] & sets[1]) / len(sets[0] | sets[1])

    assert shared(0.0) < shared(0.5) < shared(1.0) == 1.0
    with pytest.raises(InputError, match=r"overlap is 1\.5; expected 0 \(disjoint\) to 1"):
        SyntheticTextDataModule(overlap=1.5)
