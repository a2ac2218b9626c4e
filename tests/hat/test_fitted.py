import copy

import numpy as np
import pytest
import torch
from helpers import tiny
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from lightning_fusion import Expert, ExpertPool
from lightning_fusion.errors import InputError
from lightning_fusion.hat import fitted
from lightning_fusion.hat.fitted import (
    MEMBERS,
    Evidence,
    FineTuned,
    Stacking,
    choose_teacher,
    cross_fit,
    evidence_of,
    fit_chosen,
    folds_of,
    make_teacher,
    sharpen,
)
from lightning_fusion.hat.mixer import shared_columns

POOL = tiny.pool(features="body")
COLUMNS, _ = shared_columns(POOL.expert_classes, tiny.CLASSES)
INPUT, TARGET = tiny.tensors(rows={"train": 30})["train"][:2]
EVIDENCE = evidence_of(POOL, COLUMNS, INPUT, 30)
WIDTHS = {"a": 5, "b": 5}


def make(name):
    return make_teacher(name, POOL, COLUMNS, WIDTHS, 3)


def test_evidence_is_what_the_sources_say_of_shared_classes():
    assert EVIDENCE.log_probabilities.shape == (30, 2, 3) and EVIDENCE.representations.shape == (30, 10)
    outputs, representations = POOL.forward_with_representations(INPUT)
    torch.testing.assert_close(EVIDENCE.representations, torch.cat(list(representations.values()), 1))
    for place, (name, own) in enumerate(tiny.EXPERT_CLASSES.items()):
        kept = [label for label in own if label in tiny.CLASSES]
        raw = outputs[name][:, [own.index(label) for label in kept]]
        found = EVIDENCE.log_probabilities[:, place].exp()[:, [tiny.CLASSES.index(label) for label in kept]]
        torch.testing.assert_close(found, raw / raw.sum(1, keepdim=True))


def test_the_regression_is_that_of_scikit_learn():
    """Without an offset it is ridge-penalized multinomial logistic regression."""
    values = torch.randn(40, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    target = (values[:, :3] + 0.5 * values[:, 3:]).argmax(1)
    ours = fitted._regress(values, torch.zeros(40, 3, dtype=torch.float64), target, 2.0)
    theirs = LogisticRegression(C=0.5, fit_intercept=False, tol=1e-8, max_iter=5000).fit(values, target)
    np.testing.assert_allclose(ours.T, theirs.coef_, atol=1e-4)


@pytest.mark.parametrize("representations", [False, True])
def test_stacking_starts_at_the_average_and_learns_from_labels(representations):
    width = 10 if representations else 6
    average = EVIDENCE.log_probabilities.exp().mean(1)
    empty = Stacking(width, 3, representations)
    floored = average.clamp_min(fitted.FLOOR)
    torch.testing.assert_close(empty(EVIDENCE), floored / floored.sum(1, keepdim=True))
    made = Stacking(width, 3, representations).fit(EVIDENCE, TARGET, 0)
    loss = [float(F.nll_loss(part.clamp_min(1e-9).log(), TARGET)) for part in (average, made(EVIDENCE))]
    assert loss[1] < loss[0]
    few = torch.tensor([0, 1])  # two labels must not outweigh the sources
    small = Stacking(width, 3, representations).fit(EVIDENCE.take(few), TARGET[few], 0)
    assert float((small(EVIDENCE) - floored).abs().mean()) < 0.1


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


def test_sharp_powers_are_finite():
    found = sharpen(torch.tensor([[0.5, 0.4, 0.1], [1.0, 0.0, 0.0]]), 1000.0)
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.0, 0.0]] * 2))


