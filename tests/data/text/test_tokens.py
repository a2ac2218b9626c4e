import torch

from lightning_fusion.data.text.tokens import TokenRows


def test_a_batch_is_padded_to_its_longest_text():
    tokens, offsets = torch.arange(1, 11, dtype=torch.int32), torch.tensor([0, 2, 7, 10])
    batch = TokenRows(tokens, offsets, pad_id=0)[torch.tensor([2, 0])]
    assert batch["input_ids"].tolist() == [[8, 9, 10], [1, 2, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
