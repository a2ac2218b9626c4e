"""The commands around a training run: recipe, collect, diagnose and export."""

from collections.abc import Callable, Sequence
from importlib import import_module
from inspect import signature
from pathlib import Path
from pkgutil import iter_modules, resolve_name
from typing import Any

from jsonargparse import SUPPRESS, ArgumentParser
from lightning import LightningDataModule, Trainer

import lightning_fusion.recipes as recipe_packages
from lightning_fusion.cli.parser import FusionArgumentParser
from lightning_fusion.errors import InputError, suggestion
from lightning_fusion.experts.outputs.collect import first_process
from lightning_fusion.files import write_text
from lightning_fusion.recipes.trainers import DEFAULTS, OWNED


def recipes() -> dict[str, str]:
    """Recipes by name, as import paths: what the packages in ``lightning_fusion/recipes`` list as ``RECIPES``.

    Example:
        >>> recipes()["foe"]
        'lightning_fusion.recipes.foe.protocol.foe'
    """
    found: dict[str, str] = {}
    for module in iter_modules(recipe_packages.__path__, f"{recipe_packages.__name__}."):
        listed = import_module(module.name).RECIPES if module.ispkg else {}
        found |= {name: f"{module.name}.{path}" for name, path in listed.items()}
    return dict(sorted(found.items()))


def _function(name: str) -> Callable[..., Any]:
    """The recipe of a name, or of an import path."""
    known = recipes()
    if name in known:
        return resolve_name(known[name])
    if "." not in name:
        raise InputError(
            f"recipe: found {name!r}; expected one of {', '.join(known)}, or the import path of a function of your own"
            f"{suggestion(name, known)}"
        )
    try:
        function = resolve_name(name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"recipe: {name} cannot be imported ({error}); expected the import path of a function"
        ) from error
    if not callable(function):
        raise InputError(f"recipe: {name} is a {type(function).__name__}; expected a function")
    return function


def _parser(command: str, description: str | None) -> FusionArgumentParser:
    parser = FusionArgumentParser(
        prog=f"lightning-fusion {command}", description=description, parser_mode="omegaconf+", dump_header=None
    )
    parser.add_argument("-c", "--config", action="config", help="YAML file with any of the options below.")
    return parser


def _arguments(parser: ArgumentParser, args: list[str], described: Sequence[str] = ()) -> dict[str, Any]:
    """What the parser reads, with its classes built, but for those of some keys, which stay as they are described."""
    config = parser.parse_args(args)
    kept = {key: config.pop(key) for key in described}
    given = parser.instantiate_classes(config).as_dict() | {key: value.as_dict() for key, value in kept.items()}
    for key, value in kept.items():
        config[key] = value
    return given | {"config": config}


def recipe(args: list[str]) -> Any:
    """Run a paper's whole protocol: a function whose typed arguments are the options."""
    known = ",".join(recipes())
    if args and args[0] in ("-h", "--help"):
        print(
            f"usage: lightning-fusion recipe {{{known}}} [--help] --config FILE --output DIR\n\n"
            "A recipe of your own is named by the import path of its function."
        )
        return None
    if not args or args[0].startswith("-"):
        raise InputError(f"recipe: found none; name one of {known.replace(',', ', ')} first")
    function = _function(args[0])
    parser = _parser(f"recipe {args[0]}", (function.__doc__ or "").partition("\n")[0])
    parser.add_function_arguments(function, skip={"trainer"}, fail_untyped=True)
    described = ["trainer"] if "trainer" in signature(function).parameters else []
    if described:
        _add_trainer(parser)
    arguments = _arguments(parser, args[1:], described=described)  # a Trainer's classes are built for every stage
    config = arguments.pop("config")
    report = function(**arguments)
    config.pop("config", None)
    if first_process():
        write_text(Path(arguments["output"]) / "config.yaml", parser.dump(config, skip_none=False))
    return report


def _add_trainer(parser: FusionArgumentParser) -> None:
    """The ``trainer:`` block of a recipe: keys of the Trainer; the recipe itself refuses those that its stages set."""
    parser.add_class_arguments(Trainer, "trainer", instantiate=False, fail_untyped=False, skip=set(OWNED))
    parser.set_defaults({f"trainer.{key}": value for key, value in DEFAULTS.items()})
    for key in OWNED:
        parser.add_argument(f"--trainer.{key}", type=Any, default=None, help=SUPPRESS)


def collect(args: list[str]) -> Any:
    """Query a pool of experts on a data set, once, and store their outputs."""
    from lightning_fusion.experts.expert import Expert
    from lightning_fusion.experts.outputs import collect as collecting
    from lightning_fusion.experts.pool import ExpertPool

    parser = _parser("collect", collect.__doc__)
    parser.add_argument("--experts", type=dict[str, Expert], required=True, help="Experts by name.")
    parser.add_subclass_arguments(LightningDataModule, "data", required=True)
    parser.add_argument("--output", type=str, required=True, help="Folder of the store.")
    parser.add_argument("--splits", type=list[str], default=["train", "val", "test"])
    parser.add_argument("--features", type=bool, default=False, help="Store each expert's features as well.")
    parser.add_argument("--overwrite", type=bool, default=False, help="Replace another store.")
    parser.add_class_arguments(Trainer, "trainer", instantiate=True)
    parser.set_defaults({"trainer.logger": False, "trainer.enable_checkpointing": False})
    given = _arguments(parser, args)
    outputs = collecting.collect(
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


def diagnose(args: list[str]) -> Any:
    """Say whether fusing is worth it, before anything is trained."""
    from lightning_fusion.experts import diagnosis
    from lightning_fusion.experts.outputs.store import ExpertOutputs

    parser = _parser("diagnose", diagnose.__doc__)
    parser.add_argument("--store", type=str, required=True, help="Folder that 'collect' wrote.")
    parser.add_argument("--split", type=str, default="train", help="The rows the fuser would train on.")
    parser.add_argument("--unseen", type=str | None, default="test", help="A split that no expert was trained on.")
    parser.add_argument("--output", type=str | None, default=None, help="Folder for diagnosis.json and diagnosis.png.")
    given = _arguments(parser, args)
    found = diagnosis.diagnose(ExpertOutputs.open(given["store"]), given["split"], given["unseen"])
    found.print()
    if given["output"]:
        found.save(given["output"])
        print(f"wrote diagnosis.json and diagnosis.png to {given['output']}")
    return found


def export(args: list[str]) -> Any:
    """Write a fused network as one program, with a manifest and a parity check."""
    from lightning_fusion import export as exporting
    from lightning_fusion.experts.expert import Expert

    parser = _parser("export", export.__doc__)
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
    manifest = exporting.export(**given)
    print(f"wrote {', '.join(manifest['files'])} to {given['output']}; largest difference {manifest['parity']:.1e}")
    return manifest


COMMANDS: dict[str, Callable[[list[str]], Any]] = {
    "recipe": recipe,
    "collect": collect,
    "diagnose": diagnose,
    "export": export,
}
"""The commands by name; each takes its options."""
