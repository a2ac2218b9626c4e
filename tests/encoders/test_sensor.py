import pytest
import torch
from torch import nn

from lightning_fusion.encoders import SensorCNN, SensorGRU, SensorMLP
from lightning_fusion.errors import InputError

CASES = [
    (SensorCNN(5, in_channels=3, width=4), (3, 20), "pool", 16),
    (SensorCNN(5, in_channels=3, width=4, blocks=1, kernel=3), (3, 7), "pool", 8),
    (SensorGRU(5, in_channels=3, hidden=6, stride=4), (3, 20), "pool", 12),
    (SensorMLP(5, in_features=8, hidden=[6, 4]), (8,), "features", 4),
]


@pytest.mark.parametrize(("network", "shape", "layer", "width"), CASES)
def test_the_head_reads_the_named_layer(network, shape, layer, width):
    seen = {}
    for name in (layer, "head"):
        network.get_submodule(name).register_forward_hook(
            lambda _, inputs, output, name=name: seen.update({name: (inputs[0], output)})
        )
    output = network.eval()(torch.randn(4, *shape))
    assert seen[layer][1].shape == (4, width)
    assert torch.equal(seen["head"][0], seen[layer][1]) and torch.equal(seen["head"][1], output)
    assert isinstance(network.head, nn.Linear) and output.shape == (4, 5)


@pytest.mark.parametrize(("network", "shape", "layer", "width"), CASES)
def test_every_weight_learns(network, shape, layer, width):
    network.train()(torch.randn(4, *shape)).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in network.parameters())


def test_a_gru_sees_the_order_in_time():
    torch.manual_seed(0)
    network, series = SensorGRU(2, in_channels=1, hidden=4, stride=1).eval(), torch.randn(1, 1, 16)
    assert not torch.allclose(network(series), network(series.roll(8, -1)), atol=1e-4)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SensorCNN(2, blocks=0), "blocks is 0, kernel 5; expected at least one block"),
        (lambda: SensorCNN(2, kernel=4), "kernel 4; expected .* an odd kernel"),
        (lambda: SensorGRU(2, stride=0), "stride is 0"),
        (lambda: SensorMLP(2, hidden=[]), "hidden is empty"),
        (lambda: SensorCNN(2)(torch.zeros(2, 9, 50)), r"input of shape \(2, 9, 50\); expected \(batch, 6, samples\)"),
        (lambda: SensorGRU(2)(torch.zeros(2, 6)), r"in_channels must be the number of channels of the data"),
        (lambda: SensorMLP(2)(torch.zeros(2, 6, 50)), r"expected \(batch, 43\): in_features must be"),
    ],
)
def test_refuses(build, message):
    with pytest.raises(InputError, match=message):
        build()
