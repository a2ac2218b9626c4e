import pytest
import torch
from torch import nn

from lightning_fusion.encoders import SmallConvNet, TorchvisionClassifier
from lightning_fusion.errors import InputError


def test_small_network_halves_the_image_twice():
    net = SmallConvNet(7, width=2, in_channels=1)
    assert net.body(torch.zeros(2, 1, 8, 12)).shape == (2, 8, 2, 3)
    assert net(torch.zeros(2, 1, 8, 12)).shape == (2, 7)
    assert sum(p.numel() for p in net.body.parameters() if p.ndim == 4) == 9 * (1 * 2 + 2 * 4 + 4 * 8)


class TestTorchvisionClassifier:
    def test_small_images_keep_their_resolution_in_a_resnet(self):
        net = TorchvisionClassifier(5, "resnet18", small_images=True).eval()
        assert net.network.conv1.stride == (1, 1)
        assert isinstance(net.network.maxpool, nn.Identity)
        assert net(torch.zeros(1, 3, 16, 16)).shape == (1, 5)

    def test_a_head_is_replaced_by_one_of_the_task(self):
        net = TorchvisionClassifier(1000, "mobilenet_v3_small")
        before = net.network.classifier[0].weight
        net._replace_head(5, "mobilenet_v3_small")
        assert net.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
        assert net.network.classifier[0].weight is before

    @pytest.mark.parametrize(
        ("name", "small", "message"),
        [("resnet19", False, "no network 'resnet19'"), ("mobilenet_v3_small", True, "small_images is for ResNets")],
    )
    def test_refuses(self, name, small, message):
        with pytest.raises(InputError, match=message):
            TorchvisionClassifier(5, name, small_images=small)
