"""FoE's generative protocol: generative experts of domains, and selection of the expert for each sample."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from lightning_fusion import plotting
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.outputs.store import ExpertOutputs
from lightning_fusion.files import file_key
from lightning_fusion.generation.answers import InferenceSettings, pad_rows, run_expert
from lightning_fusion.generation.embeddings import EmbeddingsDataModule, Spool, collect_embeddings
from lightning_fusion.generation.expert import GenerativeExpert
from lightning_fusion.generation.module import GenerativeExpertModule
from lightning_fusion.generation.pair_files import PairFiles
from lightning_fusion.generation.rouge import ROUGE_KEYS, Rouge
from lightning_fusion.markdown import markdown_table
from lightning_fusion.recipes.generation.choosing import train_chooser
from lightning_fusion.recipes.report import Figures, Report, paired_gain
from lightning_fusion.recipes.runner import Recipe, Run, run_recipe
from lightning_fusion.recipes.seed_run import SeedRun, check_domains, describe_arguments, stage_seed

MAIN = "GenerativeFoE (all embeddings)"
DOMAIN_ORACLE = "oracle (domain known)"
TEXT_ORACLE = "oracle (best ROUGE-L)"
RANDOM = "random choice (expected)"
LEADS = (4, 6, 8, 10, 12, 16)
_SHOWN = 10


def generative(
    data: PairFiles,
    output: str,
    network: Callable[[int], nn.Module] | None = None,
    experts: dict[str, GenerativeExpert] | None = None,
    seeds: list[int] | None = None,
    expert_epochs: int = 12,
    fuser_epochs: int = 50,
    max_new_tokens: int = 20,
    hidden: int = 512,
    single_embeddings: bool = True,
    optimizer: OptimizerCallable | None = None,
    scheduler: LRSchedulerCallable | None = None,
    trainer: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Report:
    """Train one generative expert per domain or take yours, select one per sample, and compare with single experts.

    For each seed: parts are drawn, one expert is trained per domain, and all experts embed the fuser's and the test
    texts and generate texts for them, one expert in memory at a time; GenerativeFoE is trained on the embeddings of all
    experts and, as an ablation, on those of each single expert; all texts are evaluated by ROUGE. An interrupted run
    resumes and reuses trained experts and written batches.

    Args:
        data: Pairs of texts; their domains are the experts'.
        output: Folder of the run.
        network: Factory of an expert's network, called with the size of the vocabulary.
        experts: Instead of a network, models of your own: one for each domain of the data, by its name. All read the
            tokens of one tokenizer, the ``tokenizer`` of the data. The pairs for training experts are then not used.
        seeds: Random seeds, one run each; [0] by default.
        expert_epochs: Epochs of each expert.
        fuser_epochs: Epochs of each fuser.
        max_new_tokens: Maximum number of tokens of a generated text.
        hidden: Width of the fusers.
        single_embeddings: Also train fusers that read the embedding of one expert only.
        optimizer: Optimizer of the experts; AdamW, 1e-3, weight decay 1e-4 by default.
        scheduler: Schedule of the experts, stepping each epoch; cosine annealing to 0 by default.
        trainer: Arguments of every stage's Trainer; :class:`~lightning_fusion.recipes.trainers.Trainers` lists
            them.
        overwrite: Replace another run in ``output``.

    Returns:
        The report, which is also in ``output``: ``results.json``, ``report.md``, figures, and for each seed the
        tokenizer, the experts' checkpoints and the store of embeddings.

    Raises:
        InputError: If ``output`` contains another run, or the data have fewer than two domains.
    """
    recorded = describe_arguments(locals(), "experts")
    trained = {"expert_epochs": expert_epochs != 12, "optimizer": optimizer, "scheduler": scheduler}
    if (network is None) == (experts is None):
        raise InputError(
            "network and experts: found both or neither; give a network to train experts, or your own ones"
        )
    if experts is not None and (unused := [name for name, given in trained.items() if given]):
        raise InputError(f"{', '.join(unused)}: only the training of experts uses it; remove it, or experts")
    if min(expert_epochs, fuser_epochs, max_new_tokens, hidden) < 1:
        raise InputError("expert_epochs, fuser_epochs, max_new_tokens and hidden must be at least 1")
    data = data.variant(seed=0)
    check_domains(data.module("fuser"))
    if experts is not None:
        if set(experts) != set(data.domains):
            raise InputError(
                f"experts: found {shorten(experts)}; expected one for each domain of the data: {shorten(data.domains)}"
            )
        for name, expert in experts.items():
            if expert.domains not in (None, [name]):
                raise InputError(f"experts.{name}.domains: found {shorten(expert.domains)}; expected {name}")
            expert.domains = [name]
        recorded["experts"] = {name: expert.fingerprint for name, expert in experts.items()}
    recipe = _Generative(
        name="generative",
        main=MAIN,
        config=recorded | {"data": data.arguments, "content": data.fingerprint()},
        metric="rougeL",
        title="test ROUGE-L (F-measure)",
        beside=("rouge1", "rouge2", "choice accuracy", "experts queried"),
        data=data,
        own=experts,
        expert={"network": network, "optimizer": optimizer, "scheduler": scheduler, "max_new_tokens": max_new_tokens},
        expert_epochs=expert_epochs,
        fuser={"max_new_tokens": max_new_tokens, "hidden": hidden},
        fuser_epochs=fuser_epochs,
        single_embeddings=single_embeddings,
    )
    return run_recipe(recipe, output, [0] if seeds is None else seeds, trainer, overwrite)


@dataclass(kw_only=True)
class _Generative(Recipe):
    data: PairFiles
    own: dict[str, GenerativeExpert] | None
    """Experts by domain, in place of trained ones."""
    expert: dict[str, Any]
    """Arguments of the experts' modules."""
    expert_epochs: int
    fuser: dict[str, Any]
    """Arguments of the fusers."""
    fuser_epochs: int
    single_embeddings: bool

    def run_seed(self, run: Run, seed: int) -> None:
        """Train the experts, generate their texts, and select among them."""
        one = self.last = _Seed(run, self.data.variant(seed=seed), seed)
        if self.own is not None:
            experts = {name: self.own[name] for name in one.files.domains}
        else:
            experts = one.train_writers(self.expert, self.expert_epochs)
        one.query(experts, self.expert["max_new_tokens"])
        one.choose(self.fuser, self.fuser_epochs, self.single_embeddings)
        one.score_baselines()
        one.compare()

    def conclude(self, run: Run) -> None:
        """Describe the data and their truncation."""
        data = self.last.files
        run.report.data = {
            "source": data.root,
            "experts": ", ".join(data.domains),
            "pairs": ", ".join(f"{name} {count}" for name, count in self.last.counts().items()),
            "tokens": data.tokenizer.vocab_size,
        }
        if cut := data.tell_cut():
            run.report.notes.append(cut)

    def figures(self, run: Run) -> Figures:
        """ROUGE-L by domain, and the selected experts."""
        last, names = self.last, self.last.files.domains
        shown = (MAIN, *(f"single expert {name}" for name in names), DOMAIN_ORACLE, TEXT_ORACLE)
        means = {
            method: [float(np.mean(run.report.values(method, "rougeL", domain=name))) for name in names]
            for method in shown
        }
        choices = plotting.confusion(
            last.domain,
            last.chosen[MAIN],
            names,
            title=f"Selected expert by domain, seed {last.seed}",
            xlabel="selected expert",
            ylabel="domain of the text",
        )
        return {
            "domains": (
                plotting.grouped_bars(means, names, label="test ROUGE-L", title="ROUGE-L on the texts of each domain"),
                "Test ROUGE-L on the texts of each domain, mean over seeds.",
            ),
            "choices": (
                choices,
                f"Fraction of each domain's test texts for which each expert is selected ({MAIN}), one seed.",
            ),
        }


