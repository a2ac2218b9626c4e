from functools import partial

import pytest
import torch
from helpers import tiny
from torch import nn

from lightning_fusion import Expert, ExpertPool
from lightning_fusion.errors import InputError
from lightning_fusion.hat.fitted.base import Evidence
from lightning_fusion.hat.mixer import shared_columns
from lightning_fusion.hat.mixup import Pairs
from lightning_fusion.hat.start import compatible_weights, first_weights, mean_weights, source_weights

INPUT = tiny.tensors(rows={"train": 8})["train"][0]


def started(source: Expert, student: nn.Module) -> dict[str, torch.Tensor]:
    columns, _ = shared_columns({"x": source.classes}, tiny.CLASSES)
    return source_weights(student, source, columns["x"], INPUT)


@pytest.mark.parametrize("classes", [["owl", "cat", "dog"], ["owl", "eel", "cat"], list(tiny.CLASSES)])
def test_the_student_answers_as_its_source_for_shared_classes(classes):
    torch.manual_seed(0)
    source, student = Expert(tiny.Net(3, norm=True), classes=classes, features="body"), tiny.Net(3, norm=True)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    student.load_state_dict(started(source, student))
    shared = [label for label in tiny.CLASSES if label in classes]
    ours = student.eval()(INPUT)[:, [tiny.CLASSES.index(label) for label in shared]]
    theirs = source.network(INPUT)[:, [classes.index(label) for label in shared]]
    torch.testing.assert_close(ours, theirs)
    for number, label in enumerate(tiny.CLASSES):  # what the source does not know stays
        same = torch.equal(student.head.weight[number], before["head.weight"][number])
        assert same == (label not in classes)


class Odd(tiny.Net):
    """A layer that is used twice, and an extra state; in double precision as a source."""

    def __init__(self):
        super().__init__(3)
        self.first = self.second = nn.Linear(4, 4)

    def forward(self, input):
        return super().forward(self.second(self.first(input)))

    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        self.version = state["version"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_shared_weights_extra_states_and_other_precisions_start_a_student(dtype):
    torch.manual_seed(0)
    source, student = Expert(Odd().to(dtype), classes=tiny.CLASSES, features="body"), Odd()
    weights = started(source, student)
    assert weights["head.weight"].dtype == torch.float32
    student.load_state_dict(weights)
    torch.testing.assert_close(
        student(INPUT).softmax(1), source(INPUT), rtol=0, atol=1e-6 if dtype.itemsize > 2 else 0.02
    )


def test_outputs_in_another_order_than_the_classes_are_put_in_order(tmp_path):
    torch.manual_seed(0)
    network = tiny.Net(3)
    torch.save({"state_dict": network.state_dict(), "expert": {"classes": tiny.CLASSES}}, tmp_path / "s.ckpt")
    source = Expert(tiny.Net, str(tmp_path / "s.ckpt"), classes=["owl", "cat", "dog"], features="body")
    assert all(torch.equal(started(source, tiny.Net(3))[name], value) for name, value in network.state_dict().items())


def test_a_class_is_averaged_over_the_sources_that_have_it():
    torch.manual_seed(0)
    classes = {"a": ["dog", "cat"], "b": ["cat", "owl"]}
    pool = ExpertPool({name: Expert(tiny.Net(2), classes=own, features="body") for name, own in classes.items()})
    columns, _ = shared_columns(classes, tiny.CLASSES)
    student = tiny.Net(3)
    states, _ = compatible_weights(student, pool, columns, INPUT)
    mean = mean_weights(list(states.values()))["head.weight"]
    a, b = (pool.members[name].network.head.weight for name in "ab")
    torch.testing.assert_close(mean, torch.stack([(a[1] + b[0]) / 2, a[0], b[1]]))


def test_few_samples_at_a_time_run_through_the_networks():
    seen = []
    source = Expert(tiny.Net(2), classes=["owl", "cat"], features="body")
    source.network.register_forward_hook(lambda module, given, output: seen.append(len(given[0])))
    source_weights(tiny.Net(3), source, [1, -1, 0], torch.rand(200, 4))
    assert max(seen) == 64


def test_other_architectures_and_preprocessings_are_named():
    torch.manual_seed(0)
    make = partial(Expert, classes=list(tiny.CLASSES), features="body")
    scaled = make(tiny.Net(3), preprocess=nn.ReLU())
    pool = ExpertPool(
        {
            "fits": make(tiny.Net(3)),
            "wide": make(tiny.Net(3, hidden=9)),
            "normed": make(tiny.Net(3, norm=True)),
            "plain": Expert(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)), classes=list(tiny.CLASSES), features="0"),
            "scaled": scaled,
        }
    )
    columns, _ = shared_columns(pool.expert_classes, tiny.CLASSES)
    found, reasons = compatible_weights(tiny.Net(3), pool, columns, INPUT)
    assert list(found) == ["fits"]
    assert "has shape (9, 4), the student's" in reasons["wide"]
    assert "other layers" in reasons["normed"] and "it is a Sequential, the student a Net" in reasons["plain"]
    assert "another preprocessing" in reasons["scaled"]
    evidence = Evidence(INPUT, torch.zeros(8, 5, 3), torch.zeros(8, 0))
    start = first_weights("average", tiny.Net(3), pool, columns, evidence, torch.zeros(8).long(), 0.0)
    assert start.what == "average of fits" and "scaled: with its weights the student's" in start.why


def test_a_student_of_tokens_starts_with_its_own_weights_by_default():
    torch.manual_seed(0)
    pool = ExpertPool({"a": Expert(tiny.Net(3), classes=list(tiny.CLASSES), features="body")})
    columns, student = {"a": [0, 1, 2]}, tiny.Net(3)
    for input, start in ((INPUT, pool.members["a"].network.state_dict()), (INPUT.long(), None)):
        target = pool.members["a"](INPUT).argmax(1)
        evidence = Evidence(input, pool.members["a"](INPUT).log()[:, None], torch.zeros(len(INPUT), 0))
        found = first_weights("auto", student, pool, columns, evidence, target, 0.5)
        assert (found.state is None) == (start is None) == (found.what == "scratch")
        assert start is None or all(torch.equal(found.state[name], weight) for name, weight in start.items())


def test_pairs_are_convex_combinations_in_which_the_first_sample_weighs_most():
    torch.manual_seed(0)
    values = torch.randn(6, 2)
    for _ in range(5):
        pairs = Pairs.draw(1.0, values)
        assert 0.5 <= pairs.share <= 1 and sorted(pairs.partner.tolist()) == list(range(6))
        wanted = pairs.share * values + (1 - pairs.share) * values[pairs.partner]
        torch.testing.assert_close(pairs.mix(values), wanted)
    with pytest.raises(InputError, match="mixup: found inputs of type dict; it needs one tensor of real numbers"):
        Pairs.draw(1.0, {"input_ids": values})
    with pytest.raises(InputError, match=r"mixup: found inputs of data type torch.int64; .* set mixup: 0"):
        Pairs.draw(1.0, values.long())
