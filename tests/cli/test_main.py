"""The command line as its users call it: from digits to predictions, in a shell and from Python."""

import csv
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TESTS
from helpers.command_line import (
    CONFIGS,
    EXPERTS,
    TWO_BATCHES,
    collect_outputs,
    look_up,
    merged,
    parse,
    prepare,
    read,
    refused,
    shell,
    small,
    train_expert,
    write_yaml,
)
from lightning import LightningModule, Trainer
from thirdparty.acorl import Late, Weighted, Whitened
from thirdparty.fuser import PenalizedFuser, ShortFuser
from thirdparty.hat import Fading
from thirdparty.plain import Classifier, Encoder
from thirdparty.text import write_lines
from torch import multiprocessing

from lightning_fusion import Expert, FoEFuserModule, OutputsDataModule, __version__
from lightning_fusion.cli.help import TRAINING
from lightning_fusion.cli.main import main
from lightning_fusion.errors import InputError
from lightning_fusion.foe.fusers import MLPFuser


@pytest.fixture
def folder(tmp_path, tmp_path_factory, monkeypatch) -> Path:
    """A folder in which two experts are trained and their outputs stored; the current one."""
    return prepare(tmp_path_factory, tmp_path, monkeypatch)


def fuser_files(**trainer: Any) -> list[str]:
    """Arguments that train the shipped fuser for two batches."""
    override = merged(small(read("foe/digits.yaml")), {"trainer": TWO_BATCHES | trainer})
    return ["-c", "foe/digits.yaml", "-c", write_yaml(Path("small/fuser.yaml"), override)]


