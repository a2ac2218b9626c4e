"""Chains of speaker networks, fused by trial scores and evaluated by EER."""

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule
from torch import Tensor

from lightning_fusion import plotting
from lightning_fusion.acorl.fusion import CalibratedFusion, average_scores
from lightning_fusion.acorl.verification import ACoRLVerificationModule
from lightning_fusion.callbacks.scheduled import ScheduledAttribute
from lightning_fusion.data.batch import as_batch
from lightning_fusion.errors import InputError
from lightning_fusion.experts.outputs.collect import first_process
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.markdown import markdown_table
from lightning_fusion.metrics import heldout_linear_r2, linear_cka
from lightning_fusion.recipes.acorl.chains import COMPLEMENTARY, PLAIN, ChainRun, pairs_of
from lightning_fusion.recipes.advice import BootstrapScores
from lightning_fusion.recipes.inspection import Inspection, draw, named
from lightning_fusion.recipes.report import Figures
from lightning_fusion.recipes.seed_run import barrier, source_of
from lightning_fusion.schedules import Linear
from lightning_fusion.store import ArrayStore, MissingStoreError, StoreWriter
from lightning_fusion.verification.error_rates import (
    bootstrap_eer,
    bootstrap_eers,
    equal_error_rate,
    error_curve,
    min_dcf,
)
from lightning_fusion.verification.metrics import trial_scores
from lightning_fusion.verification.module import VerificationModule

FEW_SPEAKERS = 40  # the number of VoxCeleb1-O; the report warns if there are fewer (our choice)
_LEAST_ROWS = 4  # two to fit a linear map, two to hold out
_ANSWERS = ("different speakers", "same speaker")
_DRAWS = 200  # enough for a standard error: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 6.4
_EMBEDDINGS = "embeddings of members"
_MARGIN = Linear(0.0, 0.2, until=0.3)  # radians, as in configs/experts/speaker.yaml


