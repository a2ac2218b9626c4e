import json
import os
import pickle
import sys
from collections import OrderedDict
from functools import partial

import numpy as np
import pytest
import torch
from helpers import tiny
from safetensors.torch import save_file
from torch import nn

from lightning_fusion import Expert, ExpertModule
from lightning_fusion.encoders import SmallConvNet
from lightning_fusion.errors import InputError

TWO = ["cat", "dog"]


class TestAnswers:
    def test_logits_become_probabilities_in_float32(self):
        net, x = tiny.Net(2), torch.randn(3, 4)
        answer = Expert(net, classes=TWO)(x)
        torch.testing.assert_close(answer, net(x).softmax(-1))
        half = Expert(tiny.Net(2).to(torch.bfloat16), classes=TWO)(x.bfloat16())
        assert half.dtype == torch.float32
        torch.testing.assert_close(half.sum(1), torch.ones(3))

    def test_probabilities_are_left_as_they_are(self):
        given = torch.tensor([[0.25, 0.75]])
        assert torch.equal(Expert(lambda x: given, classes=TWO, output="probabilities")(None), given)

    def test_a_numpy_function_is_an_expert(self):
        def service(x):
            return tiny.softmax(np.stack([x.numpy().sum(1), np.zeros(len(x))], 1))

        x = torch.randn(3, 4)
        expert = Expert(service, classes=TWO, output="probabilities", version="v1")
        answer = expert(x)
        assert answer.dtype == torch.float32
        np.testing.assert_allclose(answer.numpy(), service(x), rtol=1e-6)
        assert torch.equal(expert(x.bfloat16()), expert(x.bfloat16().float()))  # NumPy has no bfloat16
        assert expert.fingerprint == Expert(service, classes=TWO, output="probabilities", version="v1").fingerprint
        assert expert.fingerprint != Expert(service, classes=TWO, output="probabilities", version="v2").fingerprint

    def test_logits_of_one_class_are_a_warning(self):
        with pytest.warns(UserWarning, match="the expert of cat has one class, and answers it with probability 1"):
            assert Expert(tiny.Net(1), classes=["cat"])(torch.randn(3, 4)).eq(1).all()

    def test_preprocessing_comes_first(self):
        net, x = tiny.Net(2), torch.randn(3, 2, 2)
        assert torch.equal(Expert(net, classes=TWO, preprocess=nn.Flatten())(x), net(x.flatten(1)).softmax(-1))

    def test_features_are_the_named_layers_output(self):
        net, x = tiny.Net(2), torch.randn(3, 4)
        answer, features = Expert(net, classes=TWO, features="body").forward_with_representations(x)
        assert torch.equal(features, net.body(x))
        torch.testing.assert_close(answer, net(x).softmax(-1))
        assert not net.body._forward_hooks

    @pytest.mark.parametrize(
        ("layer", "pooled"),
        [(nn.Unflatten(1, (2, 6)), lambda v: v.mean(1)), (nn.Unflatten(1, (3, 2, 2)), lambda v: v.mean((2, 3)))],
    )
    def test_features_with_more_dimensions_are_averaged(self, layer, pooled):
        net = nn.Sequential(OrderedDict(deep=layer, flat=nn.Flatten(), head=nn.Linear(12, 2)))
        x = torch.randn(3, 12)
        torch.testing.assert_close(
            Expert(net, classes=TWO, features="deep").forward_with_representations(x)[1], pooled(layer(x))
        )


