"""The help of the commands: complete, and printed before anything large is imported."""

import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys

import pytest
from lightning import LightningDataModule
from lightning.pytorch.cli import LightningCLI
from torch import nn

import lightning_fusion
from lightning_fusion.cli.help import COMMANDS, TRAINING, find_function, recipes, subclasses
from lightning_fusion.cli.main import main
from lightning_fusion.schedules import Schedule

FUNCTIONS = {f"recipe {name}": path for name, path in recipes().items()} | {
    name: path for name, path in COMMANDS.items() if path
}
LARGE = ("torch", "lightning", "jsonargparse", "numpy", "pandas", "sklearn", "transformers")


@pytest.mark.slow
def test_nothing_large_is_imported():
    commands = [["--version"], ["--help"], ["recipe", "--help"], ["configs", "foe/digits.yaml"]]
    commands += [[*name.split(), "--help"] for name in FUNCTIONS]
    code = (
        f"import sys; from lightning_fusion.cli.main import main\nfor args in {commands}:\n main(args)\n"
        f" print('imported', args, *(name for name in {LARGE} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    found = [line for line in done.stdout.splitlines() if line.startswith("imported ")]
    assert found == [f"imported {args}" for args in commands]


@pytest.mark.parametrize("args", [["--help"], ["recipe", "foe", "--help"]])
def test_the_encoding_of_the_terminal_does_not_matter(args):
    """The source has signs beyond ASCII; test_locales.py runs a command."""
    ascii_only = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "lightning_fusion", *args]
    done = subprocess.run(command, capture_output=True, env=ascii_only, timeout=120)
    assert done.returncode == 0, done.stderr
    assert b"usage: " in done.stdout


@pytest.mark.parametrize("command", ["nonsense", "recipe"])
def test_neither_is_it_for_a_wrong_command(command):
    code = f"import sys; from lightning_fusion.cli.main import main\ntry: main([{command!r}])\n"
    code += "except ValueError: sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize("command", FUNCTIONS)
def test_the_help_has_every_argument_with_its_description(command, capsys):
    main([*command.split(), "--help"])
    text = capsys.readouterr().out
    parameters = inspect.signature(pkgutil.resolve_name(FUNCTIONS[command])).parameters
    options = re.findall(r"^  --(\w+)(?:\.KEY)? VALUE\s+(\S+)", text, flags=re.MULTILINE)
    assert [name for name, _ in options] == list(parameters)
    assert [name for name, first in options if first.startswith("(")] == []  # a type without a description
    required = [name for name, each in parameters.items() if each.default is each.empty]
    assert re.findall(r"--(\w+) [A-Z_]+", text.partition("[options]")[0].partition("]")[2]) == required


@pytest.mark.parametrize("path", FUNCTIONS.values())
def test_a_function_is_found_in_its_source(path):
    found, function = find_function(path), pkgutil.resolve_name(path)
    assert found is not None and found.lineno == inspect.getsourcelines(function)[1]


@pytest.mark.parametrize("path", ["no_such_module.f", "f", "math.pi", "lightning_fusion.cli.help.nothing"])
def test_other_functions_are_not(path):
    assert find_function(path) is None


def test_the_help_of_a_recipe_of_ones_own(capsys):
    main(["recipe", "thirdparty.recipe.constant", "--help"])
    assert re.search(r"--answer VALUE +[(]type: int, default: 3[)]", capsys.readouterr().out)


@pytest.mark.parametrize("kind", [LightningDataModule, Schedule, nn.Module])
def test_the_classes_of_the_source_are_those_that_python_sees(kind):
    for module in pkgutil.walk_packages(lightning_fusion.__path__, "lightning_fusion."):
        importlib.import_module(module.name)
    seen, below = set(), {kind}
    while below:
        one = below.pop()
        below |= set(one.__subclasses__())
        seen.add(one)
    own = {one for one in seen if one.__module__.startswith("lightning_fusion.")}
    known = [pkgutil.resolve_name(path) for path in subclasses(kind.__name__)]
    missing = own - set(known)
    if kind is nn.Module:  # not those that are modules through another library's class
        missing = {one for one in missing if nn.Module in one.__bases__}
    parts = (
        "EarlyParts|EverySplit|ExportedNetwork|PolicyState|SlicedDataModule|SplitMetrics|Teacher|TrialEvaluation|_.+"
    )
    parts += r"|RoundedImages|Waveforms|\w+Rule"
    bases = {one for one in missing if re.search("[Bb]ase class|to be combined with", one.__doc__ or "")}
    abstract = {one for one in missing if inspect.isabstract(one)}
    assert {one for one in missing - bases - abstract if not re.fullmatch(parts, one.__name__)} == set()
    assert set(known) <= own - abstract


def test_the_training_commands_are_lightnings():
    assert list(TRAINING) == list(LightningCLI.subcommands())
