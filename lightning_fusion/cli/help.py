"""Help without imports: commands and recipes are described from the source of their functions."""

import argparse
import ast
import re
import shutil
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from typing import NamedTuple

import docstring_parser

import lightning_fusion.recipes as recipe_packages
from lightning_fusion import PUBLIC
from lightning_fusion.cli.config import shipped_configs

TRAINING = {
    "fit": "Train an expert, a fuser, ... from a YAML: -c FILE",
    "validate": "Evaluate on the validation split",
    "test": "Evaluate on the test split",
    "predict": "Predict the test split",
}
"""Commands of LightningCLI, with their descriptions."""

OF_RUN = " --run"
"""End of the commands that answer with a run of a recipe; without ``--run``, predict is LightningCLI's."""

COMMANDS = {
    "recipe": "",
    f"predict{OF_RUN}": "lightning_fusion.cli.commands.predict",
    "collect": "lightning_fusion.cli.commands.collect",
    "diagnose": "lightning_fusion.cli.commands.diagnose",
    "export": "lightning_fusion.cli.commands.export",
    f"export{OF_RUN}": "lightning_fusion.cli.commands.export_run",
    "publish": "lightning_fusion.cli.registry.publish",
    "select": "lightning_fusion.cli.registry.select",
    "sweep": "lightning_fusion.cli.sweep.sweep",
}
"""Other commands, with the import paths of their functions; recipes are functions as well."""

_PACKAGE = Path(__file__).parents[1]
_WIDTH = 118


def recipes() -> dict[str, str]:
    """Return the import paths of recipes by name, from the ``RECIPES`` of the packages in ``lightning_fusion/recipes``.

    Example:
        >>> recipes()["foe"]
        'lightning_fusion.recipes.foe.protocol.foe'
    """
    found: dict[str, str] = {}
    for module in iter_modules(recipe_packages.__path__, f"{recipe_packages.__name__}."):
        listed = import_module(module.name).RECIPES if module.ispkg else {}
        found |= {name: f"{module.name}.{path}" for name, path in listed.items()}
    return dict(sorted(found.items()))


def usage() -> str:
    """Return the text of ``lightning-fusion --help``."""
    training = [f"  {name:<14} {text}" for name, text in TRAINING.items()]
    around = [f"  {name:<14} {summary(path)}" for name, path in COMMANDS.items() if path]
    lines = [
        "usage: lightning-fusion COMMAND [options]",
        "",
        "commands of a training run (LightningCLI):",
        *training,
        "",
        "other commands:",
        "  recipe         Run the protocol of a paper: recipe NAME --config FILE --output DIR, NAME one of",
        f"                 {', '.join(recipes())}",
        *around,
        "  configs        List the shipped configuration files, or print some: configs [NAME ...]",
        "",
        "'lightning-fusion COMMAND --help' lists the options. Configuration files are searched in the working",
        f"directory, then among the shipped ones: {shipped_configs()}",
        "",
        "'lightning-fusion --print_completion bash' (or zsh) prints a script that completes commands and options.",
    ]
    return "\n".join(lines)


def show_help(command: str, args: list[str]) -> bool:
    """Print the help of a command.

    Args:
        command: One of :data:`COMMANDS`.
        args: Arguments of the command; the first one of ``recipe`` is the recipe's name or import path.

    Returns:
        Whether it was printed: False where the function's source, or its arguments, are not found.
    """
    path = COMMANDS[command]
    if command == "recipe":
        known = recipes()
        if args[0].startswith("-"):
            lines = [f"  {name:<16} {summary(path)}" for name, path in known.items()]
            print(
                "usage: lightning-fusion recipe NAME [--help] --config FILE --output DIR\n\nrecipes:\n"
                + "\n".join(lines)
                + "\n\nOther recipes are named by the import path of their function."
            )
            return True
        path = known.get(args[0], args[0])
        command = f"recipe {args[0]}"
    function = find_function(path)
    if function is None or function.args.vararg or function.args.kwarg:
        return False
    _parser(command, function).print_help()
    return True


def find_function(path: str) -> ast.FunctionDef | None:
    """Parse the source of a function by its import path; ``None`` if its module is not found or does not define it.

    Example:
        >>> find_function("lightning_fusion.recipes.foe.protocol.foe").name
        'foe'
    """
    module, _, name = path.rpartition(".")
    try:
        spec = find_spec(module) if module else None
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    source = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    found = (node for node in source.body if isinstance(node, ast.FunctionDef))
    return next((node for node in found if node.name == name), None)


def summary(path: str) -> str:
    """Return the first line of a function's docstring, from its source."""
    function = find_function(path)
    text = (ast.get_docstring(function) or "") if function else ""
    return text.partition("\n")[0].rstrip(".")


