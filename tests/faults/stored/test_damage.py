"""Nothing damaged is read: flipped bits, truncations, changed entries.

| stored | found by |
|---|---|
| store (outputs, policy, tokens, series, embeddings, paid answers) | digests of each array and of the manifest |
| checkpoint, weights of an expert | checksums of each entry of the archive |
| card, index, weights of a registry | digests of the file, fingerprints in the card |
| policy in a checkpoint | a digest of tensors and metadata |

A flip in the padding of an archive, or of white space in a JSON file, may be accepted: it changes nothing that is read.
"""

import json
import shutil
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import sealed, tiny

from lightning_fusion import Expert, ExpertModule, ExpertOutputs, ExpertRegistry
from lightning_fusion.checkpoints import read_checkpoint
from lightning_fusion.errors import InputError
from lightning_fusion.frugal.policy import FrugalFoE
from lightning_fusion.frugal.state import digest_of
from lightning_fusion.store import ArrayStore

MLP = "lightning_fusion.frugal.subset_fusers.MaskedMLPFuser"
DRAW = np.random.default_rng(0)


def published(folder: Path) -> None:
    expert = Expert(tiny.Net(3), classes=tiny.CLASSES, features="body")
    ExpertRegistry(str(folder)).publish(expert, tiny.data(), "a", statistics=[1.0, 2.0], network=tiny.Net)


def trained(folder: Path) -> None:
    folder.mkdir()
    module, trainer = ExpertModule(tiny.Net, tiny.CLASSES), tiny.trainer()
    trainer.fit(module, datamodule=tiny.data())
    trainer.save_checkpoint(folder / "a.ckpt")


def fitted(folder: Path) -> None:
    FrugalFoE(neighbors=3).fit(tiny.outputs()["train"]).save(folder)


KINDS = {
    "outputs": (
        lambda folder: tiny.outputs().save(folder),
        ExpertOutputs.open,
        lambda found: found["test"].scattered(),
    ),
    "policy": (fitted, FrugalFoE.load, lambda found: [found.metadata(), found.outputs]),
    "checkpoint": (trained, lambda folder: read_checkpoint(folder / "a.ckpt"), lambda found: found["state_dict"]),
    "expert": (
        trained,
        lambda folder: Expert(checkpoint=str(folder / "a.ckpt"), network=tiny.Net),
        lambda found: [found.state_dict(), found.classes, found.preprocessing],
    ),
    "source": (published, lambda folder: ExpertRegistry(str(folder)).load("a"), lambda found: found.state_dict()),
    "card": (published, lambda folder: ExpertRegistry(str(folder)).card("a"), lambda found: [str(found)]),
}


