import json
import sys
import warnings
from pathlib import Path

import pytest
import torch
from helpers import language_models

from lightning_fusion import Expert, ExpertPool, TextDataModule, collect
from lightning_fusion.data.text.tokens import TextTokenizer
from lightning_fusion.errors import InputError
from lightning_fusion.experts.adapters.transformers import TransformersClassifier, TransformersGenerator
from lightning_fusion.generation.expert import GenerativeExpert, score_options
from lightning_fusion.generation.rouge import read_tokenizer

pytest.importorskip("transformers")


def batch(lengths: list[int], seed: int = 0, width: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, language_models.VOCABULARY, (len(lengths), max(*lengths, width)), generator=generator)
    mask = (torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def row(input: dict[str, torch.Tensor], number: int) -> dict[str, torch.Tensor]:
    length = int(input["attention_mask"][number].sum())
    return {name: value[number : number + 1, :length] for name, value in input.items()}


class TestClassifiers:
    @pytest.mark.parametrize("kind", ["bert", "gpt2"])
    def test_answers_are_the_models_and_padding_changes_nothing(self, tmp_path, kind):
        path = language_models.save_classifier(tmp_path, kind, ["POSITIVE", "NEGATIVE"])
        expert = Expert.from_transformers(path, labels={"POSITIVE": "positive"})
        assert expert.classes == ["positive", "NEGATIVE"]
        input = batch([3, 20, 9], width=30)
        probabilities, features = expert.forward_with_representations(input)
        assert features.shape == (3, 16)
        for number in range(3):
            alone = row(input, number)
            raw = expert.network.model(**alone, output_hidden_states=True)
            expected = raw.hidden_states[-1].mean(1)[0]
            torch.testing.assert_close(features[number], expected, atol=1e-5, rtol=0)
            torch.testing.assert_close(probabilities[number], raw.logits.softmax(1)[0], atol=1e-5, rtol=0)

    @pytest.mark.parametrize("kind", ["bert", "gpt2"])
    def test_padding_may_stand_on_the_left(self, tmp_path, kind):
        expert = Expert.from_transformers(language_models.save_classifier(tmp_path, kind))
        right = batch([3, 20, 9])
        order = right["attention_mask"].argsort(dim=1, stable=True)
        left = {name: value.gather(1, order) for name, value in right.items()}
        assert left["attention_mask"][0].tolist() == [0] * 17 + [1] * 3
        for one, other in zip(
            expert.forward_with_representations(left), expert.forward_with_representations(right), strict=True
        ):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=0)

    def test_metadata(self, tmp_path):
        path = language_models.save_classifier(tmp_path / "a", labels=["x", "y"])
        tokenizer = TextTokenizer.train(["a text"], 300, lowercase=False)
        tokenizer.save(tmp_path / "a")
        expert = Expert.from_transformers(path, classes=["y", "z", "x"], domains=["books"])
        parameters = sum(weights.numel() for weights in expert.parameters())
        assert expert.cost == parameters / 1e6 and expert.domains == ["books"]
        assert expert.preprocessing == {"tokenizer": tokenizer.fingerprint}
        other = Expert.from_transformers(
            language_models.save_classifier(tmp_path / "b", labels=["x", "y"], seed=1), cost=2
        )
        assert other.fingerprint != expert.fingerprint and other.cost == 2 and other.preprocessing is None
        assert expert.fingerprint == Expert.from_transformers(path).fingerprint
        pool = ExpertPool({"a": expert, "b": other}, ["y", "z", "x"])
        assert pool(batch([4, 2]))["b"].shape == (2, 2)

    def test_labels_without_names_take_those_of_the_task(self, tmp_path):
        path = language_models.save_classifier(tmp_path)
        assert Expert.from_transformers(path, classes=["bad", "good"]).classes == ["bad", "good"]

    def test_a_layer_of_the_model_may_be_the_representation(self, tmp_path):
        expert = Expert.from_transformers(language_models.save_classifier(tmp_path), features="model.bert.pooler")
        assert expert.forward_with_representations(batch([3, 2]))[1].shape == (2, 16)

    def test_a_network_of_a_configuration_is_the_same_expert(self, tmp_path):
        path = language_models.save_classifier(tmp_path, labels=["x", "y"])
        built = Expert(TransformersClassifier(path, {"x": "z"}), classes=["z", "y"], features="pool")
        assert built.fingerprint == Expert.from_transformers(path, labels={"x": "z"}).fingerprint

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"labels": {"POSITIVE": "good"}}, "has no label POSITIVE; it has x, y"),
            ({"labels": {"x": "y"}}, "would be one class: y, y"),
            ({"classes": ["good", "y"]}, r"has x, which the task's classes \(good, y\) lack; .* labels: {x: good}"),
            ({"features": "model.nothing"}, "no layer 'model.nothing'"),
        ],
    )
    def test_wrong_metadata_are_named(self, tmp_path, arguments, message):
        path = language_models.save_classifier(tmp_path, labels=["x", "y"])
        with pytest.raises(InputError, match=message):
            Expert.from_transformers(path, **arguments)

    def test_tokens_of_another_tokenizer_are_named(self, tmp_path):
        expert = Expert.from_transformers(language_models.save_classifier(tmp_path))
        input = batch([2])
        with pytest.raises(InputError, match=r"found token 24; .* has a vocabulary of 24 tokens"):
            expert({"input_ids": input["input_ids"] * 0 + 24, "attention_mask": input["attention_mask"]})
        with pytest.raises(InputError, match="reads a dict of input_ids and attention_mask"):
            expert(torch.zeros(2, 3))


