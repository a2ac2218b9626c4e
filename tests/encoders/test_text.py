import numpy as np
import pytest
import torch

from lightning_fusion.encoders import TextBag, TextTransformer, masked_mean
from lightning_fusion.errors import InputError


def text(*lengths, vocab=50, garbage=0):
    generator = torch.Generator().manual_seed(0)
    width = max(lengths)
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(1, vocab, (len(lengths), width), generator=generator)
    return {"input_ids": torch.where(mask == 1, ids, garbage), "attention_mask": mask}


def test_masked_mean_is_the_mean_of_the_kept_tokens():
    states, mask = torch.randn(3, 5, 4), torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [0, 0, 0, 0, 0]])
    expected = np.ma.array(states.numpy(), mask=np.repeat(mask.numpy()[..., None] == 0, 4, -1)).mean(1).filled(0)
    assert np.allclose(masked_mean(states, mask), expected, atol=1e-6)
    assert masked_mean(states.bfloat16(), mask).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert np.allclose(masked_mean(states, mask), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["learned", "sinusoidal", "bag"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_padding_never_changes_a_feature(kind, dtype, tolerance):
    torch.manual_seed(0)
    network = TextBag(3, 50) if kind == "bag" else TextTransformer(3, 50, width=16, positions=kind)
    network = network.to(dtype).eval()
    found = []
    network.pool.register_forward_hook(lambda module, args, output: found.append(output.detach().float()))
    for garbage in (0, 7):
        both = text(4, 90, garbage=garbage)
        network(both)
    network({name: value[:1, :4] for name, value in both.items()})
    beside, other, alone = (one[0] for one in found)
    assert alone.abs().max() > 0.1
    assert torch.allclose(alone, beside, atol=tolerance) and torch.allclose(alone, other, atol=tolerance)


@pytest.mark.parametrize("kind", ["learned", "sinusoidal", "bag"])
def test_padding_may_stand_on_the_left(kind):
    torch.manual_seed(0)
    network = (TextBag(3, 50) if kind == "bag" else TextTransformer(3, 50, width=16, positions=kind)).eval()
    alone = text(4, 9)
    left = {name: torch.zeros(2, 9, dtype=torch.long) for name in alone}
    for name, value in alone.items():
        left[name][0, 5:], left[name][1] = value[0, :4], value[1]
    torch.testing.assert_close(network(left), network(alone), atol=1e-5, rtol=0)


def test_dropout_is_off_in_eval_and_on_in_training():
    network, batch = TextTransformer(3, 50, width=16, dropout=0.5), text(5, 3)
    assert not torch.equal(network(batch), network(batch))
    assert torch.equal(network.eval()(batch), network(batch))


def test_words_may_stand_in_another_order_for_a_bag_only():
    batch = text(6)
    turned = {"input_ids": batch["input_ids"].flip(1), "attention_mask": batch["attention_mask"]}
    bag, reader = TextBag(2, 50).eval(), TextTransformer(2, 50, width=16).eval()
    assert torch.allclose(bag(batch), bag(turned), atol=1e-6)
    assert not torch.allclose(reader(batch), reader(turned), atol=1e-4)


def test_wrong_input_is_said():
    network = TextTransformer(2, 10, width=16, max_length=8)
    with pytest.raises(InputError, match=r"got Tensor; expected a dict of input_ids and attention_mask"):
        network(torch.zeros(2, 3))
    with pytest.raises(InputError, match=r"found token \d+, the network has tokens 0 to 9; set its vocab_size"):
        network(text(8))
    with pytest.raises(InputError, match=r"got 9 tokens, its max_length is 8"):
        network(text(9, vocab=10))
    with pytest.raises(InputError, match=r"width is 15, heads 4, layers 2; expected an even width"):
        TextTransformer(2, width=15)
