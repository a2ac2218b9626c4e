"""Entry point: reads the command, and imports only what it needs."""

import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

from lightning_fusion import __version__
from lightning_fusion.cli.help import COMMANDS, OF_RUN, TRAINING, recipes, show_help, usage
from lightning_fusion.errors import InputError, chain, suggestion, system_error
from lightning_fusion.terminal import use_utf8

_HELP = ("-h", "--help")


def main(args: Sequence[str] | None = None) -> Any:
    """Run the command line.

    Args:
        args: Command and options. ``None`` (default) uses the arguments of the process.

    Returns:
        The result of the command: the CLI object, a report, a store, a diagnosis, or the manifest of an export; None
        from a shell.

    Raises:
        SystemExit: With status 2 and one line on standard error for wrong input, from a shell; with status 1 and the
            traceback for an error in the user's own code; with status 143 after SIGTERM, and 130 after SIGINT.
        InputError: For wrong input, when called with ``args``.
    """
    from_shell = args is None
    given = sys.argv[1:] if args is None else [str(arg) for arg in args]
    if from_shell:
        use_utf8()
        sys.path.insert(0, os.getcwd())  # the user's modules, as 'python -m' finds them
    # torch 2.14 deprecates what lightning 2.6 does on every batch transfer; users can do nothing about it
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    # fit replaces no checkpoint without --overwrite=true; Lightning warns of any file in the folder, such as a lock
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    try:
        result = _dispatch(given)
    except SystemExit as error:
        if type(error).__name__ != "SIGTERMException":
            raise
        # Lightning raises it between two batches; its status would be 0, as of a finished run
        print(
            "lightning-fusion: terminated by SIGTERM; the checkpoints of finished epochs are complete", file=sys.stderr
        )
        raise SystemExit(128 + signal.SIGTERM) from error
    except KeyboardInterrupt:
        if not from_shell:
            raise
        print("lightning-fusion: interrupted", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    except Exception as error:
        wrong, users = _converted(error)
        if os.environ.get("LIGHTNING_FUSION_DEBUG") or (wrong is None and users is None):
            raise
        if not from_shell:
            found = wrong or users
            if found is None or found is error:
                raise
            raise found from found.__cause__ or (error if wrong is not None and users is None else None)
        if users is not None:  # where it was raised
            traceback.print_exception(users)
        if wrong is None:
            raise SystemExit(1) from None
        print(f"lightning-fusion: error: {' '.join(str(wrong).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    return None if from_shell else result


def _converted(error: Exception) -> tuple[InputError | None, BaseException | None]:
    """Return the InputError of a chain, if any, and the exception of the user's own code.

    Where the user's code raised, there is an InputError only if the library made one of it.
    """
    from lightning_fusion.cli.messages import error_of_process, error_of_user

    if found := next((wrong for each in chain(error) if (wrong := error_of_process(each))), None):
        return found, None
    users = error_of_user(error)
    first = next((each for each in chain(error) if isinstance(each, InputError) or each is users), None)
    if isinstance(first, InputError):  # the parser wraps errors of constructors
        return first, users
    return (None, users) if users is not None else (_wrong_input(error), None)


def _wrong_input(error: Exception) -> InputError | None:
    """Convert errors that other libraries raise for wrong input."""
    if found := system_error(error):
        return found
    if isinstance(error, UnicodeDecodeError | UnicodeEncodeError) and error.encoding != "utf-8":
        return InputError(
            f"a file cannot be read or written in the encoding of this system ({error}); set PYTHONUTF8=1"
        )
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from omegaconf.errors import OmegaConfBaseException

    from lightning_fusion.cli.messages import error_of_spawn, error_of_trainer
    from lightning_fusion.extras import missing_package, tracker_error

    if found := error_of_spawn(error):
        return found
    if isinstance(error, MisconfigurationException) or error_of_trainer(error):
        return InputError(f"trainer: {error}")
    if isinstance(error, OmegaConfBaseException):
        return _wrong_interpolation(error)
    if missing := missing_package(error):
        return missing
    if found := tracker_error(error):
        return found
    if isinstance(error, RuntimeError) and str(error).startswith("Early stopping conditioned on metric"):
        return InputError(f"trainer.callbacks: {error}")
    return None


def _wrong_interpolation(error: Exception) -> InputError:
    """Say which key of a configuration has an interpolation that fails, and what it names."""
    text = str(error).partition("\n")[0]
    key = re.sub(r"^(fit|validate|test|predict)\.", "", str(getattr(error, "full_key", None) or "")) or "config"
    if found := re.search(r"Interpolation key '\.*([\w.\[\]]+)' not found", text):
        return InputError(f"{key}: refers to {found[1]}, which the configuration does not have; give {key} a value")
    return InputError(f"{key}: the interpolation fails ({text})")


def _dispatch(args: list[str]) -> Any:
    files, (command, *rest) = _leading_configs(args or ["--help"])
    if command in _HELP:
        return _show(usage())
    if command == "--version":
        print(f"lightning-fusion {__version__}")
        return None
    if command == "--print_completion" or command.startswith("--print_completion="):
        from lightning_fusion.cli.completion import completion

        return _show(completion(command.partition("=")[2] or " ".join(rest[:1])))
    if command == "configs":
        from lightning_fusion.cli.configs import USAGE, show_configs

        return _show(USAGE if not set(rest).isdisjoint(_HELP) else show_configs(rest))
    known = [*TRAINING, *(name for name in COMMANDS if not name.endswith(OF_RUN)), "configs"]
    if command.startswith("-"):
        raise InputError(f"found the option {command} and no command; there are {', '.join(known)}")
    if command not in TRAINING and command not in COMMANDS:
        raise InputError(f"found no command {command!r}{suggestion(command, known)}; there are {', '.join(known)}")
    if f"{command}{OF_RUN}" in COMMANDS and any(arg.partition("=")[0] == "--run" for arg in rest):
        command += OF_RUN
    if command == "sweep" and rest and not rest[0].startswith("-"):
        rest = ["--file", *rest]
    if command in COMMANDS and not set(rest).isdisjoint(_HELP) and show_help(command, rest):
        return None
    if command == "recipe" and (not rest or rest[0].startswith("-")):
        raise InputError(f"recipe: found none; name one of {', '.join(recipes())} first")

    from lightning_fusion.cli.config import find_config, read_config, with_found_configs
    from lightning_fusion.cli.kinds import check_kind, has_sections

    shared: list[str] = []  # files with sections by command
    for name in reversed(files):
        path = find_config(name)
        if command in TRAINING and has_sections(read_config(path)):
            shared[:0] = ["--config", path]
        else:
            rest[command == "recipe" : command == "recipe"] = ["--config", path]
    shown = f"recipe {rest[0]}" if command == "recipe" else command
    rest = with_found_configs(rest, partial(check_kind, shown), command in TRAINING, command)

    from jsonargparse import set_parsing_settings

    # an interpolation in a YAML names keys from the file's root, not from the subcommand's
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    if command in TRAINING:
        from lightning_fusion.cli.training import FusionCLI

        return FusionCLI([*shared, command, *rest])
    from lightning_fusion.cli.commands import run

    return run(command, rest)


def _show(text: str) -> None:
    """Print a text; a reader that has seen enough, such as head, is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends


def _leading_configs(args: list[str]) -> tuple[list[str], list[str]]:
    """Split off the configuration files before the command, as LightningCLI permits."""
    from lightning_fusion.cli.config import config_files

    files, end = [], 0
    for position, size, name in config_files(args):
        if position != end or end + size >= len(args):
            break
        files.append(name)
        end += size
    return files, args[end:]
