import pytest
import torch
from torch.nn import functional as F

from lightning_fusion.foe.targets import best_expert_target, draw_expert_target


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