class TestTokensOfOneSize:
    """A wrong tokenizer whose numbers the model has too: answers would mislead without a word."""

    @pytest.fixture
    def model(self, tmp_path) -> str:
        save_tokenizer(tmp_path / "model", "question answer")
        return language_models.save_classifier(tmp_path / "model", labels=["bad", "good"], vocab_size=300)

    def ask(self, model: str, tokenizer: str, folder: Path) -> None:
        with open(folder / "texts.csv", "w") as file:
            file.write("text,label,domain\n")
            for number in range(40):
                file.write(f"a text {number},{('bad', 'good')[number % 2]},{('shop', 'film')[number // 20]}\n")
        data = TextDataModule(root=str(folder / "texts.csv"), domain_fields=["domain"], tokenizer=tokenizer)
        pool = ExpertPool({"a": Expert.from_transformers(model)}, ["bad", "good"])
        collect(pool, data, splits=["test"])

    def test_is_reported(self, model, tmp_path):
        save_tokenizer(tmp_path / "other", "some other words")
        with pytest.warns(
            UserWarning, match=r"preprocessing: expert a was trained with a preprocessing that differs .*\(tokenizer "
        ):
            self.ask(model, str(tmp_path / "other"), tmp_path)

    def test_the_models_own_is_quiet(self, model, tmp_path):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="preprocessing")
            self.ask(model, model, tmp_path)

    def test_one_that_cannot_be_read_is_reported(self, model, tmp_path):
        for file in (tmp_path / "model").glob("tokenizer*"):
            file.write_text("{}")
        with pytest.warns(UserWarning, match=r"the tokens of .*model are not compared with those of the data"):
            expert = Expert.from_transformers(model)
        assert expert.preprocessing is None


def save_tokenizer(folder: Path, words: str) -> None:
    TextTokenizer.train([words] * 9, 300, lowercase=True).save(folder)


