import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import rules
from torch import nn

from lightning_fusion.experts.pool import scatter
from lightning_fusion.foe.diagnostics import fuser_warnings
from lightning_fusion.foe.fusers import MLPFuser, RepresentationFuser


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
