"""The command line: LightningCLI for ``fit``, ``validate``, ``test`` and ``predict``, and four commands of our own."""

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from jsonargparse import Namespace, set_parsing_settings
from lightning import LightningDataModule, LightningModule
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from omegaconf.errors import OmegaConfBaseException

from lightning_fusion import __version__
from lightning_fusion.cli.commands import COMMANDS, recipes
from lightning_fusion.cli.config import FusionSaveConfig, flat, shipped_configs, with_found_configs
from lightning_fusion.cli.parser import FusionArgumentParser, input_error
from lightning_fusion.errors import InputError, shorten, suggestion
from lightning_fusion.hyperparameters import constructor_arguments, read_checkpoint

_USAGE = """usage: lightning-fusion COMMAND [options]

commands of a training run (LightningCLI):
  fit         train an expert, a fuser, ... from a YAML: -c FILE
  validate    evaluate on the validation split
  test        evaluate on the test split
  predict     predict the test split

commands around it:
  recipe      a paper's whole protocol: recipe {recipes} --config FILE --output DIR
  collect     ask a pool of experts about a data set, once, and store the answers
  diagnose    say whether fusing is worth it, before anything is trained
  export      a fused network as one torch.export program or ONNX file

'lightning-fusion COMMAND --help' lists the options. A configuration file that does not exist is looked up among the
shipped ones: {configs}"""

# Facts that flow from the data module to the model, by the name that both use.
_LINKS = {
    "classes": "classes",
    "expert_classes": "expert_classes",
    "expert_domains": "expert_domains",
    "feature_dims": "feature_dims",
    "domains": "domains",
    "own_domains": "trained_on",
    "preprocessing": "preprocessing",
    "vocab_size": "vocab_size",
}


class FusionCLI(LightningCLI):
    """LightningCLI in subclass mode on both sides, with facts that flow from the data module to the model."""

    def __init__(self, args: Sequence[str]) -> None:
        super().__init__(
            LightningModule,
            LightningDataModule,
            save_config_callback=FusionSaveConfig,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            parser_kwargs={"parser_mode": "omegaconf+", "version": __version__},
            parser_class=FusionArgumentParser,
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=list(args),
            auto_configure_optimizers=False,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the given arguments; those of the process do not matter here."""
        self.config = parser.parse_args(args)

    def before_instantiate_classes(self) -> None:
        """Link the data module's facts to those arguments of the chosen model class that have the same name.

        Links are made here, when both classes are known: a link to an argument that the class does not have would
        end up among the checkpoint's hyperparameters.
        """
        chosen = self.config[self.subcommand]
        if not chosen.get("data") or not chosen.get("model"):
            return
        has = resolve_name(chosen.data.class_path)
        takes = constructor_arguments(resolve_name(chosen.model.class_path))
        for source, target in _LINKS.items():
            if target in takes and hasattr(has, source):
                self._parser(self.subcommand).link_arguments(
                    "data", f"model.init_args.{target}", compute_fn=self._fact(source, target), apply_on="instantiate"
                )

    def _fact(self, source: str, target: str) -> Callable[[Any], Any]:
        written = self.config[self.subcommand].get(f"model.init_args.{target}")
        written = written.as_dict() if isinstance(written, Namespace) else written

        def fact(data: Any) -> Any:
            value = getattr(data, source)
            if written is None or written == value:
                return value
            if target in ("classes", "expert_classes"):
                raise InputError(
                    f"model.init_args.{target}: the configuration or checkpoint says {shorten(written)}, the data say "
                    f"{shorten(value)}; change the data, or leave {target} out"
                )
            return written

        return fact

    def _parse_ckpt_path(self) -> None:
        """Take the model's arguments from the checkpoint, as Lightning does, and say which ones that changes.

        A checkpoint that names no class was written by a module built in Python from objects: the YAML stands.
        """
        subcommand = self.config.get("subcommand")
        path = self.config[subcommand].get("ckpt_path") if subcommand else None
        if not path or not Path(path).is_file():
            if path and path not in ("best", "last", "hpc", "registry"):
                raise InputError(f"ckpt_path: found no file {path}")
            return
        recorded = read_checkpoint(path, "ckpt_path").get("hyper_parameters", {})
        if "_class_path" not in recorded:
            return
        chosen = self.config[subcommand].model.class_path
        if not _same_class(recorded["_class_path"], chosen):
            raise InputError(
                f"ckpt_path: {path} holds a {recorded['_class_path']}, the configuration names {chosen}; give the "
                "checkpoint's own configuration, or change model.class_path"
            )
        before = flat(self.config[subcommand].get("model").as_dict())
        super()._parse_ckpt_path()
        after = flat(self.config[subcommand].get("model").as_dict())
        from_data = {f"init_args.{name}" for name in _LINKS.values()}
        changed = [
            key
            for key in after
            if key.startswith("init_args.")
            and key in before
            and before[key] != after[key]
            and not (key in from_data and before[key] is None)
        ]
        if changed:
            print(f"ckpt_path: {path} sets {shorten(changed, 20)} (resuming keeps the checkpoint's values)")


def _same_class(one: str, other: str) -> bool:
    """Whether two import paths name one class; what is not imported yet is compared by name, not imported."""
    if one == other:
        return True
    kind = resolve_name(other)
    module, _, name = one.rpartition(".")
    return one == f"{kind.__module__}.{kind.__qualname__}" or getattr(sys.modules.get(module), name, None) is kind


def main(args: Sequence[str] | None = None) -> Any:
    """Run the command line.

    Args:
        args: Command and options; those of the process where None.

    Returns:
        What the command made: the CLI object, a report, a store, a diagnosis, or an export's manifest; None from a
        shell.

    Raises:
        SystemExit: With status 2 and one line on standard error for wrong input, from a shell.
        InputError: For wrong input, when called with ``args``.
    """
    from_shell = args is None
    given = sys.argv[1:] if args is None else [str(arg) for arg in args]
    if from_shell:
        sys.path.insert(0, os.getcwd())  # a user's own modules, as 'python -m' finds them
    # torch 2.14 deprecates what lightning 2.6 does on every batch transfer; users can do nothing about it
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    try:
        result = _dispatch(given)
    except Exception as error:
        wrong = input_error(error)  # the parser wraps what a constructor says
        if wrong is None and isinstance(
            error, (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
        ):
            wrong = InputError(f"{error.strerror}: {error.filename}")
        if wrong is None and isinstance(error, MisconfigurationException):
            wrong = InputError(f"trainer: {error}")
        if wrong is None and isinstance(error, OmegaConfBaseException):
            wrong = InputError(f"the configuration's interpolation fails: {str(error).partition(chr(10))[0]}")
        if wrong is None or os.environ.get("LIGHTNING_FUSION_DEBUG"):
            raise
        if not from_shell:
            raise wrong from error
        print(f"lightning-fusion: error: {' '.join(str(wrong).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    return None if from_shell else result


def _dispatch(args: list[str]) -> Any:
    # an interpolation in a YAML names keys from the file's root, not from the subcommand's
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    command = args[0] if args else "--help"
    if command in ("-h", "--help"):
        print(_USAGE.format(recipes="{" + ",".join(recipes()) + "}", configs=shipped_configs()))
        return None
    if command == "--version":
        print(f"lightning-fusion {__version__}")
        return None
    if command in COMMANDS:
        return COMMANDS[command](with_found_configs(args[1:]))
    known = [*FusionCLI.subcommands(), *COMMANDS]
    if command not in known:
        raise InputError(f"found no command {command!r}{suggestion(command, known)}; there are {', '.join(known)}")
    return FusionCLI(with_found_configs(args))
