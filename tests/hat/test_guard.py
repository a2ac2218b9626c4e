from functools import partial

import pytest
import torch
from helpers import tiny

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


def module(fold, **arguments):
    torch.manual_seed(0)
    experts = tiny.experts(norm=False, features="body")
    rate = partial(torch.optim.SGD, lr=0.2)
    return HaTJointModule(tiny.Net, experts, "body", classes=fold.classes, optimizer=rate, **arguments)


def local(fold):
    torch.manual_seed(0)
    return ExpertModule(tiny.Net, classes=fold.classes, optimizer=partial(torch.optim.SGD, lr=0.2))


@pytest.mark.parametrize(
    ("student", "local", "ensemble", "choice"),
    [(12, 20, 14, "local"), (20, 12, 20, "student"), (12, 14, 20, "ensemble"), (15, 15, 13, "student")],
)
def test_the_best_answer_is_chosen_with_all_figures(student, local, ensemble, choice):
    right = {"student": student, "local": local, "ensemble": ensemble}
    found = Guard.of_rows({name: torch.arange(20) < count for name, count in right.items()})
    assert found.choice == choice and found.num_rows == 20
    assert found.accuracy == pytest.approx({name: count / 20 for name, count in right.items()})
    difference = (torch.arange(20) < ensemble).double() - (torch.arange(20) < student).double()
    assert found.standard_error["ensemble"] == pytest.approx(float(difference.std()) / 20**0.5)
    assert str(found).startswith(f"{choice}: accuracy of the student {student / 20:.3f}, of the local model")


def test_a_tie_within_the_error_keeps_the_student():
    accuracy = {"student": 0.70, "local": 0.75, "ensemble": 0.70}
    assert Guard(accuracy, {"local": 0.05001, "ensemble": 1.0}, num_rows=20).choice == "student"
    assert Guard(accuracy, {"local": 0.04999, "ensemble": 1.0}, num_rows=20).choice == "local"
    one = torch.tensor([True])
    only = Guard.of_rows({"student": ~one, "local": one, "ensemble": one})
    assert only.choice == "student"  # a single row proves nothing


def test_one_sample_is_never_enough_and_two_are():
    """Its difference is the standard error: rounding would decide."""
    for count in range(5, 60):
        rows = torch.arange(count)
        chosen = [
            Guard.of_rows({"student": rows < count - more, "local": rows < 3, "ensemble": rows >= 0}).choice
            for more in (1, 2)
        ]
        assert chosen == ["student", "ensemble"]


@pytest.mark.slow
def test_all_learn_from_the_same_labels_and_are_judged_by_the_others():
    """Real trainings of two folds; each answer's accuracy is that of models fitted again by hand."""
    seen: dict[str, list[set[int]]] = {"student": [], "local": []}
    made = []

    def noted(name, factory):
        def make(fold):
            labeled = fold.labeled()
            seen[name].append(set(labeled[torch.arange(len(labeled))].index.tolist()))
            assert fold.unlabeled == (name == "student")
            return factory(fold)

        return make

    def trainer(epochs):
        made.append(epochs)
        return tiny.trainer(epochs)

    def ensemble(fold):
        return ExpertModule(partial(tiny.Net, hidden=len(fold.labeled())), classes=fold.classes)

    student, alone = noted("student", module), noted("local", local)
    torch.manual_seed(5)
    found = guard(student, alone, ensemble, target(), partial(trainer, 1), partial(trainer, 4), num_folds=2)
    assert made == [1, 4, 1] * 2 and seen["student"] == seen["local"]
    known = target().labeled()
    assert set.union(*seen["local"]) == set(known[torch.arange(len(known))].index.tolist())
    for fold in target().folds(2)[:1]:
        one = module(fold)
        tiny.trainer(1).fit(one, datamodule=fold)
        held = fold.rows("test")[torch.arange(len(fold.rows("test")))]
        right = (one(held.input).argmax(1) == held.target).double().sum()
    assert right <= found.accuracy["student"] * found.num_rows + 1e-6
    assert 0 <= found.accuracy["ensemble"] <= 1
    with pytest.raises(InputError, match="folds: 99 of"):
        guard(student, alone, ensemble, target(), partial(trainer, 1), num_folds=99)


@pytest.mark.slow
def test_on_an_easy_target_with_wrong_sources_the_local_model_is_returned():
    """Real trainings: labels suffice here, and the sources name each class by another's name."""
    data = target(labeled_fraction=0.8)

    def student(fold):
        made = module(fold, alpha="fixed", alpha_0=20.0, teacher="uniform", init="scratch")
        for expert in made.pool.members.values():
            for weight in expert.network.parameters():
                weight.data.mul_(-20)  # sure of itself, and wrong
        return made

    def ensemble(fold):
        return student(fold)

    found = guard(student, local, ensemble, data, partial(tiny.trainer, 20))
    assert found.choice == "local" and found.accuracy["local"] > found.accuracy["ensemble"]
