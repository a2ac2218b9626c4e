"""Of two runs that are started in one folder, the second one is rejected before it trains or queries."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from helpers import tiny
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_fusion import Expert, ExpertModule, ExpertPool, collect
from lightning_fusion.cli.training import FusionSaveConfig
from lightning_fusion.errors import InputError
from lightning_fusion.experts.outputs.store import OUTPUTS
from lightning_fusion.files import exclusive
from lightning_fusion.recipes.runner import Recipe, Run, run_recipe
from lightning_fusion.store import StoreWriter

BUSY = "another process is writing .*; wait for it"


@dataclass
class Counting(Recipe):
    """Counts the seeds that it has run."""

    name: str = "counting"
    main: str = "ours"
    config: dict[str, Any] = field(default_factory=dict)
    ran: list[int] = field(default_factory=list)

    def run_seed(self, run: Run, seed: int) -> None:
        self.ran.append(seed)
        with pytest.raises(InputError, match=BUSY):
            run_recipe(Counting(), run.folder, [seed])
        with pytest.raises(InputError, match=BUSY):
            run_recipe(Counting(config={"other": 1}), run.folder, [seed], overwrite=True)
        run.report.add("ours", "accuracy", 1.0, seed)

    def conclude(self, run: Run) -> None:
        run.report.data = {}

    def figures(self, run: Run) -> Any:
        return {}


def test_two_recipes(tmp_path):
    recipe = Counting()
    run_recipe(recipe, tmp_path / "run", [0])
    assert recipe.ran == [0]
    again = Counting()
    run_recipe(again, tmp_path / "run", [0], overwrite=True)  # released, and emptied except for the lock
    assert again.ran == [0]


def test_a_folder_of_something_else_is_not_touched(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match="files that no recipe wrote"):
        run_recipe(Counting(), tmp_path, [0])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_collects(tmp_path):
    net = tiny.CountingNet(2)
    with StoreWriter(tmp_path, OUTPUTS), pytest.raises(InputError, match=BUSY):
        collect(ExpertPool({"a": Expert(net, classes=["cat", "dog"])}, tiny.CLASSES), tiny.data(), tmp_path)
    assert net.rows == 0


def test_two_fits_of_one_checkpoint(tmp_path):
    """The callback of the command line claims checkpoints of fixed names."""

    class Claims(FusionSaveConfig):
        def __init__(self) -> None:
            super().__init__(None, None)
            self.already_saved = True

    def fit(name: str):
        trainer = tiny.trainer(
            callbacks=[ModelCheckpoint(tmp_path, filename=name), Claims()], enable_checkpointing=True
        )
        trainer.fit(ExpertModule(tiny.Net, tiny.CLASSES), datamodule=tiny.data())
        return trainer.global_step

    with exclusive(tmp_path / ".best.lock", "a run"):
        with pytest.raises(InputError, match=f"checkpoint best: {BUSY}"):
            fit("best")
        assert fit("other")  # as in a loop over experts with one folder
    assert fit("best")
