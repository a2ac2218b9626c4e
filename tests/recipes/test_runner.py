import json
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.recipe_runs import results
from helpers.subprocesses import run_module
from helpers.tracked import csv_rows

import lightning_fusion
from lightning_fusion import ExpertOutputs
from lightning_fusion.errors import InputError
from lightning_fusion.recipes.foe.protocol import FUSERS, MAIN
from lightning_fusion.recipes.runner import Recipe, Run, claim_folder, run_recipe


@dataclass(kw_only=True)
class Dice(Recipe):
    """Throws a die for each seed, once."""

    name: str = "dice"
    main: str = "ours"
    config: dict[str, Any] = field(default_factory=lambda: {"sides": 6})
    sides: dict[int, int] = field(default_factory=dict)
    """Of the die of a seed."""
    thrown: list[int] = field(default_factory=list)

    def of_seeds(self, seeds) -> dict[int, Any]:
        return {seed: self.sides.get(seed, 6) for seed in seeds}

    def run_seed(self, run: Run, seed: int) -> None:
        path = run.folder / f"seed_{seed}" / "number"
        if not path.is_file():
            path.parent.mkdir(parents=True)
            path.write_text(str(np.random.default_rng(seed).random()))
            self.thrown.append(seed)
        run.report.add("ours", "accuracy", float(path.read_text()), seed)
        run.report.add("theirs", "accuracy", 0.5, seed)

    def conclude(self, run: Run) -> None:
        run.report.data = {"throws": len(run.seeds)}

    def figures(self, run: Run) -> Any:
        return {}


class TestSeeds:
    @pytest.mark.slow
    def test_a_seed_that_is_added_is_done_alone_and_the_report_is_that_of_a_new_run(self, tmp_path):
        run_recipe(Dice(), tmp_path / "run", [0])
        dice = Dice()
        run_recipe(dice, tmp_path / "run", [0, 1])
        run_recipe(Dice(), tmp_path / "new", [0, 1])
        assert dice.thrown == [1]
        kept, new = results(tmp_path / "run"), results(tmp_path / "new")
        assert {key: kept[key] for key in kept if key != "seconds"} == {
            key: new[key] for key in new if key != "seconds"
        }
        assert (tmp_path / "run/run.json").read_text() == (tmp_path / "new/run.json").read_text()

    @pytest.mark.slow
    def test_a_removed_seed_stays_in_the_folder_and_is_reported(self, tmp_path, capsys):
        run_recipe(Dice(), tmp_path / "run", [0, 1])
        report = run_recipe(Dice(), tmp_path / "run", [1])
        assert {row["seed"] for row in report.rows} == {1} and results(tmp_path / "run")["config"]["seeds"] == [1]
        assert "seed(s) 0 in" in capsys.readouterr().out and (tmp_path / "run/seed_0/number").is_file()
        dice = Dice()
        run_recipe(dice, tmp_path / "run", [0, 1])
        assert dice.thrown == []

    @pytest.mark.parametrize("seeds", [3, "01", ["0"], [1.5], [True]])
    def test_what_is_no_list_of_whole_numbers_is_rejected(self, tmp_path, seeds):
        with pytest.raises(InputError, match=r"seeds: found .*; expected a list of whole numbers"):
            run_recipe(Dice(), tmp_path / "run", seeds)
        assert not (tmp_path / "run").exists()

    def test_a_folder_that_looks_like_a_seed_is_none(self, tmp_path):
        run_recipe(Dice(), tmp_path / "run", [0])
        (tmp_path / "run" / "seed_x").mkdir()
        assert run_recipe(Dice(), tmp_path / "run", [0]).rows

    @pytest.mark.parametrize("damage", [{"config": []}, {"seeds": [0]}])
    def test_a_damaged_record_is_another_run(self, tmp_path, damage):
        run_recipe(Dice(), tmp_path / "run", [0])
        record = json.loads((tmp_path / "run/run.json").read_text())
        (tmp_path / "run/run.json").write_text(json.dumps(record | damage))
        with pytest.raises(InputError, match="contains another run"):
            run_recipe(Dice(), tmp_path / "run", [0])

    def test_a_folder_that_cannot_be_made_is_an_error_of_the_output(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match=r"output: .* cannot be written"):
            run_recipe(Dice(), tmp_path / "file" / "run", [0])

    def test_what_a_seed_stands_for_must_stay(self, tmp_path):
        run_recipe(Dice(), tmp_path / "run", [0])
        run_recipe(Dice(sides={1: 8}), tmp_path / "run", [0, 1])
        with pytest.raises(InputError, match=r"differs in seed 1\)"):
            run_recipe(Dice(sides={1: 20}), tmp_path / "run", [1, 2])

    @pytest.mark.parametrize("seeds", [[], [1, 1], [-1], [2**32]])
    def test_invalid_seeds_are_rejected(self, tmp_path, seeds):
        with pytest.raises(InputError, match="seeds: found"):
            run_recipe(Dice(), tmp_path / "run", seeds)
        assert not (tmp_path / "run").exists()


