"""Runner of recipes: prepares the folder, runs every seed, and writes the report."""

import json
import logging
import re
import shutil
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.outputs.collect import first_process
from lightning_fusion.files import digest, exclusive, hash_files, undrafted, write_text
from lightning_fusion.recipes.advice import advise
from lightning_fusion.recipes.html_report import warn_of_missing_packages, write_page
from lightning_fusion.recipes.notes import noting
from lightning_fusion.recipes.report import RESULTS, Figures, Report
from lightning_fusion.recipes.trainers import Trainers
from lightning_fusion.store import MANIFEST
from lightning_fusion.terminal import open_console
from lightning_fusion.trackers.base import REPORT, without_none

_RUN = "run.json"
_LOCK = ".lock"
_WRITTEN = (_RUN, RESULTS, "report.md", "report.html")  # written atomically
_SERVED = (
    *("*.ckpt", "*/*.ckpt", f"*/{MANIFEST}", f"baselines/*/{MANIFEST}"),
    *("targets/*.json", "ensembles/*.pt", "tokenizer/*"),
)
"""Files of a seed that answer for new samples; a manifest has the digests of the arrays of its store."""
_MADE = re.compile(r"config\.yaml|\w+\.png|seed_\d+|logs|answers")


@dataclass
class Run:
    """One run of a recipe.

    Attributes:
        folder: Folder of the run.
        seeds: Seeds, in the order of the table.
        report: Report, which collects the results.
        console: Console for messages; only the first process prints.
        trainers: Factory of the Trainer of every stage.
    """

    folder: Path
    seeds: Sequence[int]
    report: Report
    console: Console
    trainers: Trainers


@dataclass(kw_only=True)
class Recipe(ABC):
    """Base class of recipes: the work for one seed and the summary over seeds, run by :func:`run_recipe`.

    A recipe is a subclass, a dataclass of its settings, and a function around it. The function has the arguments that
    the command line shows, ``output``, ``seeds``, ``trainer`` and ``overwrite`` among them; it checks them, prepares
    the data, and ends with ``return run_recipe(Mine(...), output, seeds, trainer, overwrite)``. Inside
    this library the ``__init__.py`` of its package lists it in ``RECIPES``.

    Rules for :meth:`run_seed`, which may run in several processes, each of which does the same:

    - every Trainer is ``run.trainers.trainer(stage, epochs)``, or that of a
      :class:`~lightning_fusion.recipes.seed_run.SeedRun`, whose methods train, predict and save;
    - files in the seed's folder are reused by a resumed run; they are written atomically, by the first process only
    (``first_process()``), followed by ``barrier()`` if other processes read them;
    - rows depend on the seed alone, never on the seeds before it: a run to which a seed is added equals a new one.

    Attributes:
        name: Name of the recipe.
        main: The method whose gains are reported.
        config: Everything that determines the results except the seeds and the Trainer, as plain data: a folder with a
            run of another configuration raises InputError.
        metric: Metric of the table.
        title: Description of the metric.
        beside: Further metrics of the table.
        simplicity: Methods that can answer new samples, the simplest first. The run advises the first one that is
            within one standard error of the best on validation (:mod:`lightning_fusion.recipes.advice`).
    """

    name: str
    main: str
    config: dict[str, Any]
    metric: str = "accuracy"
    title: str = "test accuracy"
    beside: tuple[str, ...] = ()
    simplicity: tuple[str, ...] = ()

    def of_seeds(self, seeds: Sequence[int]) -> dict[int, Any]:
        """Return the seed-specific configuration, as plain data."""
        return dict.fromkeys(seeds)

    @abstractmethod
    def run_seed(self, run: Run, seed: int) -> None:
        """Run one seed, and add its rows to the report."""

    @abstractmethod
    def conclude(self, run: Run) -> None:
        """Summarize all seeds: ``data``, ``notes`` and ``text`` of the report."""

    @abstractmethod
    def figures(self, run: Run) -> Figures:
        """Return the figures of the report, each with its caption."""

    def inspection(self, run: Run) -> dict[str, Any] | None:
        """Return single test samples for ``report.html``; ``None`` (default) if the recipe has none.

        They are plain data: :meth:`Inspection.record <lightning_fusion.recipes.inspection.Inspection.record>`.
        """
        return None


