"""ACoRL's protocol: a chain of members, each against those before it, beside the same chain trained plainly."""

import itertools
import math
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning import seed_everything
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from rich.console import Console
from torch import Tensor, nn

from lightning_fusion.acorl.attribution import attribute, compare_pairs, plot_attributions
from lightning_fusion.acorl.dissimilarity import Dissimilarity
from lightning_fusion.acorl.fusion import average_outputs, fit_output_weights, late_fusion
from lightning_fusion.acorl.module import ACoRLModule
from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.errors import InputError
from lightning_fusion.experts.collecting import collect
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.outputs import ExpertOutputs
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.experts.training import ExpertModule
from lightning_fusion.metrics import PairwiseDiversity, heldout_linear_r2, linear_cka
from lightning_fusion.recipes.experts import SeedRun, check_seeds, describe, describe_data, quiet_lightning
from lightning_fusion.recipes.report import Report, claim_folder, paired_gain
from lightning_fusion.schedules import DANNRamp, Schedule

MAIN = "ACoRL, output fusion"
PLAIN = "plain"
DIVERSITY = ("disagreement", "double fault", "Q statistic", "error correlation", "linear CKA", "held-out linear R2")
LOOKS = ("attribution rank correlation", "attribution top-10 % overlap")
_LATE_STEPS, _LATE_RATE = 1000, 3e-3  # of the head on stored features: a convex problem, solved in seconds


def acorl(
    data: FusionDataModule,
    network: Callable[[int], nn.Module],
    features: str,
    output: str,
    seeds: list[int] | None = None,
    members: int = 2,
    epochs: int = 10,
    strengths: list[float] | None = None,
    schedule: Callable[[float], Schedule] | None = None,
    dissimilarity: Callable[[int, int], Dissimilarity] | None = None,
    projection: Callable[[int, int], nn.Module] | None = None,
    larger: Callable[[int], nn.Module] | None = None,
    optimizer: OptimizerCallable | None = None,
    scheduler: LRSchedulerCallable | None = None,
    label_smoothing: float = 0.0,
    mixup: float = 0.0,
    attribution_rows: int = 64,
    accelerator: str = "auto",
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true",
    overwrite: bool = False,
) -> Report:
    """Grow a chain of complementary members and a plain one, fuse both, and compare them pair by pair.

    For each seed a first member is trained plainly. Each further member is trained once plainly, the control arm, and
    once for each strength of the reversal against the members before it in its own chain: with the same seed,
    initialisation, order of data and epochs. All are asked once. Where several strengths are given, the one whose
    output fusion is best on *validation*, on average over the seeds, is the one of the table; 0 is the plain chain.

    Args:
        data: The data; all members train on the rows of the ``expert`` role.
        network: Called with the number of classes, gives a member's network.
        features: Submodule of the network whose output is the representation.
        output: Folder of the run.
        seeds: One run each; [0] where None.
        members: N, the length of the chain.
        epochs: Of each member.
        strengths: Largest lambdas to try; [1.0] where None.
        schedule: Called with a strength, gives lambda's schedule;
            :class:`~lightning_fusion.schedules.DANNRamp` where None.
        dissimilarity: As for :class:`~lightning_fusion.ACoRLModule`.
        projection: Likewise.
        larger: Called with the number of classes, gives one larger network that costs as much to train and to ask as
            the chain; left out where None.
        optimizer: Of the members; AdamW, 1e-3, weight decay 1e-4 where None.
        scheduler: Of the members, stepping each epoch; a cosine to 0 where None.
        label_smoothing: Of the members.
        mixup: Of the members, its alpha; 0 turns it off.
        attribution_rows: Test samples whose integrated gradients are compared; 0 leaves that out.
        accelerator: Lightning's name of the device.
        precision: Lightning's name of the precision of the members.
        overwrite: Replace another run in ``output``.

    Returns:
        The report, which is also in ``output``: ``results.json``, ``report.md``, pictures, and for each seed the
        members' checkpoints, which are ordinary experts, and their outputs.

    Raises:
        InputError: If ``output`` holds another run, or arguments make no sense.
    """
    seeds = [0] if seeds is None else seeds
    check_seeds(seeds)
    strengths = [1.0] if strengths is None else strengths
    if members < 2 or epochs < 1 or attribution_rows < 0:
        raise InputError(
            f"members is {members}, epochs {epochs}, attribution_rows {attribution_rows}; expected at least 2, 1 and 0"
        )
    tried = [strength for strength in dict.fromkeys(strengths) if strength != 0]
    if not tried or any(not 0 < strength < float("inf") for strength in tried):
        raise InputError(f"strengths: found {strengths}; expected numbers >= 0, one above 0 at least")
    data = data.variant(role="expert", domain=None)
    data.prepare_data()
    config = {
        **describe_data(data, seeds[0]),
        "network": describe(network),
        "features": features,
        "seeds": seeds,
        "members": members,
        "epochs": epochs,
        "strengths": strengths,
        "schedule": describe(schedule),
        "dissimilarity": describe(dissimilarity),
        "projection": describe(projection),
        "larger": describe(larger),
        "optimizer": describe(optimizer),
        "scheduler": describe(scheduler),
        "label_smoothing": label_smoothing,
        "mixup": mixup,
        "attribution_rows": attribution_rows,
        "precision": precision,
    }
    folder, resumed = claim_folder(output, "acorl", config, overwrite)
    console = Console(markup=False)
    if resumed:
        console.print(f"going on with the run in {folder}")
    report = Report("acorl", config, beside=("error correlation",))
    arguments = {
        "optimizer": optimizer,
        "scheduler": scheduler,
        "label_smoothing": label_smoothing,
        "mixup": mixup,
        "features": features,
    }
    branch = {"dissimilarity": dissimilarity, "projection": projection}
    runs = []
    with quiet_lightning():
        for seed in seeds:
            run = _Seed(
                data.variant(seed=seed), seed, folder / f"seed_{seed}", report, console, {"accelerator": accelerator}
            )
            run.grow(network, larger, members, epochs, tried, schedule or DANNRamp, arguments, branch, precision)
            run.ask(network, larger)
            run.fuse(tried)
            runs.append(run)
        chosen = _choose(runs, strengths, tried)
        for run in runs:
            run.score(chosen, attribution_rows)
    report.data = {
        "source": str(data.hparams.get("source", type(data).__name__)),
        "classes": len(data.classes),
        "rows": ", ".join(f"{name} {len(part)}" for name, part in runs[-1].outputs.splits.items()),
        "members": members,
        "strength of the table": f"{chosen:g}" + (", picked by validation" if len(strengths) > 1 else ""),
    }
    report.text = [*_comparison(report), "", *_strength_table(report, runs, tried), "", *_diversity_table(report)]
    report.notes += _signs(report)
    report.save(folder, MAIN, {})  # the figures are safe before anything is drawn
    report.save(folder, MAIN, _draw(report, folder, runs, tried))
    report.print(MAIN, folder, console)
    return report


