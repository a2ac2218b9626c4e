"""Importing the package and starting the program, in fresh interpreters with warm caches."""

import os
import subprocess
import sys
import time

from measuring import Result, Times

BASE = "import lightning, torchvision, torchmetrics"
TORCH = "import torch"
LIGHTNING = "import lightning.pytorch"
PROGRAM = "from lightning_fusion.cli.main import main; main({})"
STARTED = {
    "--version": (["--version"], TORCH, 0.5),
    "--help": (["--help"], TORCH, 0.5),
    "collect --help": (["collect", "--help"], TORCH, 0.5),
    "diagnose --help": (["diagnose", "--help"], TORCH, 0.5),
    "export --help": (["export", "--help"], TORCH, 0.5),
    "recipe foe --help": (["recipe", "foe", "--help"], TORCH, 0.5),
    "fit --help": (["fit", "--help"], LIGHTNING, 1.2),
    "fit, its configuration read": (["fit", "-c", "experts/digits.yaml", "--print_config"], LIGHTNING, 1.2),
}
"""What is started by its name: arguments, what it is compared with, and the target."""
SIDES = {
    "base": BASE,
    "alone": "import lightning_fusion",
    "added": f"{BASE}, lightning_fusion",
    "touched": f"{BASE}, lightning_fusion as package; [getattr(package, name) for name in package.__all__]",
    TORCH: TORCH,
    LIGHTNING: LIGHTNING,
} | {name: PROGRAM.format(arguments) for name, (arguments, _, _) in STARTED.items()}
REPEATS = 5


def start(code: str) -> Times:
    """Run code in a new interpreter."""
    wall, cpu = time.perf_counter(), os.times()
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"{code} ended with status {done.returncode}")
    after = os.times()
    used = after.children_user + after.children_system - cpu.children_user - cpu.children_system
    return Times(time.perf_counter() - wall, used)


def measure() -> list[Result]:
    """The package beside what it stands on, alone, with every public name resolved, and the commands' first second."""
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
        *(
            Result.of_pairs("import", f"lightning-fusion {name} / {beside}", times[name], times[beside], target)
            for name, (_, beside, target) in STARTED.items()
        ),
    ]