class _Seed(SeedRun):
    """One seed of the protocol."""

    def __init__(self, run: Run, data: PairFiles, seed: int) -> None:
        self.files, self.pairs = data, data.module("fuser")
        super().__init__(run, self.pairs, seed)
        self.rouge = Rouge(data.decode, data.tokenizer.pad_id)
        self.tokenizer = data.save_tokenizer(self.folder)
        self.found: dict[str, np.ndarray] = {}
        self.chosen: dict[str, np.ndarray] = {}

    def counts(self) -> dict[str, int]:
        """Return the number of pairs of each part."""
        roles = (("expert", "train"), ("expert", "val"), ("fuser", "train"), ("fuser", "val"), ("fuser", "test"))
        return {
            f"{role} {split}" if split != "test" else split: len(self.files.rows(role, split))  # type: ignore[arg-type]
            for role, split in roles
        }

    # --------------------------------------------------------------- experts

    def train_writers(self, arguments: dict[str, Any], epochs: int) -> dict[str, GenerativeExpert]:
        """Train one expert per domain; existing ones are reused."""
        experts, names = {}, self.files.domains
        for number, name in enumerate(names):
            label = f"seed {self.seed}  expert {number + 1}/{len(names)} {name}"
            seed = stage_seed(self.seed, name)
            build = partial(self._writer, name, arguments)
            data = self.files.module("expert", name)
            path = self.train(f"experts/{file_key(name)}", build, data, seed, epochs, label)
            experts[name] = GenerativeExpert(str(path), domains=[name])
        return experts

    def _writer(self, name: str, arguments: dict[str, Any]) -> GenerativeExpertModule:
        vocabulary = self.files.tokenizer
        return GenerativeExpertModule(
            vocab_size=vocabulary.vocab_size, trained_on=[name], preprocessing=self.files.preprocessing, **arguments
        )

    def query(self, experts: dict[str, GenerativeExpert], max_new_tokens: int) -> None:
        """Embed all texts, and evaluate the texts that the experts generate for the test split."""
        start = time.perf_counter()
        trainer, folder = self.trainer("embeddings", logged=False), self.folder / "embeddings"
        self.store: ExpertOutputs = collect_embeddings(
            experts, self.pairs, folder, max_new_tokens=max_new_tokens, trainer=trainer
        )
        spool = Spool()
        wanted: list[list[int]] = []
        for batch in self.pairs.test_dataloader():
            spool.add(batch, "the test loader")
            ids = batch.input["target_ids"]
            wanted += [[token for token in row if token != self.rouge.pad_id] for row in ids.tolist()]
        how = InferenceSettings(
            max_new_tokens,
            spool.batch_size,
            trainer.strategy.root_device,
            Path(f"{folder}.parts"),
            str(trainer.precision),
        )
        self.read = spool.rows
        self.written = {name: run_expert(expert, spool.rows, "text", how)[0] for name, expert in experts.items()}
        self.report.took("querying experts", start)
        start = time.perf_counter()
        self.wanted = self._padded(wanted)
        self.domain = np.concatenate(spool.domain).argmax(1)
        self.scores = np.stack([self._judged(texts) for texts in self.written.values()], 1)  # (N, K, 3)
        self.report.took("ROUGE", start)

    def _padded(self, texts: Sequence[Any]) -> Tensor:
        return pad_rows([np.asarray(text, np.int64) for text in texts], self.rouge.pad_id)["input_ids"]

    def _judged(self, texts: Sequence[Any]) -> np.ndarray:
        return self.rouge.scores(self._padded(texts), self.wanted).numpy()

    # ---------------------------------------------------------------- choice

    def choose(self, arguments: dict[str, Any], epochs: int, single_embeddings: bool) -> None:
        """Train GenerativeFoE on all embeddings and on those of single experts, and evaluate the selected texts."""
        names = self.store.names
        kinds: dict[str, list[str]] = {MAIN: names}
        if single_embeddings:
            kinds |= {f"GenerativeFoE (embedding of {name})": [name] for name in names}
        for method, readers in kinds.items():
            data = EmbeddingsDataModule(self.store, readers, seed=self.seed)
            of_text = {"pad_id": self.rouge.pad_id, "tokenizer": str(self.tokenizer)}
            file = "all" if method == MAIN else readers[0]
            chosen = train_chooser(self, file, data, epochs, **of_text, **arguments)
            own = np.array([names[number] in readers for number in chosen])
            self._score(method, chosen, len(readers) + (~own).mean())

    def score_baselines(self) -> None:
        """Evaluate single experts, chance, oracles, and the lead baseline (first words)."""
        rows = np.arange(len(self.scores))
        for number, name in enumerate(self.store.names):
            self._score(f"single expert {name}", np.full(len(rows), number), 1)
        self._add(RANDOM, self.scores.mean(1))
        self.report.add(RANDOM, "choice accuracy", 1 / self.scores.shape[1], self.seed)
        self.report.add(RANDOM, "experts queried", 1, self.seed)
        self._score(DOMAIN_ORACLE, self.domain, 1)
        self._score(TEXT_ORACLE, self.scores[:, :, 2].argmax(1), self.scores.shape[1])
        count = self._lead()
        self._add("lead baseline (first words)", self._judged([text[:count] for text in self.read]))

    def _lead(self) -> int:
        """Return the number of first tokens with the highest ROUGE-L on the fuser's validation pairs."""
        best = {}
        batches = list(self.pairs.val_dataloader())
        for count in LEADS:
            parts = [self.rouge.scores(b.input["input_ids"][:, :count], b.input["target_ids"]) for b in batches]
            best[count] = float(torch.cat(parts)[:, 2].mean())
        return max(best, key=lambda count: best[count])

    def compare(self) -> None:
        """Add paired ROUGE-L differences from each single expert over the test samples, and examples of texts."""
        rows = np.arange(len(self.scores))
        own, gains, shown = self.scores[rows, self.chosen[MAIN], 2], [], []
        for number, name in enumerate(self.store.names):
            gain = paired_gain(own.tolist(), self.scores[:, number, 2].tolist())
            bounds: dict[str, Any] = dict(zip(("low", "high"), gain.interval or (), strict=False))
            self.report.add(MAIN, f"rougeL difference from {name}", gain.mean, self.seed, **bounds)
            gains.append([name, gain.points(2)])
        for row in np.unique(np.linspace(0, len(rows) - 1, _SHOWN).astype(int)):
            name = self.store.names[self.chosen[MAIN][row]]
            texts = (self.read[row], self.wanted[row].tolist(), self.written[name][row])
            read, wanted, written = (self.files.decode([int(token) for token in text]) for text in texts)
            short = read if len(read) <= 70 else f"{read[:70]} ..."
            shown.append([self.files.domains[self.domain[row]], short, wanted, name, written])
        self.report.text += [
            "",
            f"Paired ROUGE-L difference of {MAIN} from each expert over {len(rows)} test texts, seed {self.seed} "
            "(points, 95 % interval of Student's t over texts; the experts are fixed):",
            "",
            *markdown_table(["against", "difference"], gains),
            "",
            f"{len(shown)} examples of seed {self.seed}, evenly spaced over the test set:",
            "",
            *markdown_table(["domain", "input", "reference", "selected expert", "generated text"], shown),
        ]

    # --------------------------------------------------------------- helpers

    def _score(self, method: str, chosen: np.ndarray, queried: float) -> None:
        self.chosen[method] = chosen
        self._add(method, self.scores[np.arange(len(chosen)), chosen])
        right = chosen == self.domain
        self.report.add(method, "choice accuracy", right.mean(), self.seed)
        self.report.add(method, "experts queried", queried, self.seed)
        for number, name in enumerate(self.files.domains):
            self.report.add(method, "choice accuracy", right[self.domain == number].mean(), self.seed, domain=name)

    def _add(self, method: str, scores: np.ndarray) -> None:
        for place, key in enumerate(ROUGE_KEYS):
            self.report.add(method, key, scores[:, place].mean(), self.seed)
            for number, name in enumerate(self.files.domains):
                value = scores[self.domain == number, place].mean()
                self.report.add(method, key, value, self.seed, domain=name)
