"""Mistakes on the command line: each subcommand with each kind of mistake says what is wrong, and nothing is lost."""

import multiprocessing
import re
import sys
import traceback
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from helpers import tiny
from helpers.command_line import CONFIGS, parse, read, refused, write_yaml
from torch import nn

from lightning_fusion import Expert
from lightning_fusion.cli.main import main
from lightning_fusion.cli.messages import error_of_spawn

slow = pytest.mark.slow
QUIET = ["--trainer.max_epochs=1", "--trainer.enable_model_summary=false", "--trainer.enable_progress_bar=false"]
FUSER = ["-c", "foe/digits.yaml", *QUIET, "--model.init_args.network.init_args.hidden=[4]"]
CHECKPOINT = Path("runs/digits/fuser/label.ckpt")
MINE = """
import torch
from torch import nn
from lightning import LightningDataModule
from lightning_fusion.data.tensors import TensorDataModule


class Net(nn.Module):
    def __init__(self, num_classes: int, width: int = 3) -> None:
        super().__init__()
        self.head = nn.Linear(4, num_classes)
        if width > 5:
            raise ValueError("the width is too large")
        self.width = width

    def forward(self, input):
        if self.width == 5:
            raise KeyError("of my forward")
        return self.head(input)


class Data(TensorDataModule):
    def __init__(self, fail: bool = False, seed: int = 0, vocabulary: int = 7) -> None:
        parts = {}
        for split in ("train", "val", "test"):
            target = torch.arange(12) % 3
            parts[split] = (torch.randn(12, 4), target, torch.stack([target != 2, target != 0], 1))
        super().__init__(parts, ["cat", "dog", "owl"], ["x", "y"], batch_size=4, seed=seed)
        self.save_hyperparameters()
        if fail:
            open("nowhere/mine.txt")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with a store, broken files and a module of the user; the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    tiny.outputs().save("runs/digits/outputs")
    Path("mine.py").write_text(MINE)
    Path("broken_import.py").write_text("import no_such_package_of_mine\n")
    yield tmp_path
    for name in ("mine", "broken_import"):
        sys.modules.pop(name, None)


def expert_files(*options: str) -> list[str]:
    """Arguments that train the user's network on the user's data with a shipped file."""
    network = {"class_path": "mine.Net", "init_args": {"width": 3}}
    content = {"model": {"class_path": "lightning_fusion.ExpertModule", "init_args": {"network": network}}}
    file = write_yaml(Path("network.yaml"), content)
    return ["-c", "experts/digits.yaml", "-c", file, "--data=mine.Data", *QUIET, *options]


MINE_FOLDER = "--trainer.default_root_dir=runs/mine"


class TestRunsThatDied:
    @pytest.mark.slow
    def test_an_argument_that_model_and_data_have_may_differ(self, folder):
        cli = main(["fit", *FUSER, "--data.init_args.seed=1"])
        assert (cli.model.seed, cli.datamodule.seed) == (0, 1)
        config = yaml.safe_load(next(Path("runs/digits/logs/fuser").rglob("config.yaml")).read_text())
        assert config["data"]["init_args"]["seed"] == 1

    @slow
    def test_data_of_the_user_may_log_an_argument_of_the_same_name(self, folder):
        (folder / "mine.py").write_text(MINE.replace("vocabulary", "label_smoothing"))
        cli = main(["fit", *expert_files(MINE_FOLDER)])
        assert cli.datamodule.hparams.label_smoothing == 7 and cli.model.hparams.label_smoothing == 0

    @pytest.mark.parametrize("name", ["foe/digits.yaml", "experts/digits.yaml", "acorl/digits.yaml", "hat/digits.yaml"])
    def test_the_progress_bar_of_a_shipped_file_can_be_turned_off(self, name):
        assert "RichProgressBar" not in str(read(name))  # Lightning's default; the Trainer raises where it is disabled

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "args",
        [
            ["-c", "foe/digits.yaml", "fit"],
            ["--config=foe/digits.yaml", "fit"],
            ["-cfoe/digits.yaml", "fit"],
            ["fit", "-cfoe/digits.yaml"],
            ["fit", "-c=foe/digits.yaml"],
        ],
    )
    def test_a_file_may_stand_before_the_command_and_without_a_blank(self, args):
        assert parse(args)["trainer"]["max_epochs"] == 50

    @slow
    def test_a_file_before_the_command_may_have_a_section_for_each_command(self, folder):
        sections = {name: read("foe/digits.yaml") for name in ("fit", "test")}
        sections["fit"]["trainer"]["max_epochs"] = 3
        for section in sections.values():  # interpolations name keys from the root of the file
            section["trainer"] = {"max_epochs": section["trainer"]["max_epochs"]}
        file = write_yaml(Path("sections.yaml"), sections)
        assert parse(["--config", file, "fit"])["trainer"]["max_epochs"] == 3
        assert parse(["--config", file, "test"])["trainer"]["max_epochs"] == 50
        says = "has the key fit, which fit does not take; it has sections by command: give it before the command"
        assert says in refused(["fit", "-c", file])

    @pytest.mark.slow
    def test_data_of_the_user_replace_those_of_a_shipped_file(self, folder):
        cli = main(["fit", *expert_files(MINE_FOLDER)])
        assert cli.model.classes == tiny.CLASSES
        assert {path.name for path in Path("runs/mine").iterdir()} == {"experts", "logs"}
        assert Path("runs/mine/experts/domain_all.ckpt").is_file()
        assert not Path("runs/digits/experts").exists()

    @pytest.mark.slow
    def test_a_value_that_the_new_data_lack_is_named(self, folder):
        message = refused(["fit", "-c", "experts/text_synthetic.yaml", "--data=mine.Data", MINE_FOLDER])
        key = "model.init_args.network.init_args.vocab_size"
        says = f"{key}: refers to data.init_args.vocab_size, which the configuration does not have; give {key} a value"
        assert message == says

    @pytest.mark.slow
    def test_a_model_of_the_user_replaces_that_of_a_shipped_file(self, folder):
        options = ["--model=lightning_fusion.ExpertModule", "--model.init_args.network=mine.Net"]
        config = parse(["fit", "-c", "foe/digits.yaml", *options])
        assert config["trainer"]["callbacks"][0]["init_args"]["filename"] == "fuser"


class TestNothingIsReplaced:
    @slow
    def test_a_second_fit_does_not_replace_the_checkpoint_of_the_first(self, folder):
        main(["fit", *FUSER])
        before = CHECKPOINT.read_bytes()
        message = refused(["fit", *FUSER])
        assert message == (
            "fit would replace runs/digits/fuser/label.ckpt of an earlier run; give --overwrite=true, "
            "--ckpt_path=runs/digits/fuser/label.ckpt to resume that run, or another --trainer.default_root_dir"
        )
        assert CHECKPOINT.read_bytes() == before
        main(["fit", *FUSER, "--trainer.fast_dev_run=true"])  # writes none
        assert CHECKPOINT.read_bytes() == before
        main(["fit", *FUSER, "--trainer.default_root_dir=runs/second"])
        assert Path("runs/second/fuser/label.ckpt").is_file() and CHECKPOINT.read_bytes() == before
        main(["fit", *FUSER, "--model.init_args.seed=1", "--overwrite=true"])
        assert CHECKPOINT.read_bytes() != before

    @slow
    def test_a_resumed_fit_goes_on_in_its_own_files_only(self, folder):
        main(["fit", *FUSER])
        CHECKPOINT.with_name("other.ckpt").write_bytes(CHECKPOINT.read_bytes())
        resumed = [*FUSER, "--trainer.max_epochs=2"]
        assert "would replace" in refused(["fit", *resumed, f"--ckpt_path={CHECKPOINT.with_name('other.ckpt')}"])
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="fit trained nothing")  # it replaces the file that it resumed
            cli = main(["fit", *resumed, f"--ckpt_path={CHECKPOINT}"])
        assert cli.trainer.current_epoch == 2
        with pytest.warns(UserWarning, match="fit trained nothing: .*label.ckpt is of epoch 2, and trainer.max_epochs"):
            main(["fit", *resumed, f"--ckpt_path={CHECKPOINT}"])

    @slow
    def test_the_saved_configuration_does_not_say_overwrite(self, folder):
        main(["fit", *FUSER, "--overwrite=true"])
        (saved,) = Path("runs/digits/logs").rglob("config.yaml")
        assert "would replace" in refused(["fit", "-c", str(saved)])

    @slow
    def test_a_policy_is_not_replaced_either(self, folder):
        arguments = ["fit", "-c", "foe/frugal_digits.yaml", "--trainer.enable_progress_bar=false"]
        main(arguments)
        assert "would replace runs/digits/policy of an earlier run" in refused(arguments)
        main([*arguments, "--overwrite=true"])

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "command", ["fit", *(pytest.param(each, marks=slow) for each in ("validate", "test", "predict"))]
    )
    @pytest.mark.parametrize(
        ("options", "found"),
        [
            (["--data=mine.Data"], "the data are mine.Data"),
            (["--data.init_args.store=runs/others"], "the data are runs/others"),
        ],
    )
    def test_other_data_do_not_write_into_the_folder_of_a_shipped_file(self, options, found, command, folder):
        message = refused([command, "-c", "foe/digits.yaml", *options])
        assert message.startswith("trainer.default_root_dir: runs/digits is the folder of ")
        assert found in message and message.endswith("as in --trainer.default_root_dir=runs/mine")

    @pytest.mark.slow
    def test_one_option_moves_everything_that_a_shipped_file_writes(self):
        for path in CONFIGS.rglob("*.yaml"):
            content = yaml.safe_load(path.read_text())
            trainer = content.get("trainer") or {}
            written = re.findall(r"'(?:save_dir|dirpath|path|folder)': '([^']+)'", str(content))
            if path.parent.name not in ("recipes", "sweeps", "trainer") and trainer:
                assert all(each.startswith("${trainer.default_root_dir}") for each in written), path

    @slow
    def test_collect_names_the_option(self, folder):
        pool = {name: {"class_path": "lightning_fusion.Expert", "init_args": {}} for name in ("a", "b")}
        for name, expert in tiny.experts().items():
            torch.save(expert.network.state_dict(), f"{name}.pt")
            pool[name]["init_args"] = {"checkpoint": f"{name}.pt", "classes": tiny.EXPERT_CLASSES[name]}
            pool[name]["init_args"]["network"] = {
                "class_path": "helpers.tiny.Net",
                "init_args": {"num_classes": 2, "norm": True},
            }
        file = write_yaml(Path("pool.yaml"), {"experts": pool, "data": {"class_path": "mine.Data"}, "output": "store"})
        main(["collect", "-c", file])
        torch.save(tiny.experts(1)["a"].network.state_dict(), "a.pt")
        assert refused(["collect", "-c", file]).endswith("or collect all again with overwrite (--overwrite=true)")
        main(["collect", "-c", file, "--overwrite=true"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["test", *(pytest.param(each, marks=slow) for each in ("validate", "predict", "fit"))]
)
def test_null_in_a_checkpoint_does_not_override_what_the_user_gave(command, folder):
    main(["fit", *FUSER])
    experts = {}
    for name, expert in tiny.experts().items():
        torch.save(expert.network.state_dict(), f"{name}.pt")
        network = {"class_path": "helpers.tiny.Net", "init_args": {"num_classes": 2, "norm": True}}
        arguments = {"checkpoint": f"{name}.pt", "classes": tiny.EXPERT_CLASSES[name], "network": network}
        experts[name] = {"class_path": "lightning_fusion.Expert", "init_args": arguments}
    file = write_yaml(Path("experts.yaml"), {"model": {"init_args": {"experts": experts}}})
    content = torch.load(CHECKPOINT, weights_only=True)
    assert content["hyper_parameters"]["experts"] is None
    content["experts"] = {name: Expert(**_built(each)).metadata() for name, each in experts.items()}
    torch.save(content, CHECKPOINT)
    options = ["--trainer.max_epochs=2", "--data.class_path=mine.Data", MINE_FOLDER, f"--ckpt_path={CHECKPOINT}"]
    cli = main([command, *FUSER, "-c", file, *options])
    assert cli.model.pool.names == ["a", "b"]


def _built(described: dict) -> dict:
    arguments = dict(described["init_args"])
    return arguments | {"network": lambda num_classes: tiny.Net(num_classes, norm=True)}


class TestTrainsNothing:
    @pytest.mark.slow
    @pytest.mark.parametrize("key", ["limit_train_batches", "max_steps", "max_epochs"])
    def test_fit_says_so(self, key):
        message = refused(["fit", *FUSER, f"--trainer.{key}=0"])
        assert message == f"trainer.{key}: found 0, with which fit trains nothing; give a positive number"

    @pytest.mark.slow
    @pytest.mark.parametrize("key", ["limit_train_batches", "max_steps"])
    def test_a_recipe_says_so(self, key, folder):
        args = ["recipe", "foe", "-c", "recipes/foe_digits.yaml", "--output=run", f"--trainer.{key}=0"]
        assert refused(args).startswith(f"trainer.{key}: found 0, with which no stage trains anything")
        assert not Path("run").exists()


class TestEntriesThatNoFileHas:
    CLASS = "lightning_fusion.Expert"
    REST = ("--data=mine.Data", "--output=store")

    @pytest.mark.parametrize("option", ["--experts.a.class_path=", "--experts.a=", "--experts.a.class_path "])
    @pytest.mark.parametrize("argument", ["init_args.checkpoint", "checkpoint"])
    def test_they_are_named_as_in_a_file(self, option, argument, folder):
        given = [*f"{option}{self.CLASS}".split(), f"--experts.a.{argument}=x.ckpt"]
        assert refused(["collect", *given, *self.REST]) == "experts.a: checkpoint: found no file x.ckpt"

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("args", "key"),
        [
            ("fit -c foe/digits.yaml", "model.init_args.experts.a"),
            ("export --checkpoint=x --output=y", "experts.a"),
            pytest.param(
                "collect -c experts/digits_pool.yaml --data=mine.Data --output=store", "experts.a", marks=slow
            ),
        ],
    )
    def test_in_every_command_and_beside_a_file(self, args, key, folder):
        given = [f"--{key}.class_path={self.CLASS}", f"--{key}.init_args.checkpoint=x.ckpt"]
        message = refused([*args.split(), *given])
        found = r"experts\.\w+: checkpoint: found no file (x|runs/digits/experts/domain_\d)\.ckpt"
        assert all(re.match(found, part) for part in message.split("; "))

    @pytest.mark.parametrize("argument", ["init_args.checkpoint", "checkpoint"])
    def test_an_argument_without_a_class_asks_for_it(self, argument, folder):
        message = refused(["collect", f"--experts.a.{argument}=x.ckpt", *self.REST])
        assert message == f"experts.a.{argument}: experts.a has no class; give --experts.a=CLASS before this option"

    @slow
    def test_baselines_of_a_recipe(self, folder):
        arguments = ["recipe", "foe", "-c", "recipes/foe_digits.yaml", "--output=run", "--trainer.devices=99"]
        baseline = "--baselines.mine.class_path=lightning_fusion.baselines.stacking.LogisticStacking"
        assert refused([*arguments, baseline, "--baselines.mine.init_args.seed=x"]).startswith("baselines:")
        assert "99 processes" in refused([*arguments, "--trainer.accelerator=cpu", baseline])


class TestProcesses:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("option", "says"),
        [
            ("--trainer.devices=99", r"trainer.devices: found 99 processes on \d+ cores; give at most \d+$"),
            pytest.param("--trainer.devices=0", "trainer: .*devices='?0.* is not a valid input", marks=slow),
            pytest.param("--trainer.strategy=ddpp", "trainer: You selected an invalid strategy name", marks=slow),
            pytest.param("--trainer.num_nodes=4", "trainer.num_nodes: found 4 without a cluster; set", marks=slow),
        ],
    )
    @pytest.mark.parametrize(
        "args",
        [
            ["fit", *FUSER],
            pytest.param(["recipe", "foe", "-c", "recipes/foe_digits.yaml", "--output=run"], marks=slow),
            pytest.param(["collect"], marks=slow),
        ],
    )
    def test_those_that_cannot_start_are_named_at_once(self, args, option, says, folder, monkeypatch):
        monkeypatch.delenv("MASTER_ADDR", raising=False)
        if args == ["collect"]:
            network = {"class_path": "mine.Net", "init_args": {"num_classes": 2}}
            arguments = {"network": network, "classes": ["cat", "dog"]}
            pool = {"a": {"class_path": "lightning_fusion.Expert", "init_args": arguments}}
            content = {"experts": pool, "data": {"class_path": "mine.Data"}, "output": "store"}
            args = ["collect", "-c", write_yaml(Path("pool.yaml"), content)]
        assert re.match(says, refused([*args, "--trainer.accelerator=cpu", option]))

    def test_a_module_that_spawn_cannot_send_names_the_strategy_that_builds_it(self):
        network = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
        with pytest.raises(RuntimeError) as caught:
            multiprocessing.get_context("spawn").Process(target=print, args=(network,)).start()
        assert re.match(
            r"trainer\.strategy: .* pickled, .* set trainer\.strategy=ddp", str(error_of_spawn(caught.value))
        )
        assert error_of_spawn(RuntimeError("other")) is None


class TestFilesOfAnotherKind:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("args", "says"),
        [
            ("collect -c foe/digits.yaml", "seed_everything, which collect does not take; it is a file for fit"),
            ("export -c foe/digits.yaml", "seed_everything, which export does not take; it is a file for fit"),
            ("diagnose -c foe/digits.yaml", "seed_everything, which diagnose does not take; it is a file for fit"),
            ("recipe foe -c foe/digits.yaml", "which recipe foe does not take; it is a file for fit"),
            ("fit -c recipes/foe_digits.yaml", "network, which fit does not take; it is a file for recipe foe"),
            ("test -c recipes/hat_wisdm.yaml", "which test does not take; it is a file for recipe hat"),
            ("collect -c recipes/foe_digits.yaml", "which collect does not take; it is a file for recipe foe"),
            (
                "recipe foe -c recipes/acorl_digits.yaml",
                "which recipe foe does not take; it is a file for recipe acorl",
            ),
            ("fit -c experts/digits_pool.yaml", "experts, which fit does not take; it is a file for collect or export"),
            ("fit -c foe/collect_digits.yaml", "output, which fit does not take; it is a file for collect"),
            ("predict -c sweeps/foe.yaml", "which predict does not take; it is a sweep of Weights & Biases"),
        ],
    )
    def test_it_says_which_command_it_is_for(self, args, says):
        message = refused(args.split())
        assert message.startswith("config: ") and says in message

    @pytest.mark.parametrize("command", ["fit", "test", "collect", "diagnose", "export", "recipe foe"])
    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("data: {a: [1, 2}\n", "bad.yaml, line 1, column 16: expected ',' or ']', but got '}'"),
            ("data:\n\ta: 1\n", "bad.yaml, line 2, column 1: found character '\\t'"),
            ("", "bad.yaml contains nothing; expected keys with values"),
            ("- data\n", "bad.yaml contains a list; expected keys with values"),
            ("data\n", "bad.yaml contains a str; expected keys with values"),
            ("data: {x: 1}\ndata: 2\n", "bad.yaml has data twice, in lines 1 and 2"),
            ("splitz: &a [*a]\n", "bad.yaml, line 1: this value contains itself by an alias"),
        ],
    )
    def test_a_broken_one_is_named_with_its_line(self, command, text, says, tmp_path):
        path = tmp_path / "bad.yaml"
        path.write_text(text)
        assert says in refused([*command.split(), "-c", str(path)])

    def test_the_nearest_names_come_first(self):
        message = refused(["recipe", "foe", "--config", "foe_digts"])
        assert re.search(r"the nearest of \S+ are .*recipes/foe_digits.yaml.* and \d+ more$", message)
        assert len(message) < 300 + len(str(CONFIGS))


@slow
class TestNearestNames:
    @pytest.mark.parametrize(
        ("option", "says"),
        [
            ("--model.init_args.network=SmolConvNet", "network: found no class SmolConvNet; did you mean "
             "lightning_fusion.encoders.SmallConvNet?"),
            ("--model.init_args.network.class_path=lightning_fusion.encoders.SmolConvNet", "did you mean "
             "lightning_fusion.encoders.SmallConvNet?"),
            ("--trainer.callbacks+=EarlyStoping", "trainer.callbacks: found no class EarlyStoping; did you mean "
             "lightning.pytorch.callbacks.EarlyStopping?"),
            ("--trainer.logger=CSVLoger", "did you mean lightning.pytorch.loggers.CSVLogger?"),
            ("--model.init_args.optimizer=AdmW", "did you mean torch.optim.AdamW?"),
            ("--data=digitz", "did you mean lightning_fusion.data.image.digits.DigitsDataModule?"),
            ("--model.init_args.metric=MulticlassF1Scor", "mean torchmetrics.classification.MulticlassF1Score?"),
            ("--data=DigitDataModule", "did you mean lightning_fusion.data.image.digits.DigitsDataModule?"),
            ("--model=ExprtModule", "did you mean lightning_fusion.ExpertModule?"),
            ("--model=lightning_fusion.ExprtModule", "did you mean lightning_fusion.ExpertModule?"),
            ("--model=no_such_module.ExpertModul", "found no module no_such_module for class "
             "no_such_module.ExpertModul; did you mean lightning_fusion.ExpertModule?"),
            ("--model.init_args.labl_smoothing=0.1", "'labl_smoothing' is not accepted; did you mean label_smoothing?"),
            ("--model.init_args.network.init_args.widht=3", "'widht' is not accepted; did you mean width?"),
            ("--trainer.devics=1", "unrecognized arguments: --trainer.devics=1; did you mean --trainer.devices?"),
            ("--modle.init_args.lr=1", "did you mean --model?"),
        ],
    )  # fmt: skip
    def test_of_classes_and_arguments(self, option, says):
        assert says in refused(["fit", "-c", "experts/digits.yaml", option])

    @pytest.mark.parametrize(
        ("args", "says"),
        [
            ("diagnose --store runs/digitz/outputs", "did you mean runs/digits/outputs?"),
            ("diagnose --stor runs/digits/outputs", "unrecognized arguments: --stor runs/digits/outputs; did you mean "
             "--store?"),
            ("test -c foe/digits.yaml --ckpt_path runs/digit", "found no file runs/digit; did you mean runs/digits?"),
            ("export --checkpoint runs/digit --output o --experts.a=lightning_fusion.Expert "
             "--experts.a.checkpoint=runs/digits/outptus", "did you mean runs/digits/outputs?"),
            ("recipe foe -c recipes/foe_digits.yaml --output o --expert_epoch=1", "did you mean --expert_epochs?"),
            ("recipe foe -c recipes/foe_digits.yaml --output o --network=SmolConvNet", "did you mean "
             "lightning_fusion.encoders.SmallConvNet?"),
            ("recipe foe -c recipes/foe_folders.yaml --output o --data.init_args.root=run", "did you mean runs?"),
        ],
    )  # fmt: skip
    def test_of_stores_files_and_options(self, args, says, folder):
        assert says in refused(args.split())

    def test_of_keys_in_a_file(self, tmp_path):
        content = read("foe/digits.yaml")
        content["trainer"]["max_epoch"] = content["trainer"].pop("max_epochs")
        message = refused(["fit", "-c", write_yaml(tmp_path / "own.yaml", content)])
        assert "does not accept option 'trainer.max_epoch'; did you mean trainer.max_epochs?" in message

    @pytest.mark.parametrize(
        ("option", "says"),
        [
            ("--data.init_args.batch_size=many", "Expected a <class 'int'>. Got value: many"),
            ("--seed_everything=abc", "Expected a <class 'bool'> or <class 'int'>. Got value: abc"),
            ("--trainer.precision=17", "Expected one of .*'bf16-mixed'.* Got value: 17"),
            ("--trainer.accelerator=gpuu", "trainer: .*`accelerator='gpuu'`"),
            ("--trainer.callbacks=EarlyStopping", "trainer.callbacks: .*arguments are required: monitor"),
            ("--trainer.val_check_interval=5000", "trainer: .*`val_check_interval` .5000. must be less than or equal"),
            ("--trainer.default_root_dir=mine.py", "Not a directory"),
            ("--trainer.strategy=ddpp", "trainer: .*`strategy='ddpp'`"),
        ],
    )
    def test_a_wrong_value_is_printed_with_what_was_expected(self, option, says, folder):
        assert re.search(says, refused(["fit", *FUSER, option]))


@slow
class TestErrorsOfTheUsersCode:
    @pytest.mark.parametrize(
        ("option", "kind", "line"),
        [
            ("--model.init_args.network.init_args.width=7", ValueError, "the width is too large"),
            ("--model.init_args.network.init_args.width=5", KeyError, "of my forward"),
            ("--data.init_args.fail=true", FileNotFoundError, 'open("nowhere/mine.txt")'),
            ("--model.init_args.network=broken_import.Net", ModuleNotFoundError, "import no_such_package_of_mine"),
            ("--model=broken_import.Module", ModuleNotFoundError, "import no_such_package_of_mine"),
        ],
    )
    def test_are_raised_where_they_happen(self, option, kind, line, folder):
        with pytest.raises(kind) as caught:
            main(["fit", *expert_files(MINE_FOLDER, option)])
        assert line in "".join(traceback.format_exception(caught.value))

    def test_a_process_prints_their_traceback(self, folder, monkeypatch, capsys):
        command = ["lightning-fusion", "fit", *expert_files(MINE_FOLDER)]
        monkeypatch.setattr("sys.argv", [*command, "--model.init_args.network.init_args.width=7"])
        monkeypatch.setattr("sys.path", list(sys.path))
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 1
        printed = capsys.readouterr().err
        assert re.search(r'mine.py", line \d+, in __init__\n.*\nValueError: the width is too large\n$', printed)
        assert "Does not validate" not in printed


def test_nearest_names_and_wrong_values():
    """The others of TestNearestNames are slow."""
    arguments = ["fit", "-c", "experts/digits.yaml"]
    message = refused([*arguments, "--model.init_args.network=SmolConvNet"])
    assert message.endswith("network: found no class SmolConvNet; did you mean lightning_fusion.encoders.SmallConvNet?")
    message = refused([*arguments, "--model.init_args.labl_smoothing=0.1"])
    assert message == "model: Option 'labl_smoothing' is not accepted; did you mean label_smoothing?"


@pytest.mark.slow
def test_an_error_of_the_users_constructor_is_raised_where_it_happens(folder):
    with pytest.raises(ValueError, match="the width is too large") as caught:
        main(["fit", *expert_files(MINE_FOLDER, "--model.init_args.network.init_args.width=7")])
    assert 'mine.py", line' in "".join(traceback.format_exception(caught.value))


@pytest.mark.slow
def test_data_without_experts_say_what_a_fuser_needs(folder):
    message = refused(["fit", *FUSER, "--data=mine.Data", MINE_FOLDER])
    assert message.startswith("expert_classes: found none; give experts=, or the stored outputs' **outputs.fuser_")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["test", pytest.param("validate", marks=slow), pytest.param("predict", marks=slow)])
def test_initial_weights_are_reported(command, folder):
    with pytest.warns(UserWarning, match=f"{command} has no --ckpt_path: the model is used with its initial weights"):
        main([command, *FUSER])
    message = refused([command, *FUSER, "--ckpt_path=last"])
    assert message == f"ckpt_path: last names a checkpoint of a fit in the same process; give {command} a file"


def test_the_help_lists_no_base_classes(capsys):
    main(["recipe", "foe", "--help"])
    text = capsys.readouterr().out
    for name in ("FusionDataModule", "DomainsDataModule", "BaseImageDataModule", "DataView", "SyntheticVoices"):
        assert not re.search(
            rf"\b{name}\b", text.partition("Classes of this library")[2].replace("\nFusionDataModule:", "")
        )
    assert "DigitsDataModule" in text
