"""Completion of commands, options and shipped files in shells."""

import argparse
from collections.abc import Iterable

from lightning_fusion.cli.configs import shipped_names
from lightning_fusion.cli.help import COMMANDS, OF_RUN, TRAINING, find_function, recipes, summary
from lightning_fusion.errors import InputError
from lightning_fusion.extras import require

SHELLS = ("bash", "zsh")
_FILES = "_lightning_fusion_files"
_OF_TRAINING = ("model", "data", "trainer", "ckpt_path", "seed_everything", "print_config")


def completion(shell: str) -> str:
    """Return the script that completes the command line in a shell.

    Options of classes (``--model.init_args.lr``) depend on the class and are not completed.

    Args:
        shell: One of :data:`SHELLS`.

    Raises:
        InputError: If the shell is another one, or shtab (extra ``completion``) is not installed.
    """
    if shell not in SHELLS:
        raise InputError(f"--print_completion: found {shell!r}; expected {' or '.join(SHELLS)}")
    shtab = require("shtab", "completion")
    names = " ".join(shipped_names())
    preamble = {
        "bash": f'{_FILES}() {{\n  compgen -W "{names}" -- "$1"\n  compgen -f -- "$1"\n}}\n',
        "zsh": f"{_FILES}() {{\n  compadd {names}\n  _files\n}}\n",
    }
    script: str = shtab.complete(_program(), shell=shell, preamble=preamble)
    return script


def _program() -> argparse.ArgumentParser:
    """Return a parser of all commands and their options."""
    program = argparse.ArgumentParser("lightning-fusion")
    program.add_argument("--version", action="store_true")
    commands = program.add_subparsers()
    trainer = _trainer_options()
    for name, text in TRAINING.items():
        options = [*_OF_TRAINING, *trainer, *(["overwrite"] if name == "fit" else [])]
        _add(commands.add_parser(name, help=text), [*options, *_of_run(name)])
    for name, path in COMMANDS.items():
        if name == "recipe":
            inner = commands.add_parser(name, help="Run the protocol of a paper").add_subparsers()
            for recipe, of_recipe in recipes().items():
                _add(inner.add_parser(recipe, help=summary(of_recipe)), [*_options(of_recipe), *trainer])
        elif not name.endswith(OF_RUN):
            more = [*(trainer if "trainer" in _options(path) else []), *_of_run(name)]
            _add(commands.add_parser(name, help=summary(path)), [*_options(path), *more])
    shown = commands.add_parser("configs", help="List and print shipped configuration files").add_argument("name")
    shown.choices = shipped_names()
    return program


def _options(path: str) -> list[str]:
    """Return the names of a function's arguments, from its source."""
    function = find_function(path)
    assert function is not None
    return [each.arg for each in (*function.args.args, *function.args.kwonlyargs)]


def _of_run(command: str) -> list[str]:
    """Return the options of a command with a run of a recipe."""
    path = COMMANDS.get(f"{command}{OF_RUN}")
    return [] if path is None else _options(path)


def _trainer_options() -> list[str]:
    """Return the options of Lightning's Trainer."""
    from inspect import signature

    from lightning import Trainer

    return [f"trainer.{name}" for name in signature(Trainer).parameters]


def _add(parser: argparse.ArgumentParser, options: Iterable[str]) -> None:
    """Add options; values may be files, and those of ``--config`` shipped ones."""
    config = parser.add_argument("-c", "--config")
    config.complete = dict.fromkeys(SHELLS, _FILES)  # type: ignore[attr-defined]  # read by shtab
    for name in dict.fromkeys(options):
        option = parser.add_argument(f"--{name}")
        option.complete = {"bash": "_shtab_compgen_files", "zsh": "_files"}  # type: ignore[attr-defined]
