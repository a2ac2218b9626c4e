"""Readers of damaged files raise InputError or return values; what has digests returns the values that were written.

``make fuzz`` runs them for hours, each round with other damage; a failure names the seed.
"""

import contextlib
import itertools
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import data_files, interrupted, recording_trees, registry_sources, text_tables, tiny
from helpers.fuzzing import damage

from lightning_fusion import (
    ExpertModule,
    ExpertOutputs,
    ExpertRegistry,
    FoEFuserModule,
    FrugalFoE,
    OutputsDataModule,
    SensorDataModule,
    TextDataModule,
)
from lightning_fusion.data.image.folders import DomainImageDataModule
from lightning_fusion.data.text.json_lines import JSONTextDataModule
from lightning_fusion.errors import InputError

ROUNDS = 40
SECONDS = 60 * float(os.environ.get("FUZZ_MINUTES", 0))
LONGEST_S = 20.0  # of one read, on a busy machine
"""A reader that takes longer hangs."""


@dataclass(frozen=True)
class Reader:
    """A reader of files.

    Args:
        name: Name of the case.
        write: Write valid files to the current folder.
        read: Read them, and return plain data.
        exact: Whether damage is always found: the result is that of the valid files, or an InputError.
    """

    name: str
    write: Callable[[], Any]
    read: Callable[[], Any]
    exact: bool = False


def outputs() -> Any:
    opened = ExpertOutputs.open("store")
    parts = {
        f"{split}/{name}": value.tolist() for split, part in opened.splits.items() for name, value in part.arrays()
    }
    return parts, opened.metadata()


def policy() -> Any:
    loaded = FrugalFoE.load("policy")
    found = loaded.predict(tiny.outputs(1)["test"])
    return found.probabilities.tolist(), found.queried.tolist(), loaded.names, loaded.costs_


def publish() -> None:
    registry_sources.publish(ExpertRegistry("registry"), "source")


def source() -> Any:
    registry = ExpertRegistry("registry")
    card = registry.card("source")
    return card.classes, card.statistics, registry.load("source").fingerprint, registry.centroids(card)[1].tolist()


def save_fuser() -> None:
    module, trainer = FoEFuserModule(**tiny.outputs().fuser_arguments()), tiny.trainer(max_steps=0)
    trainer.fit(module, datamodule=OutputsDataModule(tiny.outputs()))
    trainer.save_checkpoint("fuser.ckpt")


def load_fuser() -> Any:
    return FoEFuserModule.load_from_checkpoint("fuser.ckpt").classes


def save_expert() -> None:
    module, trainer = ExpertModule(partial(tiny.Net, hidden=3), classes=tiny.CLASSES), tiny.trainer(max_steps=0)
    trainer.fit(module, datamodule=tiny.data())
    trainer.save_checkpoint("expert.ckpt")


def load_expert() -> Any:
    return ExpertModule.load_from_checkpoint("expert.ckpt").classes


def sensor_files(suffix: str) -> None:
    generator = np.random.default_rng(0)
    for person in ("ann", "bob"):
        for label in ("sit", "walk"):
            Path(person).mkdir(exist_ok=True)
            values = generator.normal(size=(40, 2)).round(3)
            path = Path(person, f"{label}.{suffix}")
            if suffix == "csv":
                rows = [f"{n / 10},{a},{b},{label}" for n, (a, b) in enumerate(values.tolist())]
                path.write_text("\n".join(["t,x,y,label", *rows]) + "\n")
            else:
                np.savez(path, t=np.arange(40) / 10, x=values[:, 0], y=values[:, 1], label=label)


def sensors() -> Any:
    data = SensorDataModule(
        root=".", pattern="{person}/{take}.*", channels=["x", "y"], timestamp="t", label="label",
        domain_fields=["person"], sample_rate_hz=10, window_s=1.0, step_s=1.0,
    )  # fmt: skip
    return examples(data)


def examples(data: Any) -> Any:
    data.prepare_data()
    data.setup("fit")
    rows = data.rows("train")
    batch = rows[torch.arange(len(rows))]
    inputs = batch.input.values() if isinstance(batch.input, dict) else [batch.input]
    assert all(torch.isfinite(values.float()).all() for values in inputs)
    return len(rows)


