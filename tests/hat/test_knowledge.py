import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import hat as reference

from lightning_fusion import KnowledgeDictionary
from lightning_fusion.errors import InputError
from lightning_fusion.hat.knowledge import default_threshold

INDEX = torch.tensor([40, 3, 900, 12, 7])
TARGET = torch.tensor([1, -100, 0, 1, -100])


def one_hot(classes) -> torch.Tensor:
    return 0.7 * torch.nn.functional.one_hot(torch.as_tensor(classes), 3) + 0.1


def epoch(knowledge, index, classes) -> bool:
    knowledge.keep(knowledge.rows(torch.as_tensor(index)), one_hot(classes))
    return knowledge.update()


def test_the_entries_of_a_better_epoch_replace_those_seen_in_it():
    knowledge = KnowledgeDictionary(INDEX, 3, TARGET)
    found, filled = knowledge(knowledge.rows(INDEX))
    assert not found.any() and not filled.any()
    assert epoch(knowledge, [40, 900, 12, 3], [1, 1, 0, 2])  # 1 of 3 labeled rows is right
    assert float(knowledge.accuracy) == pytest.approx(1 / 3)
    assert not epoch(knowledge, [40, 900, 12, 7], [0, 0, 0, 2])  # again 1 of 3
    found, filled = knowledge(knowledge.rows(INDEX))
    assert filled.tolist() == [True, True, True, True, False]
    assert found.argmax(1).tolist()[:4] == [1, 2, 1, 0]
    assert epoch(knowledge, [40, 900, 7], [1, 0, 2])  # 2 of the 2 that were seen
    found, filled = knowledge(knowledge.rows(INDEX))
    assert found.argmax(1).tolist() == [1, 2, 0, 0, 2] and filled.all()
    assert int(knowledge.updates) == 2 and float(knowledge.best) == 1


def test_the_last_word_of_an_epoch_counts():
    knowledge = KnowledgeDictionary(INDEX, 3, TARGET)
    knowledge.keep(knowledge.rows(torch.tensor([40, 3])), one_hot([0, 0]))
    knowledge.keep(knowledge.rows(torch.tensor([3, 40])), one_hot([2, 1]))
    assert knowledge.update() and float(knowledge.accuracy) == 1
    assert knowledge(knowledge.rows(torch.tensor([3, 40])))[0].argmax(1).tolist() == [2, 1]


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_equals_a_plain_dictionary(data):
    """Against a Python dict, for any order of batches, repeats, rules and holes in the numbers."""
    numbers = data.draw(st.lists(st.integers(0, 10**12), min_size=2, max_size=8, unique=True))
    targets = data.draw(st.lists(st.integers(0, 2), min_size=len(numbers), max_size=len(numbers)))
    rule = data.draw(st.sampled_from(["gt", "ge"]))
    knowledge = KnowledgeDictionary(torch.tensor(numbers), 3, torch.tensor(targets), update_rule=rule)
    label = dict(zip(numbers, targets, strict=True))
    plain, best = {}, 0.0
    for _ in range(3):
        pending = {}
        for _ in range(data.draw(st.integers(1, 3))):
            rows = data.draw(st.lists(st.sampled_from(numbers), min_size=1, unique=True))
            said = data.draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows)))
            knowledge.keep(knowledge.rows(torch.tensor(rows)), one_hot(said))
            pending |= dict(zip(rows, said, strict=True))
        accuracy = np.mean([label[row] == said for row, said in pending.items()])
        better = accuracy > best or (rule == "ge" and accuracy == best > 0)
        assert knowledge.update() == better
        if better:
            plain, best = plain | pending, accuracy
    found, filled = knowledge(knowledge.rows(torch.tensor(numbers)))
    assert filled.tolist() == [row in plain for row in numbers]
    assert [int(p.argmax()) for p, there in zip(found, filled, strict=True) if there] == [
        plain[row] for row in numbers if row in plain
    ]


def test_the_rule_decides_about_ties():
    for rule, again in (("gt", False), ("ge", True)):
        knowledge = KnowledgeDictionary(INDEX, 3, TARGET, update_rule=rule)
        assert not epoch(knowledge, [40], [0])  # an accuracy of nothing is no reason for either
        assert epoch(knowledge, [40], [1])
        assert epoch(knowledge, [40], [1]) == again


