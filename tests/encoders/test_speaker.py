import sys

import numpy as np
import pytest
import torch
from helpers import modules
from helpers.processes import together
from torch import nn

from lightning_fusion import Expert
from lightning_fusion.encoders import ECAPA, CosineHead, SmallSpeakerNet, SpeakerResNet, StatisticsPooling
from lightning_fusion.errors import InputError

NETWORKS = {
    "resnet": lambda **more: SpeakerResNet(5, num_mels=20, width=4, blocks=(1, 2, 1), embedding_dim=7, **more),
    "small": lambda **more: SmallSpeakerNet(5, num_mels=20, width=8, embedding_dim=7, **more),
    "ecapa": lambda **more: ECAPA(5, num_mels=20, channels=16, embedding_dim=7, **more),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    return NETWORKS[request.param]()


class TestEveryNetwork:
    @pytest.mark.parametrize("frames", [40, 61])
    def test_head_and_embedding_are_where_they_are_looked_for(self, network, frames):
        seen = []
        network.embedding.register_forward_hook(lambda module, args, output: seen.append(output))
        logits = network.eval()(torch.randn(3, 20, frames))
        cosines = nn.functional.cosine_similarity(seen[0][:, None], network.head.weight[None], dim=2)
        assert seen[0].shape == (3, 7)
        torch.testing.assert_close(logits, 30 * cosines, rtol=1e-4, atol=1e-4)

    def test_every_weight_learns(self, network):
        network(torch.randn(6, 20, 40)).logsumexp(1).sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in network.parameters())

    def test_as_an_expert_gives_probabilities_and_the_embedding(self, network):
        expert = Expert(network, classes=list("abcde"), features="embedding")
        probabilities, embedding = expert.forward_with_representations(torch.randn(2, 20, 40))
        torch.testing.assert_close(probabilities.sum(1), torch.ones(2))
        assert embedding.shape == (2, 7)

    def test_mixed_precision_leaves_the_cosines_exact(self, network):
        input = torch.randn(3, 20, 40)
        seen = []
        network.eval().embedding.register_forward_hook(lambda module, args, output: seen.append(output))
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(input)
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, network.head(seen[0].float()), rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("shape", [(2, 21, 40), (2, 40), (2, 1, 20, 40)])
    def test_other_input_is_rejected(self, network, shape):
        with pytest.raises(InputError, match=r"expected \(batch, 20, frames\) log-mel: num_mels must be the same"):
            network(torch.zeros(shape))

    def test_silence_gives_finite_gradients(self, network):
        input = torch.zeros(4, 20, 40, requires_grad=True)
        network(input).sum().backward()
        assert input.grad.isfinite().all()
        assert all(p.grad.isfinite().all() for p in network.parameters())


class TestCosineHead:
    def test_equals_numpy(self):
        head = CosineHead(4, 3, scale=12.5)
        x, w = np.random.default_rng(0).normal(size=(6, 4)), head.weight.detach().double().numpy()
        expected = 12.5 * (x / np.linalg.norm(x, axis=1)[:, None]) @ (w / np.linalg.norm(w, axis=1)[:, None]).T
        np.testing.assert_allclose(head(torch.tensor(x).float()).detach().numpy(), expected, rtol=1e-4, atol=1e-5)

    def test_the_length_of_an_embedding_has_no_say(self):
        head, x = CosineHead(4, 3), torch.randn(5, 4)
        torch.testing.assert_close(head(x), head(1000 * x))

    @pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
    def test_an_invalid_scale_is_rejected(self, scale):
        with pytest.raises(InputError, match=f"scale is {scale}"):
            CosineHead(4, 3, scale)


def test_statistics_equal_numpy():
    frames = torch.randn(3, 5, 11)
    values = frames.double().numpy()
    expected = np.concatenate([values.mean(-1), values.std(-1)], 1)
    np.testing.assert_allclose(StatisticsPooling()(frames).numpy(), expected, rtol=1e-5)


class TestSpeakerResNet:
    def test_the_default_is_a_resnet34(self):
        network = SpeakerResNet(10)
        convolutions = [m for m in network.body.modules() if isinstance(m, nn.Conv2d)]
        assert sum(m.kernel_size == (3, 3) for m in convolutions) == 33  # and the linear layer makes 34
        assert [m.out_channels for m in convolutions if m.kernel_size == (1, 1)] == [64, 128, 256]
        assert network.embedding.in_features == 2 * 256 * 10

    @pytest.mark.parametrize("num_mels", [16, 20, 23, 80])
    def test_any_number_of_bands_fits(self, num_mels):
        assert SpeakerResNet(3, num_mels, width=2, blocks=(1, 1, 1, 1))(torch.randn(2, num_mels, 30)).shape == (2, 3)

    def test_mean_pooling_halves_the_embeddings_input(self):
        network = SpeakerResNet(3, 16, width=2, blocks=(1, 1), pooling="mean")
        assert network.embedding.in_features == 4 * 8
        assert network(torch.randn(2, 16, 30)).shape == (2, 3)

    @pytest.mark.slow
    def test_a_narrow_one_trains_at_the_shape_that_crashes_in_channels_last(self, tmp_path):
        """A crash takes the process with it, hence another one."""
        together(tmp_path, modules.narrow_speaker_step, processes=1)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"blocks": ()}, r"blocks is \(\)"),
            ({"blocks": (1, 0)}, r"blocks is \(1, 0\)"),
            ({"pooling": "max"}, "pooling is 'max'; expected 'statistics' or 'mean'"),
        ],
    )
    def test_refuses(self, arguments, message):
        with pytest.raises(InputError, match=message):
            SpeakerResNet(3, **arguments)


def test_the_small_network_is_small():
    assert 1e5 < sum(p.numel() for p in SmallSpeakerNet(251).parameters()) < 5e5


class TestECAPA:
    def test_without_speechbrain_the_extra_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "speechbrain.lobes.models.ECAPA_TDNN", None)
        with pytest.raises(InputError, match=r"pip install 'lightning-fusion\[speechbrain\]'"):
            ECAPA(3)

    @pytest.mark.parametrize("channels", [0, 12])
    def test_channels_that_do_not_divide_are_rejected(self, channels):
        with pytest.raises(InputError, match=f"channels is {channels}; expected a multiple of 8"):
            ECAPA(3, channels=channels)
