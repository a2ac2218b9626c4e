import math

import pytest
import torch
from torch.nn import functional as F

from lightning_fusion.errors import InputError
from lightning_fusion.verification.error_rates import equal_error_rate, min_dcf
from lightning_fusion.verification.metrics import Verification, trial_scores


def speakers(members: int = 2, people: int = 6, takes: int = 4, noise: float = 0.8) -> list[torch.Tensor]:
    """(24, D_k) embeddings, four of each of six speakers, per member; member k has 5 + k features."""
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(people, 5 + k, generator=generator).repeat_interleave(takes, 0)
        + noise * torch.randn(people * takes, 5 + k, generator=generator)
        for k in range(members)
    ]


def every_pair(count: int = 24, takes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = torch.combinations(torch.arange(count))
    return pairs, pairs[:, 0] // takes == pairs[:, 1] // takes


class TestTrialScores:
    @pytest.mark.parametrize("chunk", [1, 7, 5000])
    def test_equals_the_cosine_of_gathered_rows(self, chunk):
        embeddings, (pairs, _) = 30 * speakers()[0], every_pair()
        expected = F.cosine_similarity(embeddings[pairs[:, 0]], embeddings[pairs[:, 1]])
        torch.testing.assert_close(trial_scores(embeddings, pairs, chunk), expected)

    def test_the_cosine_of_concatenated_unit_embeddings_is_the_mean_of_the_cosines(self):
        members, (pairs, _) = speakers(3), every_pair()
        joined = torch.cat([F.normalize(part) for part in members], 1)
        mean = torch.stack([trial_scores(part, pairs) for part in members]).mean(0)
        torch.testing.assert_close(trial_scores(joined, pairs), mean, atol=1e-6, rtol=0)

    def test_types(self):
        embeddings, (pairs, _) = speakers()[0], every_pair()
        assert trial_scores(embeddings.bfloat16(), pairs).dtype == torch.float32
        assert trial_scores(embeddings.double().requires_grad_(), pairs.int()).dtype == torch.float64
        assert trial_scores(embeddings, pairs[:0]).shape == (0,)
        assert trial_scores(torch.zeros(2, 3), torch.tensor([[0, 1]])).tolist() == [0]


class TestVerification:
    def filled(self, members: int = 2, size: int = 5, offset: int = 100) -> Verification:
        metric = Verification(members)
        embeddings, (pairs, same) = speakers(members), every_pair()
        metric.set_trials(pairs + offset, same)
        for part in torch.randperm(24).split(size):
            metric.update([values[part] for values in embeddings], part + offset)
        return metric

    @pytest.mark.parametrize("size", [1, 5, 24])
    def test_members_and_their_fusion(self, size):
        values = self.filled(size=size).compute()
        pairs, same = every_pair()
        scores = [trial_scores(part, pairs) for part in speakers()]
        assert set(values) == {"eer", "min_dcf", "fused_eer", "fused_min_dcf"}
        assert values["eer"].tolist() == pytest.approx([equal_error_rate(one, same).item() for one in scores])
        assert values["min_dcf"].tolist() == pytest.approx([min_dcf(one, same).item() for one in scores])
        fused = (scores[0] + scores[1]) / 2
        assert values["fused_eer"].item() == pytest.approx(equal_error_rate(fused, same).item())
        assert values["fused_min_dcf"].item() == pytest.approx(min_dcf(fused, same).item())
        assert values["fused_eer"].dtype == torch.float32 and values["fused_eer"].ndim == 0
        assert 0.05 < values["fused_eer"] < values["eer"].min()

    def test_a_single_member_has_scalars(self):
        values = self.filled(members=1).compute()
        assert {name: value.ndim for name, value in values.items()} == {"eer": 0, "min_dcf": 0}

    def test_repeated_samples_count_once_and_others_not_at_all(self):
        metric, embeddings = self.filled(), speakers()
        before = metric.compute()
        metric.update([torch.randn(2, 5), torch.randn(2, 6)], torch.tensor([3, 999]))  # in no trial
        metric.update([part[[4, 4]] for part in embeddings], torch.tensor([104, 104]))
        assert all((before[name] == value).all() for name, value in metric.compute().items())

    def test_other_trials_on_the_same_embeddings(self):
        metric = self.filled()
        before = metric.compute()["fused_eer"]
        pairs, same = every_pair()
        metric.set_trials(pairs[::2] + 100, same[::2])
        assert metric.compute()["fused_eer"] != before

    def test_reset_keeps_the_trials(self):
        metric = self.filled()
        before = metric.compute()
        metric.reset()
        with pytest.raises(InputError, match="24 of 24 samples were never seen"):
            metric.scores()
        metric.update([torch.cat((part, part[:1])) for part in speakers()], torch.tensor([*range(100, 124), 100]))
        assert all((before[name] == value).all() for name, value in metric.compute().items())

    def test_forward_adds_to_what_is_there(self):
        metric = Verification()
        metric.set_trials(torch.tensor([[0, 1], [0, 2]]), torch.tensor([True, False]))
        (embeddings,) = speakers(1)
        assert metric([embeddings[:3]], torch.arange(3))["eer"] in (0, 1)
        metric.update([embeddings[3:]], torch.arange(3, 24))
        metric.set_trials(*every_pair())
        expected = equal_error_rate(trial_scores(embeddings, every_pair()[0]), every_pair()[1])
        assert metric.compute()["eer"].item() == pytest.approx(expected.item())

    def test_samples_that_were_never_seen_are_named(self):
        metric = Verification()
        metric.set_trials(every_pair()[0] + 50, every_pair()[1])
        metric.update([torch.randn(17, 4)], torch.arange(50, 67))
        message = "7 of 24 samples were never seen: 67, 68, 69, 70, 71 and 2 more; expected an embedding"
        with pytest.raises(InputError, match=message):
            metric.compute()

    def test_embeddings_that_are_not_finite_are_named(self):
        metric, embeddings = self.filled(), speakers()
        metric.reset()
        embeddings[1][[3, 8], 2] = math.nan
        metric.update(embeddings, torch.arange(100, 124))
        with pytest.raises(InputError, match="member 1 gave NaN or infinite values for 2 samples: 103, 108"):
            metric.compute()


KINDS = torch.tensor([True, False, True])
PAIRS = torch.tensor([[0, 1], [1, 2], [0, 0]])


def one_update(embeddings, index=None, members: int = 1, before: int = 0) -> None:
    metric = Verification(members)
    if before:
        metric.update([torch.ones(2, before)], torch.arange(2))
    metric.update(embeddings, torch.arange(2) if index is None else index)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: trial_scores(torch.ones(3), PAIRS), r"embeddings has shape \(3,\)"),
        (lambda: trial_scores(torch.ones(2, 4), PAIRS), "rows: found 0 to 2; there are 2 embeddings"),
        (lambda: trial_scores(torch.ones(3, 4), PAIRS - 1), "rows: found -1 to 1; there are 3 embeddings"),
        (lambda: trial_scores(torch.ones(3, 4), PAIRS.T), r"rows has shape \(2, 3\) and type torch.int64"),
        (
            lambda: trial_scores(torch.ones(3, 4), PAIRS.float()),
            r"rows has .* torch.float32; expected \(trials, 2\) integers",
        ),
        (lambda: trial_scores(torch.ones(3, 4), PAIRS, chunk=0), "chunk is 0"),
        (lambda: Verification(0), "num_members is 0"),
        (lambda: Verification().set_trials(PAIRS, KINDS[:2]), r"same has shape \(2,\), pairs has 3 rows"),
        (lambda: Verification().set_trials(PAIRS[:, 0], KINDS), r"pairs has shape \(3,\)"),
        (lambda: Verification().set_trials(PAIRS, KINDS | True), "found 3 trials of one speaker"),
        (lambda: one_update(torch.ones(2, 4)), "embeddings: found one tensor; expected a list of 1"),
        (lambda: one_update([torch.ones(2, 4)] * 3, members=2), "found 3 tensors; expected a list of 2"),
        (lambda: one_update([torch.ones(3, 4)]), r"shapes \(3, 4\), index \(2,\); expected \(batch, features\)"),
        (lambda: one_update([torch.ones(2)]), r"shapes \(2,\), index \(2,\)"),
        (lambda: one_update([torch.ones(2, 4)], before=5), r"have \[4\] features; those before had \[5\]"),
        (lambda: Verification().scores(), "call set_trials"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
