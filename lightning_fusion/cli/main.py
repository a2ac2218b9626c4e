"""Entry point: reads the command, and imports only what it needs."""

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from lightning_fusion import __version__
from lightning_fusion.cli.help import COMMANDS, TRAINING, recipes, show_help, usage
from lightning_fusion.errors import InputError, input_error, suggestion

_HELP = ("-h", "--help")


def main(args: Sequence[str] | None = None) -> Any:
    """Run the command line.

    Args:
        args: Command and options. ``None`` (default) uses the arguments of the process.

    Returns:
        The result of the command: the CLI object, a report, a store, a diagnosis, or the manifest of an export; None
        from a shell.

    Raises:
        SystemExit: With status 2 and one line on standard error for wrong input, from a shell.
        InputError: For wrong input, when called with ``args``.
    """
    from_shell = args is None
    given = sys.argv[1:] if args is None else [str(arg) for arg in args]
    if from_shell:
        sys.path.insert(0, os.getcwd())  # the user's modules, as 'python -m' finds them
    # torch 2.14 deprecates what lightning 2.6 does on every batch transfer; users can do nothing about it
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    try:
        result = _dispatch(given)
    except Exception as error:
        wrong = input_error(error) or _wrong_input(error)  # the parser wraps errors of constructors
        if wrong is None or os.environ.get("LIGHTNING_FUSION_DEBUG"):
            raise
        if not from_shell:
            raise wrong from error
        print(f"lightning-fusion: error: {' '.join(str(wrong).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    return None if from_shell else result


def _wrong_input(error: Exception) -> InputError | None:
    """Convert errors that other libraries raise for wrong input."""
    if isinstance(error, (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)):
        return InputError(f"{error.strerror}: {error.filename}")
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, MisconfigurationException):
        return InputError(f"trainer: {error}")
    if isinstance(error, OmegaConfBaseException):
        return InputError(f"the configuration's interpolation fails: {str(error).partition(chr(10))[0]}")
    if isinstance(error, RuntimeError) and str(error).startswith("Early stopping conditioned on metric"):
        return InputError(f"trainer.callbacks: {error}")
    return None


def _dispatch(args: list[str]) -> Any:
    command, *rest = args or ["--help"]
    if command in _HELP:
        print(usage())
        return None
    if command == "--version":
        print(f"lightning-fusion {__version__}")
        return None
    if command not in TRAINING and command not in COMMANDS:
        known = [*TRAINING, *COMMANDS]
        raise InputError(f"found no command {command!r}{suggestion(command, known)}; there are {', '.join(known)}")
    if command in COMMANDS and not set(rest).isdisjoint(_HELP) and show_help(command, rest):
        return None
    if command == "recipe" and (not rest or rest[0].startswith("-")):
        raise InputError(f"recipe: found none; name one of {', '.join(recipes())} first")

    from jsonargparse import set_parsing_settings

    from lightning_fusion.cli.config import with_found_configs

    # an interpolation in a YAML names keys from the file's root, not from the subcommand's
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    if command in TRAINING:
        from lightning_fusion.cli.training import FusionCLI

        return FusionCLI(with_found_configs(args))
    from lightning_fusion.cli.commands import run

    return run(command, with_found_configs(rest))
