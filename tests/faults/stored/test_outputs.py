"""Stored outputs that are damaged, or that an author made wrong, are rejected in one line when they are opened."""

import json
import random
import shutil

import numpy as np
import pytest
from helpers import tiny
from helpers.sealed import edit

from lightning_fusion import ExpertOutputs
from lightning_fusion.errors import InputError
from lightning_fusion.experts.outputs.store import OUTPUTS
from lightning_fusion.store import ArrayStore, DamagedStoreError, StoreWriter


@pytest.fixture
def stored(tmp_path):
    tiny.outputs().save(tmp_path / "s")
    return tmp_path / "s"


def rewritten(folder, change):
    """A store with intact digests whose author changed arrays or metadata."""
    whole = ArrayStore(folder, OUTPUTS)
    arrays, metadata = {name: np.array(values) for name, values in whole.items()}, whole.metadata
    change(arrays, metadata)
    shutil.rmtree(folder)
    with StoreWriter(folder, OUTPUTS) as writer:
        for name, values in arrays.items():
            writer[name] = values
        writer.commit(metadata)


@pytest.mark.slow
def test_every_flipped_bit_is_found(stored):
    """Sampled positions of the manifest and of each array."""
    draw = random.Random(0)
    for file in (stored / "manifest.json", *sorted(stored.glob("data-*/*.bin"))):
        content = file.read_bytes()
        for position in draw.sample(range(len(content)), min(len(content), 8 if file.suffix == ".bin" else 80)):
            changed = bytearray(content)
            changed[position] ^= 1 << draw.randrange(8)
            file.write_bytes(changed)
            try:
                found = ExpertOutputs.open(stored)
            except InputError as error:
                assert "\n" not in str(error).strip()
            else:  # white space, or a letter of an escape: the content is the same
                assert json.loads(bytes(changed)) == json.loads(content), found
        file.write_bytes(content)
    ExpertOutputs.open(stored)


@pytest.mark.parametrize("size", [0, 1, 10, 100])
def test_truncated_files_are_found_without_reading_them(stored, size):
    for file in (stored / "manifest.json", *sorted(stored.glob("data-*/*.bin"))):
        content = file.read_bytes()
        if size < len(content):
            file.write_bytes(content[:size])
            with pytest.raises(InputError):
                ExpertOutputs.open(stored, verify=False)
            file.write_bytes(content)


WRONG_VALUES = {
    "targets": (lambda a, m: a["train/target"].__setitem__(3, 9), "targets of train are out of range; there are 3"),
    "negative": (lambda a, m: a["train/target"].__setitem__(3, -1), "targets of train are out of range"),
    "nan": (lambda a, m: a["val/probabilities/a"].__setitem__(2, np.nan), "probabilities of a in val are no distrib"),
    "sums": (lambda a, m: a["val/probabilities/b"].__imul__(2), "probabilities of b in val are no distributions"),
    "doubled": (lambda a, m: a["val/index"].__setitem__(2, 0), "indices of val are not unique"),
    "swapped": (
        lambda a, m: a.update({"val/index": a["val/target"], "val/target": a["val/index"]}),
        "out of range|not unique",
    ),
}
WRONG_SHAPES = {
    "int32": (
        lambda a, m: a.update({"val/probabilities/a": a["val/probabilities/a"].view(np.int32)}),
        r"probabilities of a of val are int32 \(9, 2\); expected float32",
    ),
    "rows": (lambda a, m: a.update({"val/index": a["val/index"][:-1]}), r"index of val are int64 \(8,\); expected"),
    "classes": (
        lambda a, m: a.update({"val/probabilities/a": np.full((9, 3), 1 / 3, np.float32)}),
        r"\(9, 3\); expected float32 \(9, 2\)",
    ),
    "domains": (lambda a, m: a.update({"val/domain": a["val/domain"][:, :1]}), r"domain of val are bool \(9, 1\)"),
    "lacking": (lambda a, m: a.pop("val/target"), "is damaged .without 'val/target'"),
    "split": (lambda a, m: m["fingerprints"].update(more="x"), "without 'a'"),
    "cost": (lambda a, m: m["experts"]["a"].update(cost=-1), "the cost of expert a is -1"),
    "cost type": (lambda a, m: m["experts"]["a"].update(cost=True), "the cost of expert a is True"),
    "names": (lambda a, m: m.update(classes=["cat", "cat", "owl"]), "classes are a list; expected distinct names"),
    "unknown": (lambda a, m: m.update(classes=["cat", "dog", "emu"]), "expert b has classes that the task lacks: owl"),
    "entry": (lambda a, m: m["experts"].update(a=[]), "the entry of expert a lacks"),
    "expert domains": (lambda a, m: m["experts"]["a"].update(domains=3), "domains of expert a are a int; expected"),
    "fingerprint": (
        lambda a, m: m["experts"]["a"].update(fingerprint=[]),
        "fingerprint or checkpoint of expert a is a",
    ),
    "fingerprints": (lambda a, m: m["fingerprints"].update(val={}), "fingerprints is a dict; expected a text"),
    "former": (lambda a, m: m["former"].update(x={}), "the entry of expert x lacks"),
    "experts": (lambda a, m: m.update(experts=["a", "b"]), "experts is a list; expected a dict"),
    "key": (lambda a, m: m.pop("origins"), "without 'origins'"),
    "origins": (lambda a, m: m["origins"].update(val=3), "origins of val are a int"),
}


