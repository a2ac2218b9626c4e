"""What a recipe left in the folder of its run."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lightning_fusion.hat.fitted.fine_tuning import FineTuned
from lightning_fusion.hat.fitted.fuser import FoE

PARTS = {"recipe", "config", "data", "versions", "seconds", "rows", "summary", "notes", "advice", "serving", "digest"}
"""Keys of results.json."""


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def value(rows: list[dict[str, Any]], method: str, metric: str = "accuracy", seed: int = 0) -> float:
    """The value of the only row of a method, a metric and a seed on the test split."""
    wanted = method, metric, seed, "test"
    (row,) = [row for row in rows if (row["method"], row["metric"], row["seed"], row["split"]) == wanted]
    return row["value"]


@pytest.fixture(scope="module", autouse=True)
def quick_teachers() -> Iterator[None]:
    """HaT's fitted teachers pass over the labels twice; their fits have tests of their own (hat/fitted/)."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in (FineTuned, FoE):
            patch.setattr(kind.__init__, "__defaults__", (2, *kind.__init__.__defaults__[1:]))
        yield
