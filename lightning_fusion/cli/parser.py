"""Argument parser without abbreviations, with short help and errors of one line."""

import json
import os
import re
from argparse import Action, _SubParsersAction
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from importlib import import_module
from inspect import signature
from pathlib import Path
from pkgutil import resolve_name, walk_packages
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, set_dumper
from lightning.pytorch.cli import LightningArgumentParser
from omegaconf import OmegaConf

import lightning_fusion
from lightning_fusion.cli.faults import ExpertErrors, invalid_experts
from lightning_fusion.cli.help import classes
from lightning_fusion.cli.messages import condense, nearest_option, origin
from lightning_fusion.data.names import canonical_label
from lightning_fusion.errors import InputError, input_error
from lightning_fusion.experts.adapters import (  # noqa: F401  # found by class name
    lightgbm,
    onnx,
    programs,
    recorded,
    sklearn,
    timm,
    torchvision,
    transformers,
    xgboost,
)
from lightning_fusion.experts.expert import Expert

_EXPERTS = ExpertErrors()
_SUBCLASSES = re.compile(r"known subclasses: ([\w., ]+)")


def _own_subclasses(found: re.Match[str]) -> str:
    choices = {path.rpartition(".")[2] for path in classes()}  # an exported class has several paths
    own = [name for name in found[1].split(", ") if name.startswith("lightning_fusion.")]
    own = [name for name in own if name.rpartition(".")[2] in choices]
    return (
        f"known subclasses: {', '.join(own)}, any other by its import path" if own else "any class by its import path"
    )


class FusionHelpFormatter(DefaultHelpFormatter):
    """Help formatter that lists subclasses of this library only, not those of torch and others.

    Example:
        >>> _SUBCLASSES.sub(_own_subclasses, "(known subclasses: torch.nn.Module, lightning_fusion.Expert)")
        '(known subclasses: lightning_fusion.Expert, any other by its import path)'
    """

    def _expand_help(self, action: Action) -> str:
        return _SUBCLASSES.sub(_own_subclasses, super()._expand_help(action))


class FusionArgumentParser(LightningArgumentParser):
    """Argument parser that accepts no abbreviations and reports the wrong key in one line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        own: dict[str, Any] = {"allow_abbrev": False, "formatter_class": FusionHelpFormatter}
        super().__init__(*args, **(own | kwargs))
        self.add_instantiator(_EXPERTS, Expert)

    def instantiate_classes(self, cfg: Any, **kwargs: Any) -> Any:
        """Instantiate all classes; an error has the messages of all experts."""
        with _EXPERTS.collected(cfg.as_dict() if isinstance(cfg, Namespace) else cfg):
            return super().instantiate_classes(cfg, **kwargs)

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """Format the help with all classes of this library, which are imported first."""
        for module in walk_packages(lightning_fusion.__path__, "lightning_fusion."):
            if module.name.split(".")[1] not in ("__main__", "cli", "recipes"):
                with suppress(InputError):  # module of an extra that is not installed
                    import_module(module.name)
        return super().format_help(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Exit with one line that names the key; ``JSONARGPARSE_DEBUG=true`` shows the full message."""
        if os.environ.get("JSONARGPARSE_DEBUG", "").lower() == "true":
            return super().error(message, ex)
        if (wrong := origin(ex)) and not isinstance(wrong, InputError):
            raise wrong
        if options := re.match(r"unrecognized arguments: (--\S+)", message):
            message += nearest_option(options[1], self._options())
        elif option := re.search(r"does not accept option '([\w.]+)'|^Option '([\w.]+)' is not accepted", message):
            name = "--" + (option[1] or option[2])
            message += nearest_option(name, self._options()).replace("--", "")
        raise InputError(condense(message)) from input_error(ex)

    def list_options(self) -> set[str]:
        """Return the options that take a list and nothing else."""
        kinds = {
            each: set(get_args(kind) if get_origin(kind) in (UnionType, Union) else (kind,)) - {type(None)}
            for each in self._actions
            if (kind := getattr(each, "_typehint", None)) is not None
        }
        return {
            name
            for each, found in kinds.items()
            if found and all(get_origin(kind) is list for kind in found)
            for name in each.option_strings
        }

    def _options(self) -> list[str]:
        """Return the names of all options, with those of subcommands."""
        found: list[str] = []
        for action in self._actions:
            found += action.option_strings
            if isinstance(action, _SubParsersAction):
                for parser in action.choices.values():
                    found += [name for each in parser._actions for name in each.option_strings]
        return found


def parse(parser: ArgumentParser, args: Sequence[str]) -> Namespace:
    """Parse arguments; an entry of a dict has its class by ``--experts.a.class_path=CLASS`` or ``--experts.a=CLASS``.

    The parser itself takes ``a.class_path`` for the name of an entry that no configuration file has.

    Args:
        parser: Parser.
        args: Arguments.

    Raises:
        InputError: If they are invalid.
    """
    _import_named(args)
    short = _with_short_classes(args)
    try:
        config: Namespace = parser.parse_args(list(args))
        if short == list(args) or not _has_class_names(config.as_dict()):
            return config
    except InputError as error:
        if short == list(args):
            _raise_without_class(args, error)
            _raise_of_all_experts(args, error)
            raise
    try:
        return parser.parse_args(short)
    except InputError as error:
        _raise_without_class(short, error)
        _raise_of_all_experts(short, error)
        raise