def test_held_out_rows_teach_nothing_and_judge():
    target = torch.tensor([0, 1] * 10 + [-100] * 5)
    knowledge = KnowledgeDictionary(torch.arange(25), 3, target, accuracy_source="holdout", seed=3)
    index = torch.arange(25)
    taught = knowledge.taught(index, target)
    held = (target >= 0) & (taught < 0)
    assert [int((held & (target == c)).sum()) for c in (0, 1)] == [2, 2]
    assert torch.equal(taught[~held], target[~held])
    said = target.clamp_min(0).clone()
    said[held.nonzero()[0]] = 2  # one of the four is wrong; of the others all could be
    epoch(knowledge, index, said.where(held, 2))
    assert float(knowledge.accuracy) == 0.75
    other = KnowledgeDictionary(torch.arange(25), 3, target, accuracy_source="holdout", seed=4)
    assert not torch.equal(other.fold, knowledge.fold)


def test_each_labeled_row_is_judged_by_the_mixer_that_did_not_see_it():
    target = torch.tensor([0, 1, 0, 1, 0, 1, -100])
    knowledge = KnowledgeDictionary(torch.arange(7), 3, target, accuracy_source="crossfit", num_folds=3)
    index = torch.arange(7)
    assert knowledge.num_mixers == 3
    taught = torch.stack([knowledge.taught(index, target, mixer) for mixer in range(3)])
    assert ((taught >= 0).sum(0) == torch.tensor([2] * 6 + [0])).all()
    probabilities = [torch.rand(7, 3) for _ in range(3)]
    combined = knowledge.combine(index, probabilities)
    for row in range(6):
        (stranger,) = [mixer for mixer in range(3) if taught[mixer, row] < 0]
        assert torch.equal(combined[row], probabilities[stranger][row])
    torch.testing.assert_close(combined[6], torch.stack(probabilities).mean(0)[6])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-1, 3), min_size=1, max_size=20), st.floats(0, 1), st.floats(0, 2))
def test_alpha_follows_the_accuracy_above_the_threshold(labels, accuracy, alpha_0):
    target = torch.tensor([label if label >= 0 else -100 for label in labels] + [0])
    knowledge = KnowledgeDictionary(torch.arange(len(target)), 4, target)
    knowledge.accuracy.fill_(accuracy)
    found = float(knowledge.alpha(alpha_0, default_threshold(target, 4)))
    assert found == pytest.approx(reference.strength(float(np.float32(accuracy)), target.numpy(), 4, alpha_0), abs=1e-6)


def test_everything_is_kept_in_its_state_and_in_float32():
    knowledge = KnowledgeDictionary(INDEX, 3, TARGET)
    epoch(knowledge, [40, 900, 12, 3], [1, 1, 0, 2])
    other = KnowledgeDictionary(INDEX, 3, TARGET)
    other.load_state_dict(knowledge.state_dict())
    for one in (knowledge, other.to(torch.bfloat16)):
        assert epoch(one, [40, 900], [1, 0])
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in knowledge.state_dict().items())
    assert other.probabilities.dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"index": torch.tensor([3, 4, 3])}, "the number 3 stands for several samples"),
        ({"target": torch.tensor([1])}, "found 1 targets of 5 samples"),
        ({"update_rule": "best"}, "update_rule is 'best'; expected gt, ge"),
        ({"accuracy_source": "test"}, "accuracy_source is 'test'; expected train, holdout, crossfit"),
        ({"accuracy_source": "crossfit", "num_folds": 4}, "crossfit with 4 folds of 3 labeled samples"),
        (
            {"accuracy_source": "holdout", "target": torch.tensor([1, -100, 0, -100, -100])},
            "holdout needs a class with two labeled samples",
        ),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        KnowledgeDictionary(**({"index": INDEX, "num_classes": 3, "target": TARGET} | arguments))


def test_wrong_batches():
    knowledge = KnowledgeDictionary(INDEX, 3, TARGET)
    for stranger in (8, 10**6, -1):
        with pytest.raises(InputError, match=f"sample number {stranger} is not a training sample"):
            knowledge.rows(torch.tensor([7, stranger]))
    knowledge.keep(knowledge.rows(torch.tensor([7])), one_hot([0]))
    with pytest.raises(InputError, match="the epoch had none of the labeled samples"):
        knowledge.update()
