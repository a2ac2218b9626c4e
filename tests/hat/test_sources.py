import pytest
import torch
from helpers import tiny

from lightning_fusion.data.batch import Batch
from lightning_fusion.errors import InputError
from lightning_fusion.hat.sources import SourceTable, run_sources


def rows(numbers) -> Batch:
    index = torch.tensor(numbers)
    input = index[:, None] * torch.tensor([0.1, -0.2, 0.3, 1.0])
    return Batch(input, torch.zeros(len(index)), torch.zeros(len(index), 0), index)


@pytest.mark.parametrize("with_scores", [False, True])
def test_what_is_remembered_is_what_was_said(with_scores):
    pool = tiny.pool(features="body")
    table = SourceTable(pool, [rows([30, 4]), rows([17, 2, 9])], with_scores)
    wanted = rows([9, 30, 2])
    ours, theirs = table(table.rows(wanted.index)), run_sources(pool, wanted.input, with_scores)
    torch.testing.assert_close(ours.representations, theirs.representations)
    if with_scores:
        torch.testing.assert_close(ours.scores, theirs.scores)
        probabilities = pool(wanted.input)
        for name, value in ours.scores.items():
            torch.testing.assert_close(value.exp(), probabilities[name])
    else:
        assert ours.scores is theirs.scores is None


@pytest.mark.parametrize("stranger", [3, 31, -1])
def test_an_unknown_number_is_rejected(stranger):
    table = SourceTable(tiny.pool(features="body"), [rows([30, 4])], with_scores=False)
    with pytest.raises(InputError, match=f"sample number {stranger} has no cached outputs"):
        table.rows(torch.tensor([4, stranger]))
