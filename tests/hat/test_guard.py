from functools import partial

import pytest
import torch
from helpers import tiny
from lightning import LightningModule
from torch import nn

from lightning_fusion import ExpertModule, HaTJointModule
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.data.views.target import TargetDataModule
from lightning_fusion.errors import InputError
from lightning_fusion.hat.guard import Guard, guard


def target(**arguments) -> TargetDataModule:
    parts = tiny.tensors(rows={"train": 90, "val": 9, "test": 9})
    splits = {split: (*part[:2], torch.ones(len(part[1]), 1, dtype=torch.bool)) for split, part in parts.items()}
    data = TensorDataModule(splits, tiny.CLASSES, ["home"], batch_size=30)
    return TargetDataModule(data, "home", **({"labeled_fraction": 0.3} | arguments))


class Oracle(LightningModule):
    """Says what the true label is of some share of the rows, and something else of the others."""

    def __init__(self, right: float, seen: list) -> None:
        super().__init__()
        self.right, self.seen, self.weight = right, seen, nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        self.seen.append((batch.index, batch.target))
        return self.weight.square()

    def predict_step(self, batch, batch_idx):
        answer = batch.target.where(batch.index % 10 < 10 * self.right, (batch.target + 1) % 3)
        return {"index": batch.index, "probabilities": nn.functional.one_hot(answer, 3).float()}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def judged(student: float, local: float) -> tuple[Guard, list, list]:
    seen = [], []
    made = [lambda data, right=right, part=part: Oracle(right, part) for right, part in zip((student, local), seen)]  # noqa: B905
    return guard(*made, target(), partial(tiny.trainer, 1)), *seen


@pytest.mark.parametrize(
    ("student", "local", "choice"), [(0.5, 1.0, "local"), (1.0, 0.5, "student"), (0.8, 0.8, "student")]
)
def test_the_better_one_is_chosen_with_both_figures(student, local, choice):
    found, _, _ = judged(student, local)
    index = target().labeled()[torch.arange(len(target().labeled()))].index
    right = [(index % 10 < 10 * share).double() for share in (student, local)]
    assert found.choice == choice and found.num_rows == len(index)
    assert (found.student, found.local) == pytest.approx(tuple(float(part.mean()) for part in right))
    error = float((right[1] - right[0]).std()) / len(index) ** 0.5
    assert found.standard_error == pytest.approx(error)
    assert str(found).startswith(f"{choice}: accuracy of the student {found.student:.3f}, of the local model")


def test_both_learn_from_the_same_labels_and_are_judged_by_the_others():
    _, student, local = judged(1.0, 1.0)
    known = set(target().labeled()[torch.arange(len(target().labeled()))].index.tolist())
    shown = [{int(i) for index, label in seen for i in index[label >= 0]} for seen in (student, local)]
    assert shown[0] == shown[1] == known  # over all folds
    assert all((label >= 0).all() for _, label in local)
    assert any((label < 0).any() for _, label in student)


def test_a_tie_within_the_error_keeps_the_student():
    assert Guard(0.70, 0.75, standard_error=0.05001, num_rows=20).choice == "student"
    assert Guard(0.70, 0.75, standard_error=0.04999, num_rows=20).choice == "local"
    one = torch.tensor([True])
    assert Guard.of_rows(student=~one, local=one).choice == "student"  # a single row proves nothing


@pytest.mark.slow
def test_real_modules_have_their_own_trainers():
    make = lambda data: ExpertModule(tiny.Net, classes=data.classes)  # noqa: E731
    made = []

    def trainer(epochs):
        made.append(epochs)
        return tiny.trainer(epochs)

    found = guard(make, make, target(), partial(trainer, 1), partial(trainer, 4), num_folds=2)
    assert 0 <= found.student <= 1 and 0 <= found.local <= 1
    assert made == [1, 4] * 2
    with pytest.raises(InputError, match="folds: 99 of"):
        guard(make, make, target(), partial(trainer, 1), num_folds=99)


@pytest.mark.slow
def test_on_an_easy_target_with_wrong_sources_the_local_model_is_returned():
    """Real trainings: labels suffice here, and the sources name each class by another's name."""
    data = target(labeled_fraction=0.8)
    experts = tiny.experts(norm=False, features="body")
    for expert in experts.values():
        for weight in expert.network.parameters():
            weight.data.mul_(-20)  # sure of itself, and wrong

    def student(fold):
        torch.manual_seed(0)
        rate = partial(torch.optim.SGD, lr=0.2)
        how = {"optimizer": rate, "mixer_optimizer": rate, "alpha": "fixed", "alpha_0": 20.0, "mixing": "uniform"}
        return HaTJointModule(tiny.Net, experts, "body", classes=fold.classes, heads="frozen", **how)

    def local(fold):
        torch.manual_seed(0)
        return ExpertModule(tiny.Net, classes=fold.classes, optimizer=partial(torch.optim.SGD, lr=0.2))

    found = guard(student, local, data, partial(tiny.trainer, 20))
    assert found.choice == "local" and found.local > found.student + found.standard_error
    assert "of the local model" in str(found)
