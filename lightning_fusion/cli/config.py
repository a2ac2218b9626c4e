"""Configuration files by path, and shipped ones by name."""

from pathlib import Path
from typing import Any

import yaml

from lightning_fusion.errors import InputError, shorten, suggestion


def shipped_configs() -> Path:
    """Return the folder of the shipped YAMLs: in an installed wheel, or next to the package in a clone."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def find_config(name: str) -> str:
    """Find a configuration file by path, or by its name among the shipped ones.

    Args:
        name: ``my.yaml``, or ``foe/digits.yaml``, ``configs/foe/digits.yaml`` or ``foe/digits`` for a shipped file.

    Raises:
        InputError: If there is none; the message lists the shipped ones.
    """
    if Path(name).is_file():
        return name
    root = shipped_configs()
    short = name.removeprefix("configs/")
    for candidate in (root / short, root / f"{short}.yaml"):
        if candidate.is_file():
            return str(candidate)
    known = sorted(str(path.relative_to(root)) for path in root.rglob("*.yaml"))
    raise InputError(
        f"config: found no file {name}, and no shipped one of that name{suggestion(short, known)}; shipped are "
        f"{shorten(known, 50)}"
    )


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Join nested keys by dots, as in a sweep.

    Example:
        >>> flat({"model": {"init_args": {"lr": 0.1}}})
        {'model.init_args.lr': 0.1}
    """
    if not isinstance(config, dict) or not config:
        return {prefix: config}
    result: dict[str, Any] = {}
    for key, value in config.items():
        result |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return result


def _reject_duplicate_keys(path: str) -> None:
    """Raise InputError for a duplicate key, of which YAML readers silently use the last."""
    try:
        nodes = [yaml.compose(Path(path).read_text(encoding="utf-8"))]
    except (OSError, ValueError, yaml.YAMLError):
        return  # the parser reports the error
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


def with_found_configs(args: list[str]) -> list[str]:
    """Replace names of configuration files in command-line arguments by their paths.

    Raises:
        InputError: If a file does not exist, or has a duplicate key.
    """
    result, previous = [], ""
    for arg in args:
        if previous in ("-c", "--config"):
            result.append(find_config(arg))
            _reject_duplicate_keys(result[-1])
        elif arg.startswith(("--config=", "-c=")):
            name, _, value = arg.partition("=")
            result.append(f"{name}={find_config(value)}")
            _reject_duplicate_keys(find_config(value))
        else:
            result.append(arg)
        previous = arg
    return result
