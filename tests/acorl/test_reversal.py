import pytest
import torch

from lightning_fusion import reverse_gradient


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0, -2.0])
def test_the_gradient_is_turned_round_and_scaled(strength):
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, dtype=torch.float64)
    turned = reverse_gradient(x, strength)
    assert torch.equal(turned, x)
    (turned * weight).sum().backward()
    torch.testing.assert_close(x.grad, -strength * weight)


def test_other_readers_keep_their_gradient():
    leaf = torch.randn(5, dtype=torch.float64, requires_grad=True)
    x = leaf * 2  # not a leaf: as a representation is
    loss = x.square().sum() + 3 * reverse_gradient(x, 0.5).sum() + reverse_gradient(x, 1.0).sin().sum() + x.sum()
    loss.backward()
    torch.testing.assert_close(leaf.grad, 2 * (2 * x - 1.5 - x.cos() + 1).detach())


def test_twice_is_the_plain_gradient():
    x = torch.ones(3, requires_grad=True)
    reverse_gradient(reverse_gradient(x, 0.5), 2.0).sum().backward()
    assert x.grad.tolist() == [1, 1, 1]


def test_nothing_is_done_where_no_gradient_flows():
    plain, learned = torch.ones(2), torch.ones(2, requires_grad=True)
    assert reverse_gradient(plain, 1.0) is plain
    with torch.no_grad():
        assert reverse_gradient(learned, 1.0) is learned
    with torch.inference_mode():
        assert reverse_gradient(learned, 1.0) is learned


@pytest.mark.slow
def test_compiled_it_does_the_same():
    linear, head = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)

    def loss(x, strength):
        z = linear(x).relu()
        return head(reverse_gradient(z, strength)).square().mean() + z.sum()

    gradients = []
    for function in (loss, torch.compile(loss, backend="aot_eager", fullgraph=True)):
        linear.zero_grad()
        function(torch.ones(2, 3), torch.tensor(0.5)).backward()
        gradients.append(linear.weight.grad.clone())
    torch.testing.assert_close(*gradients)


def test_under_autocast_the_gradient_keeps_its_precision():
    linear, x = torch.nn.Linear(3, 4), torch.ones(2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = linear(x)
        assert reverse_gradient(z, 0.5).dtype == torch.bfloat16
        reverse_gradient(z, 0.5).float().sum().backward()
    assert linear.bias.grad.dtype == torch.float32
    assert linear.bias.grad.tolist() == [-1.0] * 4  # 2 rows x -0.5
