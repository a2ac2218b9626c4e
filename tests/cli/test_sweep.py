import csv
import json
import signal
import subprocess
from pathlib import Path

import pytest
from helpers import warm
from helpers.command_line import read, write_yaml

from lightning_fusion.cli import sweep as sweeping
from lightning_fusion.cli.main import main
from lightning_fusion.cli.sweep_files import read_sweep
from lightning_fusion.errors import InputError
from lightning_fusion.recipes.report import Report

optuna = pytest.importorskip("optuna")
SHIPPED = read("sweeps/foe.yaml")
RATE = {"distribution": "log_uniform_values", "min": 0.001, "max": 1.0}


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def written(**changes: object) -> str:
    content = (
        SHIPPED | {"method": "random", "parameters": {"model.lr": RATE, "model.width": {"values": [4, 8]}}} | changes
    )
    return write_yaml(Path("mine.yaml"), {key: value for key, value in content.items() if value is not None})


class TestFiles:
    def test_distributions_are_those_of_weights_and_biases(self):
        parameters = {
            "a": {"value": 3},
            "b": {"values": [True, "x", 0.5]},
            "c": {"min": 1, "max": 4},
            "d": {"min": 0.0, "max": 1},
            "e": RATE,
            "f": {"min": 0, "max": 1, "q": 0.25},
        }
        found = read_sweep(written(parameters=parameters)).parameters
        assert [one.distribution for one in found.values()] == [
            *("constant", "categorical", "int_uniform", "uniform", "log_uniform_values", "q_uniform")
        ]
        line = read_sweep(written()).line({"model.lr": 0.1, "model.flag": False})
        assert line == ["fit", "-c", "foe/digits.yaml", "--overwrite=true", "--model.lr=0.1", "--model.flag=False"]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"metric": {"name": "test_accuracy", "goal": "maximize"}},
                "has test_accuracy; settings are selected on the",
            ),
            ({"metric": {"name": "test/auc", "goal": "maximize"}}, "has test/auc"),
            ({"metric": {"name": "val_loss"}}, "metric.goal: mine.yaml has None; expected maximize or minimize"),
            ({"metric": "val_loss"}, "metric: mine.yaml has 'val_loss'; expected name and goal"),
            (
                {"command": [*SHIPPED["command"][:-1], "--trainer.callbacks.monitor=test_accuracy", "${args}"]},
                r"names a metric of the test split \(--trainer.callbacks.monitor=test_accuracy\)",
            ),
            ({"parameters": {"monitor": {"values": ["val_loss", "test_loss"]}}}, "--monitor=test_loss"),
            ({"command": ["${program}", "test", "${args}"]}, "runs test, which trains nothing"),
            (
                {"command": ["${program}", "fit", "-c", "foe/digits.yaml"]},
                r"command: mine.yaml has .*; expected the words",
            ),
            ({"command": ["${program}", "fit", "${args_no_hyphens}", "${args}"]}, "no macro but"),
            ({"method": "hyperband"}, "method: mine.yaml has 'hyperband'; expected bayes, grid, random"),
            ({"early_terminate": {"type": "hyperband"}}, "early_terminate: .*trials are not stopped early"),
            ({"metrics": {}}, "metrics: mine.yaml is no sweep of known keys; did you mean metric"),
            ({"parameters": None}, "parameters: mine.yaml has none"),
            (
                {"parameters": {"a": {"distribution": "normal", "mu": 0}}},
                "a.distribution: found 'normal'; expected const",
            ),
            ({"parameters": {"a": {"min": 1}}}, "parameters.a: found no max; the distribution uniform has min and max"),
            (
                {"parameters": {"a": {"min": 1, "max": 2, "mx": 3}}},
                "parameters.a: found mx; the distribution int_uniform",
            ),
            ({"parameters": {"a": {"min": 2, "max": 1}}}, "found min 2 and max 1"),
            ({"parameters": {"a": {**RATE, "min": 0}}}, "expected min below max, above 0"),
            ({"parameters": {"a": {"parameters": {"b": {"value": 1}}}}}, "found nested parameters"),
            ({"parameters": {"a": {"values": [1, None]}}}, "parameters.a: found 1, None; expected texts, numbers or"),
            ({"parameters": {"a": {"values": [0, 1, True]}}}, "parameters.a: found True, which equals another value"),
            (
                {"parameters": {"output": {"value": "x"}}, "command": ["${program}", "recipe", "foe", "${args}"]},
                "parameters.output: .* each trial writes to a folder of its own",
            ),
        ],
    )
    def test_others_are_named_in_one_line(self, changes, message):
        with pytest.raises(InputError, match=message) as caught:
            read_sweep(written(**changes))
        assert "\n" not in str(caught.value)

    def test_a_grid_has_no_ranges(self):
        with pytest.raises(InputError, match=r"parameters.model.lr: mine.yaml has the method grid, which needs values"):
            read_sweep(written(method="grid")).grid()


