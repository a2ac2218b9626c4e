"""The package's floors: imports only go down, and everything public says what it is."""

import ast
import importlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import lightning_fusion

ROOT = Path(lightning_fusion.__file__).parent
BELOW = [
    {"files", "store", "plotting", "terminal", "markdown"},
    {
        "checkpoints",
        "described",
        "hooks",
        "hyperparameters",
        "optimization",
        "schedules",
        "costs",
        "trackers",
        "sharing",
    },
    {"data", "baselines", "metrics", "callbacks"},
    {"experts"},
    {"registry", "verification"},
]
ABOVE = [{"export", "hub"}, {"recipes"}, {"cli"}, {"__main__"}]
FREE = {"errors", "extras", "encoders"}  # errors and extras: below everything; encoders: tied to nothing
METHODS = {path.name for path in ROOT.iterdir() if (path / "module.py").is_file()} - set.union(*BELOW)
FLOORS = [*BELOW, METHODS, *ABOVE]
SHARED = {("generation", "lightning_fusion.foe.fusers"), ("hat", "lightning_fusion.foe.fusers")}
WITH_LIGHTNING = {"module.py", "verification.py"}  # LightningModules; generation/ runs language models throughout
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file) for file in FILES}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def statements(tree: ast.Module) -> Iterator[Any]:
    """All statements of a module, those in functions too; expressions, which import nothing, are passed over."""
    left: list[Any] = [tree]
    while left:
        node = left.pop()
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            left.extend(getattr(node, field, ()))
        yield node


@cache
def imported(path: Path) -> set[str]:
    """Full names of the house's modules that a file imports anywhere, in functions too."""
    names = set()
    for node in statements(parsed(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import in line {node.lineno}"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names & MODULES


def rooms(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imported(path) if "." in name} - {room_of(path)}


def floor(room: str) -> int:
    return next(number for number, names in enumerate(FLOORS) if room in names)


def test_every_room_has_a_floor():
    assert {room_of(path) for path in FILES} <= set.union(FREE, *FLOORS)


def test_imports_only_go_down():
    """Every offender is named: errors and extras may be imported by all, encoders by recipes and cli alone."""
    offenders = []
    for path in FILES:
        room, others = room_of(path), rooms(path) - {"errors", "extras"}
        if room in ("recipes", "cli"):
            others -= {"encoders"}
        for other in others:
            if room in FREE or other in FREE or floor(other) > floor(room):
                offenders.append(f"{module_of(path)} imports {other}")
    assert offenders == []


def test_methods_do_not_import_one_another():
    offenders = [
        f"{module_of(path)} imports {name}"
        for path in FILES
        if (room := room_of(path)) in METHODS
        for name in imported(path)
        if name.split(".")[1] in METHODS - {room} and (room, name) not in SHARED
    ]
    assert offenders == []


def test_there_is_no_circle():
    graph = {module_of(path): imported(path) - {module_of(path)} for path in FILES}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"circle: {' -> '.join([*above, name])}"
        if name not in done:
            for other in graph.get(name, ()):
                visit(other, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_the_mathematics_does_not_know_lightning():
    offenders = []
    for path in FILES:
        if room_of(path) not in METHODS - {"generation"} or path.name in WITH_LIGHTNING:
            continue
        for node in statements(parsed(path)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(name.partition(".")[0] == "lightning" for name in names):
                offenders.append(f"{module_of(path)}, line {node.lineno}")
    assert offenders == []


def without_docstring(tree: ast.Module) -> list[str]:
    """Names of public classes, functions and methods that do not say what they are."""
    missing = [] if ast.get_docstring(tree) else ["the module"]

    def look(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            if isinstance(child, kinds) and not child.name.startswith("_"):
                if not ast.get_docstring(child):
                    missing.append(prefix + child.name)
                if isinstance(child, ast.ClassDef):
                    look(child, f"{prefix}{child.name}.")

    look(tree, "")
    return missing


def test_everything_public_has_a_docstring():
    files = [ROOT / "__init__.py", *FILES]
    found = {module_of(path): missing for path in files if (missing := without_docstring(parsed(path)))}
    assert found == {}


def test_a_missing_docstring_is_found():
    code = "class A:\n    def b(self): ...\n    def _c(self): ...\ndef d():\n    'D.'\n"
    assert without_docstring(ast.parse(code)) == ["the module", "A", "A.b"]


def test_public_names_resolve():
    values = {name: getattr(lightning_fusion, name) for name in lightning_fusion.__all__}
    assert [name for name, value in values.items() if value.__name__ != name] == []
    assert [name for name, value in values.items() if not value.__module__.startswith("lightning_fusion.")] == []


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match="no attribute 'Foe'; public names: ACoRLModule, Batch,"):
        lightning_fusion.Foe  # noqa: B018
    assert set(lightning_fusion.__all__) <= set(dir(lightning_fusion))
    assert sorted(lightning_fusion.PUBLIC) == sorted(lightning_fusion.__all__)


def test_every_module_can_be_imported():
    for path in FILES:
        if path.name != "__main__.py":
            importlib.import_module(module_of(path))


def test_tests_mirror_the_package():
    tests = Path(__file__).parent
    wanted = {f"{path.relative_to(ROOT).with_name('test_' + path.name.lstrip('_'))}" for path in FILES}
    found = {str(path.relative_to(tests)) for path in tests.rglob("test_*.py")}
    found = {name for name in found if "/" in name and not name.startswith("faults/")}  # by kind of fault, any module
    across = {"metrics/test_gathering.py"}  # several processes, any metric
    kinds = {path for path in found if path.startswith("faults/")}  # one file per kind of fault, in all modules
    assert found - wanted - kinds == across


def test_no_package_is_over_a_fifth():
    lines: dict[str, int] = {}
    for path in FILES:
        parts = path.relative_to(ROOT).parts
        part = "/".join(parts[: 2 if parts[0] == "data" and len(parts) > 2 else 1])
        lines[part] = lines.get(part, 0) + len(path.read_text().splitlines())
    assert max(lines.values()) < sum(lines.values()) / 5, lines
