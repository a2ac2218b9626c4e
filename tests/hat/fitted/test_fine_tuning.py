import copy

import pytest
import torch
from helpers import tiny
from helpers.evidence import COLUMNS, EVIDENCE, INPUT, POOL, TARGET, WIDTHS
from torch.nn import functional as F

from lightning_fusion import Expert, ExpertPool
from lightning_fusion.errors import InputError
from lightning_fusion.hat.fitted.base import evidence_of
from lightning_fusion.hat.fitted.choice import (
    MEMBERS,
    make_teacher,
)
from lightning_fusion.hat.fitted.fine_tuning import FineTuned


def test_fine_tuning_is_a_hand_written_loop_on_a_copy():
    before = copy.deepcopy(POOL)
    tuned = FineTuned(POOL, COLUMNS, epochs=3, rate=0.01).fit(EVIDENCE, TARGET, 7)
    assert tiny.same(POOL, before) and not any(weight.requires_grad for weight in tuned.parameters())
    own = tiny.EXPERT_CLASSES["a"]
    network = copy.deepcopy(POOL.members["a"].network)
    for weight in network.parameters():
        weight.requires_grad_(True)
    network.eval()
    known = torch.tensor([row for row, label in enumerate(TARGET.tolist()) if tiny.CLASSES[label] in own])
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
    columns = [own.index(label) for label in tiny.CLASSES if label in own]
    names = [label for label in tiny.CLASSES if label in own]
    wanted = torch.tensor([names.index(tiny.CLASSES[label]) for label in TARGET[known].tolist()])
    for _ in range(3):  # one batch holds all
        optimizer.zero_grad()
        F.cross_entropy(network(INPUT[known])[:, columns], wanted).backward()
        optimizer.step()
        schedule.step()
    answer = tuned.answers(INPUT)["a"][:, [tiny.CLASSES.index(label) for label in names]]
    torch.testing.assert_close(answer, network(INPUT)[:, columns].softmax(1).detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_sources_in_any_precision_are_fine_tuned(dtype):
    tuned = FineTuned(tiny.pool(features="body").to(dtype), COLUMNS, epochs=3, rate=0.01).fit(EVIDENCE, TARGET, 7)
    wanted = FineTuned(POOL, COLUMNS, epochs=3, rate=0.01).fit(EVIDENCE, TARGET, 7)
    torch.testing.assert_close(tuned(EVIDENCE), wanted(EVIDENCE), rtol=0, atol=0.02)


def test_sources_without_gradients_answer_as_they_are():
    class Frozen(tiny.Net):
        @torch.inference_mode()
        def forward(self, input):
            return super().forward(input)

    own = tiny.EXPERT_CLASSES["a"]
    pool = ExpertPool({"a": Expert(Frozen(2), classes=own, features="body"), "b": POOL.members["b"]})
    tuned = FineTuned(pool, COLUMNS, epochs=1).fit(EVIDENCE, TARGET, 0)
    assert tuned.untrained == ["a"]
    evidence = evidence_of(pool, COLUMNS, INPUT, 30)
    torch.testing.assert_close(tuned.answers(INPUT)["a"], evidence.log_probabilities[:, 0].exp())
    for name in MEMBERS:
        made = make_teacher(name, pool, COLUMNS, WIDTHS, 3).fit(evidence, TARGET, 0)
        assert made(evidence).isfinite().all()


def test_outputs_that_are_not_finite_name_their_source():
    tuned = FineTuned(POOL, COLUMNS)
    tuned.sources["b"].network.head.bias.data.fill_(torch.nan)
    with pytest.raises(InputError, match="source b are NaN or infinite after it was fine-tuned; leave it out"):
        tuned(EVIDENCE)