def logged(words: list[str]) -> dict[str, float]:
    """A metric with its maximum at a rate of 0.1 and a width of 8."""
    drawn = dict(word.removeprefix("--").split("=") for word in words if word.startswith("--model"))
    return {"val_accuracy": 1 - abs(float(drawn["model.lr"]) - 0.1) + float(drawn["model.width"]) / 100}


@pytest.fixture
def ran(monkeypatch) -> list[list[str]]:
    """The commands of the trials, which run in this process."""
    found: list[list[str]] = []

    def run(words, place, left):
        found.append(words)
        return logged(words), None

    monkeypatch.setattr(sweeping, "_check", lambda words, place: None)
    monkeypatch.setattr(sweeping, "_run", run)
    return found


def table(folder: str) -> list[dict[str, str]]:
    return list(csv.DictReader(Path(folder, "trials.csv").open()))


class TestTrials:
    @pytest.mark.slow
    def test_the_best_one_is_printed_with_its_command(self, ran, capsys):
        best = main(["sweep", written(method="bayes"), "--output=out", "--trials=6"])
        rows = table("out")
        assert [row["state"] for row in rows] == ["complete"] * 6 and Path("out/sweep.png").stat().st_size > 0
        assert (
            best.value
            == max(float(row["val_accuracy"]) for row in rows)
            == pytest.approx(logged(ran[best.number])["val_accuracy"])
        )
        assert best.command == " ".join(["lightning-fusion", *ran[best.number]])
        assert best.command in capsys.readouterr().out

    @pytest.mark.slow
    def test_a_continued_sweep_draws_what_one_without_a_break_draws(self, ran):
        main(["sweep", written(), "--output=whole", "--trials=5"])
        main(["sweep", written(), "--output=parts", "--trials=2"])
        main(["sweep", written(), "--output=parts", "--trials=5"])
        assert len(ran) == 10 and ran[:5] == ran[5:]

    @pytest.mark.slow
    def test_a_trial_that_was_interrupted_is_run_again_and_finished_ones_are_not(self, ran, monkeypatch):
        main(["sweep", written(), "--output=out", "--trials=2"])
        run = sweeping._run

        def interrupted(words, place, left):
            run(words, place, left)
            study = optuna.load_study(study_name="sweep", storage="sqlite:///out/sweep.db")
            assert study.trials[-1].state.name == "RUNNING"  # as a killed process leaves it
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(sweeping._Sweep, "_interrupt", lambda self, number: None)
            patch.setattr(sweeping, "_run", interrupted)
            main(["sweep", written(), "--output=out", "--trials=4"])
        main(["sweep", written(), "--output=out", "--trials=4"])
        assert len(ran) == 5 and ran[2] == ran[3] and len(table("out")) == 4

    @pytest.mark.slow
    def test_the_time_ends_a_sweep_that_the_same_command_continues(self, ran, monkeypatch, capsys):
        main(["sweep", written(), "--output=out", "--trials=1"])
        run = sweeping._run
        monkeypatch.setattr(sweeping, "_run", lambda words, place, left: (None, None))
        main(["sweep", written(), "--output=out", "--trials=3", "--timeout=9"])
        assert "timeout: 1 of 3 trials are finished; the same command continues" in capsys.readouterr().out
        monkeypatch.setattr(sweeping, "_run", run)
        main(["sweep", written(), "--output=out", "--trials=3"])
        assert len(table("out")) == 3

    @pytest.mark.slow
    def test_a_grid_is_run_once(self, ran):
        grid = {"model.lr": {"values": [0.1, 0.2]}, "model.width": {"values": [4, 8]}}
        best = main(["sweep", written(method="grid", parameters=grid), "--output=out", "--trials=50"])
        assert best.parameters == {"model.lr": 0.1, "model.width": 8} and len(ran) == 4
        main(["sweep", written(method="grid", parameters=grid), "--output=out", "--trials=50"])
        assert len(ran) == 4

    @pytest.mark.slow
    def test_a_failed_trial_does_not_end_the_sweep_unless_all_fail(self, ran, monkeypatch):
        run = sweeping._run

        def every_other(words, place, left):
            found = run(words, place, left)
            return (None, "no memory") if len(ran) % 2 else found

        monkeypatch.setattr(sweeping, "_run", every_other)
        main(["sweep", written(), "--output=out", "--trials=4"])
        rows = table("out")
        assert [row["state"] for row in rows] == ["failed", "complete"] * 2 and rows[0]["error"] == "no memory"
        monkeypatch.setattr(sweeping, "_run", lambda words, place, left: (None, "no memory"))
        with pytest.raises(InputError, match="all 3 trials failed; the last one: no memory"):
            main(["sweep", written(), "--output=other", "--trials=9"])

    @pytest.mark.slow
    def test_a_metric_that_is_not_logged_ends_it_with_those_that_are(self, ran):
        with pytest.raises(InputError, match="has val_f1, which trial 0 did not log; it logged val_accuracy"):
            main(["sweep", written(metric={"name": "val_f1", "goal": "maximize"}), "--output=out"])

    @pytest.mark.slow
    def test_another_sweep_needs_another_folder(self, ran):
        main(["sweep", written(), "--output=out", "--trials=1"])
        with pytest.raises(InputError, match="output: out has trials of another sweep or seed"):
            main(["sweep", written(), "--output=out", "--seed=1"])
        with pytest.raises(InputError, match="trials is 0"):
            main(["sweep", written(), "--output=out", "--trials=0"])

    @pytest.mark.slow
    def test_a_folder_of_any_name_has_its_own_database_and_one_of_other_files_is_left_alone(self, ran):
        for name in ("a?b#c%20", "a?d"):
            main(["sweep", written(), f"--output={name}", "--trials=1"])
        assert not Path("a").exists() and len(ran) == 2
        Path("a?d/sweep.db").write_bytes(b"no database" * 400)
        with pytest.raises(InputError, match=r"output: a\?d/sweep.db cannot be read .* \(file is not a database\)"):
            main(["sweep", written(), "--output=a?d"])
        Path("a?d/sweep.db").unlink()
        with pytest.raises(InputError, match=r"a\?d has files, and no trials of a sweep \(sweep.db\)"):
            main(["sweep", written(), "--output=a?d"])

    @pytest.mark.slow
    def test_a_recipe_writes_to_the_folder_of_its_trial(self, ran):
        words = ["${program}", "recipe", "foe", "-c", "recipes/foe_digits.yaml", "${args}"]
        main(["sweep", written(command=words), "--output=out", "--trials=1"])
        assert ran[0][-1] == "--output=out/trials/0/run" and ran[0][:2] == ["recipe", "foe"]


