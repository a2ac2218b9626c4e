"""Every YAML under conf/misconfigured is refused with one line that says what to change."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from helpers import TESTS, tiny
from helpers.command_line import prepare, refused

from lightning_fusion import FrugalFoE

pytestmark = pytest.mark.slow

FILES = sorted((TESTS / "conf/misconfigured").glob("*.yaml"))


def command(text: str) -> list[str]:
    """Which command a file is for: the one in its second line, or what its keys are for."""
    if given := re.search(r"^# command: (.+)$", text, re.MULTILINE):
        return given[1].split()
    keys = set(yaml.safe_load(text))
    if "model" in keys:
        return ["fit"]
    if "network" in keys:
        return ["recipe", "foe"]
    return ["collect"] if "experts" in keys else ["diagnose"]


@pytest.fixture(scope="module", autouse=True)
def _folder(tmp_path_factory):
    """A user's folder with experts and a store, and some files that are not what they seem."""
    with pytest.MonkeyPatch.context() as patch:
        folder = prepare(tmp_path_factory, tmp_path_factory.mktemp("misconfigured"), patch)
        Path("junk.ckpt").write_text("junk")
        torch.save({"weight": torch.zeros(2)}, "state.ckpt")
        Path("other").mkdir()
        Path("other/run.json").write_text(json.dumps({"recipe": "foe", "config": {"seeds": [7]}}))
        FrugalFoE().fit(tiny.outputs()["train"]).save("policy_of_others")
        yield folder


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_raises(path):
    text = path.read_text()
    expected = re.match(r"# error: (.+)\n", text)
    assert expected, f"{path.name}: the first line must be '# error: <regular expression>'"
    before = {file: file.stat().st_mtime_ns for file in Path().rglob("*") if file.is_file()}
    message = refused([*command(text), "-c", str(path)])
    assert re.search(expected[1], message), message
    after = {file: file.stat().st_mtime_ns for file in Path().rglob("*") if file.is_file() and file.name != ".lock"}
    assert after.items() <= before.items(), "nothing may be written where the input is wrong"


def test_there_are_files():
    assert len(FILES) > 40
