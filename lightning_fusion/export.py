"""Export of experts and fuser as one program that runs without this library."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from lightning_fusion.checkpoints import read_checkpoint
from lightning_fusion.data.normalization import Normalization, preprocessor
from lightning_fusion.data.samples.base import SamplePreprocessing
from lightning_fusion.data.samples.texts import TextTokens
from lightning_fusion.described import imported_class
from lightning_fusion.errors import InputError, NotImportedError, shorten
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.pool import ExpertPool, check_same_experts
from lightning_fusion.extras import require
from lightning_fusion.files import disk_errors, exclusive, hash_files, sync, write_text
from lightning_fusion.foe.module import FoEFuserModule

_BATCHES = (1, 5)
_TOKENS = ("input_ids", "attention_mask")
_TOLERANCE = 1e-4
_PROGRAM, _ONNX, _MANIFEST = "fused.pt2", "fused.onnx", "manifest.json"
_FILES = {_PROGRAM, _ONNX, _MANIFEST}


class FusedNetwork(nn.Module):
    """A pool of experts and its fuser as one network, from input to probabilities.

    The input has raw values (images from 0 to 255, signals as recorded, waveforms) where the preprocessing of all
    experts is known, and is preprocessed for each expert as in its training; else it is that of the experts' networks.

    Args:
        pool: The experts; none may be a plain callable.
        fuser: The trained fuser; the ``fuse`` of a subclass is part of the network.

    Raises:
        InputError: If an expert is no torch module.
    """

    def __init__(self, pool: ExpertPool, fuser: FoEFuserModule) -> None:
        super().__init__()
        for name, expert in pool.members.items():
            if not isinstance(expert.network, nn.Module):
                raise InputError(f"experts: {name} is a plain callable; only torch modules can be exported")
            if isinstance(expert.preprocess, SamplePreprocessing) and not isinstance(expert.preprocess, TextTokens):
                raise InputError(
                    f"experts: {name} prepares {expert.preprocess.takes} with {type(expert.preprocess).__name__}, "
                    "which is no part of a program; export a pool whose experts take the input of a data module"
                )
        read = {name: (expert.preprocessing or {}).get("tokenizer") for name, expert in pool.members.items()}
        if len({each for each in read.values() if each is not None}) > 1:
            raise InputError(f"experts: {shorten(read)} have different tokenizers; a program reads tokens of one")
        self.experts, self.network = pool.experts, fuser.network
        ways = [
            preprocessor(each.preprocessing) or (nn.Identity() if each.raw_input and not each.preprocessing else None)
            for each in pool.members.values()
        ]
        self.takes_raw_input = all(way is not None for way in ways)
        self.ways = nn.ModuleList(way for way in ways if way is not None) if self.takes_raw_input else None
        self.target, self.reads_representations, self.mean_weight = (
            fuser.target,
            bool(fuser.representation_dims),
            fuser.mean_weight,
        )
        self.own = fuser if type(fuser).fuse is not FoEFuserModule.fuse and fuser.target == "label" else None
        width = len(fuser.classes)
        place = [expert * width + column for expert, own in enumerate(fuser.vocabulary.columns) for column in own]
        self.register_buffer("place", torch.tensor(place), persistent=False)
        self.place: Tensor
        self.shape = (len(pool.experts), width)

    def forward(self, input: Any) -> Tensor:
        """Map (B, ...) input, or a dict of texts' tokens, to (B, C) fused probabilities."""
        inputs = [input] * len(self.experts) if self.ways is None else [way(input) for way in self.ways]
        pairs = zip(self.experts.values(), inputs, strict=True)
        if self.reads_representations:
            both = [cast(Expert, expert).forward_with_representations(each) for expert, each in pairs]
            outputs = torch.cat([pair[0] for pair in both], dim=1)
            read = torch.cat([outputs, *(pair[1] for pair in both)], dim=1)
        else:
            read = outputs = torch.cat([expert(each) for expert, each in pairs], dim=1)
        if self.own is not None:
            fused: Tensor = self.own.fuse(read).float().softmax(-1)
            return fused
        logits = self.network(read)
        if self.target == "label" and not self.mean_weight:
            result: Tensor = logits.softmax(-1)
            return result
        experts, classes = self.shape
        spread = outputs.new_zeros(outputs.shape[0], experts * classes).index_copy(1, self.place, outputs)
        spread = spread.reshape(-1, experts, classes)
        if self.target == "label":
            return torch.lerp(logits.softmax(-1), spread.mean(1), self.mean_weight)
        chosen = logits.argmax(1).reshape(-1, 1, 1).expand(-1, 1, classes)
        return spread.gather(1, chosen).squeeze(1)


