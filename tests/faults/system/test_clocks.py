"""Nothing is ordered, named or limited by the wall clock, which jumps, or by what two containers have in common."""

import re
from pathlib import Path

import pytest

import lightning_fusion


@pytest.mark.parametrize(
    "calls",
    [
        r"\btime\.(time|time_ns|ctime)\(|\b(datetime|date)\.(now|utcnow|today)\(",
        r"\bgetpid\(|\bgethostname\(|\bplatform\.node\(|\bgetnode\(",  # two containers on one volume: process id 1 each
    ],
    ids=["clock", "process"],
)
def test_no_source_calls(calls):
    files = Path(lightning_fusion.__file__).parent.rglob("*.py")
    assert [path.name for path in files if re.search(calls, path.read_text(encoding="utf-8"))] == []