def _choose(runs: Sequence["_Seed"], strengths: Sequence[float], tried: Sequence[float]) -> float:
    """The strength whose output fusion is best on validation, over all seeds; the plain chain where 0 was given."""
    allowed = [*tried, *([0.0] if 0 in strengths else [])]
    means = {strength: float(np.mean([run.validation[strength] for run in runs])) for strength in allowed}
    return max(allowed, key=lambda strength: (means[strength], -strength))


class _Seed(SeedRun):
    """One seed: both chains, and what they say."""

    outputs: ExpertOutputs
    maps: tuple[Tensor, dict[str, Tensor]] | None = None

    # ---------------------------------------------------------------- members

    def grow(
        self,
        network: Callable[[int], nn.Module],
        larger: Callable[[int], nn.Module] | None,
        members: int,
        epochs: int,
        strengths: Sequence[float],
        schedule: Callable[[float], Schedule],
        arguments: dict[str, Any],
        branch: dict[str, Any],
        precision: str,
    ) -> None:
        """Train what is not there yet."""
        plain = [f"member_{number + 1}" for number in range(members)]
        self.chains = {0.0: plain}
        self.paths: dict[str, Path] = {}
        for number, name in enumerate(plain):
            self._train(name, number, ExpertModule, {"network": network, **arguments}, epochs, precision)
        for strength in strengths:
            chain = [plain[0]]
            for number in range(1, members):
                name = f"member_{number + 1}_against_{strength:g}".replace(".", "_")
                pool = {other: self._expert(other, network) for other in chain}
                more = {"experts": pool, "schedule": schedule(strength), **branch}
                self._train(name, number, ACoRLModule, {"network": network, **arguments, **more}, epochs, precision)
                chain.append(name)
            self.chains[strength] = chain
        if larger is not None:
            self._train("larger", 0, ExpertModule, {"network": larger, **arguments}, epochs, precision)

    def _train(
        self, name: str, number: int, kind: type[ExpertModule], arguments: dict[str, Any], epochs: int, precision: str
    ) -> None:
        """One member; the n-th of every chain begins with the same weights and sees the same order of data."""
        label, path = f"seed {self.seed}  {name}", self.folder / "members" / f"{name}.ckpt"
        self.paths[name] = path
        if path.is_file():
            self.console.print(f"{label}: there already")
            return
        start = time.perf_counter()
        seed_everything((self.seed * 1000 + number) % 2**32, verbose=False)
        module = kind(classes=self.data.classes, preprocessing=getattr(self.data, "preprocessing", None), **arguments)
        trainer = self.trainer(epochs, precision=precision)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")  # the frozen ones
            trainer.fit(module, datamodule=self.data)
        path.parent.mkdir(exist_ok=True, parents=True)
        draft = path.with_suffix(".part")
        trainer.save_checkpoint(draft, weights_only=True)
        draft.replace(path)
        self.took("training members", start)
        accuracy = float(trainer.callback_metrics["val_accuracy"])
        self.console.print(f"{label}: validation accuracy {accuracy:.3f}, {time.perf_counter() - start:.0f} s")

    def _expert(self, name: str, network: Callable[[int], nn.Module]) -> Expert:
        return self.load_expert(self.paths[name], network)

    # ---------------------------------------------------------------- fusions

    def ask(self, network: Callable[[int], nn.Module], larger: Callable[[int], nn.Module] | None) -> None:
        """Ask all members of all chains once."""
        start = time.perf_counter()
        kinds = {name: larger if name == "larger" else network for name in self.paths}
        self.experts = {name: self._expert(name, kind) for name, kind in kinds.items() if kind is not None}
        pool = ExpertPool(self.experts, self.data.classes)
        self.outputs = collect(pool, self.data, self.folder / "outputs", features=True, trainer=self.trainer(1))
        self.took("asking members", start)

    def fuse(self, strengths: Sequence[float]) -> None:
        """Accuracy of the output fusion on the validation split, by strength."""
        part = self.outputs["val"]
        self.validation = {
            strength: float((self._average(chain, "val").argmax(1).numpy() == part.target).mean())
            for strength, chain in self.chains.items()
        }

    def _known(self, chain: Sequence[str], split: str) -> Tensor:
        places = [self.outputs.names.index(name) for name in chain]
        return torch.from_numpy(self.outputs.scattered(split)[:, places].copy())

    def _average(self, chain: Sequence[str], split: str, weights: Tensor | None = None) -> Tensor:
        return average_outputs(self._known(chain, split), weights)

    def score(self, chosen: float, attribution_rows: int) -> None:
        """Test everything that the report compares."""
        start = time.perf_counter()
        self.truth = np.asarray(self.outputs["test"].target)
        arms = {PLAIN: self.chains[0.0], "ACoRL": self.chains[chosen]}
        for arm, chain in arms.items():
            self._score(f"{arm}, output fusion", self._average(chain, "test"))
            weights = fit_output_weights(
                self._known(chain, "val"), torch.from_numpy(np.asarray(self.outputs["val"].target))
            )
            self._score(f"{arm}, weighted output fusion", self._average(chain, "test", weights))
            self._score(f"{arm}, late fusion", self._late(chain))
            self._diversity(arm, chain)
        self._score("first member", self._average(arms[PLAIN][:1], "test"))
        for arm, chain in arms.items():
            for number, name in enumerate(chain[1:], 2):
                self._score(f"member {number}, {arm}", self._average([name], "test"))
        if "larger" in self.paths:
            self._score("one larger model", self._average(["larger"], "test"))
        for strength, chain in self.chains.items():
            right = self._average(chain, "test").argmax(1).numpy() == self.truth
            self.report.add("output fusion", "accuracy by strength", right.mean(), self.seed, strength=strength)
            self.report.add(
                "output fusion", "accuracy by strength", self.validation[strength], self.seed, "val", strength=strength
            )
        self.took("fusing", start)
        if attribution_rows:
            self._look(arms, attribution_rows)

    def _look(self, arms: dict[str, list[str]], rows: int) -> None:
        """Where the first two members of both chains look: integrated gradients on some test samples."""
        start = time.perf_counter()
        self.data.setup("test")
        data = self.data.rows("test")
        count = len(data)  # type: ignore[arg-type]
        drawn = np.random.default_rng(self.seed).choice(count, min(rows, count), replace=False)
        with torch.no_grad():
            batch = self.data.on_after_batch_transfer(data[torch.from_numpy(np.sort(drawn))], 0)
        networks: dict[str, Any] = {name: self.experts[name].network for chain in arms.values() for name in chain[:2]}
        ours, plain = ([networks[name] for name in arms[arm][:2]] for arm in ("ACoRL", PLAIN))
        found = compare_pairs((ours[0], ours[1]), (plain[0], plain[1]), batch, seed=self.seed)
        for arm, overlap in (("ACoRL", found.pair), (PLAIN, found.plain_pair)):
            for name, values in zip(LOOKS, overlap, strict=True):
                self.report.add(f"{arm}, output fusion", name, float(values.nanmean()), self.seed)
        if batch.input.ndim == 4:
            names = {"first member": plain[0], "second, plain": plain[1], "second, ACoRL": ours[1]}
            some, target = batch.input[:4], batch.target[:4]
            self.maps = some, {name: attribute(network, some, target) for name, network in names.items()}
        self.took("attribution", start)

    def _score(self, method: str, answer: Tensor) -> None:
        self.report.add(method, "accuracy", (answer.argmax(1).numpy() == self.truth).mean(), self.seed)

    def _late(self, chain: Sequence[str]) -> Tensor:
        """An ordinary expert on the members' stored features."""
        seed_everything(self.seed, verbose=False)
        head, data = late_fusion(self.outputs, chain, seed=self.seed)
        rows = data.rows("train")
        module = ExpertModule(lambda _: head, classes=data.classes, optimizer=partial(torch.optim.AdamW, lr=_LATE_RATE))
        epochs = math.ceil(_LATE_STEPS * data.batch_size / len(rows))
        self.trainer(epochs, accelerator="cpu", limit_val_batches=0, enable_progress_bar=False).fit(module, data)
        with torch.no_grad():
            return module.eval()(data.rows("test").inputs)

    def _diversity(self, arm: str, chain: Sequence[str]) -> None:
        """How unlike the members are, as the mean over their pairs."""
        answers = self._known(chain, "test").argmax(2)
        metric = PairwiseDiversity(len(chain))
        metric.update(answers, torch.from_numpy(self.truth))
        pairs = list(itertools.combinations(range(len(chain)), 2))
        found = {
            name.replace("_", " "): [float(values[i, j]) for i, j in pairs] for name, values in metric.compute().items()
        }
        features = [torch.from_numpy(np.array(self.outputs["test"].features[name])) for name in chain]
        found["linear CKA"] = [float(linear_cka(features[i], features[j])) for i, j in pairs]
        found["held-out linear R2"] = [heldout_linear_r2(features[j], features[i], seed=self.seed) for i, j in pairs]
        for name in DIVERSITY:
            values = found.get(name, found.get(name[0].lower() + name[1:]))
            assert values is not None
            self.report.add(f"{arm}, output fusion", name, float(np.mean(values)), self.seed)


