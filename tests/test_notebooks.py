"""Notebooks run, and are published with what they print: each was run from top to bottom, and no cell failed."""

import json
from pathlib import Path

import jupytext
import pytest
from helpers import notebooks
from helpers.processes import together

NOTEBOOKS = sorted(Path(__file__).parents[1].glob("notebooks/*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path, tmp_path):
    together(tmp_path, notebooks.run, path, processes=1, timeout_s=540)


@pytest.mark.slow
def test_a_cell_that_fails_fails(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["# A"]},
        {"cell_type": "code", "source": ["%matplotlib inline\n", "1/0"]},
    ]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells}))
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        together(tmp_path, notebooks.run, tmp_path / "a.ipynb", processes=1)


def faults(notebook: dict) -> list[str]:
    """What shows that a notebook was not run whole, a line for each cell."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    found = [
        f"cell {number}: run as number {cell['execution_count']}"
        for number, cell in enumerate(cells, start=1)
        if cell["execution_count"] != number
    ]
    failed = [output["ename"] for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]
    return found + [f"a cell failed with {name}" for name in failed]


def test_published_whole():
    assert len(NOTEBOOKS) >= 5
    found = {path.name: faults(json.loads(path.read_text(encoding="utf-8"))) for path in NOTEBOOKS}
    assert not any(found.values()), found


def test_what_was_not_run_is_found():
    cell = {"cell_type": "code", "execution_count": 1, "outputs": []}
    failed = cell | {"execution_count": None, "outputs": [{"output_type": "error", "ename": "ValueError"}]}
    assert faults({"cells": [cell, {"cell_type": "markdown"}, failed]}) == [
        "cell 2: run as number None",
        "a cell failed with ValueError",
    ]


def test_paired_with_the_text():
    """``notebooks/NAME.md`` has the same cells, for reviews; ``jupytext --sync`` writes it."""
    for path in NOTEBOOKS:
        cells = notebooks.cells_of(path)
        paired = jupytext.read(path.with_suffix(".md"))["cells"]
        given = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
        assert [(cell["cell_type"], cell["source"]) for cell in paired] == given, f"jupytext --sync {path}"


def test_the_first_cell_installs_the_package():
    for path in NOTEBOOKS:
        cells = notebooks.cells_of(path)
        first = next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        assert 'find_spec("lightning_fusion") is None:\n    %pip install' in first, path