def run_recipe(
    recipe: Recipe,
    output: str | Path,
    seeds: Sequence[int],
    trainer: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Report:
    """Claim the folder, run every seed, and write and print the report.

    A run of the same configuration is resumed, with the same or other seeds: new seeds are run; seeds that are no
    longer listed stay in the folder and are not part of the report.

    Args:
        recipe: The recipe.
        output: Folder of the run.
        seeds: Random seeds, one run each.
        trainer: The ``trainer:`` block.
        overwrite: Empty a folder that contains another run.

    Returns:
        The report.

    Raises:
        InputError: If the folder contains another run or other files, another process is running a recipe in it, or
            the block is invalid.
    """
    check_seeds(seeds)
    trainers = Trainers(trainer, output, recipe.name)
    with _alone_in(Path(output)), trainers.tracking:
        return _run(recipe, output, seeds, trainers, overwrite)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Lock the folder of a run in the first process; other folders, which are rejected later, are not touched."""
    ours = not folder.exists() or (folder.is_dir() and ((folder / _RUN).is_file() or not any(folder.iterdir())))
    with exclusive(folder / _LOCK, "output") if ours and first_process() else nullcontext():
        yield


def _run(recipe: Recipe, output: str | Path, seeds: Sequence[int], trainers: Trainers, overwrite: bool) -> Report:
    console = open_console(quiet=not first_process())
    with quiet_lightning(), noting() as notes:
        config = {**recipe.config, **({"trainer": record} if (record := trainers.record()) else {})}
        folder = Path(output)
        if first_process():
            folder, resumed = claim_folder(output, recipe.name, config, overwrite, recipe.of_seeds(seeds))
            if resumed:
                console.print(f"resuming the run in {folder}")
            if others := sorted(set(_seeds_in(folder)) - set(seeds)):
                console.print(f"seed(s) {shorten(others)} in {folder} are kept, but not part of the report")
        trainers.meet()
        warn_of_missing_packages()
        report = Report(recipe.name, config | {"seeds": list(seeds)}, metric=recipe.metric, title=recipe.title)
        report.beside, report.main = recipe.beside, recipe.main
        run = Run(folder, seeds, report, console, trainers)
        for notes.seed in seeds:
            recipe.run_seed(run, notes.seed)
        notes.seed = None
        recipe.conclude(run)
        report.notes += notes.beyond(report.notes)
        report.advice = advise(report.validation, recipe.simplicity, report.metric)
    if first_process():
        if report.serving is not None:
            report.serving["files"] = _digests(folder, seeds)
        report.save(folder, recipe.main)  # the results are safe before anything is drawn
        report.save(folder, recipe.main, figures := recipe.figures(run))
        write_page(report, recipe.main, folder, figures, recipe.inspection(run))
        _log(report, recipe.main, figures, run)
        report.print(recipe.main, folder, console)
    return report


def _digests(folder: Path, seeds: Sequence[int]) -> dict[str, str]:
    """Return the digests of the files that answer for new samples, by their paths below the folder of the run."""
    paths = {path for seed in seeds for pattern in _SERVED for path in (folder / f"seed_{seed}").glob(pattern)}
    return {path.relative_to(folder).as_posix(): hash_files([path]) for path in sorted(paths) if path.is_file()}


def _log(report: Report, main: str, figures: Figures, run: Run) -> None:
    """Record table, figures and files of a report as a stage of its own, unless the same results are logged."""
    known = f"{REPORT} {digest(json.dumps(report.rows))}"
    with quiet_lightning(), run.trainers.tracking.recording(REPORT, known) as trackers:
        for tracker in trackers:
            tracker.log_hyperparameters(without_none({"recipe": report.recipe, **report.config}))
            tracker.logger.log_metrics(report.metrics(main))
            tracker.log_table("results", *report.columns(main))
            for name, (figure, _) in figures.items():
                tracker.log_figure(name, figure)
            for name in ("report.md", "results.json", "report.html"):
                if (run.folder / name).is_file():  # the page needs the extra report
                    tracker.log_file(name, run.folder / name, "report")


def check_seeds(seeds: Sequence[int]) -> None:
    """Check that seeds are valid and distinct.

    Raises:
        InputError: If seeds are invalid or repeated.
    """
    if isinstance(seeds, str | int) or any(type(seed) is not int for seed in seeds or ()):
        raise InputError(f"seeds: found {seeds!r}; expected a list of whole numbers")
    if not seeds or len(set(seeds)) != len(seeds):
        raise InputError(f"seeds: found {seeds}; expected at least one, each once")
    if any(not 0 <= seed < 2**32 for seed in seeds):
        raise InputError(f"seeds: found {seeds}; expected numbers from 0 to 2**32 - 1")


def claim_folder(
    folder: str | Path,
    recipe: str,
    config: Mapping[str, Any],
    overwrite: bool = False,
    seeds: Mapping[int, Any] | None = None,
) -> tuple[Path, bool]:
    """Claim a folder for this run, or resume the run of the same configuration that is in it.

    Args:
        folder: The output folder.
        recipe: Name of the recipe.
        config: Its configuration without the seeds, plain data.
        overwrite: Empty a folder that contains another run of this library.
        seeds: Seed-specific configuration; a run with further seeds is the same run.

    Returns:
        The folder, and whether an earlier run is resumed.

    Raises:
        InputError: If the folder contains another run, or files that no run wrote.
    """
    path = Path(folder)
    wanted = json.loads(json.dumps({"recipe": recipe, "config": config, "seeds": dict(seeds or {})}))
    marker = path / _RUN
    resumed = False
    if path.exists() and not path.is_dir():
        raise InputError(f"output: {path} is a file; name a folder")
    items = [item for item in path.iterdir() if item.name != _LOCK] if path.is_dir() else []
    if not all(undrafted(item.name) == _RUN != item.name for item in items):
        if not marker.is_file():
            raise InputError(f"output: {path} contains files that no recipe wrote; name another folder")
        found = _recorded(marker)
        if overwrite:
            strangers = [
                name
                for name in (item.name for item in items)
                if undrafted(name) not in _WRITTEN and not _MADE.fullmatch(name)
            ]
            if strangers or (found is not None and "recipe" not in found):
                raise InputError(
                    f"output: {path} contains files that no recipe wrote ({shorten(sorted(strangers)) or _RUN}); name "
                    "another folder, or remove it yourself"
                )
            for item in items:
                shutil.rmtree(item) if item.is_dir() and not item.is_symlink() else item.unlink()
        elif differ := _difference(found or {}, wanted):
            raise InputError(
                f"output: {path} contains another run (differs in {differ}); name another "
                "folder, or give --overwrite=true"
            )
        elif found is not None:
            resumed, wanted["seeds"] = True, found["seeds"] | wanted["seeds"]
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_text(marker, json.dumps(wanted, indent=1))
    except OSError as error:
        raise InputError(f"output: {path} cannot be written ({error.strerror}); name another folder") from error
    return path, resumed


def _recorded(marker: Path) -> dict[str, Any] | None:
    """Return the record of a folder's run; ``None`` if it is damaged."""
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None
    parts = isinstance(found, dict) and all(isinstance(found.get(key, {}), dict) for key in ("config", "seeds"))
    return found if parts else None


def _seeds_in(folder: Path) -> list[int]:
    """Return the seeds that have a folder."""
    return [int(path.name[5:]) for path in folder.glob("seed_*") if path.is_dir() and path.name[5:].isdecimal()]


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Describe the differences of two records; empty if the run can be resumed."""
    if found.get("recipe") != wanted["recipe"] or "seeds" not in found:
        return "the recipe"
    old, new = found.get("config", {}), wanted["config"]
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    both = found["seeds"].keys() & wanted["seeds"].keys()
    keys += [f"seed {seed}" for seed in sorted(both) if found["seeds"][seed] != wanted["seeds"][seed]]
    return ", ".join(keys)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence the messages that Lightning prints for each of the many Trainers."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")  # StageLog lowers it
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