def test_metrics_of_a_recipe_are_those_of_its_method_on_validation():
    report = Report("frugal", {}, main="FrugalFoE")
    report.validation.metric = "accuracy - trade_off * cost"
    for seed in (0, 1):
        report.add("FrugalFoE", "accuracy - trade_off * cost", seed, seed, "val")
        report.add("FrugalFoE", "accuracy", 0.5, seed)
    assert report.metrics(report.main) == {"test_accuracy": 0.5, "val_accuracy_trade_off_cost": 0.5}


@pytest.mark.slow
class TestProcesses:
    """Trials in processes of their own, as a user runs them."""

    @pytest.fixture(autouse=True)
    def _python(self, monkeypatch):
        monkeypatch.setattr("sys.executable", warm.python())

    def test_a_training_run_is_a_trial(self):
        words = ["${program}", "fit", "-c", "experts/digits.yaml", "--overwrite=true", "${args}"]
        write_yaml(
            Path("quick.yaml"), {"trainer": {"max_epochs": 1, "limit_train_batches": 1, "enable_progress_bar": False}}
        )
        parameters = {"config": {"values": ["quick.yaml", "missing.yaml"]}}  # it fails before anything is imported
        best = main(["sweep", written(command=words, method="grid", parameters=parameters), "--output=out"])
        rows = table("out")
        assert [row["state"] for row in rows] == ["complete", "failed"] and "no file missing.yaml" in rows[1]["error"]
        assert best.value == json.loads(Path("out/trials/0/metrics.json").read_text())["val_accuracy"]

    def test_a_trial_ends_with_a_sweep_that_is_killed(self):
        """A process whose standard input is closed by the end of the one that started it."""
        script = "import time; from lightning_fusion.cli.trial import end_with_sweep; end_with_sweep(); time.sleep(60)"
        process = subprocess.Popen([warm.python(), "-c", script], stdin=subprocess.PIPE)
        process.stdin.close()
        assert process.wait(50) == -signal.SIGTERM

    def test_an_unknown_parameter_ends_it_before_the_first_trial(self):
        with pytest.raises(InputError, match=r"the command of the first trial is not valid: .*no_such"):
            main(["sweep", written(parameters={"model.init_args.no_such": {"value": 1}}), "--output=out"])
        assert not Path("out/trials/0/metrics.json").exists()
