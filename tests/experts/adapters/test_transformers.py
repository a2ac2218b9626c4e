import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import language_models, models

from lightning_fusion import Expert, ExpertOutputs, ExpertPool, TextDataModule, collect
from lightning_fusion.data.text.tokens import TextTokenizer
from lightning_fusion.errors import InputError
from lightning_fusion.experts.adapters.generators import TransformersGenerator
from lightning_fusion.experts.adapters.transformers import TransformersClassifier, TransformersExpert
from lightning_fusion.generation.expert import GenerativeExpert, score_options
from lightning_fusion.generation.rouge import read_tokenizer

transformers = pytest.importorskip("transformers")


def batch(lengths: list[int], seed: int = 0, width: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, language_models.VOCABULARY, (len(lengths), max(*lengths, width)), generator=generator)
    mask = (torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def row(input: dict[str, torch.Tensor], number: int) -> dict[str, torch.Tensor]:
    length = int(input["attention_mask"][number].sum())
    return {name: value[number : number + 1, :length] for name, value in input.items()}


class TestClassifiers:
    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["bert", "gpt2"])
    def test_answers_are_the_models_and_padding_changes_nothing(self, tmp_path, kind):
        path = language_models.save_classifier(tmp_path, kind, ["POSITIVE", "NEGATIVE"])
        expert = Expert.from_transformers(path, rename={"POSITIVE": "positive"})
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

    @pytest.mark.slow
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

    @pytest.mark.slow
    def test_metadata(self, tmp_path):
        path = language_models.save_classifier(tmp_path / "a", labels=["x", "y"])
        tokenizer = TextTokenizer.train(["a text"], 300, lowercase=False)
        tokenizer.save(tmp_path / "a")
        expert = Expert.from_transformers(path, domains=["books"])
        assert expert.domains == ["books"] and isinstance(expert, TransformersExpert)
        assert expert.preprocessing == {"tokenizer": tokenizer.fingerprint}
        other = Expert.from_transformers(
            language_models.save_classifier(tmp_path / "b", labels=["x", "y"], seed=1), cost=2
        )
        assert other.fingerprint != expert.fingerprint and other.cost == 2 and other.preprocessing is None
        assert expert.fingerprint == Expert.from_transformers(path).fingerprint
        turned, input = Expert.from_transformers(path, classes=["y", "x"]), batch([4, 2])
        assert torch.equal(turned(input), expert(input).flip(1))
        pool = ExpertPool({"a": expert, "b": other}, ["y", "z", "x"])
        assert pool(batch([4, 2]))["b"].shape == (2, 2)

    def test_labels_without_names_take_those_of_the_task(self, tmp_path):
        path = language_models.save_classifier(tmp_path)
        assert Expert.from_transformers(path, classes=["bad", "good"]).classes == ["bad", "good"]

    def test_a_layer_of_the_model_may_be_the_representation(self, tmp_path):
        expert = Expert.from_transformers(language_models.save_classifier(tmp_path), features="model.bert.pooler")
        assert expert.forward_with_representations(batch([3, 2]))[1].shape == (2, 16)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"rename": {"POSITIVE": "good"}}, "has no class POSITIVE; it has x, y"),
            ({"rename": {"x": "y"}}, "x and y would both be y"),
            ({"classes": ["good", "y"]}, r"found good, which the model .* does not know; its classes are x, y"),
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

    def ask(self, model: str, tokenizer: str | None, folder: Path, **more: bool) -> ExpertOutputs:
        with open(folder / "texts.csv", "w") as file:
            file.write("text,label,domain\n")
            for number in range(40):
                file.write(f"a text {number},{('bad', 'good')[number % 2]},{('shop', 'film')[number // 20]}\n")
        data = TextDataModule(root=str(folder / "texts.csv"), domain_fields=["domain"], tokenizer=tokenizer, **more)
        pool = ExpertPool({"a": Expert.from_transformers(model)}, ["bad", "good"])
        return collect(pool, data, splits=["test"])

    @pytest.mark.slow
    def test_is_an_error_unless_the_texts_are_there(self, model, tmp_path):
        expected = self.ask(model, model, tmp_path)
        with pytest.raises(InputError, match=r"expert a: .* tokens of another tokenizer .* set keep_texts: true"):
            self.ask(model, None, tmp_path)
        found = self.ask(model, None, tmp_path, keep_texts=True)
        np.testing.assert_allclose(found["test"].probabilities["a"], expected["test"].probabilities["a"], atol=1e-6)

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
            with pytest.raises(
                InputError, match=r"pickled weights only \(pytorch_model.bin\).*save it by save_pretrained"
            ):
                make(path)

    def test_other_tasks_are_named(self, tmp_path):
        path = language_models.save_classifier(tmp_path)
        facts = json.loads((tmp_path / "config.json").read_text())
        for change, task in (
            ({"problem_type": "multi_label_classification"}, "multi_label_classification"),
            ({"id2label": {"0": "LABEL_0"}}, "a model with 1 output"),
        ):
            (tmp_path / "config.json").write_text(json.dumps(facts | change))
            with pytest.raises(
                InputError, match=rf"made for another task \({task}\); expected a classifier of one class"
            ):
                Expert.from_transformers(path)

    def test_others_are_named(self, tmp_path):
        with pytest.raises(InputError, match="found no folder"):
            Expert.from_transformers(str(tmp_path / "none"))
        with pytest.raises(InputError, match=r"is a folder of unknown kind \(empty\); supported are"):
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
    @pytest.mark.slow
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


class TestImages:
    def test_the_answers_are_those_of_the_librarys_own_pipeline(self, tmp_path, opened):
        path = models.vit_folder(tmp_path, ["cat", "dog", "bird"])
        processor = transformers.AutoImageProcessor.from_pretrained(path)
        network = transformers.AutoModelForImageClassification.from_pretrained(path).eval()
        with torch.no_grad():
            expected = network(**processor(images=opened, return_tensors="pt")).logits.softmax(1)
        expert = TransformersExpert(path)
        assert expert.classes == ["cat", "dog", "bird"]
        found, representations = expert.forward_with_representations(models.raw(opened))
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
        assert representations.shape == (len(opened), 16)

    def test_a_folder_with_code_is_rejected(self, tmp_path):
        path = Path(models.vit_folder(tmp_path / "vit"))
        (path / "modeling_mine.py").write_text("raise SystemExit")
        with pytest.raises(
            InputError, match=r"contains Python files \(modeling_mine.py\); a model must not bring code"
        ):
            TransformersExpert(str(path))
        (path / "modeling_mine.py").unlink()
        config = (path / "config.json").read_text()
        (path / "config.json").write_text(config.replace("{", '{"auto_map": {"AutoConfig": "mine.Config"},', 1))
        with pytest.raises(InputError, match=r"an auto_map in config.json, which names code"):
            TransformersExpert(str(path))

    def test_a_model_of_another_task_is_named(self, tmp_path):
        config = transformers.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32)
        transformers.ViTForMaskedImageModeling(config).save_pretrained(tmp_path)
        with pytest.raises(InputError, match="is ViTForMaskedImageModeling of transformers; expected a classifier"):
            TransformersExpert(str(tmp_path))
        path = models.vit_folder(tmp_path / "vit")
        (tmp_path / "vit/preprocessor_config.json").unlink()
        with pytest.raises(InputError, match=r"has no preprocessor_config.json, which says how its samples"):
            TransformersExpert(path)
