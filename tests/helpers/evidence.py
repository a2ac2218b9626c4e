"""What two tiny sources say of 30 labeled samples, for tests of fitted teachers."""

from helpers import tiny
from lightning_fusion.hat.fitted.base import evidence_of
from lightning_fusion.hat.fitted.choice import make_teacher
from lightning_fusion.hat.mixer import shared_columns

POOL = tiny.pool(features="body")
COLUMNS, _ = shared_columns(POOL.expert_classes, tiny.CLASSES)
INPUT, TARGET = tiny.tensors(rows={"train": 30})["train"][:2]
EVIDENCE = evidence_of(POOL, COLUMNS, INPUT, 30)
WIDTHS = {"a": 5, "b": 5}


def make(name):
    return make_teacher(name, POOL, COLUMNS, WIDTHS, 3)
