"""Importing the package, in fresh interpreters with warm caches."""

import os
import subprocess
import sys
import time

from measuring import Result, Times

BASE = "import lightning, torchvision, torchmetrics"
SIDES = {
    "base": BASE,
    "alone": "import lightning_fusion",
    "added": f"{BASE}, lightning_fusion",
    "touched": f"{BASE}, lightning_fusion as house; [getattr(house, name) for name in house.__all__]",
}
REPEATS = 5


def start(code: str) -> Times:
    """Run code in a new interpreter."""
    wall, cpu = time.perf_counter(), os.times()
    subprocess.run([sys.executable, "-c", code], check=True)
    after = os.times()
    used = after.children_user + after.children_system - cpu.children_user - cpu.children_system
    return Times(time.perf_counter() - wall, used)


def measure() -> list[Result]:
    """The package beside what it stands on, alone, and with every public name resolved."""
    times: dict[str, list[Times]] = {name: [] for name in SIDES}
    for code in SIDES.values():
        start(code)
    for repeat in range(REPEATS):
        for name in list(SIDES)[:: -1 if repeat % 2 else 1]:
            times[name].append(start(SIDES[name]))
    libraries = BASE.removeprefix("import ")
    return [
        Result.of_pairs("import", f"{libraries}, lightning_fusion / without it", times["added"], times["base"], 1.15),
        Result.of_pairs("import", "the same with all public names resolved", times["touched"], times["base"], 1.15),
        Result.of_pairs("import", f"lightning_fusion alone / {libraries}", times["alone"], times["base"]),
    ]
