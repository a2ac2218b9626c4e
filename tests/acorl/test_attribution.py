import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional as F

from lightning_fusion import Batch, Expert
from lightning_fusion.acorl.attribution import (
    attribute,
    attribution_overlap,
    compare_pairs,
    integrated_gradients,
    paired_difference,
)
from lightning_fusion.encoders import SmallConvNet, TextBag
from lightning_fusion.errors import InputError


def network(seed: int = 0) -> nn.Module:
    """A convolution network that was trained for a moment to tell four patterns apart."""
    torch.manual_seed(seed)
    net = SmallConvNet(4, width=6)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for step in range(25):
        input, target = images(16, seed=100 + step)
        optimizer.zero_grad()
        F.cross_entropy(net(input), target).backward()
        optimizer.step()
    optimizer.zero_grad()
    return net.eval()


def images(count: int = 6, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with one bright quarter, which is the class."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.arange(count) % 4
    input = 0.5 * torch.randn(count, 3, 8, 8, generator=generator)
    for row, quarter in enumerate(target.tolist()):
        input[row, :, 4 * (quarter // 2) :, 4 * (quarter % 2) :][:, :4, :4] += 1
    return input, target


def batch_of(input: torch.Tensor, target: torch.Tensor) -> Batch:
    return Batch(input, target, torch.ones(len(input), 1, dtype=torch.bool), torch.arange(len(input)))


class TestIntegratedGradients:
    @pytest.mark.parametrize("baseline", [None, 0.3])
    def test_attributions_sum_to_the_difference_of_the_logits(self, baseline):
        net, (input, target) = network(), images()
        start = torch.full_like(input, baseline or 0.0)
        values = integrated_gradients(net, input, target, steps=200, baseline=baseline)
        rows = torch.arange(6)
        with torch.no_grad():
            difference = (net(input) - net(start))[rows, target]
        assert difference.abs().mean() > 1
        torch.testing.assert_close(values.flatten(1).sum(1), difference, atol=0.01 * difference.abs().max(), rtol=0)

    @pytest.mark.slow
    def test_equals_the_sum_written_out(self):
        net, (input, target) = network(), images(2)
        start = 0.1 * torch.randn(3, 8, 8)
        total = torch.zeros_like(input)
        for step in range(400):
            point = (start + (step + 0.5) / 400 * (input - start)).requires_grad_()
            net(point)[torch.arange(2), target].sum().backward()
            total += point.grad
        expected = (input - start) * total / 400
        found = integrated_gradients(net, input, target, steps=300, baseline=start)
        assert (found - expected).norm() < 0.02 * expected.norm()

    @pytest.mark.slow
    @pytest.mark.parametrize("size", [1, 4, 7, 1000])
    def test_memory_is_bounded_and_the_result_the_same(self, size):
        net, (input, target) = network(), images()
        seen: list[int] = []
        handle = net.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
        found = integrated_gradients(net, input, target, steps=9, internal_batch_size=size)
        handle.remove()
        assert max(seen) <= size and len(seen) >= 54 // size
        torch.testing.assert_close(found, integrated_gradients(net, input, target, steps=9), atol=1e-6, rtol=1e-4)

    def test_frozen_experts_and_loops_without_gradients(self):
        net, (input, target) = network(), images()
        expected = integrated_gradients(net, input, target, steps=8)
        expert = Expert(net, classes=list("abcd"))
        assert not any(weight.requires_grad for weight in expert.parameters())
        for mode in (torch.no_grad(), torch.inference_mode()):
            with mode:
                found = integrated_gradients(expert.network, input + 0, target + 0, steps=8)
                assert integrated_gradients(expert, input + 0, target + 0, steps=8).abs().sum() > 0
            torch.testing.assert_close(found, expected)
            assert not found.requires_grad
        assert all(weight.grad is None for weight in net.parameters()) and not input.requires_grad

    @pytest.mark.parametrize("shape, expected", [((3, 5, 7), (3, 5, 7)), ((3, 11), (3, 11)), ((3, 2, 5, 7), (3, 5, 7))])
    def test_maps_of_images_spectrograms_and_plain_values(self, shape, expected):
        net = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape[1:]), 5), nn.Tanh(), nn.Linear(5, 2)).eval()
        input, target = torch.randn(shape), torch.tensor([0, 1, 1])
        maps = attribute(net, input, target)
        signed = integrated_gradients(net, input, target)
        assert maps.shape == expected and maps.min() >= 0 > signed.min()
        torch.testing.assert_close(maps.flatten(1).sum(1), signed.abs().flatten(1).sum(1))

    def test_no_sample_has_no_map(self):
        assert attribute(network(), *(part[:0] for part in images())).shape == (0, 8, 8)