class TestFrozen:
    def test_weights_have_no_gradient_and_no_training_mode(self):
        expert = Expert(tiny.Net(2, norm=True, dropout=0.5), classes=TWO)
        nn.Sequential(expert).train()
        expert.train(True)
        assert not any(module.training for module in expert.modules())
        assert not any(p.requires_grad for p in expert.parameters())
        before = {name: value.clone() for name, value in expert.state_dict().items()}
        expert(torch.randn(9, 4) + 5)
        assert all(torch.equal(before[name], value) for name, value in expert.state_dict().items())

    def test_fingerprint_follows_weights_and_metadata(self):
        def make(seed=0, **facts):
            torch.manual_seed(seed)
            return Expert(tiny.Net(2), **({"classes": TWO} | facts)).fingerprint

        assert make() == make() == make(cost=3.0, domains=["x"])
        different = [
            make(),
            make(seed=1),
            make(classes=["dog", "cat"]),
            make(output="probabilities"),
            make(features="head"),
            make(preprocess=nn.Softmax(1)),
        ]
        assert len(set(different)) == len(different)

    def test_metadata_are_plain_data(self):
        facts = Expert(tiny.Net(2), classes=TWO, domains=["x"], cost=2).metadata()
        assert json.loads(json.dumps(facts)) == facts
        assert (facts["classes"], facts["domains"], facts["cost"]) == (TWO, ["x"], 2.0)


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"network": None}, "needs a network, a checkpoint, or both"),
            ({"classes": None}, "classes is not set"),
            ({"classes": []}, "classes is not set"),
            ({"classes": ["cat", "cat"]}, "duplicate names"),
            ({"cost": -1.0}, r"cost is -1.0; expected a number >= 0"),
            ({"cost": float("nan")}, "cost is nan"),
            ({"output": "scores"}, "output is 'scores'; expected 'logits' or 'probabilities'"),
            ({"features": "neck"}, "no layer 'neck'; its layers: body, body.0, body.1, body.2, body.3, head"),
            ({"network": np.zeros_like, "features": "head"}, "a callable has outputs only"),
        ],
    )
    def test_rejected(self, arguments, message):
        with pytest.raises(InputError, match=message):
            Expert(**({"network": tiny.Net(2), "classes": TWO} | arguments))

    @pytest.mark.parametrize("answer", [torch.zeros(3, 4), torch.zeros(3), torch.zeros(3, 2, 1), [[0.0] * 4] * 3])
    def test_width_other_than_the_classes(self, answer):
        expert = Expert(lambda x: answer, classes=TWO)
        with pytest.raises(InputError, match=r"output has shape .*; expected \(batch, 2\) for its classes cat, dog"):
            expert(None)

    def test_features_without_a_layer(self):
        with pytest.raises(InputError, match="features is not set; set it"):
            Expert(tiny.Net(2), classes=TWO).forward_with_representations(torch.zeros(1, 4))


def fitted(tmp_path, network, **arguments) -> tuple[ExpertModule, str]:
    """An ExpertModule after one epoch, and its checkpoint."""
    module = ExpertModule(network, classes=tiny.CLASSES, trained_on=["x"], features="head", **arguments)
    data = tiny.data()
    trainer = tiny.trainer()
    trainer.fit(module, datamodule=data)
    path = str(tmp_path / "expert.ckpt")
    trainer.save_checkpoint(path)
    return module, path


class TestCheckpoints:
    @pytest.mark.parametrize(
        "network",
        [tiny.Net, partial(tiny.Net, hidden=7), partial(tiny.Net, hidden=6, norm=True)],
        ids=["class", "hidden", "norm"],
    )
    def test_one_of_expert_module_needs_nothing_else(self, tmp_path, network):
        module, path = fitted(
            tmp_path, network, preprocessing={"mean": [0.5]}, optimizer=partial(torch.optim.SGD, lr=0.1)
        )
        expert = Expert(checkpoint=path)
        x = torch.randn(5, 4)
        assert torch.equal(expert(x), module.eval()(x).softmax(-1))
        assert (expert.classes, expert.domains, expert.features) == (tiny.CLASSES, ["x"], "head")
        assert expert.preprocessing == {"mean": [0.5]}
        assert expert.checkpoint == path

    def test_metadata_given_beside_a_checkpoint_win(self, tmp_path):
        _, path = fitted(tmp_path, tiny.Net)
        expert = Expert(checkpoint=path, classes=["A", "B", "C"], domains=["z"], features="body")
        assert (expert.classes, expert.domains, expert.features) == (["A", "B", "C"], ["z"], "body")

    def test_one_of_a_module_instance_wants_its_network(self, tmp_path):
        module, path = fitted(tmp_path, tiny.Net(3))
        with pytest.raises(InputError, match="does not record its network; set network"):
            Expert(checkpoint=path)
        assert tiny.same(Expert(tiny.Net(3), path).network, module.network)

    @pytest.mark.parametrize("prefix", ["", "network.", "model.net.", "_orig_mod.", "network._orig_mod.", "module."])
    @pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict", "model"])
    def test_plain_weights_under_any_wrappers_prefix(self, tmp_path, prefix, key):
        net = tiny.Net(2, norm=True)
        state = {prefix + name: value for name, value in net.state_dict().items()} | {"loss.weight": torch.ones(2)}
        torch.save(state if key is None else {key: state, "epoch": 3}, tmp_path / "weights.pt")
        loaded = Expert(tiny.Net(2, norm=True), str(tmp_path / "weights.pt"), classes=TWO)
        assert tiny.same(loaded.network, net)

    def test_a_compiled_submodule(self, tmp_path):
        net = tiny.Net(2)
        state = {name.replace("body.", "body._orig_mod."): value for name, value in net.state_dict().items()}
        torch.save(state, tmp_path / "weights.pt")
        assert tiny.same(Expert(tiny.Net(2), str(tmp_path / "weights.pt"), classes=TWO).network, net)

    def test_safetensors(self, tmp_path):
        net = tiny.Net(2)
        save_file({f"network.{name}": value for name, value in net.state_dict().items()}, tmp_path / "w.safetensors")
        assert tiny.same(Expert(tiny.Net(2), str(tmp_path / "w.safetensors"), classes=TWO).network, net)

    def test_the_file_may_change_afterwards(self, tmp_path):
        net = tiny.Net(2)
        torch.save(net.state_dict(), tmp_path / "w.pt")
        expert = Expert(tiny.Net(2), str(tmp_path / "w.pt"), classes=TWO)
        (tmp_path / "w.pt").unlink()
        assert tiny.same(expert.network, net)