def _comparison(report: Report) -> list[str]:
    """ACoRL's chain against the plain one, fusion by fusion."""
    lines = ["| fusion | plain | ACoRL | gain |", "|---|---|---|---|"]
    for fusion in ("output fusion", "weighted output fusion", "late fusion"):
        ours, theirs = (report.values(f"{arm}, {fusion}") for arm in ("ACoRL", PLAIN))
        lines.append(f"| {fusion} | {np.mean(theirs):.3f} | {np.mean(ours):.3f} | {_gain(ours, theirs)} |")
    return lines


def _gain(ours: Sequence[float], theirs: Sequence[float]) -> str:
    mean, low, high = paired_gain(ours, theirs)
    text = f"{100 * mean:+.1f}"
    return text if low is None or high is None else f"{text} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _by_strength(report: Report, strength: float, split: str) -> list[float]:
    rows = [
        row
        for row in report.rows
        if (row["metric"], row["split"], row.get("strength")) == ("accuracy by strength", split, strength)
    ]
    return [row["value"] for row in sorted(rows, key=lambda row: row["seed"])]


def _strength_table(report: Report, runs: Sequence[_Seed], strengths: Sequence[float]) -> list[str]:
    lines = ["| largest lambda | validation, output fusion | test, output fusion | gain on test |", "|---|---|---|---|"]
    plain = _by_strength(report, 0.0, "test")
    for strength in sorted({0.0, *strengths}):
        val, test = (_by_strength(report, strength, split) for split in ("val", "test"))
        gain = _gain(test, plain) if strength else ""
        lines.append(f"| {strength:g} | {np.mean(val):.3f} | {np.mean(test):.3f} | {gain} |")
    return lines


