import pytest
import torch
from helpers import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_fusion import Expert, ExpertPool, collect
from lightning_fusion.errors import InputError
from lightning_fusion.experts.pool import check_outputs, scatter_columns, task_classes


class TestPool:
    def test_asks_every_expert(self):
        made, x = tiny.experts(), torch.randn(3, 4)
        answers = ExpertPool(made)(x)
        assert list(answers) == ["a", "b"]
        assert all(torch.equal(answers[name], made[name](x)) for name in made)

    def test_features_come_with_the_same_answers(self):
        made, x = tiny.experts(features="body"), torch.randn(3, 4)
        answers, features = ExpertPool(made).forward_with_representations(x)
        assert all(torch.equal(answers[name], made[name](x)) for name in made)
        assert all(torch.equal(features[name], made[name].network.body(x)) for name in made)

    def test_stays_frozen_in_eval_mode(self):
        pool = tiny.pool()
        torch.nn.Sequential(pool).train()
        assert not any(module.training for module in pool.modules())
        assert not any(p.requires_grad for p in pool.parameters())

    def test_vocabulary_is_what_the_experts_know_or_what_is_given(self):
        assert ExpertPool(tiny.experts()).classes == ["cat", "dog", "owl"]
        assert ExpertPool(tiny.experts(), ["owl", "cow", "dog", "cat"]).classes == ["owl", "cow", "dog", "cat"]

    def test_metadata_name_every_expert(self):
        facts = tiny.pool().metadata()
        assert {name: fact["classes"] for name, fact in facts.items()} == tiny.EXPERT_CLASSES
        assert len({fact["fingerprint"] for fact in facts.values()}) == 2


class TestBadPools:
    def test_no_names(self):
        with pytest.raises(InputError, match=r"experts: found a list; name each one, as in \{'first': expert\}"):
            ExpertPool(list(tiny.experts().values()))

    def test_empty(self):
        with pytest.raises(InputError, match="the pool is empty"):
            ExpertPool({})

    def test_a_bare_network(self):
        with pytest.raises(InputError, match=r"experts: a is a Net; wrap it as lightning_fusion.Expert\(network"):
            ExpertPool({"a": tiny.Net(2)})

    def test_one_expert_twice(self):
        expert = tiny.experts()["a"]
        with pytest.raises(InputError, match="has two names"):
            ExpertPool({"a": expert, "b": expert})

    def test_a_class_outside_the_vocabulary(self):
        with pytest.raises(InputError, match=r"expert b has owl, which the task's classes \(cat, dog\) lack"):
            ExpertPool(tiny.experts(), ["cat", "dog"])


def broken(value: list[float], row: int = 2) -> ExpertPool:
    """A pool whose second expert gives one bad row."""

    def network(x):
        answer = torch.full((len(x), 2), 0.5)
        answer[row] = torch.tensor(value)
        return answer

    good, classes = tiny.experts()["a"], ["dog", "owl"]
    return ExpertPool({"good": good, "bad": Expert(network, classes=classes, output="probabilities")})


