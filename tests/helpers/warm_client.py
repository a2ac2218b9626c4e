"""What ``warm.python()`` runs: hands arguments and open files over, waits for the status, and passes signals on."""

import json
import os
import signal
import socket
import sys

files = [number for number in map(int, os.listdir("/proc/self/fd")) if os.path.exists(f"/proc/self/fd/{number}")]
content = json.dumps(
    {"arguments": sys.argv[2:], "folder": os.getcwd(), "environment": dict(os.environ), "files": files}
).encode()
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
socket.send_fds(connection, [len(content).to_bytes(8, "big")], files)
connection.sendall(content)
for number in files:  # the other end of a pipe is to see that this process closes it
    os.close(number)


def forward(number, _):
    connection.send(bytes([number]))


for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, forward)
answer = connection.recv(4)
status = int.from_bytes(answer, "big", signed=True) if answer else 1
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
    os.kill(os.getpid(), -status)
os._exit(status)