def join_words(args: Sequence[str], lists: Set[str] = frozenset()) -> list[str]:
    """Write several words after an option as a list, ``--files a.csv b.csv`` as ``--files '["a.csv", "b.csv"]'``.

    Args:
        args: Arguments of a command that takes no positional ones.
        lists: Options that take a list, where one word is a list as well.

    Example:
        >>> join_words(["--seeds", "0", "--files", "a.csv", "b.csv", "--output", "runs/mine"], {"--seeds"})
        ['--seeds', '[0]', '--files', '["a.csv", "b.csv"]', '--output', 'runs/mine']
    """
    found: list[str] = []
    words: list[str] = []
    for arg in [*args, "--"]:
        if not (arg.startswith("--") or arg == "-c"):
            words.append(arg)
            continue
        one = len(words) == 1 and found and found[-1] in lists and words[0] != "null" and words[0][:1] != "["
        if len(words) > 1 or one:
            words = ["[" + ", ".join(word if word.isdecimal() else json.dumps(word) for word in words) + "]"]
        found += [*words, arg]
        words = []
    return found[:-1]


def _import_named(args: Sequence[str]) -> None:
    """Import the library's classes that arguments and configuration files name without a module."""
    texts = list(args)
    for arg in args:
        path = Path(arg.rpartition("=")[2])
        if path.suffix in (".yaml", ".yml", ".json") and path.is_file():
            texts.append(re.sub(r"#.*", "", path.read_text(encoding="utf-8", errors="replace")))
    named = {name for text in texts for name in re.findall(r"(?<![\w.])[A-Z]\w+", text)}
    for path_of_class in classes() if named else ():  # which reads the sources
        if path_of_class.rpartition(".")[2] in named:
            with suppress(InputError):  # of an extra that is not installed; its error follows where it is used
                resolve_name(path_of_class)


def _with_short_classes(args: Sequence[str]) -> list[str]:
    """Replace ``--name.class_path`` of inner keys by ``--name``, which means the same."""
    return [re.sub(r"^(--\w+\.[\w.-]+?)\.class_path(=|$)", r"\1\2", arg) for arg in args]


def _has_class_names(value: Any) -> bool:
    """Whether a configuration has an entry whose name ends with ``.class_path``."""
    if isinstance(value, Mapping):
        return any(str(key).endswith(".class_path") or _has_class_names(item) for key, item in value.items())
    return isinstance(value, list) and any(map(_has_class_names, value))


def _raise_without_class(args: Sequence[str], error: InputError) -> None:
    """Raise InputError for the first argument of a class that is not named, whose value was taken for its name."""
    if "No module named" not in str(error):
        return
    for place, arg in enumerate(args):
        option, _, value = arg.partition("=")
        found = re.match(r"--(\w+\.[\w.-]+?)(?:\.init_args)?\.\w+$", option)
        if not found or not value or value not in str(error) or found[1].endswith("init_args"):
            continue
        if not any(each.startswith(f"--{found[1]}=") or each == f"--{found[1]}" for each in args[:place]):
            raise InputError(
                f"{option[2:]}: {found[1]} has no class; give --{found[1]}=CLASS before this option"
            ) from error


def _raise_of_all_experts(args: Sequence[str], error: InputError) -> None:
    """Raise InputError for all experts of configuration files, if the error is that of one of them."""
    parser = FusionArgumentParser()
    parser.add_argument("--expert", type=Expert)
    found = invalid_experts(args, lambda spec: parser.parse_object({"expert": spec}))
    told = {name: str(each).removeprefix("expert: ") for name, each in found.items()}
    if any(text in str(error) for text in told.values()):
        raise InputError("; ".join(f"experts.{name}: {text}" for name, text in told.items())) from error


def _optional(key: str, default: Any, *, _root_: Any) -> Any:
    """Return the value of a key for ``${optional:key,default}``: the default where it is missing or null."""
    sections = [each for each in _root_.values() if OmegaConf.is_dict(each)]  # a training command has one
    for root in (_root_, *sections):
        if (value := OmegaConf.select(root, key)) is not None:
            return canonical_label(value) if isinstance(value, str | int | float) else value  # a domain's: 0.0 is "0"
    return default


def _dump(content: Any) -> str:
    """Write plain data as jsonargparse does, with the compiled writer of YAML, which takes a tenth of the time."""
    style: dict[str, Any] = {"default_flow_style": False, "allow_unicode": True, "sort_keys": False}
    text: str = yaml.dump(content, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), **style)
    return yaml.safe_dump(content, **style) if "\\U" in text else text  # libyaml escapes emoji


def load_dumped(text: str) -> dict[str, Any]:
    """Read what a parser's ``dump`` wrote, with the compiled reader of YAML."""
    content: dict[str, Any] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return content


set_dumper("yaml", _dump)

# omegaconf 2.4 gave register_new_resolver the name of a function of 2.3 that had no "replace"
_NEW = "replace" in signature(OmegaConf.register_resolver).parameters
(OmegaConf.register_resolver if _NEW else OmegaConf.register_new_resolver)("optional", _optional, replace=True)