def weights(path: str | Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.slow
class TestTheWholeWay:
    def test_from_experts_to_predictions(self, folder):
        shutil.rmtree("runs")
        for number in range(2):
            cli = train_expert(number)
            assert cli.model.classes == cli.datamodule.classes and len(cli.model.classes) == 6
        outputs = collect_outputs()
        assert outputs.names == list(EXPERTS)
        diagnosis = main(["diagnose", "--store", "runs/digits/outputs", "--output", "diagnosis"])
        assert diagnosis.rows == len(outputs["train"])
        assert {path.name for path in Path("diagnosis").iterdir()} == {"diagnosis.json", "diagnosis.png"}

        files = fuser_files(limit_test_batches=None, limit_predict_batches=None)
        fitted = main(["fit", *files])
        assert fitted.model.expert_classes == outputs.expert_classes
        path = "runs/digits/fuser/label.ckpt"
        validated = main(["validate", *files, "--ckpt_path", path]).trainer.callback_metrics
        assert float(validated["val_accuracy"]) == pytest.approx(float(fitted.trainer.callback_metrics["val_accuracy"]))
        tested = float(main(["test", *files, "--ckpt_path", path]).trainer.callback_metrics["test_accuracy"])

        main(["predict", *files, "--ckpt_path", path])
        rows = list(csv.DictReader(Path("runs/digits/predictions.csv").read_text().splitlines()))
        part = outputs["test"]
        assert [int(row["index"]) for row in rows] == part.index.tolist()
        assert list(rows[0]) == ["index", "prediction", "confidence", *outputs.classes]
        for row in rows:
            values = [float(row[name]) for name in outputs.classes]
            assert sum(values) == pytest.approx(1, abs=1e-4) and float(row["confidence"]) == max(values)
            assert values[outputs.classes.index(row["prediction"])] == max(values)
        right = [row["prediction"] == outputs.classes[target] for row, target in zip(rows, part.target, strict=True)]
        assert sum(right) / len(right) == pytest.approx(tested)

    def test_collecting_again_asks_nobody(self, folder):
        before = {path: path.stat().st_mtime_ns for path in Path("runs/digits/outputs").rglob("*.*")}
        collect_outputs()
        assert {path: path.stat().st_mtime_ns for path in Path("runs/digits/outputs").rglob("*.*")} == before


@pytest.mark.slow
class TestShell:
    def test_the_program_finds_shipped_files_and_the_users_modules(self, tmp_path):
        config = small(read("experts/digits.yaml"))
        config["trainer"] = TWO_BATCHES | {"enable_progress_bar": False}
        config["trainer"]["callbacks"] = read("experts/digits.yaml")["trainer"]["callbacks"][:1]
        config["model"]["init_args"]["network"] = {"class_path": "own.Encoder"}
        write_yaml(tmp_path / "tiny.yaml", config)
        (tmp_path / "own.py").write_text((TESTS / "thirdparty/plain.py").read_text())
        done = shell(tmp_path, "lightning-fusion", "fit", "-c", "experts/digits.yaml", "-c", "tiny.yaml")
        assert done.returncode == 0, done.stderr
        assert "network.head.weight" in weights(tmp_path / "runs/digits/experts/domain_0.ckpt")

    def test_the_module_finds_shipped_files_and_prints_one_line_for_wrong_input_with_status_2(self, tmp_path):
        """Of a class that is found by its name alone, in a process that imported no data module of another file."""
        words = ["recipe", "foe", "--config", "recipes/foe_cifar100.yaml", "--data=ImageDataModule"]
        words += ["--data.init_args.root=missing", "--output=run"]
        done = shell(tmp_path, "python", "-m", "lightning_fusion", *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert re.fullmatch(r"lightning-fusion: error: root: found no folder missing.*\n", done.stderr)
        assert not list(tmp_path.iterdir())


class TestWords:
    """What main() makes of its first words; a shell only adds the exit status."""

    def run(self, monkeypatch, *args: str) -> int:
        monkeypatch.setattr("sys.argv", ["lightning-fusion", *args])
        monkeypatch.setattr("sys.path", list(sys.path))
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    @pytest.mark.parametrize("args", [[], ["--help"], ["-h"]])
    def test_help_lists_every_command(self, args, monkeypatch, capsys):
        assert self.run(monkeypatch, *args) == 0
        text = capsys.readouterr().out
        for command in [*TRAINING, "recipe", "collect", "diagnose", "export"]:
            assert re.search(rf"^  {command} ", text, flags=re.MULTILINE)
        assert str(CONFIGS) in text

    @pytest.mark.parametrize("command", ["fit", "collect", "recipe foe", "diagnose", "export"])
    def test_every_command_has_help(self, command, monkeypatch, capsys):
        assert self.run(monkeypatch, *command.split(), "--help") == 0
        assert "--config" in capsys.readouterr().out

    def test_help_names_the_classes_of_this_library_only(self, monkeypatch, capsys):
        assert self.run(monkeypatch, "recipe", "acorl", "--help") == 0
        text = capsys.readouterr().out
        kinds = [f"{kind}DataModule" for kind in ("Image", "Speaker", "Sensor", "Text")]
        for name in (*kinds, "encoders.SmallConvNet", "schedules.DANNRamp"):
            assert f"lightning_fusion.{name}" in re.sub(r"\n\s+", "", text)
        assert "torch.nn.Conv2d" not in text and len(text.splitlines()) < 500

    def test_the_help_of_fit_names_the_classes_of_this_library_only(self, monkeypatch, capsys):
        assert self.run(monkeypatch, "fit", "--help") == 0
        text = capsys.readouterr().out
        assert "lightning_fusion.ImageDataModule" in text and "lightning_fusion.ACoRLModule" in text
        assert "torch.nn.Conv2d" not in text and len(text.splitlines()) < 600

    def test_version(self, monkeypatch, capsys):
        assert self.run(monkeypatch, "--version") == 0
        assert capsys.readouterr().out == f"lightning-fusion {__version__}\n"

    @pytest.mark.parametrize(
        ("args", "says"),
        [
            (["nonsense"], "found no command 'nonsense'; there are fit, validate, test, predict, recipe, collect, "),
            (["colect"], "found no command 'colect'; did you mean collect[?]; there are fit, "),
            (["fit"], "the following arguments are required: fit.data, fit.model"),
            (["fit", "-c"], "argument -c/--config: expected one argument"),
            (["fit", "-c", "foe/nowhere.yaml"], "config: found no file foe/nowhere.yaml, and no shipped one"),
            (
                ["fit", "-c", "foe/digit.yaml"],
                "config: found no file .*; did you mean foe/digits.yaml[?]",
            ),
            (["recipe"], "recipe: found none; name one of acorl, acorl_forecast, acorl_shift"),
            (["recipe", "fooe"], "recipe: found 'fooe'; expected one of .*; did you mean foe[?]"),
            (["recipe", "nowhere.mine"], "recipe: nowhere.mine cannot be imported"),
            (["recipe", "math.pi"], "recipe: math.pi is a float; expected a function"),
            (["diagnose"], "the following arguments are required: store"),
        ],
    )
    def test_wrong_words_are_one_line_and_status_2(self, args, says, monkeypatch, capsys):
        assert self.run(monkeypatch, *args) == 2
        streams = capsys.readouterr()
        assert streams.out == "" and streams.err.count("\n") == 1
        assert re.match(f"lightning-fusion: error: {says}", streams.err)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["foe/digits.yaml", "configs/foe/digits.yaml", "foe/digits"])
    def test_a_shipped_file_has_three_spellings(self, name):
        assert parse(["fit", "-c", name])["model"]["class_path"].endswith("FoEFuserModule")
        assert parse(["fit", f"--config={name}"])["trainer"]["max_epochs"] == 50

    @pytest.mark.slow
    def test_a_file_of_the_user_goes_before_a_shipped_one(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        write_yaml(Path("foe/digits.yaml"), merged(read("foe/digits.yaml"), {"trainer": {"max_epochs": 7}}))
        assert parse(["fit", "-c", "foe/digits.yaml"])["trainer"]["max_epochs"] == 7


class TestOverrides:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("option", "key", "value"),
        [
            ("--model.init_args.optimizer.init_args.lr=0.5", "model.init_args.optimizer.init_args.lr", 0.5),
            ("--model.init_args.network.init_args.hidden=[3,4]", "model.init_args.network.init_args.hidden", [3, 4]),
            ("--model.init_args.save_experts=True", "model.init_args.save_experts", True),
            ("--model.init_args.save_experts=false", "model.init_args.save_experts", False),
            ("--model.init_args.network=null", "model.init_args.network", None),
            ("--trainer.max_epochs=null", "trainer.max_epochs", None),
            ("--trainer.logger=false", "trainer.logger", False),
            ("--seed_everything=3", "seed_everything", 3),
        ],
    )
    def test_a_value_of_any_type_is_taken(self, option, key, value):
        found = look_up(parse(["fit", "-c", "foe/digits.yaml", option]), key)
        assert found == value and type(found) is type(value)

    @pytest.mark.parametrize("option", ["--trainer.max_ep=3", "--data.init_args.batch=3", "--mod=x", "--seed=1"])
    def test_abbreviations_are_rejected(self, option):
        message = refused(["fit", "-c", "foe/digits.yaml", option])
        assert re.search(r"unrecognized arguments|not accepted|does not accept", message)

    @pytest.mark.slow
    def test_interpolations_follow_the_command_line(self):
        config = parse(["fit", "-c", "experts/digits.yaml", "--data.init_args.domain=3"])
        assert look_up(config, "trainer.logger.init_args.name") == "domain_3"
        assert config["trainer"]["callbacks"][0]["init_args"]["filename"] == "domain_3"
        config = parse(["fit", "-c", "foe/digits.yaml", "--model.init_args.target=expert"])
        assert config["trainer"]["callbacks"][0]["init_args"]["filename"] == "expert"

    @pytest.mark.slow
    def test_a_domain_that_is_a_number_is_a_name(self, tmp_path):
        file = write_yaml(tmp_path / "domain.yaml", {"data": {"init_args": {"domain": 0}}})
        config = parse(["fit", "-c", "experts/sensor_synthetic.yaml", "-c", file])
        assert look_up(config, "trainer.logger.init_args.name") == "0"

    @pytest.mark.slow
    def test_a_second_file_overrides_key_by_key_and_may_refer_to_the_first(self):
        first, second = (str(TESTS / "conf/composed" / name) for name in ("base.yaml", "more.yaml"))
        config = parse(["fit", "-c", first, "-c", second])
        optimizer = look_up(config, "model.init_args.optimizer.init_args")
        assert (optimizer["lr"], optimizer["weight_decay"]) == (0.01, 0.5)
        assert look_up(config, "trainer.default_root_dir") == "runs/batch_48"
        again = parse(["fit", "-c", first, "-c", second, "--data.init_args.batch_size=6"])
        assert look_up(again, "trainer.default_root_dir") == "runs/batch_6"

    @pytest.mark.slow
    def test_one_expert_of_a_file_is_changed_alone(self):
        key = "model.init_args.experts.domain_1.init_args.cost"
        config = parse(["fit", "-c", "foe/digits_raw.yaml", f"--{key}=2.5"])
        assert look_up(config, key) == 2.5
        assert look_up(config, key.replace("domain_1", "domain_0")) == 1.0
        assert look_up(config, key.replace("cost", "checkpoint")) == "runs/digits/experts/domain_1.ckpt"


class TestFacts:
    @pytest.mark.slow
    def test_they_reach_the_model(self, folder):
        cli = main(["fit", *fuser_files(fast_dev_run=True)])
        model, data = cli.model, cli.datamodule
        assert (model.classes, model.expert_classes) == (data.classes, data.expert_classes)
        assert model.hparams.domains == data.domains and model.hparams.expert_domains == data.expert_domains

    @pytest.mark.slow
    def test_the_experts_metadata_reach_its_checkpoint(self, folder):
        cli = train_expert(1)
        expert = Expert(checkpoint="runs/digits/experts/domain_1.ckpt")
        assert expert.domains == ["domain_1"] == cli.datamodule.own_domains
        assert expert.classes == cli.datamodule.classes and expert.preprocessing == cli.datamodule.preprocessing

    @pytest.mark.slow
    def test_what_the_user_writes_as_the_data_say_it_is_taken(self, folder):
        classes = [str(digit) for digit in range(10)]
        cli = main(["fit", *fuser_files(fast_dev_run=True), f"--model.init_args.classes={classes}"])
        assert cli.model.classes == classes

    @pytest.mark.slow
    def test_a_contradiction_is_rejected(self, folder):
        message = refused(["fit", *fuser_files(), "--model.init_args.classes=[cat,dog]"])
        says = "model.init_args.classes: the configuration or checkpoint has cat, dog, the data have 0, 1"
        assert message.startswith(says)

    @pytest.mark.slow
    def test_data_without_metadata_leave_the_users_values(self, folder):
        cli = main(["fit", "-c", str(TESTS / "conf/foreign_data.yaml")])
        assert cli.model.classes == ["quiet", "loud"]
        assert cli.model.trained_on == ["here"]
        assert "no_such_argument" not in cli.model.hparams and "domains" not in cli.model.hparams


@pytest.mark.slow
class TestCheckpoints:
    def test_built_in_python_tested_by_the_command_line(self, folder):
        data = OutputsDataModule("runs/digits/outputs", batch_size=16)
        model = FoEFuserModule(**data.outputs.fuser_arguments(), network=lambda i, o: MLPFuser(i, o, [8]))
        trainer = Trainer(**TWO_BATCHES, logger=False, enable_progress_bar=False, default_root_dir="python")
        trainer.fit(model, datamodule=data)
        trainer.save_checkpoint("python.ckpt")
        expected = trainer.test(model, datamodule=data, verbose=False)[0]["test_accuracy"]
        cli = main(["test", *fuser_files(), "--ckpt_path", "python.ckpt"])
        assert float(cli.trainer.callback_metrics["test_accuracy"]) == pytest.approx(expected)

    def test_built_by_the_command_line_tested_in_python(self, folder):
        files = fuser_files()
        main(["fit", *files])
        path = "runs/digits/fuser/label.ckpt"
        expected = float(main(["test", *files, "--ckpt_path", path]).trainer.callback_metrics["test_accuracy"])
        data = OutputsDataModule("runs/digits/outputs", batch_size=16)
        trainer = Trainer(**TWO_BATCHES, logger=False, enable_progress_bar=False)
        for kind in (FoEFuserModule, LightningModule):
            model = kind.load_from_checkpoint(path, weights_only=True)
            assert type(model) is FoEFuserModule and model.classes == data.classes
            assert trainer.test(model, datamodule=data, verbose=False)[0]["test_accuracy"] == pytest.approx(expected)

    @pytest.mark.slow
    def test_resuming_says_what_the_checkpoint_changes(self, folder, capsys):
        files = fuser_files(max_epochs=2)
        main(["fit", *files, "--trainer.max_epochs=1"])
        Path("runs/digits/fuser/label.ckpt").rename("first.ckpt")
        capsys.readouterr()
        changed = ["--model.init_args.optimizer.init_args.lr=0.5", "--model.init_args.seed=4"]
        changed += ["--model.init_args.scheduler=torch.optim.lr_scheduler.StepLR"]  # the checkpoint has null
        changed += ["--model.init_args.scheduler.init_args.step_size=1"]
        cli = main(["fit", *files, *changed, "--ckpt_path=first.ckpt"])
        said = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("ckpt_path: "))
        assert said == (
            "ckpt_path: first.ckpt sets init_args.optimizer.init_args.lr, init_args.scheduler, init_args.seed "
            "(resuming keeps the checkpoint's values)"
        )
        assert (cli.model.seed, cli.trainer.current_epoch, cli.trainer.global_step) == (0, 2, 4)
        assert cli.config.fit.model.init_args.scheduler is None and cli.model.hparams["scheduler"] is None
        main(["test", *files, "--ckpt_path=first.ckpt"])
        assert "ckpt_path: first.ckpt sets" not in capsys.readouterr().out

    def test_the_saved_configuration_runs_to_the_same_result(self, folder):
        main(["fit", *fuser_files(), "--model.init_args.target=expert"])
        first = weights("runs/digits/fuser/expert.ckpt")
        (saved,) = Path("runs/digits/logs/fuser").glob("*/config.yaml")
        Path("runs/digits/fuser/expert.ckpt").unlink()
        main(["fit", "-c", str(saved)])
        assert equal(weights("runs/digits/fuser/expert.ckpt"), first)
        assert len(list(Path("runs/digits/logs/fuser").glob("*/config.yaml"))) == 2


