"""Speaker verification: error rates of a million trials, and the scoring of half a million."""

import json
import statistics
import subprocess
import sys

import torch
from measuring import Result, interleave, resident_mb
from sklearn.metrics import roc_curve
from torch import Tensor
from torch.nn import functional as F

from lightning_fusion.verification.error_rates import error_curve
from lightning_fusion.verification.metrics import trial_scores

SCORES, SECONDS, REPEATS = 1_000_000, 2.0, 5
UTTERANCES, FEATURES, TRIALS = 145_000, 192, 550_000
"""About VoxCeleb1-E and -H with the embeddings that ECAPA-TDNN gives."""


def draw_scores(count: int) -> tuple[Tensor, Tensor]:
    """Scores and kinds of trials, half of them of one speaker."""
    generator = torch.Generator().manual_seed(0)
    same = torch.rand(count, generator=generator) < 0.5
    return 0.2 * torch.randn(count, generator=generator) + 0.6 * same, same


def rates(scores: Tensor, same: Tensor) -> tuple[float, float]:
    curve = error_curve(scores, same)
    return curve.equal_error_rate().item(), curve.min_dcf().item()


def library(scores: Tensor, same: Tensor) -> tuple[float, float]:
    """The same from scikit-learn's curve, at its nearest point where the rates cross."""
    false_alarm, hits, _ = roc_curve(same.numpy(), scores.numpy())
    place = abs(1 - hits - false_alarm).argmin()
    cost = (0.01 * (1 - hits) + 0.99 * false_alarm).min() / 0.01
    return float(1 - hits[place] + false_alarm[place]) / 2, float(cost)


def draw_trials() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(UTTERANCES, FEATURES, generator=generator)
    return embeddings, torch.randint(UTTERANCES, (TRIALS, 2), generator=generator)


def gathered(embeddings: Tensor, rows: Tensor) -> Tensor:
    """The naive way: two matrices with an embedding per trial."""
    return F.cosine_similarity(embeddings[rows[:, 0]], embeddings[rows[:, 1]])


def error_rates() -> list[Result]:
    scores, same = draw_scores(SCORES)
    ours, theirs = rates(scores, same), library(scores, same)
    assert max(abs(one - other) for one, other in zip(ours, theirs, strict=True)) < 1e-5, (ours, theirs)
    sides = {"ours": lambda: lambda: rates(scores, same), "library": lambda: lambda: library(scores, same)}
    times = interleave(sides, REPEATS)
    seconds = [one.wall for one in times["ours"]]
    what = f"EER and minDCF of {SCORES:,} trials"
    return [
        Result("verification", f"{what}: seconds", statistics.median(seconds), SECONDS, min(seconds), max(seconds)),
        Result.of_pairs("verification", f"{what} / scikit-learn's roc_curve", times["ours"], times["library"]),
    ]


def scoring() -> list[Result]:
    embeddings, rows = draw_trials()
    torch.testing.assert_close(trial_scores(embeddings, rows), gathered(embeddings, rows), atol=1e-6, rtol=0)
    sides = {
        "ours": lambda: lambda: trial_scores(embeddings, rows),
        "naive": lambda: lambda: gathered(embeddings, rows),
    }
    times = interleave(sides, REPEATS)
    what = (
        f"{TRIALS:,} trials over {UTTERANCES:,} utterances of {FEATURES} numbers, row-wise in chunks / gathered whole"
    )
    return [Result.of_pairs("verification", what, times["ours"], times["naive"], 1.0)]


# ------------------------------------------------------------------ memory


def report_memory(task: str, count: int) -> None:
    """Do one thing in this process and print what it takes beyond its input at the peak, in MB."""
    if task == "rates":
        rates(*draw_scores(1_000))  # loads what the first call loads
        scores, same = draw_scores(count)
        before = resident_mb("VmRSS")
        rates(scores, same)
    else:
        embeddings, rows = draw_trials()
        run = {"chunks": trial_scores, "gathered": gathered}[task]
        run(embeddings[:10], rows[:10] % 10)
        before = resident_mb("VmRSS")
        run(embeddings, rows[:count])
    print(json.dumps(resident_mb("VmHWM") - before))


def grown_mb(task: str, count: int) -> float:
    command = [sys.executable, __file__, task, str(count)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def memory() -> list[Result]:
    few, many = (grown_mb("rates", count) for count in (SCORES, 4 * SCORES))
    ours, naive = (grown_mb(task, TRIALS) for task in ("chunks", "gathered"))
    return [
        Result(
            "verification",
            f"extra memory of EER and minDCF, {4 * SCORES:,} trials / {SCORES:,} ({few:.0f} MB); linear: 4",
            many / few,
            4.4,
        ),
        Result(
            "verification",
            f"extra memory of {TRIALS:,} trials' scores, in chunks ({ours:.0f} MB) / gathered whole ({naive:.0f} MB)",
            ours / naive,
            0.25,
        ),
    ]


def measure() -> list[Result]:
    """Time of error rates, time of scores, memory of both."""
    return [*error_rates(), *scoring(), *memory()]


if __name__ == "__main__":
    report_memory(sys.argv[1], int(sys.argv[2]))