def _diversity_table(report: Report) -> list[str]:
    lines = ["| mean over pairs, test | plain | ACoRL | difference |", "|---|---|---|---|"]
    for name in [name for name in (*DIVERSITY, *LOOKS) if report.values(MAIN, name)]:
        ours, theirs = (report.values(f"{arm}, output fusion", name) for arm in ("ACoRL", PLAIN))
        mean, low, high = paired_gain(ours, theirs)
        text = f"{mean:+.3f}" + ("" if low is None else f" [{low:+.3f}, {high:+.3f}]")
        lines.append(f"| {name} | {np.mean(theirs):.3f} | {np.mean(ours):.3f} | {text} |")
    return lines


def _signs(report: Report) -> list[str]:
    """What the figures say about a chain that did not do what it is for."""
    found = []
    ours, theirs = (report.values(f"{arm}, output fusion", "held-out linear R2") for arm in ("ACoRL", PLAIN))
    if np.mean(ours) > np.mean(theirs) - 0.02:
        found.append(
            f"The members' features are as predictable from one another as in the plain chain (held-out linear R2 "
            f"{np.mean(ours):.2f} against {np.mean(theirs):.2f}): the reversal did not make them unlike."
        )
    mean, low, high = paired_gain(report.values(MAIN), report.values(f"{PLAIN}, output fusion"))
    if low is None:
        found.append("One seed: whether ACoRL gains cannot be told; give five.")
    elif low <= 0 <= (high or 0):
        found.append(
            f"The gain over the plain chain ({100 * mean:+.1f} points) is not told from nothing by these seeds."
        )
    elif mean < 0:
        found.append(f"ACoRL's chain is worse than the plain one ({100 * mean:+.1f} points).")
    return found


