"""Python processes that see the tests' own modules and nothing that other tests left in the environment."""

import os
import subprocess
from pathlib import Path
from types import ModuleType

from helpers import TESTS, warm


def environment() -> dict[str, str]:
    """The environment with ``tests`` on the path and without the variables that Lightning sets for its processes."""
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {name: value for name, value in os.environ.items() if not name.startswith("PL_")} | {"PYTHONPATH": path}


def run_module(
    module: ModuleType, *arguments: str, cwd: Path, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run a module of the helpers as a script, from another folder."""
    command = [warm.python(), "-m", module.__name__, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=cwd, env=environment())
