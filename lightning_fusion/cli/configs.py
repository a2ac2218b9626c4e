"""The command ``configs``: shipped YAML files by name."""

from pathlib import Path

from lightning_fusion.cli.config import find_config, shipped_configs
from lightning_fusion.errors import InputError

USAGE = """usage: lightning-fusion configs [NAME ...]

List the shipped configuration files, or print some. NAME is a file, such as foe/digits.yaml, or a folder, such as foe.
A printed file can be changed and given to the command that its first lines name:

  lightning-fusion configs foe/digits.yaml > mine.yaml"""


def shipped_names() -> list[str]:
    """Return the names of the shipped files, which ``-c`` accepts.

    Example:
        >>> "foe/digits.yaml" in shipped_names()
        True
    """
    root = shipped_configs()
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.yaml"))


def show_configs(names: list[str]) -> str:
    """Return the content of shipped files, or a list of them.

    Args:
        names: Files and folders; none lists all files.

    Raises:
        InputError: If there is no such file or folder; the message lists the nearest ones.
    """
    if not names:
        return f"{_listed(shipped_names())}\n\nIn {shipped_configs()}; 'lightning-fusion configs NAME' prints one."
    if option := next((name for name in names if name.startswith("-")), None):
        raise InputError(f"configs: found the option {option}; expected names of files, or none for a list")
    parts = []
    for name in names:
        folder = name.removeprefix("configs/").strip("/")
        inside = [each for each in shipped_names() if each.startswith(f"{folder}/")]
        parts.append(_listed(inside) if inside else Path(find_config(name)).read_text(encoding="utf-8").rstrip("\n"))
    return "\n".join(parts)


def _listed(names: list[str]) -> str:
    """Return a line for each file: its name, and the first line of its comment."""
    width = max(map(len, names))
    return "\n".join(f"{name:<{width}}  {_title(name)}".rstrip() for name in names)


def _title(name: str) -> str:
    first = (shipped_configs() / name).read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ").rstrip() if first.startswith("#") else ""