class TestBadAnswers:
    @pytest.mark.parametrize("value", [[float("nan"), 0.5], [float("inf"), 0.0], [1.0, float("-inf")]])
    def test_not_finite(self, value):
        with pytest.raises(
            InputError, match=r"expert bad returned NaN or infinite outputs for row\(s\) 2 of the batch"
        ):
            broken(value)(torch.zeros(5, 4))

    @pytest.mark.parametrize(
        "value, advice",
        [
            ([0.5, 0.6], "divide each row by its sum"),
            ([2.0, -1.0], "set its output to 'logits'"),
            ([0.0, 0.0], "return None for it"),
            ([3.0, 4.0], "divide each row by its sum"),
        ],
    )
    def test_no_probabilities(self, value, advice):
        with pytest.raises(InputError, match=rf"expert bad .* not probabilities for row\(s\) 2 .* {advice}"):
            broken(value)(torch.zeros(5, 4))

    def test_a_network_with_nan_weights_is_named(self):
        made = tiny.experts()
        made["b"].network.head.bias.fill_(float("nan"))
        with pytest.raises(InputError, match=r"expert b returned NaN .* row\(s\) 0, 1, 2, 3, 4 and 2 more"):
            ExpertPool(made)(torch.zeros(7, 4))

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_representation_that_is_not_finite_behind_sound_answers(self, value):
        made = tiny.experts(features="body")
        network = made["b"].network
        network.body.register_forward_hook(lambda module, given, output: output.index_fill(0, torch.tensor(1), value))
        network.head.register_forward_pre_hook(lambda module, given: (given[0].nan_to_num(0, 0, 0),))
        pool = ExpertPool(made)
        assert all(values.isfinite().all() for values in pool(torch.zeros(3, 4)).values())
        with pytest.raises(InputError, match=r"representation of expert b is NaN or infinite in row\(s\) 1 of the"):
            pool.forward_with_representations(torch.zeros(3, 4))

    def test_experts_without_a_layer_are_named(self):
        made = {"a": tiny.experts(features="body")["a"], "b": tiny.experts()["b"]}
        with pytest.raises(InputError, match="the experts b have no layer set; set features"):
            ExpertPool(made).forward_with_representations(torch.zeros(3, 4))

    def test_rounding_is_forgiven(self):
        check_outputs({"a": torch.tensor([[0.5, 0.5005]])})
        with pytest.raises(InputError, match=r"sum 1.01"):
            check_outputs({"a": torch.tensor([[0.5, 0.51]])})


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), st.lists(st.sampled_from("pqrst"), min_size=1, unique=True), min_size=1))
def test_columns_lead_back_to_the_names(expert_classes):
    classes = task_classes(expert_classes)
    assert len(set(classes)) == len(classes)
    columns = scatter_columns(expert_classes, classes)
    assert [[classes[column] for column in own] for own in columns] == list(expert_classes.values())


def test_an_expert_that_writes_into_its_input_does_not_spoil_the_next_one():
    spoiler = Expert(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2)), classes=["cat", "dog"])
    other = Expert(nn.Linear(4, 2), classes=["cat", "dog"])
    input = torch.randn(5, 4)
    before = input.clone()
    together = ExpertPool({"spoiler": spoiler, "other": other})(input)["other"]
    assert torch.equal(input, before)
    assert torch.equal(together, other(before))


@pytest.mark.parametrize("name", ["train", "cpu", "keys", "a\0b", "a\nb", "a.b", "..", "%", "a%2Eb"])
def test_names_that_torch_cannot_take_have_other_keys(name):
    pool = ExpertPool({name: Expert(nn.Linear(4, 2), classes=["cat", "dog"]), "b": tiny.pool().members["a"]})
    assert pool.names == [name, "b"] and name in pool.experts and pool.experts[name] is pool.members[name]
    other = ExpertPool({name: Expert(nn.Linear(4, 2), classes=["cat", "dog"]), "b": tiny.pool(1).members["a"]})
    other.load_state_dict(pool.state_dict())
    assert tiny.same(pool, other) and pool(torch.zeros(3, 4)).keys() == {name, "b"}


@pytest.mark.parametrize("name", ["", " ", 3])
def test_a_name_is_a_text(name):
    with pytest.raises(InputError, match="cannot name an expert"):
        ExpertPool({name: Expert(nn.Linear(4, 2), classes=["cat", "dog"])})


@pytest.mark.parametrize("name", ["org/model", "gpt-4o", "a\\b c", "x" * 200, "gpt-3.5-turbo", "..", "a\nb", "東京"])
def test_names_of_experts_are_free_text(name, tmp_path):
    pool = ExpertPool({name: Expert(nn.Linear(4, 2), classes=["cat", "dog"])})
    stored = collect(pool, {"test": (torch.zeros(3, 4), torch.zeros(3).long())}, tmp_path, trainer=tiny.trainer())
    assert stored.names == [name] and list(stored["test"].probabilities) == [name]
