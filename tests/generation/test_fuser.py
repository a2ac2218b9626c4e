import gc
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import generation_script, language_models, tiny
from helpers.processes import start, together

from lightning_fusion import ExpertOutputs, GenerativeFoE
from lightning_fusion.errors import InputError
from lightning_fusion.foe.fusers import MLPFuser
from lightning_fusion.generation.embeddings import EmbeddingsDataModule, collect_embeddings
from lightning_fusion.generation.expert import GenerativeExpert


def predict(module: GenerativeFoE, data=None, **arguments) -> dict[str, torch.Tensor]:
    parts = tiny.trainer(**arguments).predict(module, datamodule=data or language_models.pairs(generation_script.ROWS))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ExpertOutputs:
    folder = tmp_path_factory.mktemp("store") / "store"
    how = {"max_new_tokens": 5, "trainer": tiny.trainer()}
    return collect_embeddings(generation_script.experts(), language_models.pairs(40), folder, **how)


class TestChoice:
    def test_the_network_is_the_papers(self):
        module = GenerativeFoE(expert_names=["x", "y"], representation_dims={"y": 6, "x": 4}, hidden=12)
        layers = list(module.network.layers)
        assert [type(layer).__name__ for layer in layers] == ["Linear", "ReLU", "Linear", "ReLU", "Dropout", "Linear"]
        assert [layers[place].weight.shape for place in (0, 2, 5)] == [(12, 10), (12, 12), (2, 12)]
        assert layers[4].p == 0.5

    @pytest.mark.slow
    def test_it_learns_whose_domain_a_text_is_of_from_one_expert_alone(self, store):
        data = EmbeddingsDataModule(store, ["b"], batch_size=16)
        facts = {"expert_names": data.expert_names, "representation_dims": data.representation_dims}
        torch.manual_seed(0)
        module = GenerativeFoE(**facts, hidden=64, max_new_tokens=5)
        trainer = tiny.trainer(40)
        trainer.fit(module, datamodule=data)
        (figures,) = trainer.test(module, datamodule=data, verbose=False)
        assert figures["test_choice_accuracy"] > 0.6  # chance: 1/3; experts have random weights

    @pytest.mark.slow
    def test_embeddings_are_brought_to_one_scale(self, store):
        data = EmbeddingsDataModule(store)
        module = generation_script.fuser(representation_dims=data.representation_dims)
        tiny.trainer(1).fit(module, datamodule=data)
        module.eval()
        train = np.concatenate(data.arrays("train"), 1)
        np.testing.assert_allclose(module.center, train.mean(0), atol=1e-5)
        np.testing.assert_allclose(module.scale, train.std(0), atol=1e-5)
        direct = module.network(torch.from_numpy((train - train.mean(0)) / train.std(0)).float())
        torch.testing.assert_close(module(torch.from_numpy(train)), direct, atol=1e-4, rtol=1e-4)

    @pytest.mark.slow
    def test_a_checkpoint_knows_the_experts_it_was_trained_with(self, store, tmp_path):
        data = EmbeddingsDataModule(store, ["b"])
        trainer = tiny.trainer(1)
        module = generation_script.fuser()
        trainer.fit(module, datamodule=data)
        trainer.save_checkpoint(tmp_path / "a.ckpt")
        mine = GenerativeFoE.load_from_checkpoint(tmp_path / "a.ckpt", experts=generation_script.experts())
        assert tiny.same(mine, module)
        assert predict(mine, language_models.pairs(5))["expert"].shape == (5,)
        with pytest.raises(InputError, match="trained with expert a of fingerprint"):
            GenerativeFoE.load_from_checkpoint(tmp_path / "a.ckpt", experts=generation_script.experts(mute="a"))
        with pytest.raises(InputError, match="embeddings of a were collected with 'both' and 5: set the same"):
            predict(GenerativeFoE.load_from_checkpoint(tmp_path / "a.ckpt", experts=mine.experts, max_new_tokens=6))

    def test_of_stored_embeddings_the_choice_alone_is_predicted(self, store):
        found = predict(generation_script.fuser(), EmbeddingsDataModule(store, ["b"]))
        assert set(found) == {"index", "expert"}


