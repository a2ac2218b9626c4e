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
)

ALL = [Cosine, SquaredCosine, MeanSquaredError, SmoothL1, CenteredCosine, ClassCenteredCosine]
TARGET = torch.tensor([0, 1, 1, 0, 2, 2, 1])


def vectors(seed: int = 0) -> torch.Tensor:
    return torch.randn(7, 4, generator=torch.Generator().manual_seed(seed)) + 2


def mean_cosine(z: np.ndarray, v: np.ndarray) -> float:
    return float(np.mean([cosine(one, other) for one, other in zip(z, v, strict=True)]))


def huber(difference: np.ndarray) -> np.ndarray:
    size = np.abs(difference)
    return np.where(size < 1, 0.5 * size**2, size - 0.5)


EXPECTED = {
    Cosine: mean_cosine,
    SquaredCosine: lambda z, v: float(np.mean([1 - (1 - cosine(a, b)) ** 2 for a, b in zip(z, v, strict=True)])),
    MeanSquaredError: lambda z, v: float(np.mean((z - v) ** 2)),
    SmoothL1: lambda z, v: float(np.mean(huber(z - v))),
    CenteredCosine: lambda z, v: mean_cosine(z, v - v.mean(0)),
    ClassCenteredCosine: lambda z, v: mean_cosine(
        z, v - np.stack([v[TARGET.numpy() == c].mean(0) for c in TARGET.tolist()])
    ),
}


@pytest.mark.parametrize("kind", ALL)
def test_the_first_batch_is_the_formula(kind):
    z, v = vectors(), vectors(1)
    assert float(kind(4, 3)(z, v, TARGET)) == pytest.approx(EXPECTED[kind](z.numpy(), v.numpy()), rel=1e-5)


def test_the_mean_is_that_of_all_batches_so_far():
    measure, batches = CenteredCosine(4, 3), [vectors(seed) + seed for seed in range(4)]
    for number, v in enumerate(batches):
        found = float(measure(vectors(9), v, TARGET))
        mean = torch.cat(batches[: number + 1]).numpy().mean(0)
        assert found == pytest.approx(mean_cosine(vectors(9).numpy(), v.numpy() - mean), rel=1e-5)


@pytest.mark.parametrize("kind", [CenteredCosine, ClassCenteredCosine])
def test_evaluation_counts_nothing(kind):
    measure = kind(4, 3)
    measure(vectors(), vectors(1), TARGET)
    before = [value.clone() for value in measure.buffers()]
    measure.eval()(vectors(), vectors(2), TARGET)
    assert all(torch.equal(one, other) for one, other in zip(before, measure.buffers(), strict=True))


def test_shares_of_classes_weigh_the_means():
    measure, v = ClassCenteredCosine(4, 3), vectors(1)
    shares = torch.rand(7, 3, generator=torch.Generator().manual_seed(3)).softmax(1)
    weights = shares.numpy()
    means = weights.T @ v.numpy() / weights.sum(0)[:, None]
    expected = mean_cosine(vectors().numpy(), v.numpy() - weights @ means)
    assert float(measure(vectors(), v, shares)) == pytest.approx(expected, rel=1e-5)


def test_a_constant_prediction_finds_a_common_direction_but_not_behind_the_mean():
    v = torch.rand(500, 8, generator=torch.Generator().manual_seed(0))  # as after a ReLU
    constant, target = v.mean(0).expand(500, 8), torch.zeros(500, dtype=torch.long)
    assert float(Cosine(8, 1)(constant, v, target)) < 0.2
    assert float(CenteredCosine(8, 1)(constant, v, target)) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("kind", ALL)
def test_computed_in_float32_under_autocast(kind):
    z, v = vectors().bfloat16(), vectors(1).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = kind(4, 3)(z, v, TARGET)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(EXPECTED[kind](z.float().numpy(), v.float().numpy()), rel=1e-4)


@pytest.mark.parametrize("kind", ALL)
def test_the_gradient_reaches_the_projection_alone(kind):
    z, v = vectors().requires_grad_(), vectors(1)
    kind(4, 3)(z, v, TARGET).backward()
    numeric = torch.autograd.functional.jacobian(lambda x: kind(4, 3)(x, v, TARGET), z.detach())
    torch.testing.assert_close(z.grad, numeric)
    assert z.grad.abs().max() > 1e-4