class SpeakerChains(ChainRun):
    """One seed of speaker networks."""

    plain, complementary = VerificationModule, ACoRLVerificationModule
    metric, beside, sign = "eer", ("min_dcf",), -1
    title = "test EER as a fraction (lower is better: a negative gain is a lower EER)"
    fusions = ("score fusion", "calibrated fusion")
    fitted = frozenset({"calibrated fusion"})
    likeness = ("linear CKA", "held-out linear R2", "correlation of scores")
    data: Any  # has trials(split) and speaker_of(index)

    def _callbacks(self) -> list[Callback]:
        return [ScheduledAttribute("loss.margin", _MARGIN)]

    def predict(self) -> None:
        """Score the trials of both splits by every member; embeddings are computed once and stored."""
        start = time.perf_counter()
        pool = self._pool()
        self.data.setup("test")
        self.same: dict[str, Tensor] = {}
        self.speakers: dict[str, Tensor] = {}
        self.scores: dict[str, dict[str, Tensor]] = {}
        self.calibrations: dict[tuple[str, ...], CalibratedFusion] = {}
        for split in ("val", "test"):
            index, self.embeddings = self._embeddings(pool, split)
            pairs, self.same[split] = self.data.trials(split)
            rows = torch.searchsorted(index, pairs)
            self.scores[split] = {name: trial_scores(values, rows) for name, values in self.embeddings.items()}
            self.speakers[split] = self.data.speaker_of(pairs)
        self.report.took("querying members", start)
        self.validation = {
            strength: float(equal_error_rate(self._average(chain, "val"), self.same["val"]))
            for strength, chain in self.chains.items()
        }

    def _embeddings(self, pool: ExpertPool, split: str) -> tuple[Tensor, dict[str, Tensor]]:
        """Return ascending sample numbers and their embeddings by every member, stored ones if they match."""
        folder = self.folder / "embeddings" / split
        prints = {name: expert.fingerprint for name, expert in pool.members.items()}
        metadata = {"data": self.data.fingerprint(split), "members": prints}
        stored = None
        with suppress(MissingStoreError):
            stored = ArrayStore(folder, _EMBEDDINGS)
        if stored is None or stored.metadata != metadata:
            listener = _Listener(pool)
            trainer = self.trainer(f"embeddings_{split}", logged=False)
            run = trainer.validate if split == "val" else trainer.test
            run(listener, datamodule=self.data, verbose=False)
            heard = listener.heard()
            if first_process():
                with StoreWriter(folder, _EMBEDDINGS, overwrite=True) as writer:
                    for name, values in heard.items():
                        writer[name] = values
                    writer.commit(metadata)
            barrier()
            stored = ArrayStore(folder, _EMBEDDINGS, verify=False)
        kept = {name: torch.from_numpy(np.array(stored[name])) for name in ("index", *prints)}
        return kept.pop("index"), kept

    def _average(self, chain: Sequence[str], split: str) -> Tensor:
        return average_scores([self.scores[split][name] for name in chain])

    def _fused(self, chain: list[str], split: str) -> dict[str, Tensor]:
        given = torch.stack([self.scores[split][name] for name in chain])
        calibrated = self._calibration(chain)(given.double())
        return dict(zip(self.fusions, (self._average(chain, split), calibrated), strict=True))

    def _calibration(self, chain: list[str]) -> CalibratedFusion:
        if tuple(chain) not in self.calibrations:
            val = torch.stack([self.scores["val"][name] for name in chain])
            self.calibrations[tuple(chain)] = CalibratedFusion().fit(val.double(), self.same["val"])
        return self.calibrations[tuple(chain)]

    def fitted_parameters(self, chosen: float) -> dict[str, list[float]]:
        """Return weights and intercept of the calibrated fusions."""
        arms = self._arms(chosen).items()
        return {self.method(arm, self.fusions[1]): self._calibration(chain).parameters for arm, chain in arms}

    def score(self, chosen: float) -> None:
        """Test all methods of the report."""
        self.curves: dict[str, Tensor] = {}
        super().score(chosen)

    def _alone(self, name: str, split: str) -> Tensor:
        return self.scores[split][name]

    def _sound(self, split: str) -> Tensor:
        """Return (T,) bool, trials whose kind agrees with the paths; a trial list may contradict them."""
        speakers = self.speakers[split]
        return ~self.same[split] | (speakers[:, 0] == speakers[:, 1])

    def _scores(self, answer: Tensor) -> BootstrapScores:
        same, sound = self.same["val"], self._sound("val")
        draws = bootstrap_eers(answer[sound], same[sound], self.speakers["val"][sound], _DRAWS, self.seed)
        return BootstrapScores(float(equal_error_rate(answer, same)), draws.numpy(), len(same))

    def _value(self, answer: Tensor) -> float:
        return float(equal_error_rate(answer, self.same["test"]))

    def _score(self, method: str, answer: Tensor) -> None:
        same = self.same["test"]
        sound = self._sound("test")
        low, high = bootstrap_eer(answer[sound], same[sound], self.speakers["test"][sound], seed=self.seed)
        self.report.add(method, "eer", self._value(answer), self.seed, low=low, high=high)
        self.report.add(method, "min_dcf", float(min_dcf(answer, same)), self.seed)
        self.curves[method] = answer

    def _diversity(self, arm: str, chain: list[str]) -> None:
        both = pairs_of(chain, self.embeddings)
        both_scores = pairs_of(chain, self.scores["test"])
        found = {
            "linear CKA": [float(linear_cka(x, y)) for x, y in both],
            "correlation of scores": [float(torch.corrcoef(torch.stack(scores))[0, 1]) for scores in both_scores],
        }
        if len(both[0][0]) >= _LEAST_ROWS:
            found["held-out linear R2"] = [heldout_linear_r2(y, x, seed=self.seed) for x, y in both]
        for name, values in found.items():
            self.report.add(self.method(arm), name, float(np.mean(values)), self.seed)

    # ----------------------------------------------------------------- report

    def data_description(self) -> dict[str, Any]:
        """Return speakers, recordings and trials."""
        settings = self.data.hparams
        trials = {
            split: f"{len(same)} ({int(same.sum())} of the same speaker; {settings.get(f'{split}_trials') or 'drawn'})"
            for split, same in self.same.items()
        }
        return {
            "source": source_of(self.data),
            "trained on": f"{len(self.data.classes)} speakers, {len(self.data.rows('train'))} samples per epoch",
            "validation trials": trials["val"],
            "test trials": trials["test"],
            "test speakers": len(self.speakers["test"].unique()),
        }

    def notes(self) -> list[str]:
        """Describe the evaluation and its limits."""
        data = self.data_description()
        found = [
            f"Training data: {data['trained on']} of {data['source']}. Test trials: {data['test trials']}, of "
            f"{data['test speakers']} speakers. Scores are cosine similarities without score normalization."
        ]
        if data["test speakers"] < FEW_SPEAKERS:
            found.append(
                f"{data['test speakers']} test speakers are too few for a conclusion; see the intervals over speakers."
            )
        if parts := [split for split in ("val", "test") if self.data.hparams.get(f"{split}_segments", 1) > 1]:
            found.append(
                f"{' and '.join(parts)} trials of the same speaker may compare segments of one recording, which is "
                "easier than two recordings."
            )
        return found

    def text(self, seeds: Sequence[int]) -> list[str]:
        """Return the EER of each seed with its interval over speakers."""
        rows = []
        for method in self.report.methods("eer"):
            found = {row["seed"]: row for row in self.report.select(method=method, metric="eer", split="test")}
            cells = [found[seed] for seed in seeds]
            shown = (f"{cell['value']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]" for cell in cells)
            rows.append([method, *shown])
        title = "Test EER by seed, with a 95 % bootstrap interval over the test speakers:"
        return [title, "", *markdown_table(["method", *(f"seed {seed}" for seed in seeds)], rows)]

    def inspect(self, chain: list[str], title: str) -> Inspection:
        """Return test trials with the scores of the members and their mean, each with its validation threshold."""
        pairs, same = self.data.trials("test")
        systems = {name: [name] for name in chain} | {title: chain}
        scores = np.stack([self._average(members, "test").numpy() for members in systems.values()], 1)
        limits = [
            _equal_error_threshold(self._average(members, "val"), self.same["val"]) for members in systems.values()
        ]
        accepted, truth = scores >= np.array(limits), same.bool().numpy()
        rows, drawn = draw(accepted[:, -1] == truth, self.seed, unit="test trials")
        answers = [[_ANSWERS[int(one)] for one in row] for row in accepted[rows]]
        names = named(self.data, pairs[rows].flatten().numpy())
        return Inspection(
            title=title,
            drawn=drawn,
            names=[f"{one} and {other}" for one, other in zip(names[::2], names[1::2], strict=True)],
            domains=[""] * len(rows),
            targets=[_ANSWERS[int(one)] for one in truth[rows]],
            answers=[row[-1] for row in answers],
            confidence=scores[rows, -1],
            correct=accepted[rows, -1] == truth[rows],
            experts=chain,
            expert_answers=[row[:-1] for row in answers],
            values=scores[rows, :-1],
            value="score",
            weighting="The fused score is the mean of the members' scores: their weights are equal. A score at or "
            "above the system's threshold of equal error rates on validation means the same speaker.",
        )

    def figures(self) -> Figures:
        """Return the detection error trade-off curves."""
        shown = ["first member", self.method(PLAIN), self.method(COMPLEMENTARY), "one larger model"]
        curves = {name: error_curve(self.curves[name], self.same["test"]) for name in shown if name in self.curves}
        rates = {name: (curve.false_alarm, curve.miss) for name, curve in curves.items()}
        caption = f"Detection error trade-off on the test trials, seed {self.seed}."
        return {"det": (plotting.det_curves(rates), caption)}


