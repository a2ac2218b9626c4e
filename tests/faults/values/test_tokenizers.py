"""Generative experts of another tokenizer than the data's are reported, as classifiers are."""

import warnings

import pytest
from helpers import generation_script, language_models, tiny

from lightning_fusion.generation.embeddings import collect_embeddings
from lightning_fusion.generation.expert import GenerativeExpert

SAYS = "expert b was trained with a preprocessing that differs from the data's .tokenizer 'other' against 'own'"


def experts() -> dict[str, GenerativeExpert]:
    found = generation_script.experts()
    found["a"].preprocessing, found["b"].preprocessing = {"tokenizer": "own"}, {"tokenizer": "other"}
    return found


def data(tokenizer: str = "own"):
    return language_models.pairs(6, preprocessing={"tokenizer": tokenizer})


@pytest.mark.slow
def test_embeddings(tmp_path):
    with pytest.warns(UserWarning, match=SAYS) as seen:
        collect_embeddings(experts(), data(), tmp_path / "store", max_new_tokens=3, trainer=tiny.trainer())
    assert sum("preprocessing: " in str(each.message) for each in seen) == 1


def test_predictions():
    module = generation_script.fuser(experts=experts())
    with pytest.warns(UserWarning, match=SAYS):
        tiny.trainer().predict(module, datamodule=data())
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="preprocessing: ")
        tiny.trainer().predict(module, datamodule=language_models.pairs(6))  # not known


def test_the_tokenizer_of_a_transformers_model_is_known(tmp_path):
    pytest.importorskip("transformers")
    path = language_models.save_speaker(tmp_path / "model", "gpt2")
    (known,) = (GenerativeExpert(transformers=path).preprocessing or {}).values()
    assert known == GenerativeExpert(transformers=path).preprocessing["tokenizer"]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "model" / name).unlink(missing_ok=True)
    assert GenerativeExpert(transformers=path).preprocessing is None


def test_checkpoints_of_a_recipe_and_its_data_have_the_same(tmp_path):
    from helpers import data_files

    data_files.news_files(tmp_path / "news")
    files = data_files.news(tmp_path / "news", vocab_size=300)
    assert files.module("fuser").preprocessing == files.preprocessing
    assert set(files.preprocessing) == {"lowercase", "tokenizer"}
