"""Warnings of the library in a run stand in its report."""

import json
import warnings
from dataclasses import dataclass

import matplotlib.pyplot as plt
import pytest
from lightning.pytorch.utilities import rank_zero_warn

from lightning_fusion.errors import InputError
from lightning_fusion.experts.expert import Expert
from lightning_fusion.recipes.notes import Notes, noting
from lightning_fusion.recipes.runner import Recipe, Run, run_recipe


def warn(text: str, category: type[Warning] = UserWarning) -> None:
    """Warn as a module of the library does."""
    warnings.warn_explicit(text, category, Expert.__init__.__code__.co_filename, 1)


@dataclass(kw_only=True)
class Warns(Recipe):
    """Warns in each seed, with a text that its own notes contain as well, and of a user's module."""

    def run_seed(self, run: Run, seed: int) -> None:
        warn(f"the accuracy is 0.{seed}")
        warn(f"the accuracy is 0.{seed}")
        warn("two rows are left out")
        rank_zero_warn("of a user's module")
        run.report.add("own", "accuracy", 0.5, seed)

    def conclude(self, run: Run) -> None:
        run.report.notes.append("Seed 3, own: two rows are left out.")
        warn("all seeds are equal")

    def figures(self, run: Run) -> dict:
        return {"accuracy": (plt.figure(), "nothing")}


def test_they_stand_there_once_with_their_seed(tmp_path):
    with pytest.warns(UserWarning) as seen:
        report = run_recipe(Warns(name="warns", main="own", config={}), tmp_path / "run", [3, 4])
    assert report.notes == [
        "Seed 3, own: two rows are left out.",
        "Seed 3: the accuracy is 0.3.",
        "Seed 4: the accuracy is 0.4.",
        "All seeds are equal.",
    ]
    assert json.loads((tmp_path / "run/results.json").read_text())["notes"] == report.notes
    text = (tmp_path / "run/report.md").read_text()
    assert "- Seeds 3, 4 (values of the first): the accuracy is 0.3." in text
    assert "of a user's module" in {str(each.message) for each in seen}


def test_a_context_around_the_run_adds_the_warnings_before_it():
    with pytest.warns(UserWarning), noting() as outer:
        warn("of the data")
        with noting() as inner:
            warn("of the run")
        warn("of another kind", RuntimeWarning)
    assert inner is outer and outer.texts == ["Of the data.", "Of the run."]


def test_an_error_ends_it():
    shown = warnings.showwarning
    with pytest.raises(InputError), noting():
        raise InputError("wrong")
    assert warnings.showwarning is shown
    with noting() as again:
        assert again.texts == Notes().texts
