"""The commands around a training run: recipe, collect, diagnose and export."""

from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from jsonargparse import ArgumentParser
from lightning import LightningDataModule, Trainer

from lightning_fusion.cli.parser import FusionArgumentParser
from lightning_fusion.errors import InputError

RECIPES = {
    "foe": "lightning_fusion.recipes.foe.protocol.foe",
    "frugal": "lightning_fusion.recipes.frugal.protocol.frugal",
    "acorl": "lightning_fusion.recipes.acorl.protocol.acorl",
    "hat": "lightning_fusion.recipes.hat.protocol.hat",
    "generative": "lightning_fusion.recipes.generation.headlines.generative",
    "multiple_choice": "lightning_fusion.recipes.generation.multiple_choice.multiple_choice",
    "text_evaluation": "lightning_fusion.recipes.generation.text_evaluation.text_evaluation",
}
"""Recipes by name, as import paths."""


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
    from lightning_fusion.experts.expert import Expert
    from lightning_fusion.experts.outputs.collect import collect
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
    from lightning_fusion.experts.outputs.store import ExpertOutputs

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