def _draw(report: Report, folder: Path, runs: Sequence[_Seed], strengths: Sequence[float]) -> dict[str, str]:
    """The pictures of the report."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    grid = sorted({0.0, *strengths})
    names = ["0\n(plain)" if not strength else f"{strength:g}" for strength in grid]
    for split, color in (("val", "tab:gray"), ("test", "tab:blue")):
        values = np.array([_by_strength(report, strength, split) for strength in grid])  # (strengths, seeds)
        for column in values.T:
            left.plot(range(len(grid)), column, color=color, alpha=0.25, linewidth=1)
        left.plot(range(len(grid)), values.mean(1), "o-", color=color, label=split, linewidth=2)
    left.set_xticks(range(len(grid)), names)
    left.set(
        xlabel="largest lambda", ylabel="accuracy of the output fusion", title="Strength of the reversal; thin: seeds"
    )
    left.legend()
    fusions = ("output fusion", "weighted output fusion", "late fusion")
    for place, fusion in enumerate(fusions):
        ours, theirs = (report.values(f"{arm}, {fusion}") for arm in ("ACoRL", PLAIN))
        mean, low, high = paired_gain(ours, theirs)
        right.plot(100 * np.subtract(ours, theirs), np.full(len(ours), place), ".", color="tab:gray")
        bounds = None if low is None or high is None else [[100 * (mean - low)], [100 * (high - mean)]]
        right.errorbar([100 * mean], [place], xerr=bounds, fmt="o", color="black", capsize=4)
    right.axvline(0, color="tab:red", linewidth=1)
    right.set_yticks(range(len(fusions)), fusions)
    right.invert_yaxis()
    right.set(xlabel="points of test accuracy over the plain chain", title="Paired gain, 95 % interval; dots: seeds")
    figure.savefig(folder / "strengths.png", dpi=130)
    pictures = {"strengths.png": "Left: output fusion by strength. Right: ACoRL's chain against the plain one."}
    if runs[-1].maps is not None:
        plot_attributions(*runs[-1].maps, folder / "attributions.png")
        pictures["attributions.png"] = "Integrated gradients of the true class on four test samples, last seed."
    return pictures