class TestFolders:
    def test_weights_that_are_not_there_are_not_drawn_at_random(self, tmp_path):
        path = language_models.save_classifier(tmp_path)
        facts = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(facts | {"num_hidden_layers": 3}))
        with pytest.raises(InputError, match=r"contains no weights for bert.encoder.layer.2\.\S+, .* at random"):
            Expert.from_transformers(path)

    @pytest.mark.parametrize("keep", [0, 0.5])
    def test_damaged_weights_are_named(self, tmp_path, keep):
        path = language_models.save_classifier(tmp_path)
        content = (tmp_path / "model.safetensors").read_bytes()
        (tmp_path / "model.safetensors").write_bytes(content[: int(keep * len(content))])
        with pytest.raises(InputError, match="transformers cannot load"):
            Expert.from_transformers(path)

    @pytest.mark.parametrize("kind", ["bert", "gpt2"])
    def test_texts_longer_than_a_model_has_places_are_named(self, tmp_path, kind):
        expert = Expert.from_transformers(language_models.save_classifier(tmp_path, kind))
        longest = expert.network.longest
        assert expert(batch([longest])).shape[0] == 1
        with pytest.raises(InputError, match=rf"reads {longest} tokens at most; found {longest + 1}"):
            expert(batch([longest + 1]))

    def test_a_name_that_is_neither_folder_nor_model_is_reported(self):
        with pytest.raises(
            InputError, match="found no folder bookz, and no model of this name on this machine; a name"
        ):
            Expert.from_transformers("bookz")

    def test_pickled_weights_are_rejected_with_a_remedy(self, tmp_path):
        path = language_models.save_classifier(tmp_path)
        (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
        for make in (Expert.from_transformers, TransformersGenerator):
            with pytest.raises(InputError, match=r"pickled weights only \(pytorch_model.bin\).*save_pretrained"):
                make(path)

    def test_others_are_named(self, tmp_path):
        with pytest.raises(InputError, match="found no folder"):
            Expert.from_transformers(str(tmp_path / "none"))
        with pytest.raises(InputError, match=r"has no config\.json"):
            Expert.from_transformers(str(tmp_path))
        (tmp_path / "config.json").write_text("{}")
        with pytest.raises(InputError, match="contains no weights"):
            Expert.from_transformers(str(tmp_path))
        with pytest.raises(InputError, match="needs download: true"):
            Expert.from_transformers("somebody/model-that-is-not-here")

    def test_without_the_package_the_extra_is_named(self, monkeypatch):
        for name in ("transformers", "tokenizers"):
            monkeypatch.setitem(sys.modules, name, None)
        for make in (TransformersGenerator, TransformersClassifier, read_tokenizer):
            with pytest.raises(InputError, match=r"pip install 'lightning-fusion\[text\]'"):
                make("somebody/model")


@pytest.fixture(scope="module", params=["t5", "gpt2"])
def network(request, tmp_path_factory) -> TransformersGenerator:
    folder = tmp_path_factory.mktemp("generator")
    return TransformersGenerator(language_models.save_generator(folder, request.param)).eval()


class TestGenerators:
    def test_padding_changes_neither_text_nor_embedding(self, network):
        input = batch([3, 20, 9], width=25)
        texts = network.generate(input, 6)
        embeddings = network.embed(input, texts)
        for number in range(3):
            alone = row(input, number)
            text = network.generate(alone, 6)
            mine = texts[number][texts[number] != network.pad_id]
            assert mine.tolist() == text[0][text[0] != network.pad_id].tolist()
            torch.testing.assert_close(network.embed(alone, text)[0], embeddings[number], atol=1e-5, rtol=0)
        torch.testing.assert_close(network.embed(row(input, 0))[0], network.embed(input)[0], atol=1e-5, rtol=0)

    def test_greedy_text_is_what_its_own_likelihoods_say(self, network):
        input = batch([3, 8])
        text = network.generate(input, 5)
        best = network(input, text).argmax(2)
        labels = network.labels(text)
        whole = (text != network.pad_id).all(1)  # a text that was cut off has no end
        for number in range(2):
            stop = text.shape[1] if whole[number] else int((labels[number] >= 0).sum())
            assert best[number, :stop].tolist() == labels[number, :stop].tolist()

    def test_options_are_scored_by_likelihood(self, network):
        input = batch([3, 8])
        options = torch.tensor([[[5, 6], [7, network.pad_id]], [[8, 9], [10, 3]]])
        found = score_options(network, input, options)
        logs = network(row(input, 0), torch.tensor([[7]]))[0]
        assert float(found[0, 1]) == pytest.approx(float((logs[0, 7] + logs[1, network.end_ids[0]]).detach()), abs=1e-4)
        per_token = score_options(network, input, options, per_token=True)
        assert float(per_token[1, 0]) == pytest.approx(float(found[1, 0]) / 3, abs=1e-5)

    def test_nothing_may_be_written(self, network):
        assert network.generate(batch([3, 8]), 0).shape == (2, 0)


def test_an_expert_of_a_folder_is_loaded_when_it_is_needed(tmp_path):
    expert = GenerativeExpert(transformers=language_models.save_generator(tmp_path / "a", "gpt2"), domains=["a"])
    with expert.loaded() as network:
        assert not network.training and not any(weights.requires_grad for weights in network.parameters())
    other = GenerativeExpert(transformers=language_models.save_generator(tmp_path / "b", "gpt2", seed=1))
    assert expert.fingerprint != other.fingerprint
