"""What pip installs: code and configurations, with bounds that say why."""

import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from helpers import TESTS
from helpers.command_line import CONFIGS
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = TESTS.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"].values()
REQUIREMENTS = [Requirement(text) for part in (PROJECT["project"]["dependencies"], *EXTRAS) for text in part]
OTHERS = [one for one in REQUIREMENTS if canonicalize_name(one.name) != PROJECT["project"]["name"]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    words = ["-m", "pip", "wheel", "--quiet", "--no-deps", *options, "--wheel-dir", str(folder), str(ROOT)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_the_package_and_its_configs(wheel):
    names = set(wheel.namelist())
    code = {str(path.relative_to(ROOT)) for path in (ROOT / "lightning_fusion").rglob("*.py")}
    configs = {f"lightning_fusion/configs/{path.relative_to(CONFIGS)}" for path in CONFIGS.rglob("*.yaml")}
    assert code | configs | {"lightning_fusion/py.typed"} <= names
    assert len(configs) > 10
    for name in configs:
        assert wheel.read(name) == (CONFIGS / name.removeprefix("lightning_fusion/configs/")).read_bytes()


def test_the_wheel_holds_nothing_else(wheel):
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"lightning_fusion"}
    kinds = {Path(name).suffix for name in wheel.namelist() if ".dist-info/" not in name}
    assert kinds == {".py", ".typed", ".yaml"}


def test_the_wheel_names_the_program(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "lightning-fusion = lightning_fusion.cli.main:main" in wheel.read(name).decode()


def test_a_package_of_the_wheel_finds_its_configs(wheel, tmp_path):
    wheel.extractall(tmp_path)
    code = "import lightning_fusion.cli.config as cli; print(cli.__file__, cli.find_config('foe/digits.yaml'))"
    words = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    found = [Path(part) for part in done.stdout.split()]
    assert found == [tmp_path / "lightning_fusion/cli/config.py", tmp_path / "lightning_fusion/configs/foe/digits.yaml"]


def test_every_bound_has_its_reason_beside_it():
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    bounds = [line for line in lines if re.search(r'"[A-Za-z0-9_.\[\],-]+[<>=~]=?\d', line)]
    assert len(bounds) > 15
    assert [line for line in bounds if not re.search(r"#\s*\w+", line)] == []


def test_every_requirement_has_a_lower_bound():
    lower = (">=", "~=", "==")
    assert [str(one) for one in OTHERS if not any(part.operator in lower for part in one.specifier)] == []


def test_constraints_are_names_and_versions():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9][\w.-]*==[\w.!+-]+", line)] == []
    names = [canonicalize_name(line.partition("==")[0]) for line in lines]
    assert len(set(names)) == len(names)


def test_constraints_pin_what_the_project_asks_for():
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    found = {canonicalize_name(name): version for name, version in pins.items()}
    assert [str(one) for one in OTHERS if not one.specifier.contains(found[canonicalize_name(one.name)])] == []


def test_git_ignores_nothing_that_belongs_to_the_project():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing can be ignored")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split("\n")
    kinds = {"lightning_fusion": "*.py", "configs": "*.yaml", "tests": "*.*"}
    files = [path for folder, pattern in kinds.items() for path in (ROOT / folder).rglob(pattern)]
    wanted = {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts and path.is_file()}
    assert wanted - set(listed) == set()
    assert {"lightning_fusion/data/base.py", "configs/experts/folders.yaml", "tests/data/test_base.py"} <= wanted
