"""Small sources and targets for the registry and the selection."""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from helpers import tiny
from lightning_fusion import Expert, ExpertRegistry
from lightning_fusion.data.tensors import TensorDataModule

CLASSES = ["cat", "dog", "owl", "pig"]


class Reused(nn.Module):
    """Its head also works before the representation."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head, self.body = nn.Linear(4, num_classes), nn.Linear(num_classes, 4)

    def forward(self, input: Tensor) -> Tensor:
        return self.head(self.body(self.head(input)))


class Tied(nn.Module):
    """Its head has the weights of the body."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, num_classes), nn.Linear(4, num_classes)
        self.pad = nn.ZeroPad1d((0, 4 - num_classes))
        self.head.weight = self.body.weight

    def forward(self, input: Tensor) -> Tensor:
        return self.head(self.pad(self.body(input)))


class Deep(nn.Sequential):
    """Several layers follow its representation."""

    def __init__(self, num_classes: int) -> None:
        layers = OrderedDict(a=nn.Linear(4, 6), z=nn.Tanh(), b=nn.Linear(6, 5), norm=nn.LayerNorm(5))
        super().__init__(layers | {"head": nn.Linear(5, num_classes)})


class Named(nn.Module):
    """Its input is a dict."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.net = tiny.Net(num_classes)

    def forward(self, input: dict[str, Tensor]) -> Tensor:
        return self.net(input["x"])


class Wide(nn.Module):
    """Has weights of its own beside its layers, and a buffer that is not saved."""

    def __init__(self, num_classes: int, scale: float = 2.0) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.randn(4))
        self.register_buffer("scale", torch.tensor(scale), persistent=False)
        self.body = nn.Linear(4, 6)
        self.head = nn.Sequential(nn.ReLU(), nn.BatchNorm1d(6), nn.Linear(6, num_classes))

    def forward(self, input: Tensor) -> Tensor:
        return self.head(self.body(self.scale * input + self.shift))


def data(classes: list[str] = CLASSES, seed: int = 0, rows: int = 21, **arguments: Any) -> TensorDataModule:
    generator = torch.Generator().manual_seed(seed)
    target = torch.arange(rows) % len(classes)
    input = torch.randn(rows, 4, generator=generator) + target[:, None]
    return TensorDataModule({"train": (input, target)}, classes, batch_size=8, **arguments)


def expert(classes: list[str] = CLASSES, hidden: int = 5, seed: int = 0, **facts: Any) -> Expert:
    torch.manual_seed(seed)
    return Expert(tiny.Net(len(classes), hidden), classes=classes, **({"features": "body"} | facts))


def publish(registry: ExpertRegistry, name: str, hidden: int = 5, **arguments: Any) -> Expert:
    """Publish a source of a few numbers."""
    known = arguments.pop("classes", CLASSES)
    seed = arguments.pop("seed", 0)
    made = expert(known, hidden, seed)
    given = {"data": data(known, seed), "statistics": [float(seed), 1.0], "network": partial(tiny.Net, hidden=hidden)}
    registry.publish(made, name=name, **(given | arguments))
    return made


class _Folder(SimpleHTTPRequestHandler):
    """Serves a folder; some files break off in mid-body."""

    breaks: dict[str, int]
    declares_length: bool
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        path = Path(self.translate_path(self.path))
        file = next((end for end in self.breaks if self.path.endswith(end)), None)
        if file is None or not self.breaks[file]:
            super().do_GET()
            return
        self.breaks[file] -= 1
        content = path.read_bytes()
        self.send_response(200)
        if self.declares_length:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def served(
    folder: Path, breaks: dict[str, int] | None = None, declares_length: bool = True
) -> Iterator[tuple[str, Any]]:
    """A web server before a folder: its address, and what it was asked for."""
    facts = {"breaks": dict(breaks or {}), "declares_length": declares_length, "asked": []}
    kind = type("Folder", (_Folder,), facts)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(kind, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", kind.asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
