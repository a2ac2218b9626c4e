"""Speed and memory as ratios, both sides measured in this run: ``python benchmarks/run.py [name ...]``."""

import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import torch
from measuring import Result
from rich.console import Console
from rich.table import Table

BENCHMARKS = {
    "fuser": "fuser",
    "collect": "collecting",
    "expert": "expert",
    "import": "importing",
    "frugal": "frugal",
    "serving": "frugal_serving",
    "verification": "verification",
    "audio": "audio",
    "acorl": "acorl",
    "selection": "selection",
    "hat": "hat",
    "generative": "generative",
    "text": "text",
}
"""File of each benchmark; it has ``measure() -> list[Result]``."""
OUTPUT = Path("runs/bench/results.json")


def main(names: Sequence[str]) -> None:
    unknown = set(names) - set(BENCHMARKS)
    if unknown:
        sys.exit(f"no benchmark {', '.join(sorted(unknown))}; choose from {', '.join(BENCHMARKS)}")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.simplefilter("ignore")
    if "OMP_NUM_THREADS" not in os.environ:  # two threads that wait for each other measure the neighbors' load
        torch.set_num_threads(1)
    console = Console()
    results: list[Result] = []
    for name in names or BENCHMARKS:
        console.print(f"measuring {name} ...", style="dim")
        results += import_module(BENCHMARKS[name]).measure()
    console.print(table(results))
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(
        json.dumps([asdict(result) | {"ok": result.ok} for result in results], indent=1), encoding="utf-8"
    )
    console.print(f"written to {OUTPUT}", style="dim")


def table(results: Sequence[Result]) -> Table:
    shown = Table(
        "name",
        "what is compared",
        title=f"medians of ratios, measured side by side, {torch.get_num_threads()} thread(s)",
    )
    for heading in ("ratio", "range", "CPU", "target", "ok?"):
        shown.add_column(heading, justify="right")
    for result in results:
        spread = "" if result.low is None else f"{figure(result.low)}-{figure(result.high)}"
        cpu = "" if result.cpu_ratio is None else figure(result.cpu_ratio)
        target = "" if result.target is None else f"<= {result.target:.3g}"
        verdict = {True: "yes", False: "NO", None: ""}[result.ok]
        shown.add_row(result.name, result.compared, figure(result.ratio), spread, cpu, target, verdict)
    return shown


def figure(value: float | None) -> str:
    """Two decimals, or two digits where the number is small."""
    return "" if value is None else f"{value:.2f}" if value >= 0.1 or not value else f"{value:.2g}"


if __name__ == "__main__":
    main(sys.argv[1:])
