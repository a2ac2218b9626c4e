"""One trial of a sweep, in a process of its own: runs a command and writes the metrics that it logged."""

import json
import math
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from lightning_fusion.cli.main import main
from lightning_fusion.errors import InputError
from lightning_fusion.files import write_text

_END_S = 10.0  # that a training has to end in after its sweep was killed


def end_with_sweep() -> None:
    """End this process when the sweep that started it has ended, killed or not: when standard input is closed."""
    ident = threading.get_ident()  # of the main thread

    def wait() -> None:
        while os.read(0, 1):  # without the lock of sys.stdin, which forked workers close
            pass
        signal.pthread_kill(ident, signal.SIGTERM)
        time.sleep(_END_S)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def logged_metrics(result: Any) -> dict[str, float]:
    """Return the last value of each metric of a training run, or the means over seeds of the method of a recipe.

    Args:
        result: What the command ``fit`` or ``recipe`` returns.
    """
    if hasattr(result, "trainer"):
        found = {name: float(value) for name, value in result.trainer.callback_metrics.items()}
    else:
        found = dict(result.metrics(result.main)) if hasattr(result, "metrics") else {}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def run_trial(path: str, words: list[str]) -> None:
    """Run a command, and write what it logged as JSON.

    Args:
        path: Path of the file.
        words: Command and options.

    Raises:
        SystemExit: With status 2 and one line on standard error for wrong input.
    """
    try:
        result = main(words)
    except InputError as error:
        print(f"lightning-fusion: error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    write_text(Path(path), json.dumps(logged_metrics(result)))


if __name__ == "__main__":
    end_with_sweep()
    run_trial(sys.argv[1], sys.argv[2:])
