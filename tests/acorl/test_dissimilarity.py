import numpy as np
import pytest
import torch
from scipy.spatial.distance import cosine

from lightning_fusion.acorl.dissimilarity import (
    CenteredCosine,
    ClassCenteredCosine,
    Cosine,
    MeanSquaredError,
    SmoothL1,
    SquaredCosine,
    StandardizedResidualMSE,
)

ALL = [Cosine, SquaredCosine, MeanSquaredError, SmoothL1, CenteredCosine, ClassCenteredCosine, StandardizedResidualMSE]
TARGET = torch.tensor([0, 1, 1, 0, 2, 2, 1])


def vectors(seed: int = 0) -> torch.Tensor:
    return torch.randn(7, 4, generator=torch.Generator().manual_seed(seed)) + 2


def mean_cosine(z: np.ndarray, v: np.ndarray) -> float:
    return float(np.mean([cosine(one, other) for one, other in zip(z, v, strict=True)]))


def huber(difference: np.ndarray) -> np.ndarray:
    size = np.abs(difference)
    return np.where(size < 1, 0.5 * size**2, size - 0.5)


def by_class(v: np.ndarray) -> np.ndarray:
    return v - np.stack([v[TARGET.numpy() == c].mean(0) for c in TARGET.tolist()])


def first(kind, z, v, target=TARGET):
    """Of the first batch of a training."""
    measure = kind(v.shape[1], 3)
    measure.update(v, target)
    return measure(z, v, target)


EXPECTED = {
    Cosine: mean_cosine,
    SquaredCosine: lambda z, v: float(np.mean([1 - (1 - cosine(a, b)) ** 2 for a, b in zip(z, v, strict=True)])),
    MeanSquaredError: lambda z, v: float(np.mean((z - v) ** 2)),
    SmoothL1: lambda z, v: float(np.mean(huber(z - v))),
    CenteredCosine: lambda z, v: mean_cosine(z, v - v.mean(0)),
    ClassCenteredCosine: lambda z, v: mean_cosine(z, by_class(v)),
    StandardizedResidualMSE: lambda z, v: float(np.mean((z - by_class(v) / np.sqrt((by_class(v) ** 2).mean(0))) ** 2)),
}


@pytest.mark.parametrize("kind", ALL)
def test_the_first_batch_is_the_formula(kind):
    z, v = vectors(), vectors(1)
    assert float(first(kind, z, v)) == pytest.approx(EXPECTED[kind](z.numpy(), v.numpy()), rel=1e-5)


def test_the_mean_is_that_of_all_batches_so_far():
    measure, batches = CenteredCosine(4, 3), [vectors(seed) + seed for seed in range(4)]
    for number, v in enumerate(batches):
        measure.update(v, TARGET)
        found = float(measure(vectors(9), v, TARGET))
        mean = torch.cat(batches[: number + 1]).numpy().mean(0)
        assert found == pytest.approx(mean_cosine(vectors(9).numpy(), v.numpy() - mean), rel=1e-5)


def test_shares_of_classes_weigh_the_means():
    measure, v = ClassCenteredCosine(4, 3), vectors(1)
    shares = torch.rand(7, 3, generator=torch.Generator().manual_seed(3)).softmax(1)
    weights = shares.numpy()
    means = weights.T @ v.numpy() / weights.sum(0)[:, None]
    expected = mean_cosine(vectors().numpy(), v.numpy() - weights @ means)
    measure.update(v, shares)
    assert float(measure(vectors(), v, shares)) == pytest.approx(expected, rel=1e-5)


def test_a_constant_prediction_finds_a_common_direction_but_not_behind_the_mean():
    v = torch.rand(500, 8, generator=torch.Generator().manual_seed(0))  # as after a ReLU
    constant, target = v.mean(0).expand(500, 8), torch.zeros(500, dtype=torch.long)
    assert float(Cosine(8, 1)(constant, v, target)) < 0.2
    assert float(first(CenteredCosine, constant, v, target)) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("kind", ALL)
def test_computed_in_float32_under_autocast(kind):
    z, v = vectors().bfloat16(), vectors(1).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = first(kind, z, v)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(EXPECTED[kind](z.float().numpy(), v.float().numpy()), rel=1e-4)