RUNNABLE = sorted((TESTS / "conf").glob("*.yaml"))


class TestOwnModules:
    @pytest.mark.slow
    @pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: path.stem)
    def test_fit_reload_test_and_predict(self, path, folder):
        write_lines(folder / "lines")  # of text_thirdparty
        cli = main(["fit", "-c", str(path), "--trainer.default_root_dir=run"])
        checkpoint = cli.trainer.checkpoint_callback.best_model_path
        trained = weights(checkpoint)
        loaded = LightningModule.load_from_checkpoint(checkpoint, weights_only=True)
        assert type(loaded) is type(cli.model)
        assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in trained.items())
        tested = main(["test", "-c", str(path), "--ckpt_path", checkpoint])
        assert any(key.startswith("test_") for key in tested.trainer.callback_metrics)
        main(["predict", "-c", str(path), "--ckpt_path", checkpoint])

    @pytest.mark.slow
    def test_a_subclass_has_its_own_argument_and_step(self, folder):
        path = str(TESTS / "conf/subclass.yaml")
        cli = main(["fit", "-c", path])
        assert isinstance(cli.model, PenalizedFuser) and cli.model.penalty == 0.25
        assert float(cli.trainer.callback_metrics["train_penalty_loss"]) > 0
        loaded = PenalizedFuser.load_from_checkpoint(cli.trainer.checkpoint_callback.best_model_path)
        assert loaded.penalty == 0.25 and loaded.classes == cli.datamodule.classes

    @pytest.mark.slow
    def test_a_subclass_that_passes_everything_on_takes_the_metadata_too(self, folder):
        options = ["--model.class_path=thirdparty.fuser.ShortFuser", "--model.init_args.penalty=2"]
        cli = main(["fit", *fuser_files(), *options])
        assert isinstance(cli.model, ShortFuser) and cli.model.penalty == 2
        loaded = ShortFuser.load_from_checkpoint("runs/digits/fuser/label.ckpt", weights_only=True)
        assert loaded.penalty == 2 and loaded.expert_classes == cli.datamodule.expert_classes

    @pytest.mark.slow
    def test_acorls_parts_from_outside_are_what_trains(self, folder):
        cli = main(["fit", "-c", str(TESTS / "conf/acorl_thirdparty.yaml"), "--trainer.limit_train_batches=4"])
        adversary = cli.model.adversary
        assert {name: part[0].out_features for name, part in adversary.projections.items()} == {"left": 2, "right": 2}
        assert all(isinstance(part, Whitened) and part.power == 0.5 for part in adversary.dissimilarities.values())
        assert cli.trainer.callback_metrics["train_lambda"] == pytest.approx(0.7)
        path = cli.trainer.checkpoint_callback.best_model_path
        loaded = Weighted.load_from_checkpoint(path, weights_only=True)
        assert (loaded.weights, loaded.schedule) == ({"left": 3.0}, Late(0.25, 0.7))
        assert Expert(checkpoint=path).classes == cli.datamodule.classes

    @pytest.mark.slow
    def test_hats_parts_from_outside_are_what_trains(self, folder):
        cli = main(["fit", "-c", str(TESTS / "conf/hat_thirdparty.yaml"), "--trainer.limit_train_batches=4"])
        assert isinstance(cli.model.network, Encoder) and cli.model.teacher.mixers[0].heads is None
        alpha = float(cli.trainer.callback_metrics["train_alpha"])
        assert alpha == pytest.approx(0.5**3)  # three quarters over a quarter
        assert [type(optimizer).__name__ for optimizer in cli.trainer.optimizers] == ["AdamW", "SGD"]
        assert cli.trainer.optimizers[1].param_groups[0]["lr"] == pytest.approx(0.1 / 2**4)
        path = cli.trainer.checkpoint_callback.best_model_path
        loaded = Fading.load_from_checkpoint(path, weights_only=True)
        assert loaded.half == 0.25 and equal(loaded.network.state_dict(), cli.model.network.state_dict())
        assert Expert(checkpoint=path).classes == cli.datamodule.classes and Expert(checkpoint=path).domains == ["all"]

    @pytest.mark.slow
    def test_a_network_from_outside_becomes_an_expert(self, folder):
        network = "--model.init_args.network"
        train_expert(0, f"{network}.class_path=thirdparty.plain.Encoder", f"{network}.init_args.bias=false")
        expert = Expert(checkpoint="runs/digits/experts/domain_0.ckpt")
        assert isinstance(expert.network, Encoder) and expert.network.head.bias is None

    @pytest.mark.slow
    def test_a_plain_module_needs_nothing_of_ours(self, folder):
        cli = main(["fit", "-c", str(TESTS / "conf/plain.yaml")])
        assert isinstance(cli.model, Classifier)
        path = cli.trainer.checkpoint_callback.best_model_path
        assert Classifier.load_from_checkpoint(path, weights_only=True).hparams.width == 4


def test_every_file_of_conf_runs_somewhere():
    assert {path.parent.name for path in (TESTS / "conf").rglob("*.yaml")} == {"conf", "composed", "misconfigured"}
    assert len(RUNNABLE) >= 4


def _fail(number: int) -> None:
    raise InputError("input: found none")


def _in_another(args: list[str]) -> None:
    """Fail in a process that torch starts; a fork imports nothing anew, and its error arrives as that of a spawn."""
    multiprocessing.start_processes(_fail, nprocs=1, start_method="fork")


@pytest.mark.slow
def test_wrong_input_of_another_process_is_wrong_input(monkeypatch):
    monkeypatch.setattr("lightning_fusion.cli.main._dispatch", _in_another)
    with pytest.raises(InputError, match=r"^input: found none$"):
        main(["predict"])
