"""Finished runs that answer for new samples."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules, resolve_name
from typing import Any

import numpy as np
from lightning import Trainer

import lightning_fusion.recipes as recipe_packages
from lightning_fusion.baselines import Baseline
from lightning_fusion.callbacks.prediction import PredictionWriter
from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.described import imported_class
from lightning_fusion.errors import InputError, NotImportedError, nearest_path, shorten, suggestion
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.outputs.collect import first_process
from lightning_fusion.experts.outputs.store import ExpertOutputs
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.experts.preprocessing import training_facts
from lightning_fusion.files import file_key, hash_files, is_sealed
from lightning_fusion.foe.module import FoEFuserModule
from lightning_fusion.hyperparameters import constructor_arguments
from lightning_fusion.recipes.report import RESULTS, SERVING_FORMAT
from lightning_fusion.store import MANIFEST, ArrayStore, StoreWriter
from lightning_fusion.terminal import open_console

_GIVEN = ("predict_root", "predict_trials", "download")  # arguments that are no facts of new files
BASELINE = "fitted baseline"
"""Kind of the store of a baseline's parameters."""
IMPORTS = "name its package in --imports, if you trust the run"


@dataclass(frozen=True)
class FinishedRun:
    """A finished run of a recipe.

    Attributes:
        folder: Folder of the run; nothing outside it is read.
        recipe: Name of the recipe.
        config: Its configuration.
        advice: Its advice, as :meth:`~lightning_fusion.recipes.advice.Advice.record` returns it.
        serving: What the recipe stored for predictions.
    """

    folder: Path
    recipe: str
    config: dict[str, Any]
    advice: dict[str, Any]
    serving: dict[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> "FinishedRun":
        """Read the results of a run.

        Args:
            folder: Folder of the run.

        Raises:
            InputError: If the folder contains no finished run that can predict.
        """
        path = Path(folder)
        if not path.is_dir():
            raise InputError(f"run: found no folder {path}{nearest_path(path)}")
        if not (path / "run.json").is_file():
            raise InputError(f"run: {path} contains no run of a recipe (no run.json); name the --output of a recipe")
        if not (path / RESULTS).is_file():
            raise InputError(
                f"run: {path} is not finished (no results.json); run the recipe again with this output: it resumes"
            )
        try:
            content = json.loads((path / RESULTS).read_text(encoding="utf-8"))
            recipe, serving, advice = content["recipe"], content.get("serving"), content.get("advice")
            config, found = content["config"], content["versions"]["lightning-fusion"]
            if advice is not None:
                _check_advice(advice)
            _check_config(config)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            what = f"found no {error}" if isinstance(error, KeyError) else error
            raise InputError(f"run: {path / RESULTS} is damaged ({what}); run the recipe again") from error
        if not isinstance(recipe, str) or recipe not in answering_recipes():
            raise InputError(
                f"run: {path} is a run of the recipe {recipe}, which does not predict new files; predict --run takes "
                f"runs of {', '.join(answering_recipes())}"
            )
        if serving is None and "data" not in config:
            raise InputError(
                f"run: {path} was made from stored outputs or recorded predictions, and has no experts to query; run "
                "the recipe with data and network"
            )
        if not isinstance(serving, dict) or serving.get("format") != SERVING_FORMAT or not isinstance(advice, dict):
            raise InputError(
                f"run: {path} was written by another version of lightning-fusion ({found}); run the recipe again with "
                "this output: trained models are kept"
            )
        found_serving = _Serving(path / RESULTS, serving)
        if not is_sealed(content):
            raise InputError(
                f"run: {path / RESULTS} is not what the run wrote (it has another digest); run the recipe again with "
                "this output: trained models are kept"
            )
        return cls(path, recipe, config, advice, found_serving)

    @property
    def methods(self) -> list[str]:
        """Names of the methods that can answer, the simplest first."""
        return [each["method"] for each in self.advice["candidates"]]

    def choose(self, method: str | None = None, seed: int | None = None) -> tuple[str, int]:
        """Return the method that answers and its seed: the advised ones where none are given.

        Args:
            method: Name of a method.
            seed: Seed of the run. ``None`` (default) means the one with the best validation result of the method.

        Raises:
            InputError: If the run has no such method or seed.
        """
        chosen = self.advice["method"] if method is None else method
        if chosen not in self.methods:
            raise InputError(
                f"method: found {chosen!r}; the run in {self.folder} has {shorten(map(repr, self.methods), 40)}"
                f"{suggestion(chosen, self.methods)}"
            )
        if seed is not None and seed not in self.config["seeds"]:
            raise InputError(f"seed: found {seed}; the run in {self.folder} has {shorten(self.config['seeds'], 20)}")
        best = next(each["seed"] for each in self.advice["candidates"] if each["method"] == chosen)
        return chosen, best if seed is None else seed

    def seed_folder(self, seed: int) -> Path:
        """Return the folder of a seed."""
        return self.folder / f"seed_{seed}"

    def own(self, path: Path) -> Path:
        """Return the path of a file of the run, after a comparison with its digest in the results.

        Args:
            path: Path of a file, which may be missing.

        Raises:
            InputError: If it is not the file that the run wrote, such as that of another run or expert.
        """
        known = self.serving["files"].get(path.relative_to(self.folder).as_posix())
        if path.is_file() and hash_files([path]) != known:
            raise InputError(
                f"run: {path} is not the file that this run wrote (its digest in {RESULTS} is {known or 'missing'}); "
                "put it back, or run the recipe again"
            )
        return path

    def load_expert(self, path: Path) -> Expert:
        """Load an expert from its checkpoint, weights only.

        Args:
            path: Path of the checkpoint.

        Raises:
            InputError: If it is missing, damaged or of another run, or the class of its network is not imported.
        """
        with _of_run():
            return Expert(checkpoint=str(self.own(path)))

    def load_experts(self, folder: Path, names: list[str]) -> dict[str, Expert]:
        """Load experts from the checkpoints in a folder, as :meth:`load_expert` does.

        Args:
            folder: Folder of the checkpoints.
            names: Names of the experts.
        """
        return {name: self.load_expert(folder / f"{file_key(name)}.ckpt") for name in names}

    def load_fuser(self, path: Path, pool: ExpertPool) -> FoEFuserModule:
        """Load a fuser with its experts, whose fingerprints are compared.

        Args:
            path: Path of its checkpoint.
            pool: The experts.

        Raises:
            InputError: If it is missing or damaged, was trained with other experts, or its network is not imported.
        """
        with _of_run():
            checkpoint = str(self.own(path))
            return FoEFuserModule.load_from_checkpoint(checkpoint, map_location="cpu", experts=pool).eval()

    def outputs(self, seed: int) -> ExpertOutputs:
        """Open the cached outputs of a seed."""
        return ExpertOutputs.open(self.own(self.seed_folder(seed) / "outputs" / MANIFEST).parent)

    def load_baseline(self, seed: int, name: str, build: Callable[[], Baseline]) -> Baseline:
        """Return a fitted baseline: from its stored parameters, or fitted again on the run's cached outputs.

        Args:
            seed: Seed of the run.
            name: Name of the baseline.
            build: Returns the baseline, not fitted.
        """
        if not (rule := build()).fits:
            return rule
        stored = self.seed_folder(seed) / "baselines" / file_key(name)
        if stored.is_dir():
            return rule.restore(ArrayStore(self.own(stored / MANIFEST).parent, BASELINE))
        outputs = self.outputs(seed)
        return rule.fit(outputs.scattered("train"), np.asarray(outputs["train"].target))

    def new_data(
        self,
        input: str,
        seed: int,
        experts: Mapping[str, Expert],
        trials: str | None = None,
        changes: Mapping[str, Any] | None = None,
    ) -> FusionDataModule:
        """Return the data module of the run with new samples; the data of the training need not exist.

        Args:
            input: File or folder with new samples.
            seed: Seed whose models answer.
            experts: Experts that answer; the samples get the preprocessing of the first, and the pool converts it for
                the others.
            trials: List of pairs of new recordings, for a run of verification.
            changes: Arguments of the data module in which the new files differ, such as names of columns.

        Raises:
            InputError: If the class is not imported, has no such argument or reads no new files, or there is none that
                can be read.
        """
        recorded = dict(self.config["data"])
        path = recorded.pop("class_path")
        kind: Any = imported_class(path, FusionDataModule)
        if kind is None:
            raise InputError(f"run: {self.folder} names the data module {path}, which is not imported; {IMPORTS}")
        takes = constructor_arguments(kind)
        if "predict_root" not in takes:
            raise InputError(f"run: the data module of the run, {kind.__name__}, reads no new files")
        if trials is not None and "predict_trials" not in takes:
            raise InputError(f"trials: found {trials}; the data of the run ({kind.__name__}) have none, remove it")
        own = [name for name in takes if name not in _GIVEN]
        if unknown := [name for name in changes or {} if name not in own]:
            raise InputError(
                f"data: {kind.__name__} takes no {shorten(unknown)} for new files{suggestion(unknown[0], own)}"
            )
        given = {name: value for name, value in recorded.items() if name in takes} | {"predict_root": input}
        given |= changes or {}
        if "download" in takes:
            given["download"] = False
        tokenizer = self.seed_folder(seed) / "tokenizer"
        if tokenizer.is_dir():
            for path in tokenizer.iterdir():
                self.own(path)
            given["tokenizer"] = str(tokenizer)
        if trials is not None:
            given["predict_trials"] = trials
        facts = training_facts(next(iter(experts.values())))
        try:
            data: Any = kind(**given)
            data.use_preprocessing(facts or None)
            data.new_samples  # noqa: B018 an error is raised here, before anything is predicted
            getattr(data, "new_trials", None)
        except InputError as error:
            message = str(error).replace("predict_root", "input").replace("predict_trials", "trials")
            way = "; arguments of the data are given as --data.NAME=VALUE" if "set " in message else ""
            raise InputError(f"{message}{way}") from error
        except (TypeError, ValueError, AttributeError) as error:
            if not changes:
                raise
            raise InputError(f"data: {kind.__name__} does not take {dict(changes)} ({error})") from error
        return data  # type: ignore[no-any-return]


class _Serving(dict[str, Any]):
    """What a recipe stored for predictions; a missing or wrong entry raises InputError that names it."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        super().__init__(content)
        self.path = path
        for key, value in content.items():
            right = {
                "members": isinstance(value, dict) and all(map(_are_names, value.values())),
                "parameters": isinstance(value, dict) and all(isinstance(each, dict) for each in value.values()),
                "files": isinstance(value, dict) and all(isinstance(each, str) for each in value.values()),
                **{name: _are_names(value) for name in ("experts", "classes", "targets")},
            }
            if not right.get(key, True):
                raise self._wrong(key, f"found {shorten([repr(value)])}")

    def __missing__(self, key: str) -> Any:
        raise self._wrong(key, "found none")

    def _wrong(self, key: str, found: str) -> InputError:
        return InputError(f"run: {self.path} is damaged (serving.{key}: {found}); run the recipe again")


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in value)


def _check_config(config: dict[str, Any]) -> None:
    """Raise TypeError or KeyError unless a stored configuration has the types that are read of it."""
    if not isinstance(config, dict):
        raise TypeError("config is no mapping")
    if not isinstance(config["seeds"], list) or not all(type(seed) is int for seed in config["seeds"]):
        raise TypeError("config.seeds is no list of whole numbers")
    if "data" in config and not (
        isinstance(config["data"], dict) and isinstance(config["data"].get("class_path"), str)
    ):
        raise TypeError("config.data has no class_path")


def _check_advice(advice: dict[str, Any]) -> None:
    """Raise TypeError or KeyError unless a stored advice has the types that are read of it."""
    if not isinstance(advice["method"], str) or not advice["candidates"]:
        raise TypeError("the advice names no method")
    for each in advice["candidates"]:
        if not isinstance(each["method"], str) or type(each["seed"]) is not int:
            raise TypeError("a method of the advice has no name, or no seed")


Answering = Callable[[FinishedRun, str, int, str | None], Any]
"""Function of a recipe: run, method, seed and target give the module that answers, which has a ``pool``."""


def answering_recipes() -> dict[str, str]:
    """Return the import paths of the functions that answer with a run, by recipe: ``ANSWERS`` of the packages."""
    found: dict[str, str] = {}
    for module in iter_modules(recipe_packages.__path__, f"{recipe_packages.__name__}."):
        listed = getattr(import_module(module.name), "ANSWERS", {}) if module.ispkg else {}
        found |= {name: f"{module.name}.{path}" for name, path in listed.items()}
    return dict(sorted(found.items()))


@contextmanager
def _of_run() -> Iterator[None]:
    """Context that reads a file of a run: errors say so, and which option imports a class that the file names."""
    try:
        yield
    except InputError as error:
        hint = f"; {IMPORTS}" if isinstance(error, NotImportedError) else ""
        raise InputError(f"run: {error}{hint}") from error


def save_baseline(folder: Path, name: str, rule: Baseline) -> None:
    """Store the parameters of a fitted baseline that takes long to fit, as arrays.

    Args:
        folder: Folder of the seed.
        name: Name of the baseline.
        rule: The fitted baseline.
    """
    if (state := rule.state()) and first_process():
        with StoreWriter(folder / "baselines" / file_key(name), BASELINE, overwrite=True) as writer:
            for key, values in state.items():
                writer[key] = values
            writer.commit({"baseline": name})


def load_run(
    run: str | Path, method: str | None = None, seed: int | None = None, target: str | None = None
) -> tuple[FinishedRun, str, int, Any]:
    """Return a finished run, the method and the seed that answer, and the LightningModule that predicts with them.

    Args:
        run: Folder of the run.
        method: Row of the report. ``None`` (default) means the advised one.
        seed: Seed whose models answer. ``None`` (default) means the one with the best validation result.
        target: Target domain, for runs of ``hat`` with several.

    Raises:
        InputError: If the run cannot predict, or has no such method, seed or target.
    """
    finished = FinishedRun.open(run)
    chosen, number = finished.choose(method, seed)
    if target is not None and "targets" not in finished.serving:
        raise InputError(f"target: found {target!r}; the recipe {finished.recipe} has no targets, remove it")
    answer: Answering = resolve_name(answering_recipes()[finished.recipe])
    return finished, chosen, number, answer(finished, chosen, number, target)


def predict(
    run: str,
    input: str,
    method: str | None = None,
    output: str = "predictions.csv",
    seed: int | None = None,
    target: str | None = None,
    trials: str | None = None,
    trainer: Trainer | None = None,
    data: Mapping[str, Any] | None = None,
) -> Path:
    """Predict new files with a finished run of a recipe, and write a CSV file.

    Args:
        run: Folder of the run; the data that it was trained on need not exist.
        input: File or folder with new samples, without labels.
        method: Row of the report that answers. ``None`` (default) means the advised one.
        output: CSV file.
        seed: Seed whose models answer. ``None`` (default) means the one with the best validation result.
        target: Target domain whose models answer, for runs of ``hat`` with several.
        trials: List of pairs of new recordings, ``enrol test`` in each line, for a run of verification.
        trainer: Trainer that predicts. ``None`` (default) means one without loggers and checkpoints.
        data: Arguments of the run's data module in which the new files differ, such as ``{"text": "comment"}``.

    Returns:
        Path of the CSV file.

    Raises:
        InputError: If the run cannot predict, the method is unknown, or a file cannot be read.
    """
    finished, chosen, number, module = load_run(run, method, seed, target)
    new = finished.new_data(input, number, module.pool.members, trials, data)
    advised = finished.advice["method"]
    reason = "the advice of the run" if chosen == advised else f"the run advises {advised}"
    open_console(quiet=not first_process()).print(f"{chosen} answers ({reason}; models of seed {number})", markup=False)
    if {Path(output).resolve()} & {Path(path).resolve() for path in (input, trials) if path is not None}:
        raise InputError(f"output: {output} is the input, which it would replace; name another file")
    given = Trainer(logger=False, enable_checkpointing=False) if trainer is None else trainer
    given.callbacks.append(PredictionWriter(output))  # type: ignore[attr-defined]  # set by a connector
    given.predict(module, datamodule=new, return_predictions=False)
    return Path(output)
