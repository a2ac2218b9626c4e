"""What ``warm.python()`` runs: hands arguments and open files over, waits for the status, and passes signals on."""

import json
import os
import signal
import socket
import sys
from typing import Any


def main(address: str, arguments: list[str]) -> None:
    """Become the process that runs these arguments; it ends as that one does."""
    files = [number for number in map(int, os.listdir("/proc/self/fd")) if os.path.exists(f"/proc/self/fd/{number}")]
    sent = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ), "files": files}
    content = json.dumps(sent).encode()
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    socket.send_fds(connection, [len(content).to_bytes(8, "big")], files)
    connection.sendall(content)
    for number in files:  # the other end of a pipe is to see that this process closes it
        os.close(number)

    def forward(number: int, _: Any) -> None:
        connection.send(bytes([number]))

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, forward)
    answer = connection.recv(4)
    status = int.from_bytes(answer, "big", signed=True) if answer else 1
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
