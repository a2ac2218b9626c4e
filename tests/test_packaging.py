"""What pip installs: code and configurations, with bounds that say why."""

import email
import importlib.util
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from helpers import TESTS
from helpers.command_line import CONFIGS
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = TESTS.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"].values()
REQUIREMENTS = [Requirement(text) for part in (PROJECT["project"]["dependencies"], *EXTRAS) for text in part]
OTHERS = [one for one in REQUIREMENTS if canonicalize_name(one.name) != PROJECT["project"]["name"]]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, Path]:
    """The sdist and the wheel, made by the build backend that the project names."""
    folder, backend = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("backend")
    if not importlib.util.find_spec("hatchling"):
        words = ["-m", "pip", "install", "--quiet", "--target", str(backend), *PROJECT["build-system"]["requires"]]
        subprocess.run([sys.executable, *words], check=True, timeout=300)
    code = f"import sys; sys.path.append({str(backend)!r}); from hatchling import build; "
    code += "print(build.build_sdist(sys.argv[1]), build.build_wheel(sys.argv[1]))"
    words = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    sdist, wheel = done.stdout.split()
    return {"sdist": folder / sdist, "wheel": folder / wheel}


@pytest.fixture(scope="module")
def wheel(built) -> zipfile.ZipFile:
    return zipfile.ZipFile(built["wheel"])


@pytest.mark.slow
def test_the_sdist_holds_what_git_keeps(built):
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    with tarfile.open(built["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {name for name in done.stdout.splitlines() if (ROOT / name).exists()} - names == set()
    assert {name.partition("/")[0] for name in names} & {".venv", "runs", "data", "dist"} == set()


@pytest.mark.slow
def test_the_metadata_are_complete(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith("METADATA")]
    found = email.message_from_string(wheel.read(name).decode())
    assert found["Summary"] == "PyTorch Lightning modules that fuse models with complementary expertise"
    assert (found["License-Expression"], found["License-File"]) == ("Apache-2.0", "LICENSE")
    assert found["Requires-Python"] == ">=3.11" and found["Author"] and len(found["Keywords"].split(",")) > 5
    assert "Typing :: Typed" in found.get_all("Classifier") and found.get_all("Project-URL") is None
    assert [name for name in wheel.namelist() if name.endswith("licenses/LICENSE")]


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_its_configs(wheel):
    names = set(wheel.namelist())
    code = {str(path.relative_to(ROOT)) for path in (ROOT / "lightning_fusion").rglob("*.py")}
    configs = {f"lightning_fusion/configs/{path.relative_to(CONFIGS)}" for path in CONFIGS.rglob("*.yaml")}
    assert code | configs | {"lightning_fusion/py.typed"} <= names
    assert len(configs) > 10
    for name in configs:
        assert wheel.read(name) == (CONFIGS / name.removeprefix("lightning_fusion/configs/")).read_bytes()


@pytest.mark.slow
def test_the_wheel_holds_nothing_else(wheel):
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"lightning_fusion"}
    kinds = {Path(name).suffix for name in wheel.namelist() if ".dist-info/" not in name}
    assert kinds == {".py", ".typed", ".yaml", ".jinja", ".css", ".js"}  # the last three: the page of a report


@pytest.mark.slow
def test_the_wheel_names_the_program(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "lightning-fusion = lightning_fusion.cli.main:main" in wheel.read(name).decode()


@pytest.mark.slow
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


def pins(name: str) -> dict[str, str]:
    """Versions of a file of constraints by name."""
    lines = (ROOT / name).read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9][\w.-]*==[\w.!+-]+", line)] == []
    names = [canonicalize_name(line.partition("==")[0]) for line in lines]
    assert len(set(names)) == len(names)
    return dict(zip(names, [line.partition("==")[2] for line in lines], strict=True))


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-min.txt"])
def test_constraints_pin_what_the_project_requires(name):
    found = pins(name)
    assert [str(one) for one in OTHERS if not one.specifier.contains(found[canonicalize_name(one.name)])] == []


def test_minimum_constraints_are_the_lower_bounds():
    found = pins("constraints-min.txt")
    lowest = {one: part.version for one in OTHERS for part in one.specifier if part.operator == ">="}
    wrong = {one for one, low in lowest.items() if Version(found[canonicalize_name(one.name)]) != Version(low)}
    assert wrong == set()


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
