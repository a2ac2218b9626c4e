"""What a recipe left in the folder of its run."""

import json
from pathlib import Path
from typing import Any

PARTS = {"recipe", "config", "data", "versions", "seconds", "rows", "summary", "notes", "advice", "serving", "digest"}
"""Keys of results.json."""


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def value(rows: list[dict[str, Any]], method: str, metric: str = "accuracy", seed: int = 0) -> float:
    """The value of the only row of a method, a metric and a seed on the test split."""
    wanted = method, metric, seed, "test"
    (row,) = [row for row in rows if (row["method"], row["metric"], row["seed"], row["split"]) == wanted]
    return row["value"]
