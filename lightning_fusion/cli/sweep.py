"""The command ``sweep``: trials of a sweep file on this machine, with Optuna and without a server."""

import csv
import itertools
import json
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning_fusion import plotting
from lightning_fusion.cli.sweep_files import PROGRAM, Parameter, SweepFile, read_sweep
from lightning_fusion.errors import InputError, chain, shorten
from lightning_fusion.extras import require
from lightning_fusion.files import atomic_write, digest, exclusive

_DATABASE, _STUDY, _LOCK = "sweep.db", "sweep", ".lock"
_GIVEN_UP = 3  # trials that all failed, after which a sweep ends
_INTERRUPTED = "interrupted"
_END_S = 10.0  # that a trial has to end in after it is told to


@dataclass(frozen=True)
class BestTrial:
    """The best trial of a sweep.

    Attributes:
        number: Number of the trial.
        value: Its metric.
        parameters: Drawn values by key.
        command: The command line that runs it again.
    """

    number: int
    value: float
    parameters: dict[str, Any]
    command: str


def sweep(file: str, output: str, trials: int = 20, seed: int = 0, timeout: float | None = None) -> BestTrial:
    """Search the parameters of a sweep file with Optuna, trial by trial, on this machine.

    Args:
        file: Sweep in the format of Weights & Biases: a path, or a shipped one, such as sweeps/foe.yaml.
        output: Folder of the sweep; a sweep in it is continued.
        trials: Number of trials, with those that are in the folder.
        seed: Random seed of the draws.
        timeout: Seconds after which the sweep ends; the trial that runs then is run again by the next call.

    Returns:
        The best trial.
    """
    if trials < 1 or (timeout is not None and timeout <= 0):
        raise InputError(f"trials is {trials}, timeout {timeout}; expected at least one trial, and seconds above 0")
    found = read_sweep(file)
    optuna = require("optuna", "optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = Path(output)
    if folder.is_dir() and not (folder / _DATABASE).is_file() and any(each.name != _LOCK for each in folder.iterdir()):
        raise InputError(f"output: {folder} has files, and no trials of a sweep ({_DATABASE}); name another folder")
    with exclusive(folder / _LOCK, "output"), _ending_trials(), _database_errors(folder / _DATABASE):
        return _Sweep(optuna, found, folder, seed).run(trials, timeout)


class _Sweep:
    """Trials of a sweep in a folder.

    Args:
        optuna: The package.
        file: The sweep.
        folder: Folder of the sweep.
        seed: Random seed.
    """

    def __init__(self, optuna: Any, file: SweepFile, folder: Path, seed: int) -> None:
        self.optuna, self.file, self.folder, self.seed = optuna, file, folder, seed
        self.states = optuna.trial.TrialState
        # the name of a folder is no part of a URL, in which some characters have a meaning
        connect = partial(sqlite3.connect, (folder / _DATABASE).resolve(), check_same_thread=False)
        storage = optuna.storages.RDBStorage(f"sqlite:///{_DATABASE}", engine_kwargs={"creator": connect})
        direction = file.goal
        self.study = optuna.create_study(storage=storage, study_name=_STUDY, direction=direction, load_if_exists=True)
        identity = digest(json.dumps({**asdict(file), "path": "", "most": None}), seed)
        if (known := self.study.user_attrs.get("identity", identity)) != identity:
            raise InputError(
                f"output: {folder} has trials of another sweep or seed ({known[:8]}, not {identity[:8]}); name another "
                "folder"
            )
        self.study.set_user_attr("identity", identity)

    @property
    def finished(self) -> list[Any]:
        """Trials that have ended by themselves."""
        return [each for each in self.study.trials if each.state.is_finished() and _INTERRUPTED not in each.user_attrs]

    @property
    def complete(self) -> list[Any]:
        """Trials with a value."""
        return [each for each in self.finished if each.state == self.states.COMPLETE]

    def run(self, trials: int, timeout: float | None) -> BestTrial:
        """Run trials until there are enough, write the results, and print the best one."""
        self._give_back()
        count = min(trials, self.file.most or trials)
        grid = self._grid() if self.file.method == "grid" else None
        count = count if grid is None else min(count, len(grid))
        if done := len(self.finished):
            print(f"{done} of {count} trials are finished in {self.folder}")
        end = None if timeout is None else time.monotonic() + timeout
        while len(self.finished) < count:
            left = None if end is None else end - time.monotonic()
            if (left is not None and left <= 0) or not self._try(self._draw(grid), left):
                print(f"timeout: {len(self.finished)} of {count} trials are finished; the same command continues")
                break
        return self._conclude()

    def _give_back(self) -> None:
        """Run trials of a killed sweep again, with the same values."""
        for each in self.study.get_trials(states=(self.states.RUNNING,)):
            self._interrupt(each.number)
            if each.params:
                self.study.enqueue_trial(each.params)

    def _interrupt(self, number: int) -> None:
        trial_id = self.study.trials[number]._trial_id
        self.study._storage.set_trial_user_attr(trial_id, _INTERRUPTED, True)
        self.study.tell(number, state=self.states.FAIL)

    def _grid(self) -> list[dict[str, Any]]:
        """Return all combinations of values."""
        values = self.file.grid()
        return [dict(zip(values, drawn, strict=True)) for drawn in itertools.product(*values.values())]

    def _draw(self, grid: list[dict[str, Any]] | None) -> Any:
        """Return a new trial, whose values depend on the seed and the trials before."""
        samplers = self.optuna.samplers
        number = self.seed + 1000003 * len(self.study.trials)
        kind = samplers.TPESampler if self.file.method == "bayes" else samplers.RandomSampler
        self.study.sampler = kind(seed=number % 2**32)
        waiting = self.study.get_trials(states=(self.states.WAITING,))
        if grid is not None and not waiting:
            known = [each.params for each in self.finished]
            self.study.enqueue_trial(next(each for each in grid if each not in known))
        trial = self.study.ask()
        for key, parameter in self.file.parameters.items():
            _suggest(trial, key, parameter)
        return trial

    def _try(self, trial: Any, left: float | None) -> bool:
        """Run a trial; return whether it has ended before the time is over."""
        words, place = self._line(trial), self.folder / "trials" / str(trial.number)
        place.mkdir(parents=True, exist_ok=True)
        try:
            if not self.finished:
                _check(words, place)
            start = time.monotonic()
            metrics, error = _run(words, place, left)
        except BaseException:
            self._interrupt(trial.number)  # by a key, a signal, or wrong input
            raise
        if metrics is None and error is None:
            self._interrupt(trial.number)
            self.study.enqueue_trial(trial.params)
            return False
        trial.set_user_attr("seconds", round(time.monotonic() - start, 1))
        value = (metrics or {}).get(self.file.metric)
        if metrics is not None and value is None:
            logged = sorted(name for name in metrics if not name.startswith(("test", "train")))
            error = f"it logged no {self.file.metric}, or no finite one"
            if not self.complete:
                self._interrupt(trial.number)
                raise InputError(
                    f"metric.name: {self.file.path} has {self.file.metric}, which trial {trial.number} did not log; it "
                    f"logged {shorten(logged, 20) or 'nothing'}"
                )
        if value is None:
            trial.set_user_attr("error", error)
            self.study.tell(trial, state=self.states.FAIL)
            print(f"trial {trial.number} failed: {error} ({place / 'log.txt'})", flush=True)
        else:
            self.study.tell(trial, value)
            best = self.study.best_trial
            print(
                f"trial {trial.number}: {self.file.metric} {value:.4f} (best {best.value:.4f}, trial {best.number}), "
                f"{time.monotonic() - start:.0f} s",
                flush=True,
            )
        if not self.complete and len(self.finished) >= _GIVEN_UP:
            raise InputError(f"all {len(self.finished)} trials failed; the last one: {error} ({place / 'log.txt'})")
        return True

    def _line(self, trial: Any) -> list[str]:
        """Return the words of a trial's command; a recipe writes to the folder of the trial."""
        drawn = {key: trial.params[key] for key in self.file.parameters}
        own = [f"--output={self.folder / 'trials' / str(trial.number) / 'run'}"] if self.file.of_recipe else []
        return [*self.file.line(drawn), *own]

    def _conclude(self) -> BestTrial:
        """Write ``trials.csv`` and ``sweep.png``, and print the best trial."""
        if not self.complete:
            last = self.finished[-1].user_attrs.get("error", "") if self.finished else "none has ended"
            raise InputError(f"no trial of {self.file.path} has a value: {last}")
        keys = list(self.file.parameters)
        with atomic_write(self.folder / "trials.csv") as draft, open(draft, "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["trial", "state", self.file.metric, "seconds", *keys, "error"])
            for each in self.finished:
                state = "complete" if each.value is not None else "failed"
                own = [each.params.get(key) for key in keys]
                notes = each.user_attrs
                table.writerow([each.number, state, each.value, notes.get("seconds"), *own, notes.get("error", "")])
        best = self.study.best_trial
        drawn = {key: [each.params[key] for each in self.complete] for key in keys}
        values = [each.value for each in self.complete]
        numbers = [each.number for each in self.complete]
        figure = plotting.sweep_trials(
            numbers, values, drawn, metric=self.file.metric, maximize=self.file.goal == "maximize"
        )
        plotting.save(figure, self.folder / "sweep.png")
        command = shlex.join([PROGRAM, *self._line(best)])
        print(f"best trial {best.number}: {self.file.metric} {best.value:.4f} on the validation split\n  {command}")
        print(f"wrote trials.csv and sweep.png to {self.folder}")
        return BestTrial(best.number, best.value, {key: best.params[key] for key in keys}, command)


def _suggest(trial: Any, key: str, parameter: Parameter) -> Any:
    """Draw a value."""
    if parameter.values:
        return trial.suggest_categorical(key, parameter.values)
    if parameter.distribution == "int_uniform":
        return trial.suggest_int(key, parameter.low, parameter.high)
    log = parameter.distribution.startswith("log")
    return trial.suggest_float(key, parameter.low, parameter.high, step=parameter.step, log=log)


def _check(words: list[str], place: Path) -> None:
    """Parse the command of the first trial, so that an unknown parameter ends the sweep before it begins."""
    command = [sys.executable, "-m", "lightning_fusion", *words, "--print_config"]
    found = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False)
    if found.returncode:
        (place / "log.txt").write_text(found.stderr, encoding="utf-8")
        raise InputError(f"parameters: the command of the first trial is not valid: {_reason(found.stderr)}")


def _run(words: list[str], place: Path, left: float | None) -> tuple[dict[str, float] | None, str | None]:
    """Run a command in a process of its own: what it logged, or why it failed; neither if the time was over."""
    result, log = place / "metrics.json", place / "log.txt"
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", "lightning_fusion.cli.trial", str(result), *words]
    streams: Any = {"stdin": subprocess.PIPE, "stderr": subprocess.STDOUT}  # a trial ends with the other end of stdin
    with open(log, "w", encoding="utf-8") as file, subprocess.Popen(command, stdout=file, **streams) as process:
        try:
            status = process.wait(left)
        except subprocess.TimeoutExpired:
            return None, None
        finally:
            _end(process)
    if status or not result.is_file():
        text = log.read_text(encoding="utf-8", errors="replace")
        return None, _reason(text) or f"it ended with status {status}"
    return json.loads(result.read_text(encoding="utf-8")), None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that still runs."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()


def _reason(text: str) -> str:
    """Return the last line of an output, without the name of the program."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix(f"{PROGRAM}: error: ") if lines else ""


@contextmanager
def _ending_trials() -> Iterator[None]:
    """Context in which SIGTERM ends the running trial before the sweep."""

    def stop(*_: Any) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = None
    with suppress(ValueError):  # of other threads than the main one
        before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _database_errors(path: Path) -> Iterator[None]:
    """Context in which errors of the database become an error of one line."""
    storage = import_module("optuna.exceptions").StorageInternalError
    database = import_module("sqlalchemy.exc").SQLAlchemyError
    try:
        yield
    except (storage, database) as error:
        cause = next((each for each in chain(error) if isinstance(each, sqlite3.Error)), error)
        what = " ".join(str(cause).split())[:100]
        raise InputError(
            f"output: {path} cannot be read or written ({what}); make space, or name another folder"
        ) from error
