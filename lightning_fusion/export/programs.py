"""Programs of models of every method, which run with torch or ONNX Runtime alone."""

import io
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.layers import state_tensors
from lightning_fusion.export.inputs import TOKENS, ProgramInput
from lightning_fusion.export.network import ExportedNetwork, exported_network
from lightning_fusion.extras import require
from lightning_fusion.files import disk_errors, exclusive, hash_files, sync, write_text

_BATCHES = (1, 5)
_TOLERANCE = 1e-4
PROGRAM, ONNX, MANIFEST = "model.pt2", "model.onnx", "manifest.json"
_FILES = {PROGRAM, ONNX, MANIFEST}


def export(
    model: Any,
    output: str | os.PathLike[str],
    input_shape: Sequence[int] | None = None,
    max_tokens: int | None = None,
    onnx: bool = False,
    overwrite: bool = False,
    checkpoint: str | None = None,
) -> dict[str, Any]:
    """Write ``model.pt2`` (``torch.export``, any batch size), ``manifest.json`` and, with ``onnx``, ``model.onnx``.

    The files are loaded again and compared with the modules on random input of two batch sizes. They contain no paths
    and no source lines of this machine.

    Args:
        model: An :class:`~lightning_fusion.Expert`; an :class:`~lightning_fusion.ExpertModule`, such as a complementary
            expert (ACoRL) or a student (HaT); a :class:`~lightning_fusion.FoEFuserModule` or a
            :class:`~lightning_fusion.FrugalFoEModule` with experts, of which the fuser of all experts is exported.
        output: Path of a new folder.
        input_shape: Shape of one raw sample, such as (3, 32, 32) for an image and (16000,) for a waveform; of the
            experts' input, where an expert records no preprocessing. ``None`` (default) means the one that the experts
            record, which those of images of one size and of sensor windows do.
        max_tokens: For texts, instead: number of tokens of the longest text. The program's input is a dict of
            ``input_ids`` and ``attention_mask``, (B, L) int64. ``None`` (default) means the one that the experts
            record.
        onnx: Write an ONNX file as well (extra ``onnx``).
        overwrite: Replace an earlier export.
        checkpoint: Path of the checkpoint, for the manifest.

    Returns:
        The manifest: ``method``, ``classes``, ``input`` (``raw`` where the program contains the preprocessing of the
        experts, else ``preprocessed``) with its shape and dtype, ``output``, preprocessing, experts, versions, digests
        of the files, and ``parity``, the largest absolute difference found.

    Raises:
        InputError: If the folder is taken, or an expert cannot be exported.
        RuntimeError: If the exported program differs from the modules by more than 1e-4.
    """
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output: {folder} is a file; name a folder")
    found = {path.name for path in folder.iterdir() if path.name[0] != "."} if folder.exists() else set()
    if foreign := sorted(found - _FILES):
        raise InputError(f"output: {folder} contains other files ({shorten(foreign)}); name a new folder")
    if MANIFEST in found and not overwrite:
        raise InputError(
            f"output: {folder} contains an export already; name a new folder, or set overwrite (--overwrite=true) to "
            "replace it"
        )
    network = exported_network(model)
    device = next((value.device for value in state_tensors(network).values()), torch.device("cpu"))
    network = network.eval().cpu()
    try:
        input = ProgramInput(input_shape, max_tokens, network.pool[0])
        network.prepare(input.shape)
        input.way = None if network.ways is None else network.ways[0]
        answer = input.check(network)
        with _drafted(folder) as draft:
            return _write(network, draft, input, list(answer.shape[1:]), checkpoint, onnx)
    finally:
        network.to(device)


def _write(
    network: ExportedNetwork,
    draft: Path,
    input: ProgramInput,
    output_shape: list[int],
    checkpoint: str | None,
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
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths and source lines of this machine
    for table in (program.state_dict, program.constants):
        for name, value in table.items():
            if not isinstance(value, torch.Tensor):
                continue
            if not value.is_contiguous() or value.untyped_storage().nbytes() != value.nbytes:
                # written as it is, and not as a part of a larger one; torch warns of weights with channels last
                whole = value.detach().clone(memory_format=torch.contiguous_format)
                table[name] = nn.Parameter(whole, False) if isinstance(value, nn.Parameter) else whole
    content = io.BytesIO()  # on a full disk the writer of torch ends the process
    torch.export.save(program, content)
    (draft / PROGRAM).write_bytes(content.getbuffer())
    del content
    loaded = torch.export.load(draft / PROGRAM).module()
    parity = _largest_difference(network, loaded, input)
    if onnx:
        parity = max(parity, _write_onnx(program, network, draft / ONNX, input))
    if parity > _TOLERANCE:
        raise RuntimeError(
            f"the exported program differs from the modules by {parity:.1e}; at most {_TOLERANCE} is allowed"
        )
    pool = network.pool[0]
    ways = [expert.preprocessing for expert in pool.members.values()]
    manifest = {
        "method": network.rule.method,
        "classes": network.classes,
        "input": "raw" if network.takes_raw_input else "preprocessed",
        "input_names": list(TOKENS) if input.of_texts else ["input"],
        "input_shape": input.described,
        "input_dtype": input.dtype,
        "output": network.rule.output,
        "output_shape": [None, *output_shape],
        "output_dtype": "float32",
        "preprocessing": ways[0] if all(way == ways[0] for way in ways) else dict(zip(pool.names, ways, strict=True)),
        **network.rule.facts,
        "experts": pool.metadata(),
        "checkpoint": checkpoint,
        "versions": {name: version(name) for name in ("lightning-fusion", "torch", *(["onnxruntime"] if onnx else []))},
        "files": {path.name: hash_files([path]) for path in sorted(draft.iterdir())},
        "parity": parity,
        "parity_batches": list(_BATCHES),
    }
    write_text(draft / MANIFEST, json.dumps(manifest, indent=1))
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
                files = sorted(draft.iterdir(), key=lambda path: path.name == MANIFEST)
                for path in files:
                    sync(path)
                    os.replace(path, folder / path.name)
            for name in _FILES - {path.name for path in files}:
                (folder / name).unlink(missing_ok=True)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _largest_difference(network: nn.Module, other: Any, input: ProgramInput) -> float:
    largest = 0.0
    with torch.no_grad():
        for rows in _BATCHES:
            sample = input.draw(rows)
            largest = max(largest, float((network(sample) - torch.as_tensor(other(sample))).abs().max()))
    return largest


def _write_onnx(program: Any, network: ExportedNetwork, path: Path, input: ProgramInput) -> float:
    runtime, onnx, _ = (require(name, "onnx") for name in ("onnxruntime", "onnx", "onnxscript"))
    names = list(TOKENS) if input.of_texts else ["input"]
    outputs = [network.rule.output]
    try:
        torch.onnx.export(
            program, f=str(path), input_names=names, output_names=outputs, external_data=False, verbose=False
        )
    except Exception as error:  # torch raises many types, with the whole graph in the message
        cause = error.__cause__ or error
        reason = str(cause).strip().partition("\n")[0]
        raise InputError(
            f"onnx: torch.onnx cannot convert the program ({type(cause).__name__}: {reason}); export without onnx, or "
            "change the network that has this operation"
        ) from error
    written = onnx.load(str(path))
    for part in (written.graph, *written.functions):  # source lines and paths of this machine
        for node in part.node:
            del node.metadata_props[:]
    onnx.save(written, str(path))
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def answer(sample: Any) -> Any:
        given = sample if input.of_texts else {"input": sample}
        return session.run(None, {name: value.numpy() for name, value in given.items()})[0]

    return _largest_difference(network, answer, input)
