import pytest
import torch
from torch import nn

from lightning_fusion.data.text.augmentation import TokenDropout
from lightning_fusion.data.text.synthetic import SyntheticTextDataModule
from lightning_fusion.errors import InputError


def test_tokens_are_hidden_with_the_probability_and_padding_stays_hidden():
    mask = torch.ones(200, 60, dtype=torch.int64)
    mask[:, 50:] = 0
    ids = torch.arange(60).expand(200, 60)
    result = TokenDropout(0.3)({"input_ids": ids, "attention_mask": mask, "text": ["a"] * 200})
    hidden = result["attention_mask"]
    assert hidden.dtype == torch.int64 and not bool(hidden[:, 50:].any())
    assert abs(float(hidden[:, :50].double().mean()) - 0.7) < 0.02
    assert torch.equal(result["input_ids"], ids) and result["text"] == ["a"] * 200
    assert bool(mask[:, :50].all())  # the batch itself is not changed


def test_a_text_keeps_a_token():
    mask = torch.tensor([[1, 0, 0], [1, 1, 1]]).repeat(50, 1)
    assert int(TokenDropout(0.99)({"attention_mask": mask})["attention_mask"].sum(1).min()) == 1


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_refuses(p):
    with pytest.raises(InputError, match="expected a probability"):
        TokenDropout(p)


def test_a_data_module_augments_batches_in_training_only():
    class Hide(nn.Module):
        def forward(self, inputs):
            return inputs | {"attention_mask": inputs["attention_mask"] * 0}

    data = SyntheticTextDataModule(augmentation=Hide())
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert not bool(data.preprocess(batch.input, augment=True)["attention_mask"].any())
    assert data.preprocess(batch.input) is batch.input
