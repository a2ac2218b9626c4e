import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_fusion.errors import InputError
from lightning_fusion.metrics import LinearCKA, heldout_linear_r2, linear_cka


def draw(rows: int = 60, width_x: int = 5, width_y: int = 7, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two representations that share a part."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(rows, 3, generator=generator)
    return tuple(
        shared @ torch.randn(3, width, generator=generator) + torch.randn(rows, width, generator=generator) + 2
        for width in (width_x, width_y)
    )


def hsic_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Kornblith et al., eq. 3 and 4: from Gram matrices and the centring matrix."""
    rows = len(x)
    centring = np.eye(rows) - np.ones((rows, rows)) / rows

    def hsic(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
        return np.trace(k @ centring @ l @ centring) / (rows - 1) ** 2

    k, l = x @ x.T, y @ y.T  # noqa: E741
    return hsic(k, l) / math.sqrt(hsic(k, k) * hsic(l, l))


class TestLinearCKA:
    @settings(max_examples=25, deadline=None)
    @given(st.integers(3, 40), st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
    def test_equals_the_definition_by_kernels(self, rows, width_x, width_y, seed):
        x, y = draw(rows, width_x, width_y, seed)
        assert linear_cka(x, y).item() == pytest.approx(hsic_cka(x.double().numpy(), y.double().numpy()), rel=1e-9)

    def test_ignores_rotation_scale_and_offset_and_not_a_linear_map(self):
        x, y = draw()
        turn, _ = torch.linalg.qr(torch.randn(5, 5))
        assert linear_cka(3 * x @ turn - 40, y).item() == pytest.approx(linear_cka(x, y).item(), rel=1e-5)
        assert linear_cka(x, y).item() == pytest.approx(linear_cka(y, x).item(), rel=1e-12)
        assert linear_cka(x * torch.tensor([1, 1, 1, 1, 30]), y) != pytest.approx(linear_cka(x, y).item(), rel=1e-2)

    @pytest.mark.parametrize("size", [1, 7, 60])
    def test_the_streaming_metric_is_the_same(self, size):
        x, y = draw()
        x = x + 1000  # far from zero: the sums must not drown the variance
        metric = LinearCKA(5, 7)
        for part in torch.arange(60).split(size):
            metric.update(x[part], y[part])
        assert metric.compute().item() == pytest.approx(linear_cka(x, y).item(), rel=1e-6)

    def test_reset_forgets_and_forward_gives_the_batch(self):
        x, y = draw()
        metric = LinearCKA(5, 7)
        metric.update(y[:, :5], x[:, [0] * 7])
        metric.reset()
        assert metric(x[:30], y[:30]).item() == pytest.approx(linear_cka(x[:30], y[:30]).item(), rel=1e-6)
        metric(x[30:], y[30:])
        assert metric.compute().item() == pytest.approx(linear_cka(x, y).item(), rel=1e-6)

    def test_a_constant_representation_has_none(self):
        x, _ = draw()
        constant = torch.full((60, 2), 0.1)
        assert linear_cka(x, constant).isnan()
        metric = LinearCKA(5, 2)
        metric.update(x, constant)
        assert metric.compute().isnan()

    def test_bfloat16_features_are_summed_in_float64(self):
        x, y = (part.bfloat16() for part in draw())
        metric = LinearCKA(5, 7)
        metric.update(x, y)
        assert metric.compute().item() == pytest.approx(linear_cka(x.double(), y.double()).item(), rel=1e-6)


class TestHeldoutLinearR2:
    def test_equals_a_ridge_solved_by_hand(self):
        x, y = (part.double().numpy() for part in draw(90))
        order = np.random.default_rng(3).permutation(90)
        fitted, held = order[:54], order[54:]
        mean, scale = x[fitted].mean(0), x[fitted].std(0)
        design, center = (x - mean) / scale, y[fitted].mean(0)

        def solve(rows: np.ndarray, strength: float) -> np.ndarray:
            a = design[rows] - design[rows].mean(0)
            b = y[rows] - y[rows].mean(0)
            return np.linalg.solve(a.T @ a + strength * np.eye(5), a.T @ b)

        def left_out(strength: float) -> float:
            error = 0.0
            for row in fitted:
                others = fitted[fitted != row]
                guess = (design[row] - design[others].mean(0)) @ solve(others, strength) + y[others].mean(0)
                error += np.square(y[row] - guess).sum()
            return error

        strength = min((10.0**power for power in range(-2, 6)), key=left_out)
        residual = y[held] - design[held] @ solve(fitted, strength) - center
        expected = 1 - np.square(residual).sum() / np.square(y[held] - y[held].mean(0)).sum()
        assert 0.2 < expected < 0.9
        found = heldout_linear_r2(torch.from_numpy(x), torch.from_numpy(y), train_fraction=0.6, seed=3)
        assert found == pytest.approx(expected, rel=1e-6)

    def test_a_linear_map_is_found_and_noise_is_not(self):
        x, _ = draw(200)
        assert heldout_linear_r2(x, x @ torch.randn(5, 9) - 3) > 0.999
        assert heldout_linear_r2(torch.randn(200, 90), torch.randn(200, 4)) < 0.05  # as many columns as fitted rows

    def test_constant_columns_on_either_side_count_nothing(self):
        x, y = draw(100)
        constant = torch.full((100, 1), 0.1)
        plain = heldout_linear_r2(x, y)
        assert heldout_linear_r2(torch.cat((x, constant), 1), torch.cat((y, constant), 1)) == pytest.approx(plain)
        assert math.isnan(heldout_linear_r2(x, constant))

    def test_wide_outputs_weigh_more(self):
        x, noise = draw(200)[0], torch.randn(200, 1)
        assert heldout_linear_r2(x, torch.cat((x[:, :1], 0.01 * noise), 1)) > 0.99
        assert heldout_linear_r2(x, torch.cat((x[:, :1], 100 * noise), 1)) < 0.05

    def test_the_seed_draws_the_split(self):
        x, y = draw()
        assert heldout_linear_r2(x, y, seed=1) == heldout_linear_r2(x, y, seed=1) != heldout_linear_r2(x, y, seed=2)


def test_a_single_output_column_is_fitted_like_several():
    x, y = draw(80)
    assert heldout_linear_r2(x, y[:, :1]) == pytest.approx(heldout_linear_r2(x, y[:, [0, 0]]), rel=1e-9)


ONES = torch.ones(4, 3)
NAN = torch.tensor([[1.0, math.nan], [0, 1], [math.inf, 0], [2, 2]])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: linear_cka(torch.ones(4, 3, 2), ONES), r"x has shape \(4, 3, 2\); expected \(rows, features\)"),
        (lambda: linear_cka(ONES, ONES[:3]), "x has 4 rows, y has 3; expected the same samples"),
        (lambda: linear_cka(ONES[:1], ONES[:1]), "found 1 rows; expected 2 or more"),
        (lambda: linear_cka(ONES, NAN), "y: found 2 rows with NaN or infinite"),
        (lambda: heldout_linear_r2(NAN, ONES), "x: found 2 rows with NaN or infinite"),
        (lambda: heldout_linear_r2(ONES, ONES, train_fraction=1.0), "train_fraction is 1.0"),
        (lambda: heldout_linear_r2(ONES, ONES, train_fraction=0.9), "leaves 4 to fit and 0 to test"),
        (lambda: LinearCKA(3, 3).update(ONES, NAN), r"shapes \(4, 3\) and \(4, 2\); expected \(4, 3\) and \(4, 3\)"),
        (lambda: LinearCKA(3, 3).update(ONES, ONES[:3]), r"\(4, 3\) and \(3, 3\); expected \(4, 3\) and \(4, 3\)"),
        (lambda: LinearCKA(3, 2)(ONES, NAN), "LinearCKA found values that are NaN"),
        (lambda: LinearCKA(3, 3)(ONES[:1], ONES[:1]), "LinearCKA found 1 rows; expected 2"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