@pytest.mark.parametrize("case", [*WRONG_VALUES, *WRONG_SHAPES])
def test_wrong_content_with_intact_digests(stored, case):
    change, message = (WRONG_VALUES | WRONG_SHAPES)[case]
    rewritten(stored, change)
    with pytest.raises(DamagedStoreError, match=message):
        ExpertOutputs.open(stored)
    if case in WRONG_VALUES:
        ExpertOutputs.open(stored, verify=False)  # leaves values out
    else:
        with pytest.raises(DamagedStoreError, match=message):
            ExpertOutputs.open(stored, verify=False)


@pytest.mark.parametrize("number", [True, 2.0, "2", None, 1, [2]])
def test_a_format_of_another_kind(stored, number):
    edit(stored / "manifest.json", lambda content: content | {"format": number})
    with pytest.raises(InputError, match="this version reads 2"):
        ExpertOutputs.open(stored)


@pytest.mark.parametrize("data", ["/etc", "../other", "data-000000000000/..", "", None, ["data-000000000000"]])
def test_paths_outside(stored, data):
    edit(stored / "manifest.json", lambda content: content | {"data": data})
    with pytest.raises(DamagedStoreError):
        ExpertOutputs.open(stored)


@pytest.mark.parametrize(
    "record",
    [
        {"file": "/etc/passwd"},
        {"file": "../0.bin"},
        {"shape": [2**62, 4]},
        {"shape": [0, 2**70]},
        {"shape": [-1]},
        {"shape": [True]},
        {"dtype": "O"},
        {"dtype": "V8"},
        {"dtype": [["a", "<f4"]]},
    ],
)
def test_records_of_arrays(stored, record):
    def change(content):
        content["arrays"]["val/target"] |= record

    edit(stored / "manifest.json", change)
    with pytest.raises(DamagedStoreError):
        ExpertOutputs.open(stored)


@pytest.mark.parametrize("what", ["folder", "file"])
def test_links(stored, what):
    data = next(stored.glob("data-*"))
    path = data if what == "folder" else data / "0.bin"
    moved = path.rename(stored.parent / "elsewhere")
    path.symlink_to(moved)
    with pytest.raises(DamagedStoreError, match="is a link; expected a file of the store itself"):
        ExpertOutputs.open(stored, verify=False)


def test_deep_nesting(stored):
    (stored / "manifest.json").write_text('{"format": 2, "metadata": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(DamagedStoreError, match="is damaged"):
        ExpertOutputs.open(stored)