@pytest.mark.parametrize("kind", ALL)
def test_the_gradient_reaches_the_projection_alone(kind):
    z, v = vectors().requires_grad_(), vectors(1)
    first(kind, z, v).backward()
    numeric = torch.autograd.functional.jacobian(lambda x: first(kind, x, v), z.detach())
    torch.testing.assert_close(z.grad, numeric)
    assert z.grad.abs().max() > 1e-4


class TestResiduals:
    def test_statistics_are_those_of_all_batches(self):
        measure, v, target = StandardizedResidualMSE(4, 3), torch.cat([vectors(0), vectors(1) * 3]), TARGET.repeat(2)
        for part, labels in zip(v.split(7), target.split(7), strict=True):
            measure.update(part, labels)
        whole, labels = v.double().numpy(), target.numpy()
        centered = whole - np.stack([whole[labels == c].mean(0) for c in labels])
        expected = centered / np.sqrt((centered**2).mean(0))
        np.testing.assert_allclose(measure.standardized(v, target).numpy(), expected, rtol=1e-4, atol=1e-5)

    def test_the_mean_of_the_class_explains_nothing_and_r_itself_everything(self):
        """In every batch, whatever the variance of the others, and whatever the targets."""
        soft = torch.rand(7, 3).softmax(1)
        for target in (TARGET, soft, TARGET.where(TARGET > 0, -100)):
            measure, v = StandardizedResidualMSE(4, 3), vectors(1)
            measure.update(v, target)
            measure.update(vectors(2) * 5, target)
            r = measure.standardized(v, target)
            assert float(measure.r2(measure(torch.zeros_like(r), v, target), v, target)) == pytest.approx(0, abs=1e-6)
            assert float(measure.r2(measure(r, v, target), v, target)) == pytest.approx(1)
            error, own = ((r / 2 - r) ** 2).sum(), (r**2).sum()
            assert float(measure.r2(measure(r / 2, v, target), v, target)) == pytest.approx(float(1 - error / own))

    def test_a_single_sample_of_each_class_leaves_nothing_to_predict(self):
        measure, v, target = StandardizedResidualMSE(4, 7), vectors(1), torch.arange(7)
        measure.update(v, target)
        assert not measure.compares() and measure.r2(measure(v, v, target), v, target).isnan()
        measure.update(vectors(2), target)
        assert measure.compares()

    def test_counts_are_not_cast(self):
        measure = StandardizedResidualMSE(4, 3).to(torch.float16).to(torch.bfloat16)
        assert {value.dtype for value in measure.buffers()} == {torch.float64}

    def test_no_gradient_where_the_mean_is_nearer(self):
        measure, v = StandardizedResidualMSE(4, 3), vectors(1)
        measure.update(v, TARGET)
        r = measure.standardized(v, TARGET)
        z = (r * torch.tensor([0.5, 0.5, 0.5, 3, 3, 3, 3])[:, None]).requires_grad_()
        measure.bound(z, v, TARGET).backward()
        assert (z.grad[:3] != 0).any(1).all() and not z.grad[3:].any()
        free = StandardizedResidualMSE(4, 3, bounded=False)
        free.update(v, TARGET)
        assert float(free.bound(z, v, TARGET)) == float(free(z, v, TARGET)) > float(measure.bound(z, v, TARGET))

    def test_constant_components_and_samples_without_a_label(self):
        measure, v = StandardizedResidualMSE(4, 3), vectors(1)
        v[:, 2] = 1 / 3
        target = torch.tensor([0, 1, 1, 0, -100, -100, 1])
        measure.update(v, target)
        r = measure.standardized(v, target)
        assert r.isfinite().all() and not r[:, 2].any() and r[:, :2].any(1).all()
        labeled = v[target >= 0]
        torch.testing.assert_close(measure.residual(v, target)[4], v[4] - labeled.mean(0), rtol=1e-4, atol=1e-5)
        one = StandardizedResidualMSE(4, 7)
        one.update(v, torch.arange(7))  # a sample of each class: nothing varies yet
        assert float(one(torch.ones(7, 4), v, torch.arange(7))) == pytest.approx(1)