def _parser(command: str, function: ast.FunctionDef) -> argparse.ArgumentParser:
    described = docstring_parser.parse(ast.get_docstring(function) or "", docstring_parser.DocstringStyle.GOOGLE)
    texts = {each.arg_name: each.description or "" for each in described.params}
    arguments = list(_arguments(function))
    required = " ".join(f"--{name} {name.upper()}" for name, _, default in arguments if default is None)
    parser = argparse.ArgumentParser(
        prog=f"lightning-fusion {command.removesuffix(OF_RUN)}",
        usage=f"%(prog)s [--config FILE] {required} [options]".replace("  ", " "),
        description=described.short_description,
        epilog=_class_list([kind for _, kind, _ in arguments if kind]),
        add_help=False,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=26, width=min(_WIDTH, shutil.get_terminal_size().columns - 2)
        ),
    )
    parser.add_argument("-h", "--help", action="store_true", help="Show this help and exit.")
    parser.add_argument("-c", "--config", metavar="FILE", help="YAML file with any of the options below.")
    parser.add_argument("--print_config", action="store_true", help="Print the configuration as YAML and exit.")
    for name, kind, default in arguments:
        text = " ".join(re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"\1", texts.get(name, "")).replace("``", "").split())
        if name == "trainer":
            text = f"{text} 'lightning-fusion fit --help' lists them.".strip()
            parser.add_argument("--trainer.KEY", metavar="VALUE", help=text.replace("%", "%%"))
            continue
        notes = ["required" if default is None else f"default: {_yaml(default)}"]
        notes = [f"type: {ast.unparse(kind)}", *notes] if kind else notes
        parser.add_argument(
            f"--{name}", metavar="VALUE", help=f"{text} ({', '.join(notes)})".strip().replace("%", "%%")
        )
    return parser


def _arguments(function: ast.FunctionDef) -> Iterator[tuple[str, ast.expr | None, ast.expr | None]]:
    """Yield name, annotation and default of each argument."""
    positional = [*function.args.posonlyargs, *function.args.args]
    missing: list[ast.expr | None] = [None] * (len(positional) - len(function.args.defaults))
    defaults = [*missing, *function.args.defaults, *function.args.kw_defaults]
    for argument, default in zip([*positional, *function.args.kwonlyargs], defaults, strict=True):
        yield argument.arg, argument.annotation, default


def _yaml(default: ast.expr) -> str:
    text = ast.unparse(default)
    return {"None": "null", "True": "true", "False": "false"}.get(text, text.strip("'"))


def _class_list(annotations: Sequence[ast.expr]) -> str:
    """List the library's classes that match annotations, by the name in the annotation."""
    names = [getattr(node, "id", getattr(node, "attr", "")) for kind in annotations for node in ast.walk(kind)]
    lines = [
        f"\n{name}:\n" + "\n".join(f"  {path}" for path in found)
        for name in dict.fromkeys(names)
        if (found := subclasses(name))
    ]
    if not lines:
        return ""
    first = "Classes of this library, by type; others are named by their import path. --OPTION.help CLASS lists the"
    return "\n".join([first, "arguments of a class.", *lines])


# Classes that only other classes use, and that no configuration names.
_PARTS = {
    *("EarlyParts", "EverySplit", "ExportedNetwork", "FusionSaveConfig", "PolicyState", "SlicedDataModule"),
    *("SplitMetrics", "Teacher", "TrialEvaluation"),
    *("ConfidentRule", "EmbeddingRule", "FuserRule", "HeadRule", "MeanRule", "PolicyRule", "StackingRule", "VoteRule"),
    *("RoundedImages", "Waveforms"),
}


class _Class(NamedTuple):
    path: str
    bases: list[str]
    choice: bool


@cache
def _sources() -> dict[str, _Class]:
    """Read import path and names of the bases of the library's classes from the source.

    Abstract classes, base classes by their description, and :data:`_PARTS` are no choice for a configuration.
    """
    found = {}
    for path in _PACKAGE.rglob("*.py"):
        parts = path.relative_to(_PACKAGE.parent).with_suffix("").parts
        source, package = (file.read_text(encoding="utf-8") for file in (path, path.with_name("__init__.py")))
        for name, bases, body in re.findall(
            r"^class (\w+)(?:\(([^)]*)\))?:\n((?:[ ].*\n|\n)*)", source, flags=re.MULTILINE
        ):
            if name in PUBLIC:
                where = _PACKAGE.name
            else:  # the path of its package where the package exports the name
                where = ".".join(parts[:-1] if re.search(rf"\b{name}\b", package) else parts)
            description = body.partition("\n")[0]
            abstract = "@abstractmethod" in body or re.search(r"[Bb]ase class|to be combined with", description)
            choice = not (abstract or name.startswith("_") or name in _PARTS)
            found[name] = _Class(f"{where}.{name}", re.findall(r"(\w+)(?:\[[^]]*\])?\s*(?:,|$)", bases), choice)
    return found


def classes() -> list[str]:
    """Return import paths of the library's classes that a configuration may name."""
    return [each.path for each in _sources().values() if each.choice]


def subclasses(name: str) -> list[str]:
    """Return import paths of the library's subclasses of a class, and of the class itself where it is in the library.

    Base classes, abstract classes and parts of other classes are left out.

    Args:
        name: Name of the class, without its module.

    Example:
        >>> [path.rpartition(".")[2] for path in subclasses("Schedule")]
        ['Constant', 'DANNRamp', 'Linear']
    """
    known = _sources()
    below, size = {name}, 0
    while size < len(below):
        size = len(below)
        below |= {each for each, (_, bases, _) in known.items() if not below.isdisjoint(bases)}
    return sorted(known[each].path for each in below if each in known and known[each].choice)