class Stored:
    """A folder of each kind, written when it is first used."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __truediv__(self, name: str) -> Path:
        kind = name.partition("/")[0]
        if not (self.root / kind).exists():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                KINDS[kind][0](self.root / kind)
        return self.root / name


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Stored:
    return Stored(tmp_path_factory.mktemp("stored"))


def plain(value):
    """Content that can be compared."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def damages(file: Path, count: int):
    """Yield the content of a file with a flipped bit, or cut."""
    content = file.read_bytes()
    for place in DRAW.integers(len(content), size=count):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(DRAW.integers(8))
        yield bytes(flipped)
    yield from (content[: int(place)] for place in DRAW.integers(len(content), size=count // 2))


def check(stored: Stored, folder: Path, kind: str, count: int) -> None:
    """Damage each file of a folder; it must be rejected in one line, or read as before."""
    _, read, content = KINDS[kind]
    shutil.copytree(stored / kind, folder)
    expected = plain(content(read(folder)))
    for file in sorted(
        path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", "index.json")
    ):
        kept = file.read_bytes()
        for damaged in damages(file, count):
            file.write_bytes(damaged)
            try:
                found = read(folder)
            except InputError as error:
                assert "\n" not in str(error)
            else:
                assert plain(content(found)) == expected, f"{file.name} is another and was read"
        file.write_bytes(kept)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["outputs", "card"])
def test_a_damaged_file_is_rejected(kind, stored, tmp_path):
    check(stored, tmp_path / kind, kind, 8)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_damages(kind, stored, tmp_path):
    check(stored, tmp_path / kind, kind, 60)


class TestFacts:
    """Changes of single entries, with and without the digest that belongs to them."""

    def test_reversed_names(self, stored, tmp_path):
        shutil.copytree(stored / "policy", tmp_path / "policy")
        path = tmp_path / "policy/manifest.json"
        manifest = json.loads(path.read_text())
        manifest["metadata"]["names"].reverse()
        path.write_text(json.dumps(manifest))
        with pytest.raises(InputError, match="another digest"):
            FrugalFoE.load(tmp_path / "policy")
        sealed.edit(path, lambda manifest: None)
        with pytest.raises(InputError, match="not those that its metadata describes"):
            FrugalFoE.load(tmp_path / "policy")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"names": ["a", "a"]}, "out of range"),
            ({"names": [1, 2]}, "policy"),
            ({"rows": 10**12}, "not those|out of range"),
            ({"num_classes": 10**12}, "another type"),
            ({"neighbors_": 10**9}, "out of range"),
            ({"trade_off_": float("nan")}, "out of range"),
            ({"costs_": [float("nan"), 1.0]}, "policy|costs"),
            ({"costs_": [1.0]}, "policy|costs"),
            ({"experts": [1]}, "policy"),
            ({"classes": ["a"]}, "policy|classes"),
            ({"arguments": {"look_ahead": -1}}, "look_ahead"),
            ({"arguments": []}, "policy"),
            ({"arguments": {"fuser_neighbors": 10**15}}, None),
            ({"arguments": {"costs": {"a": 10**400}}}, "is damaged"),
            ({"fuser": {"class_path": MLP, "init_args": {"hidden": [10**9]}}}, "needs more than|is damaged"),
            ({"fuser": {"class_path": MLP, "init_args": {"hidden": "x"}}}, "is damaged"),
            ({"fuser": []}, "policy"),
        ],
    )
    def test_entries_of_an_author(self, change, message, stored, tmp_path):
        shutil.copytree(stored / "policy", tmp_path / "policy")
        arrays = {
            name: torch.from_numpy(np.array(values))
            for name, values in ArrayStore(tmp_path / "policy", "policy").items()
        }
        metadata = ArrayStore(tmp_path / "policy", "policy").metadata | change
        metadata["digest"] = digest_of(arrays, metadata)
        sealed.edit(tmp_path / "policy/manifest.json", lambda manifest: manifest | {"metadata": metadata})
        if message is None:
            FrugalFoE.load(tmp_path / "policy")
            return
        with pytest.raises(InputError, match=message):
            FrugalFoE.load(tmp_path / "policy")

    @pytest.mark.parametrize("key", ["names", "costs_", "neighbors_", "fuser", "digest", "arguments", "rows"])
    def test_missing_entries(self, key, stored, tmp_path):
        shutil.copytree(stored / "policy", tmp_path / "policy")

        def lose(manifest):
            del manifest["metadata"][key]

        sealed.edit(tmp_path / "policy/manifest.json", lose)
        with pytest.raises(InputError, match="policy: "):
            FrugalFoE.load(tmp_path / "policy")

    def test_values_that_are_no_probabilities(self, stored, tmp_path):
        metadata = ArrayStore(stored / "policy", "policy").metadata
        arrays = {
            name: torch.from_numpy(np.array(values)) for name, values in ArrayStore(stored / "policy", "policy").items()
        }
        for name, value in (("outputs", torch.nan), ("targets", 7), ("targets", -5)):
            changed = {key: values.clone() for key, values in arrays.items()}
            changed[name].view(-1)[0] = value
            with pytest.raises(InputError, match="policy: "):
                FrugalFoE.from_state(metadata | {"digest": digest_of(changed, metadata)}, changed)
        changed = arrays | {"outputs": arrays["outputs"].long()}
        with pytest.raises(InputError, match="policy: "):
            FrugalFoE.from_state(metadata | {"digest": digest_of(changed, metadata)}, changed)


def test_a_compressed_checkpoint_is_rejected(stored, tmp_path):
    """A kilobyte of it may be a gigabyte of zeros."""
    with zipfile.ZipFile(stored / "checkpoint/a.ckpt") as old, zipfile.ZipFile(tmp_path / "a.ckpt", "w", 8) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(InputError, match="its entries are compressed"):
        read_checkpoint(tmp_path / "a.ckpt")
