import pytest
import torch
from helpers import language_models

from lightning_fusion.errors import InputError
from lightning_fusion.generation.pairs import TextPairsDataModule, TokenPairs


def test_a_batch_holds_each_text_padded_to_the_longest():
    read, write = [[5], [6, 7, 8], [9, 4]], [[5, 5], [], [9]]
    batch = TokenPairs(read, write, pad_id=3)[torch.tensor([2, 0, 1])]
    assert batch["input_ids"].tolist() == [[9, 4, 3], [5, 3, 3], [6, 7, 8]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 1]]
    assert batch["target_ids"].tolist() == [[9, 3], [5, 5], [3, 3]]
    assert len(TokenPairs(read, write)) == 3


def test_domains_are_classes_and_some_may_be_left_out():
    whole, own = language_models.pairs(), language_models.pairs(own=["b"])
    assert own.classes == own.domains == language_models.DOMAINS
    target = torch.cat([batch.target for batch in own.train_dataloader()])
    assert target.tolist() == [1] * 8
    rows = {int(i) for batch in whole.train_dataloader() for i in batch.index}
    assert rows == set(range(24))
    assert whole.fingerprint("test") != own.fingerprint("test") == language_models.pairs(own=["b"]).fingerprint("test")


@pytest.mark.parametrize(
    ("pairs", "more", "message"),
    [
        (([[3]], [], [0]), {}, "found 1 texts to read, 0 to write and 1 domain numbers"),
        (([[3], []], [[3], [4]], [0, 0]), {}, r"text\(s\) to read of row\(s\) 1 have no token"),
        (([[3]], [[3]], [0]), {"own": ["sport"]}, "own: found sport; the domains are news"),
    ],
)
def test_wrong_pairs_are_named(pairs, more, message):
    with pytest.raises(InputError, match=message):
        TextPairsDataModule({"train": pairs}, ["news"], **more)


def test_a_missing_split_is_named():
    with pytest.raises(InputError, match="no split 'test'"):
        TextPairsDataModule({"train": ([[3]], [[3]], [0])}, ["news"]).rows("test")
