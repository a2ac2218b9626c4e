"""The command line: LightningCLI for ``fit``, ``validate``, ``test`` and ``predict``, and four commands of our own."""

import inspect
import os
import re
import sys
import warnings
from argparse import Action
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, set_parsing_settings
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from omegaconf.errors import OmegaConfBaseException

from lightning_fusion import __version__
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.hyperparameters import read_checkpoint

RECIPES = {
    name: f"lightning_fusion.recipes.{name}.{name}"
    for name in ("foe", "frugal", "acorl", "hat", "generative", "multiple_choice", "text_evaluation")
}
"""Recipes by name, as import paths."""

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


def shipped_configs() -> Path:
    """The folder of the shipped YAMLs: inside an installed wheel, or beside the package in a clone."""
    package = Path(__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def find_config(name: str) -> str:
    """A configuration file by path, or by its name among the shipped ones.

    Args:
        name: ``my.yaml``, or ``foe/digits.yaml``, ``configs/foe/digits.yaml`` or ``foe/digits`` for a shipped file.

    Raises:
        InputError: If there is none; names those that there are.
    """
    if Path(name).is_file():
        return name
    root = shipped_configs()
    short = name.removeprefix("configs/")
    for candidate in (root / short, root / f"{short}.yaml"):
        if candidate.is_file():
            return str(candidate)
    known = sorted(str(path.relative_to(root)) for path in root.rglob("*.yaml"))
    raise InputError(f"config: found no file {name}, and no shipped one of that name; shipped are {shorten(known, 50)}")


# Rooms whose classes a YAML names; they are imported for the help, which lists only what is imported.
_ROOMS = (
    "acorl.dissimilarity",
    "acorl.module",
    "acorl.projection",
    "acorl.speaker_module",
    "data.image",
    "data.sensor",
    "data.speaker",
    "data.speech",
    "data.target",
    "data.text",
    "encoders",
    "experts.outputs",
    "experts.verification",
    "foe.frugal_module",
    "foe.generative_module",
    "foe.module",
    "hat.module",
    "schedules",
)
_SUBCLASSES = re.compile(r"known subclasses: ([\w., ]+)")


def _own_subclasses(found: re.Match[str]) -> str:
    own = [name for name in found[1].split(", ") if name.startswith(f"{__package__}.")]
    return (
        f"known subclasses: {', '.join(own)}, any other by its import path" if own else "any class by its import path"
    )


class FusionHelpFormatter(DefaultHelpFormatter):
    """Lists this library's subclasses only: those of torch and its friends would fill a thousand lines.

    Example:
        >>> _SUBCLASSES.sub(_own_subclasses, "(known subclasses: torch.nn.Module, lightning_fusion.Expert)")
        '(known subclasses: lightning_fusion.Expert, any other by its import path)'
    """

    def _expand_help(self, action: Action) -> str:
        return _SUBCLASSES.sub(_own_subclasses, super()._expand_help(action))


class FusionArgumentParser(LightningArgumentParser):
    """Takes no abbreviated options, says in one line which key is wrong, and keeps its help short."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        own: dict[str, Any] = {"allow_abbrev": False, "formatter_class": FusionHelpFormatter}
        super().__init__(*args, **(own | kwargs))

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """The help, with all of this library's classes."""
        for room in _ROOMS:
            import_module(f"{__package__}.{room}")
        return super().format_help(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Stop with one line that names the key; ``JSONARGPARSE_DEBUG=true`` shows everything."""
        if os.environ.get("JSONARGPARSE_DEBUG", "").lower() == "true":
            return super().error(message, ex)
        raise InputError(condense(message)) from _input_error(ex)


_NOISE = re.compile(
    r"(Parser key|Problem with given class_path|Does not validate|Subtypes:|Errors:|Given value|tip:|usage:|"
    r"Expected a <class 'NoneType'>)"
)


def condense(message: str) -> str:
    r"""The innermost complaint of a parser's message, after the keys that lead to it.

    Example:
        >>> condense('Parser key "model":\n  Errors:\n    - Option \'hidn\' is not accepted\n  Given value: 3')
        "model: Option 'hidn' is not accepted"
        >>> condense('Parser key "epochs":\n  Expected a <class \'int\'>. Got value: x')
        "epochs: Expected a <class 'int'>. Got value: x"
    """
    keys = list(dict.fromkeys(re.findall(r'Parser key "([^"]+)"', message)))
    lines = [re.sub(r"\s+", " ", line).strip(" -") for line in message.splitlines()]
    complaints = [line for line in lines if line and not _NOISE.match(line)]
    for line in lines:
        if (problem := re.match(r"Problem with given class_path '([^']+)'", line)) and complaints:
            complaints[0] = f"{problem[1]}: {complaints[0]}"
            break
    text = complaints[0] if complaints else re.sub(r"\s+", " ", message).strip()
    return f"{'.'.join(keys)}: {text}"[:600] if keys else text[:600]


def _input_error(error: BaseException | None) -> InputError | None:
    """The InputError that a chain of exceptions began with, where there is one."""
    while error is not None:
        if isinstance(error, InputError):
            return error
        error = error.__cause__ or error.__context__
    return None


class FusionSaveConfig(SaveConfigCallback):
    """Keep the configuration with each run: in the logger's own folder, and in wandb's record of the run."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save once, before anything is trained."""
        if self.already_saved:
            return
        text = self.parser.dump(self.config, skip_none=False)
        plain = yaml.safe_load(text)
        if trainer.is_global_zero:
            for folder in self._folders(trainer):
                folder.mkdir(parents=True, exist_ok=True)
                (folder / self.config_filename).write_text(text)
            for logger in trainer.loggers:
                record = getattr(getattr(logger, "experiment", None), "config", None)
                if type(logger).__name__ == "WandbLogger" and record is not None:
                    record.update(_flat(plain), allow_val_change=True)
        self.already_saved = True

    @staticmethod
    def _folders(trainer: Trainer) -> list[Path]:
        folders = []
        for logger in trainer.loggers:
            if type(logger).__name__ == "WandbLogger":  # its save_dir is shared by all runs
                folders.append(Path(logger.save_dir or ".") / str(logger.name) / str(logger.version))
            elif folder := getattr(logger, "log_dir", None):
                folders.append(Path(folder))
        return folders or [Path(trainer.default_root_dir)]


def _parameters(kind: type) -> set[str]:
    """Names of the constructor's arguments, and of those that its ``**kwargs`` pass on to a base class."""
    names: set[str] = set()
    for each in kind.__mro__:
        if "__init__" in vars(each):
            found = inspect.signature(each.__init__).parameters  # type: ignore[misc]
            names |= set(found)
            if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in found.values()):
                break
    return names


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots, as a sweep names them."""
    if not isinstance(config, dict) or not config:
        return {prefix: config}
    result: dict[str, Any] = {}
    for key, value in config.items():
        result |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return result


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
        takes = _parameters(resolve_name(chosen.model.class_path))
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
        before = _flat(self.config[subcommand].get("model").as_dict())
        super()._parse_ckpt_path()
        after = _flat(self.config[subcommand].get("model").as_dict())
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
        wrong = _input_error(error)  # the parser wraps what a constructor says
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
        print(_USAGE.format(recipes="{" + ",".join(RECIPES) + "}", configs=shipped_configs()))
        return None
    if command == "--version":
        print(f"lightning-fusion {__version__}")
        return None
    own: dict[str, Callable[[list[str]], Any]] = {
        "recipe": _recipe,
        "collect": _collect,
        "diagnose": _diagnose,
        "export": _export,
    }
    if command in own:
        return own[command](_with_found_configs(args[1:]))
    if command not in FusionCLI.subcommands():
        raise InputError(f"found no command {command!r}; there are {', '.join([*FusionCLI.subcommands(), *own])}")
    return FusionCLI(_with_found_configs(args))


def _refuse_doubled_keys(path: str) -> None:
    """YAML readers keep the last of two equal keys without a word: one of two experts of a name would be lost."""
    try:
        nodes = [yaml.compose(Path(path).read_text())]
    except (OSError, ValueError, yaml.YAMLError):
        return  # the parser says what is wrong
    while nodes:
        node = nodes.pop()
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
        if not isinstance(node, yaml.MappingNode):
            continue
        lines: dict[str, int] = {}
        for key, value in node.value:
            nodes.append(value)
            line = key.start_mark.line + 1
            name = str(key.value)
            if name in lines:
                raise InputError(f"config: {path} has {name} twice, in lines {lines[name]} and {line}")
            lines[name] = line


def _with_found_configs(args: list[str]) -> list[str]:
    result, previous = [], ""
    for arg in args:
        if previous in ("-c", "--config"):
            result.append(find_config(arg))
            _refuse_doubled_keys(result[-1])
        elif arg.startswith(("--config=", "-c=")):
            name, _, value = arg.partition("=")
            result.append(f"{name}={find_config(value)}")
            _refuse_doubled_keys(find_config(value))
        else:
            result.append(arg)
        previous = arg
    return result


def _parser(command: str, description: str) -> FusionArgumentParser:
    parser = FusionArgumentParser(
        prog=f"lightning-fusion {command}", description=description, parser_mode="omegaconf+", dump_header=None
    )
    parser.add_argument("-c", "--config", action="config", help="YAML file with any of the options below.")
    return parser


def _arguments(parser: ArgumentParser, args: list[str]) -> dict[str, Any]:
    config = parser.parse_args(args)
    return parser.instantiate_classes(config).as_dict() | {"config": config}


def _recipe(args: list[str]) -> Any:
    if args and args[0] in ("-h", "--help"):
        print(f"usage: lightning-fusion recipe {{{','.join(RECIPES)}}} [--help] --config FILE --output DIR")
        return None
    if not args or args[0] not in RECIPES:
        found = f"found {args[0]!r}" if args and not args[0].startswith("-") else "found none"
        raise InputError(f"recipe: name one of {', '.join(RECIPES)} first; {found}")
    function = resolve_name(RECIPES[args[0]])
    parser = _parser(f"recipe {args[0]}", (function.__doc__ or "").partition("\n")[0])
    parser.add_function_arguments(function, fail_untyped=True)
    arguments = _arguments(parser, args[1:])
    config = arguments.pop("config")
    report = function(**arguments)
    config.pop("config", None)
    (Path(arguments["output"]) / "config.yaml").write_text(parser.dump(config, skip_none=False))
    return report


def _collect(args: list[str]) -> Any:
    from lightning_fusion.experts.collecting import collect
    from lightning_fusion.experts.expert import Expert
    from lightning_fusion.experts.pool import ExpertPool

    parser = _parser("collect", "Ask a pool of experts about a data set, once, and store the answers.")
    parser.add_argument("--experts", type=dict[str, Expert], required=True, help="Experts by name.")
    parser.add_subclass_arguments(LightningDataModule, "data", required=True)
    parser.add_argument("--output", type=str, required=True, help="Folder of the store.")
    parser.add_argument("--splits", type=list[str], default=["train", "val", "test"])
    parser.add_argument("--features", type=bool, default=False, help="Store each expert's features as well.")
    parser.add_argument("--overwrite", type=bool, default=False, help="Replace another store.")
    parser.add_class_arguments(Trainer, "trainer", instantiate=True)
    parser.set_defaults({"trainer.logger": False, "trainer.enable_checkpointing": False})
    given = _arguments(parser, args)
    outputs = collect(
        ExpertPool(given["experts"]),
        given["data"],
        given["output"],
        given["splits"],
        given["features"],
        given["trainer"],
        given["overwrite"],
    )
    print(outputs)
    return outputs


def _diagnose(args: list[str]) -> Any:
    from lightning_fusion.experts.diagnosis import diagnose
    from lightning_fusion.experts.outputs import ExpertOutputs

    parser = _parser("diagnose", "Say whether fusing is worth it, before anything is trained.")
    parser.add_argument("--store", type=str, required=True, help="Folder that 'collect' wrote.")
    parser.add_argument("--split", type=str, default="train", help="The rows the fuser would train on.")
    parser.add_argument("--unseen", type=str | None, default="test", help="A split that no expert was trained on.")
    parser.add_argument("--output", type=str | None, default=None, help="Folder for diagnosis.json and diagnosis.png.")
    given = _arguments(parser, args)
    diagnosis = diagnose(ExpertOutputs.open(given["store"]), given["split"], given["unseen"])
    diagnosis.print()
    if given["output"]:
        diagnosis.save(given["output"])
        print(f"wrote diagnosis.json and diagnosis.png to {given['output']}")
    return diagnosis


def _export(args: list[str]) -> Any:
    from lightning_fusion.experts.expert import Expert
    from lightning_fusion.export import export

    parser = _parser("export", "Write a fused network as one program, with a manifest and a parity check.")
    parser.add_argument("--experts", type=dict[str, Expert], required=True, help="Experts by name.")
    parser.add_argument("--checkpoint", type=str, required=True, help="The fuser's checkpoint.")
    parser.add_argument("--output", type=str, required=True, help="Folder of the exported program.")
    parser.add_argument("--input_shape", type=list[int] | None, default=None, help="Of one sample, [3, 32, 32] say.")
    parser.add_argument(
        "--max_tokens", type=int | None, default=None, help="Instead, for texts: tokens of the longest."
    )
    parser.add_argument("--onnx", type=bool, default=False, help="Write an ONNX file as well.")
    parser.add_argument("--overwrite", type=bool, default=False, help="Replace an earlier export.")
    given = _arguments(parser, args)
    given.pop("config")
    manifest = export(**given)
    print(f"wrote {', '.join(manifest['files'])} to {given['output']}; largest difference {manifest['parity']:.1e}")
    return manifest
