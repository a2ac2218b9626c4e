import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from lightning_fusion import ImageDataModule
from lightning_fusion.data.synthetic import synthetic_images


def spectra(pixels):
    """Magnitudes of the Fourier transform of the mean channel: they do not depend on the phase."""
    return np.abs(np.fft.rfft2(pixels.mean(1))).reshape(len(pixels), -1)[:, 1:]


def test_the_same_seed_gives_the_same_images_and_another_does_not():
    first, again, other = (synthetic_images(rows=3, seed=seed)[0] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("shift", "least", "most"), [(0.0, 0.9, 1.0), (1.0, 0.0, 0.2)])
def test_shift_is_a_dial_of_how_far_a_model_of_one_domain_carries_to_the_next(shift, least, most):
    pixels, labels, domains = synthetic_images(rows=30, shift=shift)
    features = spectra(pixels)
    model = KNeighborsClassifier(5).fit(features[domains == 0], labels[domains == 0])
    held = synthetic_images(rows=30, shift=shift, seed=1)[0]
    assert (model.predict(spectra(held)[domains == 0]) == labels[domains == 0]).mean() > 0.9
    assert least <= (model.predict(features[domains == 1]) == labels[domains == 1]).mean() <= most


def test_the_twin_is_a_source_of_the_data_module():
    data = ImageDataModule(source="synthetic", batch_size=16)
    assert data.classes == [f"class_{c}" for c in range(4)]
    assert data.domains == [f"style_{d}" for d in range(4)]
    rows = {split: data.rows(split) for split in ("train", "val", "test")}
    expert = data.variant(role="expert", domain="style_2")
    batch = expert.rows("train")[torch.arange(len(expert.rows("train")))]
    assert batch.input.shape[1:] == (3, 16, 16)
    assert batch.domain.tolist() == [[False, False, True, False]] * len(batch.domain)
    used = torch.cat([part.rows for part in rows.values()] + [expert.rows(s).rows for s in ("train", "val")])
    assert len(used.unique()) == len(used)