def export(
    experts: Mapping[str, Expert] | ExpertPool,
    checkpoint: str,
    output: str,
    input_shape: Sequence[int] | None = None,
    max_tokens: int | None = None,
    onnx: bool = False,
    overwrite: bool = False,
    fuser: type[FoEFuserModule] = FoEFuserModule,
) -> dict[str, Any]:
    """Write ``fused.pt2`` (``torch.export``, any batch size), ``manifest.json`` and, with ``onnx``, ``fused.onnx``.

    The files are loaded again and compared with the modules on random input of two batch sizes.

    Args:
        experts: The experts the fuser was trained with; fingerprints are checked.
        checkpoint: Checkpoint of the fuser.
        output: Path of a new folder.
        input_shape: Shape of one raw sample, such as (3, 32, 32) for an image and (16000,) for a waveform; of the
            experts' input, where an expert records no preprocessing.
        max_tokens: For texts, instead: number of tokens of the longest text. The program's input is a dict of
            ``input_ids`` and ``attention_mask``, (B, L) int64.
        onnx: Write an ONNX file as well (extra ``onnx``).
        overwrite: Replace an earlier export.
        fuser: Class of the fuser; a subclass that is imported is found by itself.

    Returns:
        The manifest: classes, ``input`` (``raw`` where the program contains the preprocessing of the experts, else
        ``preprocessed``) with its shape, preprocessing, experts, versions, digests of the files, and ``parity``, the
        largest absolute difference found.

    Raises:
        InputError: If the experts are not the fuser's, the folder is taken, or an expert cannot be exported.
        RuntimeError: If the exported program differs from the modules by more than 1e-4.
    """
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output: {folder} is a file; name a folder")
    found = {path.name for path in folder.iterdir() if path.name[0] != "."} if folder.exists() else set()
    if foreign := sorted(found - _FILES):
        raise InputError(f"output: {folder} contains other files ({shorten(foreign)}); name a new folder")
    if _MANIFEST in found and not overwrite:
        raise InputError(
            f"output: {folder} contains an export already; name a new folder, or set overwrite (--overwrite=true) to "
            "replace it"
        )
    content = read_checkpoint(checkpoint)
    own = (content.get("hyper_parameters") or {}).get("_class_path")
    if own is not None and imported_class(own, fuser) is None:
        raise NotImportedError(
            f"checkpoint: {checkpoint} contains a {str(own)[:80]}, which is no imported {fuser.__name__}; name the "
            f"class of the fuser (--fuser={str(own)[:80]})"
        )
    trained = fuser.load_from_checkpoint(checkpoint, map_location="cpu", experts=None)
    if type(trained).forward is not FoEFuserModule.forward:
        raise InputError(
            f"checkpoint: {type(trained).__name__} overrides forward, which the program would ignore; override fuse"
        )
    pool = (
        experts.for_task(trained.classes) if isinstance(experts, ExpertPool) else ExpertPool(experts, trained.classes)
    )
    if list(pool.names) != list(trained.expert_classes):
        raise InputError(
            f"experts: found {shorten(pool.names)}; the fuser was trained with {shorten(trained.expert_classes)}"
        )
    check_same_experts(content.get("experts") or {}, pool.metadata())
    for expert in pool.members.values():
        expert.convert_from(expert.preprocessing, None)  # the program prepares the input
    try:
        network = FusedNetwork(pool, trained).eval().cpu()
        input = _Input(input_shape, max_tokens, _vocabulary(pool), None if network.ways is None else network.ways[0])
        input.check(network)
        with _drafted(folder) as draft:
            return _write(network, pool, trained, draft, checkpoint, input, onnx)
    finally:
        pool.convert_from(None)


def _write(
    network: FusedNetwork,
    pool: ExpertPool,
    fuser: FoEFuserModule,
    draft: Path,
    checkpoint: str,
    input: "_Input",
    onnx: bool,
) -> dict[str, Any]:
    """Write the program and its manifest to a folder, and return the manifest."""
    try:
        with torch.no_grad():
            program = torch.export.export(network, (input.draw(2),), dynamic_shapes=(input.dynamic,))
    except Exception as error:  # torch raises many types, with the graph in the message
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"experts: torch.export cannot trace the network ({type(error).__name__}: {reason}); branches that depend "
            "on values, and batches of one size only, are not exported: change the network that has them"
        ) from error
    torch.export.save(program, draft / _PROGRAM)
    loaded = torch.export.load(draft / _PROGRAM).module()
    parity = _largest_difference(network, loaded, input)
    if onnx:
        parity = max(parity, _write_onnx(program, network, draft / _ONNX, input))
    if parity > _TOLERANCE:
        raise RuntimeError(
            f"the exported program differs from the modules by {parity:.1e}; at most {_TOLERANCE} is allowed"
        )
    ways = [expert.preprocessing for expert in pool.members.values()]
    manifest = {
        "classes": fuser.classes,
        "input": "raw" if network.takes_raw_input else "preprocessed",
        "input_shape": input.described,
        "output": "probabilities",
        "preprocessing": ways[0] if all(way == ways[0] for way in ways) else dict(zip(pool.names, ways, strict=True)),
        "target": fuser.target,
        "experts": pool.metadata(),
        "checkpoint": checkpoint,
        "versions": {name: version(name) for name in ("lightning-fusion", "torch")},
        "files": {path.name: hash_files([path]) for path in sorted(draft.iterdir())},
        "parity": parity,
        "parity_batches": list(_BATCHES),
    }
    write_text(draft / _MANIFEST, json.dumps(manifest, indent=1))
    return manifest


