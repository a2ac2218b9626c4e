"""A Python that has imported torch and Lightning before it starts: processes of their own for a hundredth of the time.

:func:`python` is the path of a program that takes the arguments of ``python``: a script, ``-m module`` or ``-c code``.
It hands them, with its folder, environment and open files, to a process that :func:`start` forked from the tests before
they imported anything of this library. A fork of that process runs them; streams, signals, status and the processes
that it starts are those of any other. A process that does without a package, or whose interpreter has options of its
own (``-X``, ``PYTHONUTF8``, ``PYTHONHASHSEED``), needs ``sys.executable``.
"""

import atexit
import faulthandler
import fcntl
import gc
import importlib
import json
import logging
import multiprocessing
import os
import re
import runpy
import select
import shutil
import signal
import socket
import sys
import tempfile
import threading
import warnings
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

IMPORTED = ("lightning.pytorch.cli", "sklearn.linear_model", "pandas", "rich.progress", "matplotlib.figure")
"""What it imports at the first use: packages of others alone."""
_CLIENT = Path(__file__).with_name("warm_client.py")
_HIGH = 500  # files of the process that starts are first kept from here on
_started: tuple[Path, int, int] | None = None  # folder, process, and the pipe whose end is its end


def python() -> str:
    """Path of the program; that of Python itself on other systems than Linux."""
    if sys.platform != "linux":
        return sys.executable
    assert _started is not None, "tests/conftest.py starts it"
    return str(_started[0] / "python")


def start() -> None:
    """Fork the process that waits; it ends with this one."""
    global _started
    if _started is not None or sys.platform != "linux":
        return
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    program = folder / "python"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{_CLIENT}" "{folder}/socket" "$@"\n')
    program.chmod(0o755)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket"))
    listener.listen(16)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(writing)
            _wait(listener, reading, str(program))
        finally:
            os._exit(0)
    os.close(reading)
    listener.close()
    _started = folder, child, writing


def stop() -> None:
    """End it."""
    global _started
    if _started is not None:
        folder, child, writing = _started
        os.close(writing)
        os.kill(child, signal.SIGTERM)  # a process that a test left may hold the other end of the pipe
        os.waitpid(child, 0)
        shutil.rmtree(folder)
        _started = None


def _wait(listener: socket.socket, alive: int, program: str) -> None:
    """Fork for each connection."""
    atexit._clear()
    faulthandler.disable()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a key is for those that run
    sys.meta_path[:] = [each for each in sys.meta_path if not type(each).__module__.startswith("_pytest")]
    logging.root.handlers.clear()
    kept = {listener.fileno(), alive}
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    for number in _open_files():
        if number > 2 and number not in kept:
            os.close(number)
    imported = False
    while True:
        ready, _, _ = select.select([listener, alive], [], [], 60)
        while _waitpid_any():
            pass
        if alive in ready:
            return
        if listener in ready:
            connection, _ = listener.accept()
            if not imported:
                gc.disable()
                for name in IMPORTED:
                    importlib.import_module(name)
                gc.freeze()
                imported = True
            if os.fork() == 0:
                listener.close()
                os.close(alive)
                _serve(connection, program)
                os._exit(0)
            connection.close()


def _waitpid_any() -> int:
    try:
        return os.waitpid(-1, os.WNOHANG)[0]
    except ChildProcessError:
        return 0


def _open_files() -> list[int]:
    return [number for number in map(int, os.listdir("/proc/self/fd")) if os.path.exists(f"/proc/self/fd/{number}")]


def _serve(connection: socket.socket, program: str) -> None:
    """Run what was sent in a fork, pass signals on to it, and answer with its status."""
    head, files, _, _ = socket.recv_fds(connection, 8, 250)
    size, content = int.from_bytes(head, "big"), b""
    while len(content) < size:
        content += connection.recv(size - len(content))
    sent = json.loads(content)
    child = os.fork()
    if child == 0:
        os._exit(_run(sent, files, connection, program))
    for number in files:
        os.close(number)
    ended = os.pidfd_open(child)
    while True:
        ready, _, _ = select.select([ended, connection], [], [])
        if ended in ready:
            break
        numbers = connection.recv(16)
        for number in numbers or [signal.SIGKILL]:  # its other end was killed
            os.kill(child, number)
        if not numbers:
            select.select([ended], [], [])
            break
    _, status = os.waitpid(child, 0)
    with suppress(OSError):
        connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))


def _run(sent: dict[str, Any], files: list[int], connection: socket.socket, program: str) -> int:
    """Become the process that was sent, run it to its end and return its status."""
    connection.close()
    high = [fcntl.fcntl(number, fcntl.F_DUPFD, _HIGH) for number in files]
    os.closerange(0, _HIGH)
    for number, place in zip(high, sent["files"], strict=True):
        os.dup2(number, place)
        os.close(number)
    os.chdir(sent["folder"])
    os.environ.clear()
    os.environ.update(sent["environment"])
    rank_zero = sys.modules["lightning.fabric.utilities.rank_zero"]  # Lightning looks at its import only
    rank_zero.rank_zero_only.rank = rank_zero._get_rank() or 0
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.executable = program  # of the processes that it starts
    multiprocessing.set_executable(program)
    multiprocessing.process.ORIGINAL_DIR = sent["folder"]  # type: ignore[attr-defined]  # as if it were imported here
    how: dict[str, Any] = {"closefd": False, "encoding": "utf-8"}
    sys.stdin = sys.__stdin__ = open(0, **how)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", **how)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", errors="backslashreplace", buffering=1, **how)  # noqa: SIM115
    for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", kind)
    gc.enable()
    status = 0
    try:
        _execute(sent["arguments"])
    except SystemExit as error:
        status = _status(error)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        status = 1
    if (coverage := sys.modules.get("coverage")) and (measured := coverage.Coverage.current()):
        measured.stop()
        measured.save()
    threading._shutdown()  # type: ignore[attr-defined]  # the threads that are not daemons
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = status or 120
    return status


def _status(error: SystemExit) -> int:
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 255
    print(error.code, file=sys.stderr)
    return 1


def _execute(arguments: list[str]) -> None:
    """What ``python`` does with its arguments; of its flags -B alone has an effect."""
    while re.fullmatch("-[BbdEIiOPqRsSuv]+", arguments[0]):  # as multiprocessing repeats those of its own process
        sys.dont_write_bytecode |= "B" in arguments.pop(0)
    ours = str(Path(__file__).parents[1])
    others = [path for path in sys.path if path and path != ours]
    own = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [*own, *(path for path in others if path not in own)]
    if arguments[0] == "-m":
        sys.path.insert(0, os.getcwd())
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *arguments[2:]]
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(arguments[1], "<string>", "exec"), vars(main))
    else:
        sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
        sys.argv = arguments
        runpy.run_path(os.path.abspath(arguments[0]), run_name="__main__")