@pytest.mark.parametrize("name", MEMBERS)
def test_every_teacher_gives_distributions_and_is_restored_from_its_state(name):
    made = make(name).fit(EVIDENCE, TARGET, 0)
    found = made(EVIDENCE)
    assert found.shape == (30, 3) and not found.requires_grad
    torch.testing.assert_close(found.sum(1), torch.ones(30))
    again = make(name)
    again.load_state_dict(made.state_dict())
    torch.testing.assert_close(again(EVIDENCE), found)
    torch.testing.assert_close(make(name).fit(EVIDENCE, TARGET, 0)(EVIDENCE), found)


def test_held_out_predictions_do_not_know_the_label():
    fold = folds_of(TARGET, 0)
    assert sorted(fold.unique().tolist()) == [0, 1, 2]
    found = cross_fit(lambda: make("stacking"), EVIDENCE, TARGET, 0)
    for number in range(3):
        held = fold == number
        alone = make("stacking").fit(EVIDENCE.take((~held).nonzero().flatten()), TARGET[~held], 0)
        torch.testing.assert_close(found[held], alone(EVIDENCE.take(held.nonzero().flatten())))


def test_the_teacher_with_the_best_likelihood_is_chosen():
    """Sources whose classes are exchanged: an average is wrong, stacking learns it."""
    sure = torch.full((60, 2, 3), 0.05)
    target = torch.arange(60) % 3
    sure[torch.arange(60), :, (target + 1) % 3] = 0.9
    evidence = Evidence(torch.zeros(60, 1), sure.log(), torch.zeros(60, 1))
    maker = {"uniform": fitted.Average, "stacking": lambda: Stacking(6, 3)}
    found = choose_teacher(["uniform", "stacking"], lambda name: maker[name](), evidence, target, 0)
    assert found.name == "stacking" and found.accuracy == {"uniform": 0.0, "stacking": 1.0}
    assert found.log_likelihood["stacking"] > found.log_likelihood["uniform"]
    right = sure.roll(-1, 2)
    soft = Evidence(torch.zeros(60, 1), right.log(), torch.zeros(60, 1))
    found = choose_teacher(["uniform"], lambda name: maker[name](), soft, target, 0)
    assert found.sharpness == max(fitted.SHARPNESS)  # it is always right: sharper is more likely
    torch.testing.assert_close(found.held_out, sharpen(right.mean(1), found.sharpness))
    with pytest.raises(InputError, match=r"found 1 labeled sample\(s\) of classes of the sources; expected two"):
        choose_teacher(["uniform"], lambda name: maker[name](), soft.take(torch.tensor([0])), target[:1], 0)


def test_members_are_weighed_by_the_likelihood_of_labels_that_they_did_not_see():
    found = choose_teacher(["all"], make, EVIDENCE, TARGET, 0)
    held = [cross_fit(lambda name=name: make(name), EVIDENCE, TARGET, 0) for name in MEMBERS["all"]]
    seen = torch.stack([each.double().gather(1, TARGET[:, None])[:, 0].clamp_min(1e-4) for each in held], 1)

    def objective(weights):  # with a prior of one sample
        return (seen @ weights).log().sum() + weights.log().mean()

    expected = found.weights.double()
    assert float(expected.sum()) == pytest.approx(1, abs=1e-6)
    for place in range(5):  # no member would better have more of it
        more = 0.999 * expected + 0.001 * torch.eye(5, dtype=torch.float64)[place]
        assert objective(more) <= objective(expected) + 1e-6
    whole = fit_chosen(found, make("all"), EVIDENCE, TARGET, 0)
    parts = torch.stack([make(name).fit(EVIDENCE, TARGET, 0)(EVIDENCE) for name in MEMBERS["all"]])
    torch.testing.assert_close(whole(EVIDENCE), (found.weights[:, None, None] * parts).sum(0))


def test_two_labels_are_enough():
    rows = torch.tensor([int((label == TARGET).nonzero()[0]) for label in (0, 1)])
    found = choose_teacher(list(MEMBERS), make, EVIDENCE.take(rows), TARGET[rows], 0)
    assert found.held_out.isfinite().all() and set(found.accuracy) == set(MEMBERS)
