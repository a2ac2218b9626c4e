"""Models of texts behind token ids: a function that iterates over a dict answers for its keys, not for the texts."""

import pytest
import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline

from lightning_fusion import Expert, ExpertPool, collect
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.errors import InputError
from lightning_fusion.experts.estimators import probability_method

TEXTS, TARGETS = ["good tea", "bad tea", "good food", "bad food", "good bread", "bad bread"], [1, 0] * 3
MODEL = make_pipeline(CountVectorizer(), MultinomialNB()).fit(TEXTS, [["bad", "good"][place] for place in TARGETS])


class Tokens(TensorDataModule):
    """Six texts as a data module of texts yields them."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        ids = batch.input.long()
        return batch._replace(input={"input_ids": ids, "attention_mask": torch.ones_like(ids)})


@pytest.mark.parametrize("batch_size", [2, 4, 6])
@pytest.mark.parametrize("on_failure", ["raise", "skip"])
@pytest.mark.parametrize(
    ("network", "says"),
    [
        (
            MODEL,
            "predict_proba of a Pipeline takes texts or arrays, and the input is a dict of input_ids, attention_mask",
        ),
        (MODEL.predict_proba, "predict_proba of a Pipeline takes texts"),
        (lambda batch: MODEL.predict_proba(batch), "as many as the input has entries .*: it iterates over a dict"),
    ],
)
def test_they_are_rejected(network, says, on_failure, batch_size, tmp_path):
    parts = torch.arange(24).reshape(6, 4), torch.tensor(TARGETS)
    data = Tokens({"train": parts}, ["bad", "good"], batch_size=batch_size)
    experts = ExpertPool({"a": Expert(network, classes=["bad", "good"], output="probabilities")})
    with pytest.raises(InputError, match=says + ".*docs/how-to/extend.md"):
        collect(experts, data, tmp_path / "store", ["train"], on_failure=on_failure)


def test_functions_of_dicts_and_estimators_of_texts_answer():
    calls = []

    def of_tokens(batch):
        calls.append(len(batch["input_ids"]))
        return torch.full((len(batch["input_ids"]), 2), 0.5)

    expert = Expert(of_tokens, classes=["bad", "good"], output="probabilities")
    batch = {"input_ids": torch.ones(2, 3).long(), "attention_mask": torch.ones(2, 3).long()}
    assert [expert(batch).shape for _ in range(3)] == [(2, 2)] * 3
    assert calls == [2, 3, 2, 2]  # one further call, where rows and keys are equally many
    direct = Expert(probability_method(MODEL), classes=["bad", "good"], output="probabilities")
    assert direct(TEXTS).argmax(1).tolist() == TARGETS