def _equal_error_threshold(scores: Tensor, same: Tensor) -> float:
    """Return the score at which both error rates are closest to each other."""
    curve = error_curve(scores, same)
    return float(curve.threshold[(curve.false_alarm - curve.miss).abs().argmin()])


class _Listener(LightningModule):
    """Keeps the embeddings of all members."""

    def __init__(self, pool: ExpertPool) -> None:
        super().__init__()
        self.pool = pool
        self.index: list[Tensor] = []
        self.found: dict[str, list[Tensor]] = {name: [] for name in pool.names}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        batch = as_batch(batch, "the loader of trials")
        self.index.append(batch.index.cpu())
        for name, values in self.pool.representations(batch.input).items():
            self.found[name].append(values.float().cpu())

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def heard(self) -> dict[str, np.ndarray]:
        """Return the rows of all batches of all processes, each once, ordered by sample number."""
        if not self.index:
            raise InputError(
                "trainer.strategy: its processes end with each stage, so their embeddings are lost; use strategy: ddp"
            )
        own = {"index": torch.cat(self.index)} | {name: torch.cat(parts) for name, parts in self.found.items()}
        shards: list[Any] = [own]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            shards = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(shards, own)
        whole = {name: torch.cat([shard[name] for shard in shards]).numpy() for name in own}
        _, first = np.unique(whole["index"], return_index=True)
        return {name: values[first] for name, values in whole.items()}
