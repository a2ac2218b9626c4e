"""Selecting among 1,000 sources: seconds of the first stage, and bytes against sending all; 10,000 cards over http."""

import json
import tempfile
import time
import uuid
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from measuring import Result
from rich.progress import track

from lightning_fusion import Expert, ExpertRegistry, select_sources
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.encoders import SmallConvNet
from lightning_fusion.files import sealed
from lightning_fusion.hat.ranking import Selection

SOURCES, STATISTICS, ROWS, SIDE = 1000, 132, 24, 8
WIDTHS = (6, 8, 10)  # weights of 14 to 36 KB, as of small networks for sensor windows
CLASSES = [str(number) for number in range(6)]
SECONDS = 5.0
MANY, MANY_SECONDS, MANY_BYTES = 10_000, 30.0, 20e6
REPEATS = 3


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder and says nothing."""

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def data(seed: int) -> TensorDataModule:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(ROWS, 1, SIDE, SIDE, generator=generator)
    return TensorDataModule({"train": (images, torch.arange(ROWS) % len(CLASSES))}, CLASSES)


def statistics(seed: int) -> torch.Tensor:
    return torch.randn(STATISTICS, generator=torch.Generator().manual_seed(seed))


def publish(folder: Path) -> ExpertRegistry:
    """A folder of sources that were not trained: sizes and times are those of real ones."""
    registry = ExpertRegistry(str(folder))
    for number in track(range(SOURCES), "Publishing", transient=True):
        torch.manual_seed(number)
        network = partial(SmallConvNet, width=WIDTHS[number % len(WIDTHS)], in_channels=1)
        expert = Expert(network(len(CLASSES)), classes=CLASSES, features="pool")
        registry.publish(expert, data(number), f"source_{number:04}", statistics(number), network=network)
    return registry


def timed(select: Callable[[], Selection]) -> tuple[list[float], Selection]:
    """Seconds of each repeat, after one that is not measured."""
    found, seconds = select(), []
    for _ in range(REPEATS):
        start = time.perf_counter()
        found = select()
        seconds.append(time.perf_counter() - start)
    return seconds, found


def first_stage(registry: ExpertRegistry, where: str, bytes_on_disk: int) -> list[Result]:
    """A selection by statistics reads every card and one model."""
    seconds, found = timed(
        lambda: select_sources(registry, data(SOURCES), 1.0, 1, rank_by="statistics", statistics=statistics(SOURCES))
    )
    ratios = sorted(value / SECONDS for value in seconds)
    what = f"stage 1 over {SOURCES:,} sources, {where}"
    read = found.ledger.stages["statistics"]["down"]
    return [
        Result("selection", f"seconds of {what} / {SECONDS:g} s", ratios[len(ratios) // 2], 1.0, ratios[0], ratios[-1]),
        Result("selection", f"bytes of {what} / those of the cards and the index on disk", read / bytes_on_disk, 1.0),
    ]


def many(folder: Path) -> list[Result]:
    """Read the cards of 10,000 sources over http; the sources are one model with other statistics and counts."""
    registry = ExpertRegistry(str(folder))
    network = partial(SmallConvNet, width=WIDTHS[0], in_channels=1)
    expert = Expert(network(len(CLASSES)), classes=CLASSES, features="pool")
    registry.publish(expert, data(0), "source", statistics(0), network=network)
    card = json.loads((folder / "source" / "card.json").read_bytes())
    for number in track(range(1, MANY - 1), "Writing cards", transient=True):
        values = [float(str(value)) for value in statistics(number).numpy()]
        own = {"name": f"source_{number:05}", "statistics": values, "version": uuid.uuid4().hex[:12]}
        own["fingerprint"] = uuid.uuid4().hex
        place = folder / own["name"]
        place.mkdir()
        (place / "card.json").write_text(json.dumps(sealed(card | own), separators=(",", ":")))
    registry.publish(expert, data(1), "last", statistics(MANY), network=network)  # packs the cards of all
    cards = sum(path.stat().st_size for path in folder.glob("*/card.json"))

    def read(address: str) -> tuple[float, int]:
        far = ExpertRegistry(address)
        start = time.perf_counter()
        assert len(far.cards()) == MANY
        return time.perf_counter() - start, sum(each.num_bytes for each in far.ledger)

    found = [served(folder, read) for _ in range(REPEATS)]
    ratios, size = sorted(seconds / MANY_SECONDS for seconds, _ in found), found[0][1]
    what = f"cards of {MANY:,} sources over http on this machine"
    return [
        Result("selection", f"seconds of the {what} / {MANY_SECONDS:g} s", ratios[1], 1.0, ratios[0], ratios[-1]),
        Result("selection", f"bytes of the {what} / {MANY_BYTES / 1e6:g} MB", size / MANY_BYTES, 1.0),
        Result("selection", f"bytes of the {what} / those of the cards alone", size / cards, 1.0),
    ]


def served(folder: Path, use: Callable[[str], Any]) -> Any:
    """Call a function with the address of a web server for a folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        return use(f"http://127.0.0.1:{server.server_address[1]}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def traffic(registry: ExpertRegistry) -> list[Result]:
    """Bytes of whole selections over those of sending all; a saving of 39 % is a ratio of 0.61."""
    results = []
    for share, encoder_first, target in ((0.5, False, 0.61), (0.5, True, 0.61), (0.1, False, None)):
        found = select_sources(
            registry, data(SOURCES), share, 5, encoder_first=encoder_first, statistics=statistics(SOURCES)
        )
        first = ", encoder_first" if encoder_first else ""
        what = f"bytes read at keep_fraction {share:g}{first} / bytes of all {SOURCES:,} sources"
        results.append(Result("selection", what, found.ledger.total / found.ledger.send_all, target))
    return results


def measure() -> list[Result]:
    """On a disk, over http, and the ledger."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        registry = publish(folder)
        cards = sum(path.stat().st_size for path in folder.glob("*/card.json"))
        results = first_stage(registry, "a folder", cards)
        packed = sum(path.stat().st_size for path in [folder / "index.json", *folder.glob("cards/*")])
        results += served(folder, lambda url: first_stage(ExpertRegistry(url), "http on this machine", packed))
        results += traffic(registry)
    with tempfile.TemporaryDirectory() as root:
        return results + many(Path(root))
