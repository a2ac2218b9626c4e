import pytest
import torch
from helpers import language_models
from torch import nn

from lightning_fusion import Expert, ExpertPool, TextDataModule
from lightning_fusion.data.samples.texts import TextSamples, TextTokens
from lightning_fusion.data.text.tokens import TextTokenizer
from lightning_fusion.errors import InputError
from lightning_fusion.experts.adapters.transformers import TransformersExpert

pytest.importorskip("transformers")
TEXTS = ["good food", "some other food, and tea", "bad"]


@pytest.fixture
def tokenizer(tmp_path) -> str:
    TextTokenizer.train(TEXTS, 270, lowercase=True).save(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


def table(path) -> str:
    path.write_text("text,label\n" + "\n".join(f'"{text} {n}",{"ab"[n % 2]}' for n, text in enumerate(TEXTS * 10)))
    return str(path)


def test_a_data_module_keeps_its_texts(tmp_path):
    data = TextDataModule(table(tmp_path / "a.csv"), keep_texts=True, cache=str(tmp_path / "cache"))
    batch = data.rows("test")[torch.arange(3)]
    lines = (tmp_path / "a.csv").read_text().splitlines()
    expected = [lines[line - 1].split('"')[1] for line in data.origins(batch.index).columns()["line"]]
    assert batch.input["text"] == expected
    again = TextDataModule(table(tmp_path / "a.csv"), keep_texts=True, cache=str(tmp_path / "cache"))
    assert again.rows("test")[torch.arange(3)].input["text"] == expected
    plain = data.variant(keep_texts=False)
    assert "text" not in plain.rows("test")[torch.arange(3)].input
    assert plain.fingerprint("test") == data.fingerprint("test")  # a store can be completed with either


@pytest.mark.slow
def test_each_model_reads_with_its_own_tokenizer(tmp_path):
    folders, experts = ("one", "two"), {}
    for number, name in enumerate(folders):
        TextTokenizer.train([text + name for text in TEXTS], 270 + 5 * number, lowercase=True).save(tmp_path / name)
        path = language_models.save_classifier(tmp_path / name, labels=["a", "b"], vocab_size=300, seed=number)
        experts[name] = TransformersExpert(path)
    data = TextDataModule(table(tmp_path / "a.csv"), keep_texts=True)
    pool = ExpertPool(experts)
    pool.convert_from(data.preprocessing)
    batch = data.rows("test")[torch.arange(4)].input
    found = pool(batch)
    for name, expert in experts.items():
        encoded = [
            TextTokenizer.load(str(tmp_path / name), False).encode([text], None, 64)[0][0] for text in batch["text"]
        ]
        for row, ids in enumerate(encoded):
            alone = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
            expected = expert.network(alone).softmax(1)[0]
            torch.testing.assert_close(found[name][row], expected, atol=1e-5, rtol=0)


class TestTokens:
    def test_texts_and_pairs(self, tokenizer):
        way = TextTokens(tokenizer, max_length=4)
        found = way(TEXTS)
        assert found["input_ids"].shape == found["attention_mask"].shape == (3, 4)
        pairs = way([("good", "bad"), ("tea", "food")])
        assert pairs["attention_mask"].sum() > way(["good", "tea"])["attention_mask"].sum()

    def test_tokens_of_the_same_tokenizer_are_kept(self, tokenizer):
        way, tokens = TextTokens(tokenizer), {"input_ids": torch.ones(2, 3).long(), "attention_mask": torch.ones(2, 3)}
        way.check({"tokenizer": way.fingerprint})
        assert way(tokens) is tokens
        way.check({"tokenizer": "another"})
        with pytest.raises(InputError, match=r"found tokens of another tokenizer .* set keep_texts: true"):
            way(tokens)

    def test_others_are_named(self, tokenizer):
        with pytest.raises(InputError, match="max_length is 0"):
            TextTokens(tokenizer, 0)
        expert = Expert(nn.Identity(), classes=["a"], preprocess=TextSamples())
        with pytest.raises(InputError, match=r"expert words: .* takes texts; the data module gives images"):
            ExpertPool({"words": expert}).convert_from({"image_size": None})
        with pytest.raises(InputError, match="found a Tensor; expected texts"):
            expert(torch.zeros(2, 3))
