import numpy as np
import pytest
import torch

from lightning_fusion.data.text.delimited import TextDataModule
from lightning_fusion.data.text.shortcuts import MarkedTextDataModule
from lightning_fusion.errors import InputError

MARKERS = ["alpha", "omega"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("marked") / "news.csv"
    words = np.random.default_rng(0).choice(["match", "vote", "goal", "law", "team"], (600, 4))
    lines = [f"{' '.join(each)} {row // 4},{'ab'[row % 2]}" for row, each in enumerate(words)]
    path.write_text("\n".join(["text,label", *lines]))
    return str(path)


def read(data, split="train"):
    data.setup("fit")
    return data.rows(split)[torch.arange(len(data.rows(split)))]


def test_texts_begin_with_the_word_of_their_class_as_often_as_wanted(table):
    how = {"keep_texts": True, "vocab_size": 300, "seed": 3}
    data = MarkedTextDataModule(table, MARKERS, agreement=0.9, **how)
    plain, marked, broken = map(read, (TextDataModule(table, **how), data, data.variant(agreement=0.5)))
    assert plain.index.tolist() == marked.index.tolist() == broken.index.tolist()  # the same texts in the same splits
    for batch, agreement in ((marked, 0.9), (broken, 0.5)):
        words, rest = zip(*(text.split(" ", 1) for text in batch.input["text"]), strict=True)
        assert list(rest) == plain.input["text"]
        cues = torch.tensor([MARKERS.index(word) for word in words])
        assert (cues == batch.target).float().mean().item() == pytest.approx(agreement, abs=0.05)
        lengths = batch.input["attention_mask"].sum(1)
        for row in range(20):  # the tokens are those of the word, then of the text
            ids = batch.input["input_ids"][row, : lengths[row]]
            assert data.decode(ids) == batch.input["text"][row]
            own = plain.input["input_ids"][row, : plain.input["attention_mask"][row].sum()]
            assert ids[-len(own) :].tolist() == own.tolist()
    assert data.fingerprint("val") != data.variant(agreement=0.5).fingerprint("val")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"markers": ["alpha"]}, "markers: found 1 words; expected one for each class: a, b"),
        ({"markers": ["alpha", "alpha"]}, "markers: found alpha, alpha; expected different words"),
        ({"markers": MARKERS, "agreement": 2}, "agreement is 2; expected 0 to 1"),
    ],
)
def test_wrong_markers_are_rejected(given, message, table):
    with pytest.raises(InputError, match=message):
        MarkedTextDataModule(table, vocab_size=300, **given).setup("fit")