class TestPredict:
    @pytest.mark.slow
    @pytest.mark.parametrize("reads", ["both", "input"])
    def test_each_input_gets_the_text_of_the_expert_chosen_for_it(self, reads, tmp_path):
        experts = generation_script.experts()
        module = generation_script.fuser(experts=experts, reads=reads, folder=str(tmp_path))
        data = language_models.pairs(generation_script.ROWS)
        found = predict(module, data)
        networks = {name: expert.network().eval() for name, expert in experts.items()}
        module.eval()
        for index, choice, text in zip(found["index"], found["expert"], found["generated"], strict=True):
            row = data.rows("test")[index[None] - data.rows("test").index[0]]
            written, embedding = networks["b"].answer(row.input, 5)
            if reads == "input":
                embedding = networks["b"].embed(row.input)
            assert int(module.choose(embedding)[0]) == int(choice)
            written = networks[language_models.DOMAINS[int(choice)]].generate(row.input, 5)[0]
            assert text[text != 0].tolist() == written[written != 0].tolist()
        assert len(set(found["expert"].tolist())) > 1
        assert [line["tokens"] for line in lines(tmp_path)] == [
            text[text != 0].tolist()
            for _, text in sorted(zip(found["index"].tolist(), found["generated"], strict=True))
        ]
        assert sum(count["chosen"] for count in module.summary["experts"].values()) == generation_script.ROWS

    @pytest.mark.slow
    def test_one_expert_is_in_memory_at_a_time_and_writes_for_its_inputs_alone(self):
        module = generation_script.fuser(
            experts=generation_script.experts(), representation_dims=dict.fromkeys(language_models.DOMAINS, 8)
        )
        gc.collect()
        language_models.Counted.reset()
        predict(module)
        assert language_models.Counted.most == 1 and not len(language_models.Counted.alive)
        assert (
            language_models.Counted.rows == 3 * generation_script.ROWS
        )  # all were read; who is chosen does not write again
        single = generation_script.fuser(experts=generation_script.experts())
        language_models.Counted.reset()
        found = predict(single)
        assert language_models.Counted.most == 1
        others = int((found["expert"] != 1).sum())
        assert others > 0 and language_models.Counted.rows == generation_script.ROWS + others

    def test_experts_that_write_nothing_are_counted(self):
        module = generation_script.fuser(experts=generation_script.experts(mute="a"))
        module.network = Always(0)
        with pytest.warns(UserWarning, match="generated empty texts: a 13 of 13"):
            found = predict(module)
        assert module.summary["experts"]["a"] == {"chosen": 13, "empty": 13}
        assert (found["generated"] == 0).all()

    def test_bf16_mixed(self):
        found = predict(generation_script.fuser(experts=generation_script.experts()), precision="bf16-mixed")
        assert found["expert"].min() >= 0

    def test_a_finished_run_asks_nobody_again_whatever_its_batches(self, tmp_path):
        for batch_size in (4, 3):
            module = generation_script.fuser(experts=generation_script.experts(), folder=str(tmp_path))
            language_models.Counted.reset()
            predict(module, language_models.pairs(generation_script.ROWS, batch_size))
            assert (language_models.Counted.calls > 0) == (batch_size == 4)


class Always(torch.nn.Module):
    """Chooses one expert."""

    def __init__(self, expert: int) -> None:
        super().__init__()
        self.expert = expert

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        return torch.eye(3)[self.expert].expand(len(embeddings), 3)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_store_and_write_what_one_does(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    generation_script.work(one, 1)
    together(tmp_path, generation_script.work, two, 2)
    assert lines(one) == lines(two) and len(lines(one)) == generation_script.ROWS
    stores = [ExpertOutputs.open(folder / "store") for folder in (one, two)]
    assert stores[0].experts == stores[1].experts and stores[0].fingerprints == stores[1].fingerprints
    for split in ("train", "val", "test"):
        arrays = dict(stores[1][split].arrays())
        for name, values in stores[0][split].arrays():
            np.testing.assert_allclose(values, arrays[name], atol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_run_goes_on_where_it_stopped(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    generation_script.work(whole, 1)
    calls = language_models.Counted.calls
    (process,) = start(tmp_path, generation_script.work, killed, 1, 3)
    process.join(200)
    assert process.exitcode == 9, (tmp_path / "said_0.txt").read_text()[-3000:]
    assert not (killed / "answers.jsonl").exists()
    draft = next((killed / "parts").iterdir()) / "half" / "data-000000000000"
    draft.mkdir(parents=True)  # as a run leaves it that dies while it writes
    module = generation_script.fuser(experts=generation_script.experts(), folder=str(killed))
    language_models.Counted.reset()
    predict(module)
    assert language_models.Counted.calls == calls - 3
    assert lines(killed) == lines(whole)


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"representation_dims": None}, "representation_dims: found none; use EmbeddingsDataModule"),
            ({"representation_dims": {"z": 8}}, "expert_names: found z"),
            ({"expert_names": None}, "expert_names: found no names"),
            ({"max_new_tokens": 0}, "max_new_tokens 0"),
            ({"reads": "text"}, "reads is 'text'"),
            ({"experts": {"a": GenerativeExpert(network=language_models.Counted)}}, "embedding_experts: found b"),
            ({"experts": {"b": 3}}, "b is a int; expected a GenerativeExpert"),
        ],
    )
    def test_wrong_metadata_are_named(self, arguments, message):
        with pytest.raises(InputError, match=message):
            generation_script.fuser(**arguments)

    def test_wrong_data_are_named(self):
        with pytest.raises(InputError, match=r"input is no tensor; expected embeddings .* collect_embeddings"):
            tiny.trainer(1).fit(generation_script.fuser(), datamodule=language_models.pairs())
        with pytest.raises(InputError, match="experts: found none; predict on texts requires them"):
            predict(generation_script.fuser())
        with pytest.raises(InputError, match="has embeddings of size 8; the fuser was trained with 9"):
            predict(generation_script.fuser(experts=generation_script.experts(), representation_dims={"b": 9}))

    def test_another_network_is_taken_by_its_class(self):
        module = generation_script.fuser(network=partial(MLPFuser, hidden=(4,)))
        assert module.network.layers[0].out_features == 4