def by_lot(maps: np.ndarray, count: int) -> np.ndarray:
    """Strongest positions of one map as chances: certain above the edge, shared on it."""
    edge = sorted(maps, reverse=True)[count - 1]
    left = count - sum(value > edge for value in maps)
    return np.array([1.0 if value > edge else left / sum(maps == edge) if value == edge else 0.0 for value in maps])


class TestOverlap:
    @settings(max_examples=40, deadline=None)
    @given(st.integers(2, 20), st.integers(0, 999), st.sampled_from([0.05, 0.1, 0.3, 1.0]))
    def test_equals_scipy_and_counting_row_by_row(self, positions, seed, share):
        rng = np.random.default_rng(seed)
        a, b = (rng.integers(0, 6, (3, positions)).astype(float) for _ in range(2))  # full of ties
        found = attribution_overlap(torch.from_numpy(a), torch.from_numpy(b), share)
        count = math.ceil(round(share * positions, 9))
        for row in range(3):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # constant rows
                expected = spearmanr(a[row], b[row]).statistic
            assert found.spearman[row].item() == pytest.approx(expected, abs=1e-12, nan_ok=True)
            common = (by_lot(a[row], count) * by_lot(b[row], count)).sum() / count
            assert found.top[row].item() == pytest.approx(common, abs=1e-12)

    def test_equal_opposite_and_unrelated_maps(self):
        maps = torch.rand(40, 12, 12)
        same, opposite = attribution_overlap(maps, 3 * maps), attribution_overlap(maps, -maps)
        assert same.top.tolist() == [1] * 40 and torch.allclose(same.spearman, torch.ones(40).double())
        assert opposite.top.tolist() == [0] * 40 and torch.allclose(opposite.spearman, -torch.ones(40).double())
        unrelated = attribution_overlap(maps, torch.rand(40, 12, 12))
        assert unrelated.top.mean().item() == pytest.approx(0.1, abs=0.03)
        assert unrelated.spearman.mean().abs() < 0.05

    def test_sparse_maps_are_not_alike_for_their_zeros(self):
        a, b = torch.zeros(1, 100), torch.zeros(1, 100)
        a[0, 40], b[0, 60] = 1, 1
        assert attribution_overlap(a, b).top.item() < 0.15


class TestComparison:
    @pytest.mark.slow
    def test_a_pair_of_twins_looks_at_the_same_places(self):
        first, second = network(0), network(1)
        input, target = images(12)
        loader = [batch_of(input[:5], target[:5]), tuple(batch_of(input[5:], target[5:]))]
        found = compare_pairs((first, second), (first, first), loader, steps=8)
        torch.testing.assert_close(found.plain_pair.top, torch.ones(12, dtype=torch.float64))
        maps = [attribute(net, input, target, steps=8) for net in (first, second)]
        torch.testing.assert_close(found.pair.spearman, attribution_overlap(*maps).spearman)
        assert found.top.samples == found.spearman.samples == 12
        assert found.top.mean == pytest.approx((found.pair.top - 1).mean().item())
        assert found.top.low < found.top.mean < found.top.high < 0

    @pytest.mark.slow
    def test_one_batch_is_as_good_as_a_loader_and_a_shared_member_is_asked_once(self):
        first, second, third = network(0), network(1), network(2)
        calls: list[int] = []
        first.register_forward_hook(lambda module, args, output: calls.append(len(args[0])))
        batch = batch_of(*images(4))
        found = compare_pairs((first, second), (first, third), batch, steps=4, repeats=50)
        assert sum(calls) == 4 * 4 + 1  # and one row to look at the shape of the logits
        again = compare_pairs((first, second), (first, third), [batch], steps=4, repeats=50)
        assert found.top == again.top and found.spearman == again.spearman

    def test_the_interval_covers_and_pairs(self):
        rng = np.random.default_rng(0)
        covered = 0
        for seed in range(60):
            plain = torch.from_numpy(rng.normal(0, 5, 80))  # what samples share must not widen the interval
            found = paired_difference(plain + 1 + torch.from_numpy(rng.normal(0, 1, 80)), plain, 400, seed)
            covered += found.low < 1 < found.high
            assert found.high - found.low < 0.7
        assert covered > 50

    def test_samples_without_a_value_are_left_out(self):
        found = paired_difference(torch.tensor([1.0, math.nan, 3.0]), torch.tensor([0.0, 1.0, 1.0]))
        assert (found.mean, found.samples) == (1.5, 2) and 1 <= found.low <= found.high <= 2
        alone = paired_difference(torch.tensor([1.0]), torch.tensor([0.0]))
        assert alone.mean == 1 and math.isnan(alone.low) and alone.samples == 1
        assert math.isnan(paired_difference(torch.tensor([math.nan]), torch.tensor([0.0])).mean)


