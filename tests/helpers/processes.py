"""Processes that are started outside of Lightning, as by ``torchrun``: forks of this one, which import nothing anew."""

import logging
import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only


def start(folder: Path, work: Callable[..., Any], *arguments: Any, processes: int = 1) -> list[BaseProcess]:
    """Start a function in one process, or in several that find one another as those of ``torchrun`` do.

    Args:
        folder: Current folder of the processes; what they print and log is in ``said_RANK.txt`` there.
        work: Function of a module that can be imported: after backward passes on a GPU no process can be forked.
        *arguments: Arguments of the function.
        processes: Number of processes.
    """
    context = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(exist_ok=True)
    started: list[BaseProcess] = []
    for rank in range(processes):
        several = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": processes}
        several |= {"LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        ranks = several if processes > 1 else {}
        process = context.Process(target=_run, args=(folder, rank, ranks, work, arguments), daemon=True)
        process.start()
        started.append(process)
    return started


def together(
    folder: Path, work: Callable[..., Any], *arguments: Any, processes: int = 2, timeout_s: float = 200
) -> list[str]:
    """Call a function in some processes at once, with the arguments of :func:`start`.

    Returns:
        What each process printed and logged.

    Raises:
        AssertionError: If one failed or did not end; with what they printed.
    """
    started = start(folder, work, *arguments, processes=processes)
    try:
        for process in started:
            process.join(timeout_s)
        said = [(folder / f"said_{rank}.txt").read_text(encoding="utf-8") for rank in range(processes)]
        assert [process.exitcode for process in started] == [0] * processes, "\n".join(text[-2000:] for text in said)
    finally:
        for process in started:
            process.kill()
    return said


def wait_for(path: Path, process: BaseProcess) -> None:
    """Wait until a process has written a file."""
    while not path.exists():
        process.join(0.02)
        assert process.is_alive(), f"the process ended with {process.exitcode} before it wrote {path.name}"


def _run(folder: Path, rank: int, ranks: dict[str, Any], work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.update({name: str(value) for name, value in ranks.items()})
    os.environ.pop("PL_GLOBAL_SEED", None)  # of an earlier test; Lightning's DDP would set it again at each start
    os.chdir(folder)
    torch.set_num_threads(1)
    rank_zero_only.rank = rank  # type: ignore[attr-defined]  # Lightning reads it where it is imported
    with open(f"said_{rank}.txt", "w", buffering=1, encoding="utf-8") as said:
        sys.stdout = sys.stderr = said
        logging.getLogger().addHandler(logging.StreamHandler(said))
        status = 0
        try:
            work(*arguments)
        except BaseException:
            traceback.print_exc()
            status = 1
    os._exit(status)  # what pytest would do at its end is not for this process
