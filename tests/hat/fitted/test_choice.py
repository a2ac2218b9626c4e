import pytest
import torch
from helpers.evidence import EVIDENCE, TARGET, make

from lightning_fusion.errors import InputError
from lightning_fusion.hat.fitted.base import Evidence, folds_of
from lightning_fusion.hat.fitted.choice import (
    MEMBERS,
    SHARPNESS,
    choose_teacher,
    cross_fit,
    fit_chosen,
    sharpen,
)
from lightning_fusion.hat.fitted.mean import Average
from lightning_fusion.hat.fitted.stacking import Stacking


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
    maker = {"uniform": Average, "stacking": lambda: Stacking(6, 3)}
    found = choose_teacher(["uniform", "stacking"], lambda name: maker[name](), evidence, target, 0)
    assert found.name == "stacking" and found.accuracy == {"uniform": 0.0, "stacking": 1.0}
    assert found.log_likelihood["stacking"] > found.log_likelihood["uniform"]
    right = sure.roll(-1, 2)
    soft = Evidence(torch.zeros(60, 1), right.log(), torch.zeros(60, 1))
    found = choose_teacher(["uniform"], lambda name: maker[name](), soft, target, 0)
    assert found.sharpness == max(SHARPNESS)  # it is always right: sharper is more likely
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
