import numpy as np
import pytest
import torch
from reference import rules

from lightning_fusion.metrics import BestExpertAccuracy, PairwiseDiversity


def draw(rows: int = 41, experts: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    target = torch.randint(3, (rows,))
    noise = torch.randint(3, (rows, experts))
    return torch.where(torch.rand(rows, experts) < 0.6, target[:, None], noise), target


class TestPairwiseDiversity:
    def test_equals_the_contingency_tables(self):
        predictions, target = draw()
        metric = PairwiseDiversity(3)
        for part in range(0, 41, 10):
            metric.update(predictions[part : part + 10], target[part : part + 10])
        expected = rules.diversity(predictions.numpy(), target.numpy())
        values = metric.compute()
        assert set(values) == set(expected)
        for name, value in values.items():
            np.testing.assert_allclose(value.numpy(), expected[name], rtol=1e-6, err_msg=name)

    def test_undefined_values_are_nan(self):
        metric = PairwiseDiversity(2)
        metric.update(torch.tensor([[1, 1], [0, 1]]), torch.tensor([1, 0]))  # the first is always right
        values = metric.compute()
        assert values["disagreement"].tolist() == [[0, 0.5], [0.5, 0]]
        assert values["error_correlation"][0].isnan().all()
        assert values["error_correlation"][1, 1] == 1

    def test_reset_forgets(self):
        predictions, target = draw()
        metric = PairwiseDiversity(3)
        metric.update(1 - predictions, target)
        metric.reset()
        metric.update(predictions, target)
        expected = rules.diversity(predictions.numpy(), target.numpy())["double_fault"]
        np.testing.assert_allclose(metric.compute()["double_fault"].numpy(), expected, rtol=1e-6)


def test_best_expert_accuracy_is_that_of_one_expert_over_all_batches():
    right = torch.rand(50, 4) < torch.tensor([0.3, 0.8, 0.7, 0.1])
    metric = BestExpertAccuracy(4)
    for part in right.split(7):
        metric(part)
    assert metric.compute().item() == pytest.approx(max(right.float().mean(0).tolist()))
