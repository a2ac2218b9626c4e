import numpy as np
import torch

from lightning_fusion.data.image.synthetic import SyntheticImageDataModule
from lightning_fusion.data.statistics import image_statistics, spectrum_statistics


def test_colors_are_moments_and_histograms_of_each_channel():
    images = torch.rand(5, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    found = image_statistics(images).numpy()
    for image, facts in zip(images.numpy(), found, strict=True):
        for channel in range(3):
            own, values = facts[10 * channel : 10 * channel + 10], image[channel].reshape(-1)
            np.testing.assert_allclose(own[:2], [values.mean(), values.std()], rtol=1e-5)
            np.testing.assert_allclose(own[2:], np.histogram(values, 8, (0, 1))[0] / len(values), rtol=1e-5)


def test_directions_are_those_of_the_gradient():
    ramp = torch.linspace(0, 1, 16)
    right, down = ramp.expand(1, 1, 16, 16), ramp[:, None].expand(1, 1, 16, 16)
    facts = image_statistics(torch.cat([right, down, right.flip(3), torch.full_like(right, 0.3)]))
    edges, size = facts[:, 10:18], facts[:, 18]
    assert edges[:3].max(1).values.tolist() == [1, 1, 1] and len(set(edges[:3].argmax(1).tolist())) == 3
    assert edges[3].tolist() == [0] * 8 and size[3] == 0 and (size[:3] > 0.1).all()
    brighter = image_statistics(torch.cat([right, right / 2]))
    torch.testing.assert_close(brighter[0, 10:18], brighter[1, 10:18])  # directions, whatever the contrast


def test_spectra_are_moments_over_time():
    mel = torch.randn(4, 6, 30, generator=torch.Generator().manual_seed(0))
    expected = np.concatenate([mel.numpy().mean(2), mel.numpy().std(2)], 1)
    np.testing.assert_allclose(spectrum_statistics(mel).numpy(), expected, rtol=1e-4, atol=1e-6)


def test_statistics_of_images_tell_styles_apart_and_depend_on_the_domain():
    data = SyntheticImageDataModule(fuser_fraction=0.2, batch_size=7)
    one, other = (data.variant(domain=name).statistics() for name in data.domains[:2])
    assert one.shape == (78,) and one.isfinite().all() and (one - other).abs().max() > 0.05
    torch.testing.assert_close(data.variant(domain=data.domains[0], batch_size=50).statistics(), one)
