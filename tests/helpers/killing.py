"""Processes that are killed at a file event or at a moment, and what they leave.

A job runs in a fork of a process that has imported its modules: a run costs its own work and no start. A file event is
an audit event of Python that changes a folder: a file is opened for writing, renamed, removed or truncated, a folder is
made or removed. The signal is SIGKILL and arrives before the event.
"""

import importlib
import os
import pickle
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class JobError(AssertionError):
    """A job failed by itself, or found damage after a kill."""


@dataclass(frozen=True)
class Job:
    """What a user starts, and what must be true after it was killed.

    Args:
        name: Name in the table.
        run: What is killed, in its folder; started again it completes.
        result: What a completed run leaves, as plain data that can be compared.
        prepare: What stands in the folder before.
        intact: Whether what stood there before, or its successor, is complete; called after each kill.
        events: Largest number of file events at which it is killed, evenly spread; None means all.
    """

    name: str
    run: Callable[[], Any]
    result: Callable[[], Any]
    prepare: Callable[[], Any] = lambda: None
    intact: Callable[[], Any] = lambda: None
    events: int | None = None


@dataclass
class Kills:
    """Kills of one job: at file events, at random moments, and the seconds of all."""

    job: str
    events: int
    moments: int = 0
    seconds: float = 0.0

    def add(self, other: "Kills") -> None:
        """Add the kills of another job."""
        self.events += other.events
        self.moments += other.moments
        self.seconds += other.seconds

    def row(self) -> str:
        """Row of the table."""
        return f"| {self.job} | {self.events} | {self.moments} | {self.seconds / 60:.1f} |"


def forked(action: Callable[[], Any], folder: Path, before: Callable[[], Any] = lambda: None) -> Any:
    """Return what an action returns in a fork of this process whose current folder is ``folder``; None if killed.

    Raises:
        JobError: If it raises; with its traceback.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            os.chdir(folder)
            null = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(null, stream)
            try:
                before()
                answer = (True, action())
            except BaseException:
                answer = (False, traceback.format_exc())
            with os.fdopen(writing, "wb") as file:
                pickle.dump(answer, file)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        content = file.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return None
    if not content:
        raise JobError(f"a process ended with status {status} and without an answer")
    succeeded, value = pickle.loads(content)
    if not succeeded:
        raise JobError(value)
    return value


def watch(folder: Path, happens: Callable[[], None]) -> None:
    """Call a function before each file event in a folder, from now on in this process."""
    inside = str(folder.resolve()) + os.sep

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES)
        if changes and (isinstance(arguments[0], int) or os.path.abspath(os.fsdecode(arguments[0])).startswith(inside)):
            happens()

    sys.addaudithook(hook)


def count_events(action: Callable[[], Any], folder: Path) -> tuple[int, Any]:
    """Return the number of file events of an action, and what it returns."""
    seen: list[int] = []
    value = forked(lambda: (action(), len(seen)), folder, lambda: watch(folder, lambda: seen.append(1)))
    return value[1], value[0]


def kill_at(action: Callable[[], Any], folder: Path, event: int) -> bool:
    """Run an action that is killed before its file event of this number; False if it ended before."""

    def arm() -> None:
        left = [event]

        def happens() -> None:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        watch(folder, happens)

    return forked(lambda: action() or True, folder, arm) is None


def kill_after(action: Callable[[], Any], folder: Path, seconds: float) -> bool:
    """Run an action that is killed after some seconds; False if it ended before."""

    def arm() -> None:
        timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()

    return forked(lambda: action() or True, folder, arm) is None


def import_like(action: Callable[[], Any], folder: Path) -> None:
    """Import into this process what an action imports."""

    def names() -> list[str]:
        action()
        return list(sys.modules)

    for name in forked(names, folder):
        with suppress(Exception):
            importlib.import_module(name)


def torture(job: Job, events: int | None = None, moments: int = 0, seed: int = 0) -> Kills:
    """Kill a job many times, each time from its beginning; after each kill it must be intact and complete.

    Args:
        job: Job.
        events: Number of file events, evenly spread, at which it is killed; ``None`` means those of the job.
        moments: Number of random moments at which it is killed.
        seed: Of the moments.

    Raises:
        JobError: If old data are damaged, the next run fails, or its result differs; names job and kill.
    """
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="torture-") as base:
        fresh = Path(base) / "fresh"
        fresh.mkdir()
        forked(job.prepare, fresh)

        def copied(name: str) -> Path:
            folder = Path(base) / name
            shutil.rmtree(folder, ignore_errors=True)
            return Path(shutil.copytree(fresh, folder, symlinks=True))

        import_like(lambda: (job.run(), job.result(), job.intact()), copied("work"))
        begin = time.perf_counter()
        number, _ = count_events(job.run, copied("work"))
        lasts = time.perf_counter() - begin
        expected = forked(job.result, Path(base) / "work")
        count = min(number, *(limit for limit in (events, job.events) if limit is not None), number)
        chosen = [(2 * place + 1) * number // (2 * count) for place in range(count)]
        draw = random.Random(seed)
        kills: list[tuple[str, Callable[..., bool]]] = [
            (f"event {event} of {number}", partial(kill_at, event=event)) for event in chosen
        ]
        for _ in range(moments):
            after = draw.uniform(0, lasts)
            kills.append((f"{after:.3f} s of {lasts:.3f} s", partial(kill_after, seconds=after)))
        for name, kill in kills:
            folder = copied("work")
            kill(job.run, folder)
            try:
                forked(job.intact, folder)
                forked(job.run, folder)
                found = forked(job.result, folder)
            except JobError as error:
                raise JobError(f"{job.name}, killed at {name}: {error}") from None
            if found != expected:
                raise JobError(f"{job.name}, killed at {name}: found {found!s:.500}; expected {expected!s:.500}")
        return Kills(job.name, count, moments, time.perf_counter() - started)