class Payload:
    """What an attacker would put into a pickle."""

    def __reduce__(self):
        return os.system, ("touch executed",)


class TestBadCheckpoints:
    def refuse(self, path, message, **arguments):
        with pytest.raises(InputError, match=message):
            Expert(**({"network": tiny.Net(2), "classes": TWO, "checkpoint": str(path)} | arguments))

    def test_missing(self, tmp_path):
        self.refuse(tmp_path / "none.ckpt", "found no file .*none.ckpt")

    @pytest.mark.parametrize("suffix", ["pt", "safetensors"])
    @pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
    def test_truncated(self, tmp_path, suffix, share):
        path = tmp_path / f"w.{suffix}"
        state = tiny.Net(2, hidden=300).state_dict()
        if suffix == "pt":
            torch.save(state, path)
        else:
            save_file(state, path)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])
        self.refuse(path, "cannot be read|weights-only loading rejects", network=tiny.Net(2, hidden=300))

    @pytest.mark.parametrize("zipped", [True, False])
    def test_pickled_objects_are_not_executed(self, tmp_path, monkeypatch, zipped):
        monkeypatch.chdir(tmp_path)
        torch.save(
            {"state_dict": tiny.Net(2).state_dict(), "extra": Payload()},
            "bad.ckpt",
            _use_new_zipfile_serialization=zipped,
        )
        self.refuse(
            "bad.ckpt",
            r"contains objects \(.*\) that weights-only .* save its weights alone",
        )
        assert not (tmp_path / "executed").exists()

    def test_a_bare_pickle_is_not_executed(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "bad.pkl").write_bytes(pickle.dumps(Payload()))
        self.refuse("bad.pkl", "is a pickled object; where you trust it, load it once")
        assert not (tmp_path / "executed").exists()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ([1, 2], "contains a list; expected a state dict"),
            ({"epoch": 3, "state_dict": {}}, "contains no weights; its keys"),
            ({"epoch": 3}, "contains no weights; its keys: epoch"),
        ],
    )
    def test_no_weights(self, tmp_path, content, message):
        torch.save(content, tmp_path / "w.pt")
        self.refuse(tmp_path / "w.pt", message)

    def test_weights_of_another_network(self, tmp_path):
        torch.save(SmallConvNet(2, width=1).state_dict(), tmp_path / "w.pt")
        self.refuse(
            tmp_path / "w.pt",
            r"does not belong to Net: .* weights such as body.0.bias, the file body.1.weight, .* 3 of 4 agree",
        )

    def test_a_sequence_with_one_layer_in_place_of_a_head(self, tmp_path):
        trained = tiny.Net(2)
        plain = {f"module.{name}": value for name, value in trained.state_dict().items()}
        trained.head = nn.Sequential(nn.Dropout(), trained.head)
        torch.save(
            {"model": {f"module.{name}": value for name, value in trained.state_dict().items()}}, tmp_path / "w.pt"
        )
        with pytest.warns(UserWarning, match=r"a sequence with one layer of weights, head.1, in place of head"):
            expert = Expert(tiny.Net(2), str(tmp_path / "w.pt"), classes=["cat", "dog"])
        assert all(torch.equal(value, plain[f"module.{name}"]) for name, value in expert.network.state_dict().items())

    def test_another_head_is_named(self, tmp_path):
        trained = tiny.Net(2, norm=True)
        trained.head = nn.Sequential(nn.Linear(trained.head.in_features, 3), nn.ReLU(), nn.Linear(3, 2))
        torch.save({f"net.{name}": value for name, value in trained.state_dict().items()}, tmp_path / "w.pt")
        self.refuse(
            tmp_path / "w.pt",
            r"such as head.weight, head.bias, the file net.head.0.weight, .*; 7 of 9 agree: .*OnnxExpert",
            network=tiny.Net(2, norm=True),
        )

    def test_a_head_with_another_number_of_classes(self, tmp_path):
        torch.save(tiny.Net(5).state_dict(), tmp_path / "w.pt")
        self.refuse(tmp_path / "w.pt", r"has \(5,\) for head.bias, the network \(2,\); it names 2 classes \(cat, dog\)")

    def test_a_function_of_the_number_of_classes_gives_the_network(self, tmp_path):
        torch.save(tiny.Net(2).state_dict(), tmp_path / "w.pt")
        expert = Expert(tiny.Net, str(tmp_path / "w.pt"), classes=["cat", "dog"])
        assert expert.fingerprint == Expert(tiny.Net(2), str(tmp_path / "w.pt"), classes=["cat", "dog"]).fingerprint

    def test_a_function_cannot_take_weights(self, tmp_path):
        torch.save(tiny.Net(2).state_dict(), tmp_path / "w.pt")
        self.refuse(tmp_path / "w.pt", "needs a network that is a torch module", network=np.zeros_like)

    @pytest.mark.parametrize(
        "path", ["elsewhere.nets.Net", "os.system", "helpers.tiny.CLASSES", "lightning_fusion.encoders.None", "Net"]
    )
    def test_a_class_that_is_not_imported_is_not_imported(self, tmp_path, path):
        _, made = fitted(tmp_path, tiny.Net)
        content = torch.load(made, weights_only=True)
        content["expert"]["network"]["class_path"] = path
        torch.save(content, made)
        self.refuse(made, f"names {path}, which is not an imported module", network=None, classes=None)
        assert "elsewhere" not in sys.modules

    def test_what_to_write_for_a_class_that_is_not_imported_is_said(self, tmp_path):
        _, made = fitted(tmp_path, tiny.Net)
        content = torch.load(made, weights_only=True)
        content["expert"]["network"] = {"class_path": "elsewhere.Net", "init_args": {"width": 24}}
        torch.save(content, made)
        expected = f"set network to that class of {len(content['expert']['classes'])} classes with {{'width': 24}}"
        self.refuse(made, expected, network=None, classes=None)


