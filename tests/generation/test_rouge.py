import pytest
import torch

from lightning_fusion.errors import InputError
from lightning_fusion.generation.rouge import Rouge, read_tokenizer


def test_rouge_worked_by_hand():
    # wanted "5 6 7 8", written "5 7 8": unigrams 3 of 3 and 4, bigrams 1 of 2 and 3, longest common part 3
    metric = Rouge()
    metric.update(torch.tensor([[5, 7, 8, 0]]), torch.tensor([[5, 6, 7, 8]]))
    found = {name: float(value) for name, value in metric.compute().items()}
    assert found == pytest.approx({"rouge1": 6 / 7, "rouge2": 0.4, "rougeL": 6 / 7})


def test_rouge_is_that_of_googles_package():
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rouge1", "rouge2", "rougeL"])
    generator = torch.Generator().manual_seed(0)
    written, wanted = torch.randint(0, 9, (2, 20, 7), generator=generator)
    metric = Rouge()
    metric.update(written[:9], wanted[:9])
    metric.update(written[9:], wanted[9:])
    pairs = list(zip(metric.texts(wanted), metric.texts(written), strict=True))
    for name, value in metric.compute().items():
        expected = sum(scorer.score(one, other)[name].fmeasure for one, other in pairs) / len(pairs)
        assert float(value) == pytest.approx(expected, abs=1e-6)


def test_texts_are_decoded(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<pad>": 0, "old": 1, "news": 2}, unk_token="<pad>"))
    made.save(str(tmp_path / "tokenizer.json"))
    metric = Rouge(read_tokenizer(tmp_path).decode)
    assert metric.texts(torch.tensor([[1, 2, 0], [0, 0, 0]])) == ["old news", ""]
    metric.update(torch.tensor([[0, 0]]), torch.tensor([[1, 2]]))  # nothing was written
    assert float(metric.compute()["rougeL"]) == 0


def test_a_missing_tokenizer_is_named(tmp_path):
    pytest.importorskip("tokenizers")
    with pytest.raises(InputError, match=r"found no .*tokenizer\.json"):
        read_tokenizer(tmp_path)