@contextmanager
def _drafted(folder: Path) -> Iterator[Path]:
    """Context of an empty folder whose files replace those of ``folder`` one by one, the manifest last.

    A killed export leaves whole files: the programs of the old or of the new one, and a manifest whose digests tell
    which.
    """
    draft = folder / ".draft"
    with exclusive(folder / ".lock", "output"):
        try:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            with disk_errors(draft):
                yield draft
                files = sorted(draft.iterdir(), key=lambda path: path.name == _MANIFEST)
                for path in files:
                    sync(path)
                    os.replace(path, folder / path.name)
            for name in _FILES - {path.name for path in files}:
                (folder / name).unlink(missing_ok=True)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


class _Input:
    """Input samples of the experts: of one shape, or texts as tokens."""

    def __init__(
        self, shape: Sequence[int] | None, max_tokens: int | None, vocabulary: int, way: nn.Module | None = None
    ) -> None:
        if (shape is None) == (max_tokens is None):
            raise InputError("input_shape, max_tokens: give one of them: the shape of a sample, or the longest text")
        if max_tokens is not None and max_tokens < 2:
            raise InputError(f"max_tokens is {max_tokens}; expected at least 2")
        self.of_texts, self.vocabulary, self.way = max_tokens is not None, vocabulary, way
        self.shape = tuple(shape) if shape is not None else (max_tokens,)
        self.name = "max_tokens" if self.of_texts else "input_shape"
        batch = {0: torch.export.Dim.DYNAMIC}
        tokens = batch | {1: torch.export.Dim("tokens", min=1, max=max_tokens)} if max_tokens is not None else {}
        self.dynamic: Any = dict.fromkeys(_TOKENS, tokens) if self.of_texts else batch
        kept = [None, *self.shape]
        self.described: Any = {name: [None, f"up to {max_tokens}"] for name in _TOKENS} if self.of_texts else kept

    def draw(self, rows: int) -> Any:
        """Random samples; of texts, every other draw is half as long."""
        if not self.of_texts:
            values = torch.randn(rows, *self.shape)
            if isinstance(self.way, Normalization) and len(self.shape) and self.shape[0] == len(self.way.mean):
                values = self.way.inverse(values)
            return values
        length = max(2, self.shape[0] // (1 if rows % 2 else 2))  # type: ignore[operator]
        lengths = torch.randint(1, length + 1, (rows, 1))
        lengths[0] = length
        ids = torch.randint(self.vocabulary, (rows, length))
        return dict(zip(_TOKENS, (ids, (torch.arange(length) < lengths).long()), strict=True))

    def check(self, network: nn.Module) -> None:
        """Raise InputError if the network rejects a sample."""
        try:
            with torch.no_grad():
                network(self.draw(2))
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{self.name}: the experts reject a sample of shape {self.shape}: {error}") from error


def _vocabulary(pool: ExpertPool) -> int:
    """Size of the vocabulary of all experts, if known."""
    recorded = [expert.preprocessing or {} for expert in pool.members.values()]
    networks = [getattr(expert.network, "vocab_size", None) for expert in pool.members.values()]
    return min([int(n) for n in (*(metadata.get("vocab_size") for metadata in recorded), *networks) if n], default=2)


def _largest_difference(network: nn.Module, other: Any, input: _Input) -> float:
    largest = 0.0
    with torch.no_grad():
        for rows in _BATCHES:
            sample = input.draw(rows)
            largest = max(largest, float((network(sample) - torch.as_tensor(other(sample))).abs().max()))
    return largest


def _write_onnx(program: Any, network: nn.Module, path: Path, input: _Input) -> float:
    runtime, *_ = (require(name, "onnx") for name in ("onnxruntime", "onnx", "onnxscript"))
    names = list(_TOKENS) if input.of_texts else ["input"]
    torch.onnx.export(
        program, f=str(path), input_names=names, output_names=["probabilities"], external_data=False, verbose=False
    )
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def answer(sample: Any) -> Any:
        given = sample if input.of_texts else {"input": sample}
        return session.run(None, {name: value.numpy() for name, value in given.items()})[0]

    return _largest_difference(network, answer, input)
