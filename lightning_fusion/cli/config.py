"""Configuration files by path, and shipped ones by name."""

import re
from collections.abc import Callable, Iterator, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import yaml

from lightning_fusion.cli.pools import adapted
from lightning_fusion.errors import InputError, shorten, suggestion

_MAX_BYTES, _MAX_VALUES, _MAX_DEPTH = 1 << 20, 500_000, 200
_MAX_DIGITS = 1000
_NUMBERS = {f"tag:yaml.org,2002:{kind}" for kind in ("int", "float")}
_BEGIN = r"\$\{\s*(?:oc\.(?:select|deprecated|dict\.\w+)\s*:)?"  # of an interpolation by a key
_REFERENCE = re.compile(_BEGIN + r"([^${}:,]+)")
_COMPUTED = re.compile(_BEGIN + r"[^${}:]*\$\{")


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
        InputError: If there is none; the message lists the nearest of the shipped ones.
    """
    if Path(name).is_file():
        return name
    root = shipped_configs()
    short = name.removeprefix("configs/")
    for candidate in (root / short, root / f"{short}.yaml"):
        if candidate.is_file():
            return str(candidate)
    known = sorted(str(path.relative_to(root)) for path in root.rglob("*.yaml"))
    alike = {path: SequenceMatcher(None, short.removesuffix(".yaml"), path.removesuffix(".yaml")) for path in known}
    nearest = sorted(known, key=lambda path: -alike[path].ratio())
    raise InputError(
        f"config: found no file {name}, and no shipped one of that name{suggestion(short, known)}; the nearest of "
        f"{root} are {shorten(nearest)}"
    )


def read_config(path: str) -> dict[str, Any]:
    """Read a configuration file as plain data.

    Raises:
        InputError: If it is no YAML mapping (with file and line), is too large, or has a duplicate key, of which YAML
            readers silently use the last.
    """
    content = _read_yaml(path)
    if not isinstance(content, dict):
        found = "nothing" if content is None else f"a {type(content).__name__}"
        raise InputError(f"config: {path} contains {found}; expected keys with values, such as 'data:'")
    return content


def _read_yaml(path: str) -> Any:
    """Read a YAML file whose size, with its aliases written out, is bounded."""
    try:
        if (size := Path(path).stat().st_size) > _MAX_BYTES:
            raise InputError(f"config: {path} has {size:,} bytes; a configuration has at most {_MAX_BYTES:,}")
        text = Path(path).read_text(encoding="utf-8")
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        _check_nodes(path, root)
        content = None if root is None else loader.construct_document(root)
    except InputError:  # a ValueError too
        raise
    except RecursionError as error:
        raise InputError(f"config: {path} is nested too deeply; expected a configuration") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        context = f" {error.context}" if error.context else ""
        raise InputError(f"config: {path}{where}: {error.problem}{context}; expected YAML") from error
    except (ArithmeticError, OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"config: {path} cannot be read as YAML ({' '.join(str(error).split())})") from error
    _reject_duplicate_keys(path, root)
    _check_interpolations(path, content)
    return content


def _check_interpolations(path: str, content: Any) -> None:
    """Raise InputError if the texts are too long with their interpolations written out: each may double another."""
    values: dict[str, Any] = {}  # texts and the keys of containers, by their dotted key
    stack = [("", content)]
    while stack:
        key, value = stack.pop()
        pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        inside = [(f"{key}.{name}" if key else str(name), part) for name, part in pairs]
        values[key] = value if isinstance(value, str) else [name for name, _ in inside]
        stack += inside
    lengths: dict[str, int] = {}

    def length(key: str, depth: int = 0) -> int:
        if key not in lengths and key in values:
            if depth > _MAX_DEPTH:
                raise InputError(f"config: {path}: {key} is nested, or interpolated, more than {_MAX_DEPTH} times")
            lengths[key] = 0  # of a cycle, which is reported where it is resolved
            value = values[key]
            if isinstance(value, str) and _COMPUTED.search(value):
                raise InputError(f"config: {path}: {key} interpolates a key that is interpolated itself; write the key")
            found = _REFERENCE.findall(value) if isinstance(value, str) else value
            names = [_absolute(name, key) for name in found] if isinstance(value, str) else found
            own = len(value) if isinstance(value, str) else 1
            lengths[key] = own + sum(length(name, depth + 1) for name in names)
            if lengths[key] > _MAX_BYTES:
                raise InputError(
                    f"config: {path}: {key or 'it'} has more than {_MAX_BYTES:,} characters with its interpolations"
                )
        return lengths.get(key, 0)

    length("")


def _absolute(name: str, key: str) -> str:
    """Return the dotted key that an interpolation names: ``a[0].b``, or ``..b`` from the key that has it."""
    name = name.strip()
    written = re.sub(r"""\s*\[\s*['"]?(.*?)['"]?\s*\]""", r".\1", name)
    name = written.removeprefix(".") if name.startswith("[") else written
    up = len(name) - len(name.lstrip("."))
    if not up:
        return name
    parents = key.split(".")[:-up]
    return ".".join([*parents, name.lstrip(".")])


def _children(node: yaml.Node | None) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _check_nodes(path: str, root: yaml.Node | None) -> None:
    """Raise InputError for recursive aliases, too many values with aliases written out, and too long numbers."""
    sizes: dict[int, int] = {}
    unfinished: set[int] = set()
    stack = [(root, False)]
    while stack:
        node, counted = stack.pop()
        children = _children(node)
        if isinstance(node, yaml.ScalarNode) and node.tag in _NUMBERS and len(node.value) > _MAX_DIGITS:
            raise InputError(  # 1:1:1:... is a number of base 60, whose computation takes hours
                f"config: {path}, line {node.start_mark.line + 1}: found a number of {len(node.value):,} characters; "
                f"expected at most {_MAX_DIGITS:,}"
            )
        if counted:
            unfinished.remove(id(node))
            sizes[id(node)] = 1 + sum(sizes[id(child)] for child in children)
            if sizes[id(node)] > _MAX_VALUES:
                raise InputError(f"config: {path} has more than {_MAX_VALUES:,} values with its aliases written out")
        elif id(node) in unfinished:
            line = node.start_mark.line + 1 if node is not None else 1
            raise InputError(f"config: {path}, line {line}: this value contains itself by an alias")
        elif id(node) not in sizes:
            unfinished.add(id(node))
            stack += [(node, True), *((child, False) for child in children)]


def _reject_duplicate_keys(path: str, root: yaml.Node | None) -> None:
    nodes, seen = [root], set()
    while nodes:
        node = nodes.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
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


def config_files(args: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Yield position, number of arguments and name of each configuration file: ``-c F``, ``-cF``, ``--config=F``.

    Example:
        >>> list(config_files(["-c", "a.yaml", "--data=x", "-cb.yaml", "--config=c.yaml"]))
        [(0, 2, 'a.yaml'), (3, 1, 'b.yaml'), (4, 1, 'c.yaml')]
    """
    position = 0
    while position < len(args):
        arg, size = args[position], 1
        if arg in ("-c", "--config"):
            size = 2
            if position + 1 < len(args):
                yield position, size, args[position + 1]
        elif arg.startswith("--config="):
            yield position, size, arg.partition("=")[2]
        elif arg.startswith("-c"):
            yield position, size, arg[2:].removeprefix("=")
        position += size


def with_found_configs(
    args: Sequence[str],
    check: Callable[[str, dict[str, Any]], None],
    training: bool = False,
    command: str = "",
) -> list[str]:
    """Replace names of configuration files in command-line arguments by their paths, or those of adapted copies.

    Args:
        args: Arguments.
        check: Function of the path and the content of each file, which raises InputError for a wrong one.
        training: Whether they are arguments of a training command.
        command: Name of the command.

    Raises:
        InputError: If a file does not exist, or cannot be read.
    """
    result = list(args)
    files = list(config_files(args))
    named = {arg.partition("=")[2] if arg.startswith("-") else arg for arg in args} - {name for *_, name in files}
    for name in sorted(named):
        if name.endswith((".yaml", ".yml")) and Path(name).is_file():  # of another option, such as --model
            _read_yaml(name)
    has_model = len(files) > 1 or any(arg.startswith("--model") for arg in args)
    for position, size, name in reversed(files):
        found = find_config(name)
        content = read_config(found)
        path = adapted(found, content, training and has_model, command)
        check(found, content if path == found else read_config(path))
        result[position : position + size] = ["--config", path]
    return result
