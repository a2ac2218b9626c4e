"""FoE on multiple-choice questions: selects a language model for each question."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn

from lightning_fusion import plotting
from lightning_fusion.data.splits import stratified_split
from lightning_fusion.data.text.tokens import TextTokenizer
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.outputs.collect import first_process
from lightning_fusion.experts.outputs.store import ExpertOutputs
from lightning_fusion.generation.answers import pad_rows
from lightning_fusion.generation.choices import LETTERS, Choices, read_categories, read_choices
from lightning_fusion.generation.embeddings import EmbeddingsDataModule
from lightning_fusion.generation.expert import GenerativeExpert, score_options
from lightning_fusion.markdown import markdown_table
from lightning_fusion.recipes.generation.choosing import train_chooser
from lightning_fusion.recipes.inspection import Inspection, draw, of_classes
from lightning_fusion.recipes.report import Figures, Report
from lightning_fusion.recipes.runner import Recipe, Run, run_recipe
from lightning_fusion.recipes.seed_run import SeedRun, barrier
from lightning_fusion.store import ArrayStore, DamagedStoreError, MissingStoreError, StoreWriter

MAIN = "FoE (embeddings)"
PROBABILITIES = "FoE (option probabilities)"
_ANSWERS = "answers of an expert"
CALIBRATED = "best expert of the category (category known)"


def multiple_choice(
    root: str,
    experts: dict[str, str],
    output: str,
    categories: str | None = None,
    val_split: str = "val",
    test_split: str = "test",
    options: Literal["letters", "texts"] = "letters",
    per_token: bool = False,
    max_length: int = 512,
    batch_size: int = 8,
    seeds: list[int] | None = None,
    fuser_epochs: int = 50,
    hidden: int = 512,
    trainer: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Report:
    """Score language models on multiple-choice questions, and select one for each question.

    Each expert is loaded once, scores every option and embeds the question; the results are stored, so an interrupted
    run resumes with the next expert. The target of a category is the expert with the highest validation accuracy in it.
    Fusers learn this target on four fifths of the validation questions, from embeddings or from option probabilities.
    Test questions are not used for calibration, unlike in the released code.

    Args:
        root: Folder with ``<split>/<subject>_<split>.csv``: question, four options, letter; no header.
        experts: Names, and folders (or names on the hub that are on this machine) of sequence-to-sequence or causal
            language models of transformers with their tokenizers.
        output: Folder of the run.
        categories: CSV file of subjects and their categories. ``None`` (default) means that each subject is a category.
        val_split: Split for the calibration and for the training of the fusers.
        test_split: Split for testing.
        options: Score the likelihood of the option's letter, after a question that lists the options, or of the
            option's text.
        per_token: Divide the log-likelihood by the number of tokens, so that short options have no advantage.
        max_length: Maximum number of tokens of a question; the start of longer questions is cut.
        batch_size: Number of questions per batch.
        seeds: Random seeds, one training of the fusers each; [0] by default.
        fuser_epochs: Epochs of each fuser.
        hidden: Width of the fusers.
        trainer: Arguments of every stage's Trainer, on whose device the experts run as well;
            :class:`~lightning_fusion.recipes.trainers.Trainers` lists them.
        overwrite: Replace another run in ``output``.

    Raises:
        InputError: If files or experts are invalid, or ``output`` contains another run.
    """
    if min(max_length, batch_size, fuser_epochs, hidden) < 1:
        raise InputError("max_length, batch_size, fuser_epochs and hidden must be at least 1")
    if len(experts) < 2:
        raise InputError(f"experts: found {shorten(experts) or 'none'}; fusion needs two at least")
    parts = {"val": read_choices(root, val_split), "test": read_choices(root, test_split)}
    known = read_categories(categories) if categories is not None else {}
    if categories is not None and (
        missing := sorted({subject for part in parts.values() for subject in part.subjects} - set(known))
    ):
        raise InputError(f"categories: {categories} names no category for the subject(s) {shorten(missing)}; add rows")
    names = sorted({known.get(subject, subject) for subject in parts["val"].subjects})
    if lacking := sorted({known.get(subject, subject) for subject in parts["test"].subjects} - set(names)):
        raise InputError(
            f"{test_split}: the categories {shorten(lacking)} have no {val_split} question to choose an expert by; add "
            "some, or put their subjects into another category"
        )
    pool = {name: GenerativeExpert(transformers=path) for name, path in experts.items()}
    scoring = {"options": options, "per_token": per_token, "max_length": max_length}
    content = {split: part.fingerprint() for split, part in parts.items()}
    config = {"content": content, "experts": {name: [experts[name], e.fingerprint] for name, e in pool.items()}}
    config |= {**scoring, "categories": known, "fuser_epochs": fuser_epochs, "hidden": hidden}
    recipe = _MultipleChoice(
        name="multiple_choice",
        main=MAIN,
        config=config,
        beside=("choice accuracy",),
        pool=pool,
        parts=parts,
        category={split: part.numbers(known, names) for split, part in parts.items()},
        categories=names,
        scoring=scoring,
        batch_size=batch_size,
        fuser_epochs=fuser_epochs,
        hidden=hidden,
    )
    return run_recipe(recipe, output, [0] if seeds is None else seeds, trainer, overwrite)


@dataclass(kw_only=True)
class _MultipleChoice(Recipe):
    pool: dict[str, GenerativeExpert]
    parts: dict[str, Choices]
    category: dict[str, np.ndarray]
    """(N,) category numbers of each split."""
    categories: list[str]
    scoring: dict[str, Any]
    """Arguments of the scoring of options."""
    batch_size: int
    fuser_epochs: int
    hidden: int
    answers: "_Answers | None" = None

    def run_seed(self, run: Run, seed: int) -> None:
        """Train the fusers, and evaluate them, the experts and the rules."""
        if self.answers is None:
            start = time.perf_counter()
            self.answers = _Answers(self.parts, self._query(run), self.category, self.categories)
            run.report.took("querying experts", start)
        self.answers.score(run.report, seed)
        for method, kind in ((MAIN, "embeddings"), (PROBABILITIES, "probabilities")):
            data = self.answers.data(seed, kind)
            one = SeedRun(run, data, seed)
            chosen = train_chooser(one, kind, data, self.fuser_epochs, reads="input", hidden=self.hidden)
            self.answers.add(run.report, method, chosen, seed)
            if method == MAIN:
                self.selected = seed, chosen

    def conclude(self, run: Run) -> None:
        """Describe the questions, and the target expert of each category."""
        assert self.answers is not None
        run.report.data = {
            "questions": ", ".join(f"{split} {len(part.questions)}" for split, part in self.parts.items()),
            "categories": ", ".join(self.categories),
            "experts": ", ".join(self.pool),
        }
        run.report.text = self.answers.table()

    def figures(self, run: Run) -> Figures:
        """Accuracy of each expert by category."""
        assert self.answers is not None
        title = "Validation accuracy of each expert by category"
        names = {"label": "accuracy", "xlabel": "expert", "ylabel": "category"}
        figure = plotting.heat_map(
            self.answers.calibration, self.categories, list(self.pool), title=title, top=None, **names
        )
        return {"calibration": (figure, f"{title}.")}

    def inspection(self, run: Run) -> dict[str, Any]:
        """Test questions with the options that each expert prefers, and the selected expert, last seed."""
        assert self.answers is not None
        seed, chosen = self.selected
        return self.answers.inspect(self.parts["test"], chosen, f"{MAIN}, seed {seed}", seed).record()

    def _query(self, run: Run) -> dict[str, dict[str, np.ndarray]]:
        """Return likelihoods and embeddings of all questions by expert; the first process computes them."""
        device = run.trainers.trainer("answers", logged=False, bar=False).strategy.root_device
        folders = {name: run.folder / "answers" / str(number) for number, name in enumerate(self.pool)}
        if first_process():
            for name, expert in self.pool.items():
                _query(expert, self.parts, folders[name], device, self.batch_size, self.scoring)
        barrier()
        return {name: dict(ArrayStore(folder, _ANSWERS, writable=True)) for name, folder in folders.items()}


def prompt(question: str, options: list[str], listed: bool) -> str:
    r"""Return the input of an expert.

    Example:
        >>> prompt("2 + 2 =", ["3", "4", "5", "6"], listed=False)
        'Question: 2 + 2 =\nAnswer:'
    """
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True)] if listed else []
    return "\n".join([f"Question: {question}", *lines, "Answer:"])


def _query(
    expert: GenerativeExpert,
    parts: dict[str, Choices],
    folder: Path,
    device: torch.device,
    batch_size: int,
    scoring: dict[str, Any],
) -> None:
    """Store log-likelihoods (N, 4) and embeddings (N, D) of each split, unless they are stored already."""
    try:
        ArrayStore(folder, _ANSWERS)
        return
    except MissingStoreError:
        pass
    except DamagedStoreError as error:
        rank_zero_warn(f"{error}: this expert is queried again")
    path = str(expert.transformers)
    tokenizer = TextTokenizer.load(path, download=False).backend
    with StoreWriter(folder, _ANSWERS, overwrite=True) as writer:
        with expert.loaded(device) as network, torch.no_grad():
            for split, part in parts.items():
                for name, values in _score_options(network, tokenizer, part, split, batch_size, **scoring).items():
                    writer[name] = values
        writer.commit({"expert": path})


def _score_options(
    network: Any,
    tokenizer: Any,
    part: Choices,
    split: str,
    batch_size: int,
    options: str,
    per_token: bool,
    max_length: int,
) -> dict[str, np.ndarray]:
    likely, embedded = [], []
    listed = options == "letters"
    for start in range(0, len(part.questions), batch_size):
        rows = range(start, min(start + batch_size, len(part.questions)))
        texts = [prompt(part.questions[row], part.options[row], listed) for row in rows]
        read = [np.array(tokenizer(text)["input_ids"][-max_length:], np.int64) for text in texts]
        device = next(network.parameters()).device
        input = pad_rows(read, network.pad_id, device)
        wanted = [f" {text}" for row in rows for text in (LETTERS if listed else part.options[row])]
        tokens = [np.array(tokenizer(text, add_special_tokens=False)["input_ids"], np.int64) for text in wanted]
        padded = pad_rows(tokens, network.pad_id, device)["input_ids"].reshape(len(rows), len(LETTERS), -1)
        likely.append(score_options(network, input, padded, per_token).float().cpu().numpy())
        embedded.append(network.embed(input).float().cpu().numpy())
    both = {"likelihood": np.concatenate(likely), "embedding": np.concatenate(embedded)}
    if not all(np.isfinite(values).all() for values in both.values()):
        raise InputError(f"experts: {network.path} gives NaN or infinite numbers for {split} questions")
    return {f"{split}_{name}": values for name, values in both.items()}


class _Answers:
    """Outputs of all experts, the target expert of each category, and the scores."""

    def __init__(
        self,
        parts: dict[str, Choices],
        outputs: dict[str, dict[str, np.ndarray]],
        category: dict[str, np.ndarray],
        categories: list[str],
    ) -> None:
        self.outputs, self.category, self.categories, self.names = outputs, category, categories, list(outputs)
        self.right = {
            split: np.stack(
                [one[f"{split}_likelihood"].argmax(1) == np.array(part.answers) for one in outputs.values()], 1
            )
            for split, part in parts.items()
        }
        self.answers = np.array(parts["test"].answers)
        # ties: the better expert on all validation questions, then the first
        overall = self.right["val"].mean(0)
        self.calibration = np.stack(
            [self.right["val"][category["val"] == number].mean(0) for number in range(len(categories))]
        )
        self.best = (self.calibration + 1e-6 * overall).argmax(1)

    def data(self, seed: int, kind: str) -> EmbeddingsDataModule:
        """Return the data module of embeddings or option probabilities; 4/5 of the validation questions train."""
        train, val = stratified_split(self.category["val"], 0.2, seed)
        arrays = {}
        for name, split, rows in (("train", "val", train), ("val", "val", val), ("test", "test", None)):
            rows = np.arange(len(self.category[split])) if rows is None else rows
            arrays[name] = {
                "probabilities": {expert: np.ones((len(rows), 1), np.float32) for expert in self.names},
                "representations": {expert: self._representations(expert, split, kind)[rows] for expert in self.names},
                "target": [self.names[number] for number in self.best[self.category[split][rows]]],
            }
        classes = {expert: [expert] for expert in self.names}
        return EmbeddingsDataModule(ExpertOutputs.from_arrays(arrays, classes, self.names), seed=seed)

    def _representations(self, expert: str, split: str, kind: str) -> np.ndarray:
        if kind == "embeddings":
            return self.outputs[expert][f"{split}_embedding"]
        return torch.from_numpy(self.outputs[expert][f"{split}_likelihood"]).softmax(1).numpy()

    def score(self, report: Report, seed: int) -> None:
        """Evaluate single experts and rules."""
        right = self.right["test"]
        for number, name in enumerate(self.names):
            self.add(report, f"single expert {name}", np.full(len(right), number), seed)
        report.add("random choice (expected)", "accuracy", right.mean(), seed)
        both = np.mean([self._representations(name, "test", "probabilities") for name in self.names], 0)
        report.add("average of option probabilities", "accuracy", (both.argmax(1) == self.answers).mean(), seed)
        best = int(self.right["val"].mean(0).argmax())
        self.add(report, "best single expert on validation", np.full(len(right), best), seed)
        self.add(report, CALIBRATED, self.best[self.category["test"]], seed)
        report.add("oracle (any expert correct)", "accuracy", right.any(1).mean(), seed)

    def add(self, report: Report, method: str, chosen: np.ndarray, seed: int) -> None:
        """Add the accuracy of the selected experts, and how often the target of the category was selected."""
        right = self.right["test"][np.arange(len(chosen)), chosen]
        report.add(method, "accuracy", right.mean(), seed)
        report.add(method, "choice accuracy", (chosen == self.best[self.category["test"]]).mean(), seed)
        for number, name in enumerate(self.categories):
            if (own := self.category["test"] == number).any():
                report.add(method, "accuracy", right[own].mean(), seed, domain=name)

    def inspect(self, part: Choices, chosen: np.ndarray, title: str, seed: int) -> Inspection:
        """Return test questions with the experts' probabilities of the options.

        Args:
            part: The test questions.
            chosen: (N,) numbers of the selected experts.
            title: The method and the seed.
            seed: Seed of the draw.
        """
        outputs = np.stack([self._representations(name, "test", "probabilities") for name in self.names], 1)
        rows, drawn = draw(self.right["test"][np.arange(len(chosen)), chosen], seed, unit="test questions")
        return of_classes(
            title,
            drawn,
            outputs[rows],
            outputs[rows, chosen[rows]],
            self.answers[rows],
            LETTERS,
            self.names,
            names=[f"question {row}, {part.subjects[row]}" for row in rows],
            domains=[self.categories[number] for number in self.category["test"][rows]],
            weights=np.eye(len(self.names))[chosen[rows]],
            weighting="Weight 1: the selected expert, whose answer is taken.",
        )

    def table(self) -> list[str]:
        """Return the calibration in Markdown."""
        rows = [
            [name, *(f"{value:.3f}" for value in row), self.names[best]]
            for name, row, best in zip(self.categories, self.calibration, self.best, strict=True)
        ]
        title = "Validation accuracy of each expert by category; the target is the best expert:"
        return ["", title, "", *markdown_table(["category", *self.names, "target"], rows)]
