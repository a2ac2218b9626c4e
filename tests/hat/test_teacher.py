import pytest
import torch
from helpers import tiny
from torch import nn

from lightning_fusion.errors import InputError
from lightning_fusion.hat.mixer import shared_columns
from lightning_fusion.hat.sources import run_sources
from lightning_fusion.hat.teacher import MixerTeacher

SIZES = {"own": 6, "sources": {"a": 5, "b": 5}, "heads": {"a": "head", "b": "head"}}
POOL = tiny.pool(features="body")
INPUT, TARGET = tiny.tensors(rows={"train": 30})["train"][:2]
Z = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))


def made(**arguments) -> MixerTeacher:
    torch.manual_seed(0)
    columns, _ = shared_columns(POOL.expert_classes, tiny.CLASSES)
    teacher = MixerTeacher(POOL, columns, 3, SIZES, **arguments)
    teacher.note_rows(torch.arange(30), TARGET)
    return teacher


def test_one_mixer_teaches_what_it_says():
    teacher = made()
    rows = torch.arange(30)
    mixed = teacher(Z, run_sources(POOL, INPUT, with_scores=False))
    assert [part.shape for part in (*mixed.log_weights, *mixed.log_mix)] == [(30, 2), (30, 3)]
    torch.testing.assert_close(mixed.mean(), teacher.fused(rows, mixed))
    torch.testing.assert_close(teacher.loss(rows, TARGET, mixed), nn.functional.nll_loss(mixed.log_mix[0], TARGET))
    assert not teacher.fused(rows, mixed).requires_grad and teacher.loss(rows, TARGET, mixed).requires_grad


@pytest.mark.parametrize(("accuracy_source", "count"), [("train", 1), ("holdout", 1), ("crossfit", 3)])
def test_the_end_of_an_epoch_writes_dictionary_and_weights(accuracy_source, count):
    teacher = made(accuracy_source=accuracy_source)
    assert len(teacher.mixers) == count
    for rows in torch.arange(30).split(10):
        mixed = teacher(Z[rows], run_sources(POOL, INPUT[rows], with_scores=False))
        teacher.keep(rows, teacher.fused(rows, mixed), mixed)
    teacher.end_epoch()
    mixed = teacher(Z, run_sources(POOL, INPUT, with_scores=False))
    weights = torch.stack([log_weights.exp() for log_weights in mixed.log_weights]).mean((0, 1))
    torch.testing.assert_close(teacher.mean_weights, weights)
    torch.testing.assert_close(teacher.knowledge.probabilities, teacher.fused(torch.arange(30), mixed))
    if accuracy_source == "crossfit":
        assert not torch.equal(mixed.mean(), teacher.fused(torch.arange(30), mixed))


def test_the_dictionary_stays_where_rows_and_labels_do():
    teacher = made()
    first = teacher.knowledge
    teacher.note_rows(torch.arange(30).flip(0), TARGET.flip(0))
    assert teacher.knowledge is first
    teacher.note_rows(torch.arange(30), TARGET.roll(1))
    assert teacher.knowledge is not first


def test_other_sizes_are_rejected():
    made().check_sizes(dict(SIZES))
    with pytest.raises(InputError, match="the mixer was made for sources"):
        made().check_sizes(SIZES | {"own": 7})