def test_another_block_is_another_run_where_results_depend_on_it(tmp_path):
    run_recipe(Dice(), tmp_path, [0], {"max_steps": 5, "accelerator": "cpu"})
    run_recipe(Dice(), tmp_path, [0], {"max_steps": 5, "enable_progress_bar": False})
    assert results(tmp_path)["config"] == {"sides": 6, "trainer": {"max_steps": 5}, "seeds": [0]}
    with pytest.raises(InputError, match=r"differs in trainer\)"):
        run_recipe(Dice(), tmp_path, [0], {"max_steps": 6})


TWO = {
    "data": {
        "class_path": "lightning_fusion.data.image.digits.DigitsDataModule",
        "init_args": {"num_domains": 2, "classes_per_domain": 6, "fuser_fraction": 0.2, "batch_size": 128},
    },
    "network": {"class_path": "lightning_fusion.encoders.SmallConvNet", "init_args": {"in_channels": 1, "width": 2}},
    "expert_epochs": 6,
    "fuser_epochs": 4,
    "trainer": {
        "accelerator": "cpu",
        "devices": 2,
        "enable_progress_bar": False,
        "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "tables"}},
        "callbacks": [
            {
                "class_path": "lightning.pytorch.callbacks.EarlyStopping",
                "init_args": {"monitor": "val_loss", "patience": 1, "min_delta": 100.0},
            }
        ],
    },
}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_devices_a_logger_and_early_stopping_are_configuration(tmp_path):
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(TWO))
    command = ["recipe", "foe", "-c", "two.yaml", "--output", "run"]
    done = run_module(lightning_fusion, *command, cwd=tmp_path, timeout=380)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "GLOBAL_RANK: 1, MEMBER: 2/2" in done.stderr and done.stdout.count("FoE (label)") >= 1
    assert done.stdout.count("report: ") == 1  # the first process alone writes
    found = results(tmp_path / "run")
    assert found["config"]["trainer"]["processes"] == 2
    assert {MAIN, *FUSERS} <= {row["method"] for row in found["rows"]}
    outputs = ExpertOutputs.open(tmp_path / "run/seed_0/outputs")
    right = outputs.scattered("test").argmax(2) == outputs["test"].target[:, None]
    rows = [row for row in found["rows"] if "domain" not in row]
    (oracle,) = [row["value"] for row in rows if (row["method"], row["metric"]) == ORACLE]
    assert oracle == pytest.approx(right.any(1).mean())
    logs = tmp_path / "run/logs/tables/seed_0"
    for stage in ("experts/domain_0", "experts/domain_1", "centralized", "fusers/label"):
        rows = csv_rows(logs / stage / "version_0/metrics.csv")
        assert {row["epoch"] for row in rows if row["val_loss"]} == {"0", "1"}, stage  # stopped: an epoch without gain
        assert [path.name for path in (logs / stage).iterdir()] == ["version_0"], "the second process logged as well"
    assert next(row["method"] for row in csv_rows(logs.parent / "report/version_0/results.csv")) == MAIN
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["trainer"]["devices"] == 2


ORACLE = ("oracle selection (any expert correct)", "accuracy")


class TestClaimFolder:
    def test_a_new_folder_is_made_and_the_same_run_taken_up(self, tmp_path):
        folder = tmp_path / "new" / "run"
        assert claim_folder(folder, "foe", {"a": (1, 2)}) == (folder, False)
        (folder / "kept").touch()
        assert claim_folder(folder, "foe", {"a": (1, 2)}) == (folder, True)
        assert (folder / "kept").exists()

    @pytest.mark.parametrize(
        ("recipe", "config", "message"),
        [
            ("foe", {"a": 2}, r"differs in a\)"),
            ("foe", {"a": 1, "b": 0}, r"differs in b\)"),
            ("hat", {"a": 1}, "the recipe"),
        ],
    )
    def test_another_run_is_rejected_and_named(self, tmp_path, recipe, config, message):
        claim_folder(tmp_path, "foe", {"a": 1})
        with pytest.raises(InputError, match=f"contains another run .*{message}"):
            claim_folder(tmp_path, recipe, config)

    def test_overwrite_empties_a_run(self, tmp_path):
        claim_folder(tmp_path, "foe", {"a": 1})
        (tmp_path / "seed_0").mkdir()
        assert claim_folder(tmp_path, "foe", {"a": 2}, overwrite=True) == (tmp_path, False)
        assert os.listdir(tmp_path) == ["run.json"]

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_foreign_files_are_never_touched(self, tmp_path, overwrite):
        (tmp_path / "thesis.tex").write_text("all of it")
        with pytest.raises(InputError, match="contains files that no recipe wrote"):
            claim_folder(tmp_path, "foe", {}, overwrite)
        assert (tmp_path / "thesis.tex").read_text() == "all of it"

    def test_a_file_is_no_folder(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match="is a file; name a folder"):
            claim_folder(tmp_path / "file", "foe", {})

    def test_a_damaged_marker_is_another_run(self, tmp_path):
        (tmp_path / "run.json").write_text("{")
        with pytest.raises(InputError, match="contains another run"):
            claim_folder(tmp_path, "foe", {"a": 1})


@pytest.mark.parametrize("marker", ["{}", '{"recipe": "foe", "config": {}}'])
def test_overwrite_removes_nothing_that_no_recipe_wrote(tmp_path, marker):
    (tmp_path / "run.json").write_text(marker)
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        claim_folder(tmp_path, "foe", {"a": 1}, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "x"