def texts(path: str) -> Any:
    return examples(TextDataModule(root=path, **text_tables.FEW))


def json_lines() -> None:
    rows = [dict(zip(text_tables.NAMES, row, strict=True)) for row in text_tables.ROWS]
    Path("texts.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")


def speakers() -> Any:
    return examples(recording_trees.folders(Path("speech"), val_speakers=1, test_speakers=1))


def images() -> Any:
    return examples(DomainImageDataModule("pictures", image_size=8, batch_size=4))


def tab_separated() -> None:
    Path("texts.tsv").write_text("\n".join("\t".join(row) for row in [text_tables.NAMES, *text_tables.ROWS]) + "\n")


def recordings(suffix: str) -> None:
    recording_trees.draw_tree(Path("speech"), recording_trees.names(4), seconds=0.3, suffix=suffix)


def pictures() -> None:
    classes = ["cat", "dog"]
    data_files.images(Path("pictures"), {"photo": classes, "sketch": classes}, 6)


def interrupt() -> None:
    with contextlib.suppress(InputError):
        interrupted.run(Path("store"), interrupted.Service())


def resumed() -> Any:
    """What a run leaves that reads the journal of an interrupted one."""
    service = interrupted.Service()
    service.fails = False
    shutil.copytree("store", "resumed")
    try:
        found = interrupted.run(Path("resumed"), service)["test"]
        assert service.queried <= interrupted.ROWS
        return found.probabilities["a"].tolist(), found.index.tolist(), found.target.tolist()
    finally:
        shutil.rmtree("resumed")


READERS = [
    Reader("journal", interrupt, resumed, exact=True),
    Reader("outputs", lambda: tiny.outputs().save("store"), outputs, exact=True),
    Reader("policy", lambda: FrugalFoE().fit(tiny.outputs()["train"]).save("policy"), policy, exact=True),
    Reader("registry", publish, source),
    Reader("fuser checkpoint", save_fuser, load_fuser),
    Reader("expert checkpoint", save_expert, load_expert),
    Reader("csv recordings", partial(sensor_files, "csv"), sensors),
    Reader("npz recordings", partial(sensor_files, "npz"), sensors),
    Reader("csv texts", partial(text_tables.table, Path("texts.csv")), partial(texts, "texts.csv")),
    Reader("tsv texts", tab_separated, partial(texts, "texts.tsv")),
    Reader("json lines", json_lines, lambda: examples(JSONTextDataModule("texts.jsonl", **text_tables.FEW))),
    Reader("wav", partial(recordings, "wav"), speakers),
    Reader("flac", partial(recordings, "flac"), speakers),
    Reader("images", pictures, images),
]


def attempt(reader: Reader) -> Any:
    """What a reader returns; its message if it raises InputError."""
    started = time.perf_counter()
    try:
        found = reader.read()
    except InputError as error:
        assert "\n" not in str(error), f"the message has several lines: {error}"
        found = error
    assert time.perf_counter() - started < LONGEST_S, "the reader takes too long"
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name.replace(" ", "_"))
def test_damaged_files_are_rejected_or_read(reader, tmp_path, monkeypatch):
    (tmp_path / "valid").mkdir()
    monkeypatch.chdir(tmp_path / "valid")
    reader.write()
    expected = reader.read()
    until = time.monotonic() + SECONDS / len(READERS)
    start = random.SystemRandom().randrange(2**32) if SECONDS else 0
    for seed in itertools.count(start):
        if seed - start >= int(os.environ.get("FUZZ_ROUNDS", ROUNDS)) and time.monotonic() >= until:
            break
        draw = random.Random(seed)
        os.chdir(tmp_path)
        shutil.rmtree(tmp_path / "damaged", ignore_errors=True)
        shutil.copytree(tmp_path / "valid", tmp_path / "damaged")
        os.chdir(tmp_path / "damaged")
        files = sorted(path for path in Path().glob("**/*") if path.is_file() and path.name != ".lock")
        damage(draw, draw.choice(files))
        try:
            found = attempt(reader)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
        if reader.exact and not isinstance(found, InputError):
            assert found == expected, f"seed {seed}: damage was not found"
    assert "evil" not in sys.modules
