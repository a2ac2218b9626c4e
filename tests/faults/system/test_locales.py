"""Locales and terminals of other encodings than UTF-8: files are UTF-8, and no print fails; and another hash seed."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import TESTS
from sklearn.linear_model import LogisticRegression

from lightning_fusion.experts.identity import state_digest
from lightning_fusion.terminal import open_console

CONFIGS = TESTS.parent / "configs"
ASCII = {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}


def test_shipped_files_can_be_read_in_any_locale():
    for path in CONFIGS.rglob("*.yaml"):
        path.read_bytes().decode("ascii")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_console_replaces_what_it_cannot_encode(monkeypatch, encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", stream)
    open_console().print("Zürich … 東京 ├──")
    stream.flush()
    assert b"?" in stream.buffer.getvalue() and b"rich" in stream.buffer.getvalue()


COLLECTED = """
import sys
sys.path.insert(0, {tests!r})
import torch
from helpers import tiny
from lightning_fusion import Expert, ExpertPool, collect, diagnose
from lightning_fusion.cli.main import main
from lightning_fusion.experts.identity import state_digest
import numpy as np
from sklearn.linear_model import LogisticRegression
print(state_digest([{{"b", "a", "c"}}, LogisticRegression().fit(np.eye(4), [0, 1, 0, 1]), {{"x": 1.5}}]))
pool = ExpertPool({{"東京 …": Expert(tiny.Net(2), classes=["chät", "dog"])}}, ["chät", "dog"])
data = {{split: (torch.randn(40, 4), torch.arange(40) % 2) for split in ("train", "test")}}
outputs = collect(pool, data, {folder!r} + "/store", trainer=tiny.trainer())
found = diagnose(outputs, "train", "test")
found.print()
found.save({folder!r} + "/diagnosis")
sys.argv = ["lightning-fusion", "diagnose", "--config", {folder!r} + "/own.yaml", "--output", {folder!r} + "/second"]
main()
"""


@pytest.mark.slow
def test_the_library_and_the_command_line_in_another_locale(tmp_path):
    environment = {**os.environ, **ASCII, "PYTHONIOENCODING": "ascii", "PYTHONHASHSEED": "7"}
    code = tmp_path / "script.py"
    code.write_text(COLLECTED.format(tests=str(TESTS), folder=str(tmp_path)), encoding="utf-8")
    config = tmp_path / "own.yaml"
    config.write_text(f"store: {tmp_path}/store  # der schönste Ort …\n", encoding="utf-8")
    done = subprocess.run([sys.executable, code], env=environment, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr.decode("latin-1")[-2000:]
    state = [{"b", "a", "c"}, LogisticRegression().fit(np.eye(4), [0, 1, 0, 1]), {"x": 1.5}]
    assert done.stdout.split()[0].decode() == str(state_digest(state))  # whatever the seed of hashes
    for folder in ("diagnosis", "second"):
        assert "東京" in json.dumps(
            json.loads(Path(tmp_path / folder / "diagnosis.json").read_text(encoding="utf-8")), ensure_ascii=False
        )