@pytest.mark.parametrize("wrong", [lambda x: (x, x), lambda x: {"scores": x}])
def test_a_network_that_returns_more_than_its_outputs_is_named(wrong):
    with pytest.raises(InputError, match=r"returns a (tuple|dict); wrap it"):
        Expert(wrong, classes=["cat", "dog"])(torch.zeros(2, 2))


def test_logits_are_taken_from_an_output_object():
    class Output:
        def __init__(self, logits):
            self.logits = logits

    found = Expert(lambda x: Output(x), classes=["cat", "dog"])(torch.tensor([[0.0, 0.0]]))
    assert found.tolist() == [[0.5, 0.5]]


class Versioned(tiny.Net):
    """A network with an extra state, which is plain data."""

    version = 1

    def get_extra_state(self):
        return {"version": self.version}

    def set_extra_state(self, state):
        self.version = state["version"]


def test_extra_states_are_in_checkpoints_and_in_no_file_of_tensors(tmp_path):
    network, path = Versioned(2), str(tmp_path / "n.ckpt")
    network.version = 7
    torch.save({"state_dict": {f"network.{name}": value for name, value in network.state_dict().items()}}, path)
    made = Expert(Versioned, path, classes=["cat", "dog"])
    assert made.network.version == 7 and torch.equal(made.network.head.weight, network.head.weight)
    with pytest.raises(
        InputError, match=r"this expert has an extra state \(network._extra_state\), which a file of tens"
    ):
        made.save_pretrained(tmp_path / "shared")