class Detached(nn.Linear):
    def __init__(self):
        super().__init__(4, 3)

    def forward(self, input):
        return super().forward(input.detach())


NET = nn.Linear(4, 3).eval()
INPUT, TARGET = torch.ones(2, 4), torch.tensor([0, 2])
MAPS = torch.rand(2, 4, 4)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: attribute(NET, INPUT, TARGET, steps=0), "steps is 0, internal_batch_size 256"),
        (lambda: attribute(NET, INPUT, TARGET, internal_batch_size=0), "internal_batch_size 0; expected 1 or more"),
        (lambda: attribute(NET, INPUT.long(), TARGET), r"shape \(2, 4\) and type torch.int64; expected \(batch, ...\)"),
        (lambda: attribute(NET, INPUT[0], TARGET), r"shape \(4,\)"),
        (lambda: attribute(NET, INPUT, TARGET[:1]), r"target has shape \(1,\); expected \(2,\)"),
        (lambda: attribute(NET, INPUT, TARGET + 1), "found classes 1 to 3; the network has 3"),
        (lambda: attribute(NET, INPUT, TARGET - 1), "found classes -1 to 1"),
        (lambda: attribute(NET, INPUT, TARGET, baseline=torch.ones(3)), r"baseline has shape \(3,\)"),
        (lambda: attribute(nn.Linear(4, 3), INPUT, TARGET), "the network in training mode"),
        (lambda: attribute(nn.Sequential(nn.Dropout()).eval().append(nn.Dropout()), INPUT, TARGET), "^1 in training"),
        (lambda: attribute(nn.Flatten(0).eval(), INPUT, TARGET), r"returns \(4,\) for one row"),
        (lambda: attribute(nn.LSTM(4, 3).eval(), INPUT, TARGET), "returns tuple for one row"),
        (
            lambda: attribute(Detached().eval().requires_grad_(False), INPUT, TARGET),
            "Detached passes no gradient to its input",
        ),
        (lambda: attribute(Expert(lambda x: x, classes=list("abcd")), INPUT, TARGET), "input: its network is no torch"),
        (lambda: attribution_overlap(MAPS, MAPS[:1]), r"maps have shapes \(2, 4, 4\) and \(1, 4, 4\)"),
        (lambda: attribution_overlap(MAPS, MAPS, top_fraction=0), "top_fraction is 0"),
        (lambda: attribution_overlap(MAPS, MAPS / 0), "b: found maps with NaN"),
        (lambda: compare_pairs((NET, NET), (NET, NET), []), "batches: found no sample"),
        (lambda: compare_pairs((NET, NET), (NET, NET), [(INPUT,)]), "the loader yields a tuple of 1"),
        (lambda: compare_pairs((NET, NET), (NET, NET), [], repeats=0), "repeats is 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize(
    ("input", "found"),
    [
        ({"input_ids": torch.ones(2, 3, dtype=torch.long), "attention_mask": torch.ones(2, 3)}, "a dict with att.*ids"),
        ([torch.ones(2, 3)], "a list"),
    ],
)
def test_texts_have_no_way_from_a_baseline(input, found):
    network, target = TextBag(2, 300).eval(), torch.zeros(2, dtype=torch.long)
    batch = batch_of(input, target)
    message = f"input is {found}; expected a tensor of .* attribute its embeddings"
    with pytest.raises(InputError, match=message):
        integrated_gradients(network, input, target)
    with pytest.raises(InputError, match=message):
        compare_pairs((network, network), (network, network), batch)
