import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import rules
from torch import nn
from torch.nn import functional as F

from lightning_fusion.experts.pool import scatter
from lightning_fusion.foe.diagnostics import fuser_warnings
from lightning_fusion.foe.fusers import MLPFuser, RepresentationFuser, best_expert_target, draw_expert_target


class TestMLPFuser:
    def test_is_the_network_of_the_paper(self):
        fuser = MLPFuser(num_inputs=20 * 20, num_outputs=20)
        kinds = [type(layer) for layer in fuser.layers]
        assert kinds == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
        assert [tuple(p.shape) for p in fuser.parameters()] == [
            (512, 400),
            (512,),
            (512, 512),
            (512,),
            (20, 512),
            (20,),
        ]

    def test_computes_what_is_written(self):
        fuser, x = MLPFuser(6, 3, hidden=[4]), torch.rand(5, 6)
        first, second = fuser.layers[0], fuser.layers[2]
        by_hand = torch.relu(x @ first.weight.T + first.bias) @ second.weight.T + second.bias
        torch.testing.assert_close(fuser(x), by_hand)

    def test_dropout_stands_before_the_last_layer(self):
        kinds = [type(layer) for layer in MLPFuser(6, 3, hidden=[4], dropout=0.5).layers]
        assert kinds == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]


class TestRepresentationFuser:
    def test_computes_what_is_written(self):
        fuser, x = RepresentationFuser(6, 3, hidden=[4], dropout=0.0), 100 * torch.rand(32, 6)
        first, last = fuser.layers[1], fuser.layers[-1]
        z = (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()
        by_hand = torch.relu(z @ first.weight.T + first.bias) @ last.weight.T + last.bias
        torch.testing.assert_close(fuser(x), by_hand, atol=1e-5, rtol=1e-4)

    def test_dropout_stands_before_every_layer(self):
        kinds = [type(layer) for layer in RepresentationFuser(6, 3, hidden=[4, 4]).layers]
        assert kinds == [nn.Dropout, *([nn.Linear, nn.ReLU, nn.Dropout] * 2), nn.Linear]

    def test_a_batch_of_one_row_trains_and_leaves_the_statistics(self):
        fuser = RepresentationFuser(6, 3)
        fuser(torch.rand(8, 6))
        before = fuser.norm.running_mean.clone()
        assert fuser(torch.rand(1, 6)).isfinite().all() and torch.equal(fuser.norm.running_mean, before)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.permutations(range(4)), min_size=1, max_size=4), st.data())
def test_scatter_equals_the_loop(orders, data):
    columns = [order[: data.draw(st.integers(1, 4))] for order in orders]
    outputs = torch.rand(3, sum(map(len, columns)))
    assert np.array_equal(scatter(outputs, columns, 4).numpy(), rules.scatter(outputs.numpy(), columns, 4))


class TestDrawOwner:
    @pytest.mark.parametrize("owned", [[0, 1], [1, 3, 4], [0, 1, 2, 3, 4]])
    @pytest.mark.parametrize("seed", [0, 1, 123])
    def test_is_uniform_over_the_owners(self, owned, seed):
        rows = 6000
        expert_targets = torch.zeros(rows, 5, dtype=torch.bool)
        expert_targets[:, owned] = True
        counts = torch.bincount(draw_expert_target(expert_targets, torch.arange(rows), seed), minlength=5)
        assert counts.sum() == counts[owned].sum() == rows
        expected = rows / len(owned)
        chi_square = (((counts[owned] - expected) ** 2) / expected).sum()
        assert chi_square < 20  # beyond the 0.9995 quantile of four degrees of freedom

    def test_neighboring_rows_and_seeds_draw_independently(self):
        expert_targets = torch.ones(6000, 4, dtype=torch.bool)
        one, other = (draw_expert_target(expert_targets, torch.arange(6000), seed) for seed in (0, 1))
        for agreement in (one == other, one[1:] == one[:-1], one[2:] == one[:-2]):
            assert abs(agreement.double().mean() - 0.25) < 5 * (0.25 * 0.75 / 6000) ** 0.5

    def test_depends_on_the_sample_alone(self):
        expert_targets = torch.rand(40, 5) < 0.6
        index = torch.randperm(1000)[:40] + 5_000_000
        drawn = draw_expert_target(expert_targets, index, 3)
        order = torch.randperm(40)
        assert torch.equal(draw_expert_target(expert_targets[order], index[order], 3), drawn[order])
        assert torch.equal(
            torch.cat([draw_expert_target(expert_targets[i : i + 7], index[i : i + 7], 3) for i in range(0, 40, 7)]),
            drawn,
        )

    def test_a_row_without_owner_is_ignored_by_cross_entropy(self):
        drawn = draw_expert_target(torch.tensor([[False, False], [False, True]]), torch.tensor([0, 1]))
        assert drawn.tolist() == [-100, 1]
        logits = torch.randn(2, 2)
        assert torch.equal(F.cross_entropy(logits, drawn), F.cross_entropy(logits[1:], drawn[1:]))


def test_best_owner_is_the_best_of_the_owners_on_the_rows_domains():
    accuracy = torch.tensor([[0.9, 0.5, 0.7], [0.1, 0.8, 0.7]])
    expert_targets = torch.tensor(
        [[False, True, True], [True, True, True], [True, True, True], [False] * 3, [False, True, True]]
    )
    domain = torch.tensor([[True, False], [True, False], [True, True], [True, True], [False, False]])
    # 0.5 < 0.7; 0.9; 1.0, 1.3 and 1.4 over both domains; no owner; equals without a domain: the first
    assert best_expert_target(expert_targets, domain, accuracy).tolist() == [2, 0, 2, -100, 1]


class TestFailureSigns:
    def test_a_fuser_below_the_best_expert_is_named(self):
        (warning,) = fuser_warnings({"val_accuracy": 0.5, "val_best_expert_accuracy": 0.6}, "label")
        assert "validation accuracy 0.500" in warning
        assert "best single expert (0.600)" in warning

    def test_choosing_strangers_is_named_where_the_target_is_the_expert(self):
        metrics = {"val_accuracy": 0.7, "val_best_expert_accuracy": 0.6, "val_choice_accuracy": 0.4}
        assert "the training diverged" in fuser_warnings(metrics | {"val_loss": float("nan")}, "expert")[0]
        (warning,) = fuser_warnings(metrics | {"val_loss": 0.7}, "expert")
        assert "was trained on the sample's domain in only 40.0%" in warning
        assert fuser_warnings(metrics, "label") == []

    @pytest.mark.parametrize("known", [0, 3])
    def test_a_sound_fuser_shows_none(self, known):
        found = {"val_accuracy": 0.6, "val_best_expert_accuracy": 0.6, "val_choice_accuracy": 0.5}
        metrics = dict(list(found.items())[:known])
        assert fuser_warnings(metrics, "expert") == []
