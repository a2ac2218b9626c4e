import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.losses import ArcFaceLoss
from torch.nn import functional as F

from lightning_fusion.encoders import CosineHead
from lightning_fusion.errors import InputError
from lightning_fusion.verification.loss import AngularMarginLoss


def by_hand(cosines: np.ndarray, target: np.ndarray, margin: float, scale: float) -> float:
    """AAM-softmax, row by row in float64."""
    losses = []
    for row, label in zip(cosines.astype(np.float64), target, strict=True):
        theta = math.acos(row[label])
        logits = scale * row
        inside = theta + margin <= math.pi
        logits[label] = scale * (math.cos(theta + margin) if inside else row[label] - margin * math.sin(margin))
        losses.append(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label])
    return float(np.mean(losses))


class TestFormula:
    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.lists(st.floats(-0.999, 0.999), min_size=3, max_size=3), min_size=1, max_size=5),
        st.floats(0.0, 1.5),
        st.sampled_from([1.0, 30.0, 64.0]),
        st.integers(0, 2),
    )
    def test_equals_the_hand_written_one(self, rows, margin, scale, label):
        cosines, target = np.array(rows), np.full(len(rows), label)
        found = AngularMarginLoss(margin, scale)(torch.tensor(scale * cosines).float(), torch.tensor(target))
        assert found.item() == pytest.approx(by_hand(cosines, target, margin, scale), rel=1e-3, abs=1e-4)

    def test_where_angle_and_margin_pass_pi_the_line_goes_on_downwards(self):
        margin, scale = 0.5, 10.0
        angles = torch.linspace(math.pi - 0.9, math.pi - 0.01, 40)
        loss = AngularMarginLoss(margin, scale)
        values = [loss(scale * torch.tensor([[a.cos(), 0.0]]), torch.tensor([0])).item() for a in angles]
        beyond = angles > math.pi - margin
        assert beyond.any() and not beyond.all()
        expected = [by_hand(np.array([[math.cos(a), 0.0]]), np.array([0]), margin, scale) for a in angles.tolist()]
        np.testing.assert_allclose(values, expected, rtol=1e-4)

    @pytest.mark.parametrize("margin", [0.1, 0.2, 1.0])
    def test_equals_arcface_on_shared_weights_in_value_and_gradient(self, margin):
        head, target = CosineHead(6, 4, scale=30.0), torch.tensor([0, 3, 1, 1, 2])
        theirs = ArcFaceLoss(4, 6, margin=math.degrees(margin), scale=30.0)
        theirs.W.data = head.weight.data.T.clone()
        one = torch.randn(5, 6, requires_grad=True)
        one.data[0] = -20 * head.weight.data[0]  # angle pi
        one.data[0] += 0.1
        other = one.detach().clone().requires_grad_()
        ours, reference = AngularMarginLoss(margin)(head(one), target), theirs(other, target)
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)
        ours.backward()
        reference.backward()
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(head.weight.grad, theirs.W.grad.T, rtol=1e-3, atol=1e-5)


class TestBehavior:
    def test_evaluation_has_no_margin(self):
        logits, target = 30 * (2 * torch.rand(6, 4) - 1), torch.tensor([0, 1, 2, 3, 0, 1])
        loss = AngularMarginLoss(0.3)
        torch.testing.assert_close(loss.eval()(logits, target), F.cross_entropy(logits, target))
        assert loss.train()(logits, target) > F.cross_entropy(logits, target) + 0.1

    def test_a_larger_margin_costs_more_and_may_change_in_training(self):
        logits, target = 30 * (2 * torch.rand(6, 4) - 1), torch.tensor([0, 1, 2, 3, 0, 1])
        loss, values = AngularMarginLoss(0.0), []
        for margin in (0.0, 0.1, 0.2):
            loss.margin = margin
            values.append(loss(logits, target).item())
        assert values[0] < values[1] < values[2]
        assert values[0] == pytest.approx(F.cross_entropy(logits, target).item(), rel=1e-5)

    def test_unknown_rows_count_nothing(self):
        logits = (30 * (2 * torch.rand(5, 3) - 1)).requires_grad_()
        target = torch.tensor([1, -100, 2, -100, 0])
        loss = AngularMarginLoss(0.2)
        found = loss(logits, target)
        torch.testing.assert_close(found, loss(logits[target >= 0], target[target >= 0]))
        found.backward()
        assert not logits.grad[target < 0].any()

    def test_a_batch_of_unknown_rows_is_0_with_no_gradient(self):
        logits = torch.randn(3, 2, requires_grad=True)
        found = AngularMarginLoss()(logits, torch.full((3,), -100))
        found.backward()
        assert found == 0 and not logits.grad.any()

    @pytest.mark.parametrize("cosine", [1.0, -1.0])
    def test_gradients_are_finite_at_the_ends(self, cosine):
        logits = torch.tensor([[30 * cosine, 3.0]], requires_grad=True)
        AngularMarginLoss()(logits, torch.tensor([0])).backward()
        assert logits.grad.isfinite().all()

    def test_it_has_no_weights_and_draws_no_random_numbers(self):
        state = torch.get_rng_state()
        loss = AngularMarginLoss()
        assert not list(loss.parameters()) and not loss.state_dict()
        assert torch.equal(state, torch.get_rng_state())

    def test_logits_that_are_no_scaled_cosines_are_rejected(self):
        with pytest.raises(InputError, match=r"got a logit of size 31; expected scaled cosines within \+-30"):
            AngularMarginLoss()(torch.tensor([[31.0, 0.0]]), torch.tensor([0]))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"margin": -0.1}, "margin is -0.1; expected radians"),
            ({"margin": 28.6}, "margin is 28.6; expected radians"),
            ({"scale": 0}, "scale is 0"),
        ],
    )
    def test_refuses(self, arguments, message):
        with pytest.raises(InputError, match=message):
            AngularMarginLoss(**arguments)
