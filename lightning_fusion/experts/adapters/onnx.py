"""Models in ONNX files as experts, run by ONNX Runtime."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.adapters.batches import in_batches
from lightning_fusion.experts.adapters.files import FileExpert
from lightning_fusion.experts.formats import check_format
from lightning_fusion.extras import require
from lightning_fusion.files import hash_files

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}
_PROBABILITIES = ("probabilities", "output_probability", "probability")  # as this library and sklearn-onnx name them
_CHANNELS = (1, 3)


class OnnxExpert(FileExpert):
    """Classifier in an ONNX file, run by ONNX Runtime; its outputs only.

    The input are raw values, or what ``preprocess`` makes of raw samples. Images go to a file with channels last in
    that order, and batches to a file of a fixed batch size in parts of that size.

    Args:
        path: Path of the file. Its weights may lie in files beside it.
        classes: Names of the classes, in the order of the outputs; in any order for a file that names its outputs, as
            sklearn-onnx writes it (ZipMap).
        output: ``logits`` or ``probabilities``. ``None`` (default) means probabilities for outputs of that name, logits
            for all others; probabilities that are taken for logits raise an error.
        output_name: Name of the output. ``None`` (default) uses the first one with floating-point values per class.
        preprocess: Module that prepares raw samples, such as
            :class:`~lightning_fusion.data.samples.images.ImagePreprocessing`.
        providers: Execution providers of ONNX Runtime; the CPU by default.
        raw_input: Whether the file takes raw values, not the input of the data module; tokens are taken as they are.
        **shared: Arguments of :class:`~lightning_fusion.Expert`.

    Raises:
        InputError: If ONNX Runtime is missing or cannot read the file, or it has no such output.
    """

    def __init__(
        self,
        path: str,
        classes: list[str],
        output: Literal["logits", "probabilities"] | None = None,
        output_name: str | None = None,
        preprocess: nn.Module | None = None,
        providers: list[str] | None = None,
        raw_input: bool = True,
        **shared: Any,
    ) -> None:
        network = OnnxNetwork(path, output_name, providers)
        if output is None:
            output = "probabilities" if network.named or network.output in _PROBABILITIES else "logits"
        raw_input = raw_input and "input_ids" not in network.inputs
        super().__init__(
            network=network,
            digest=network.digest,
            classes=classes,
            output=output,
            preprocess=preprocess,
            raw_input=raw_input,
            **shared,
        )


class OnnxNetwork:
    """Session of ONNX Runtime as a function of a batch.

    Args:
        path: Path of the file.
        output: Name of the output. ``None`` (default) uses the first one with floating-point values per class.
        providers: Execution providers; the CPU by default.

    Attributes:
        inputs: Inputs by name.
        output: Name of the output.
        named: Whether the outputs are dicts by class.
        digest: Digest of the file, and of the files of weights beside it.
    """

    def __init__(self, path: str, output: str | None = None, providers: list[str] | None = None) -> None:
        runtime = require("onnxruntime", "onnx")
        check_format(path, ("an ONNX file",))
        try:
            self.session = runtime.InferenceSession(path, providers=providers or ["CPUExecutionProvider"])
        except Exception as error:  # of ONNX Runtime, which defines its own for each kind
            raise InputError(f"path: ONNX Runtime cannot read {path} ({_first(error)})") from error
        self.path, self.inputs = path, {each.name: each for each in self.session.get_inputs()}
        outputs = {each.name: each for each in self.session.get_outputs()}
        usable = [name for name, each in outputs.items() if _is_per_class(each)]
        if output is not None and output not in outputs:
            raise InputError(f"output_name: {path} has {shorten(outputs)}; found {output!r}")
        if output is None and not usable:
            listed = shorten([f"{name} {each.type} {each.shape}" for name, each in outputs.items()])
            raise InputError(f"path: {path} has no output of values per class (batch, classes); it has {listed}")
        self.output = usable[0] if output is None else output
        self.named = outputs[self.output].type.startswith("seq(map(")
        first = next(iter(self.inputs.values())).shape
        self.batch_size = first[0] if first and isinstance(first[0], int) else None
        beside = [file for file in Path(path).parent.glob(f"{Path(path).name}*") if file.is_file()]
        self.digest = hash_files(sorted(beside))

    def __call__(self, input: Any) -> Any:
        """Return the outputs of a batch."""
        prepared = self._arranged(input)
        if self.named:
            return [row for part in _parts(prepared, self.batch_size) for row in self._run(part)]
        return in_batches(lambda part: torch.from_numpy(np.asarray(self._run(part))), prepared, self.batch_size)

    def _run(self, input: Mapping[str, Tensor]) -> Any:
        given = {name: value.numpy() for name, value in input.items()}
        return self.session.run([self.output], given)[0]

    def _arranged(self, input: Any) -> dict[str, Tensor]:
        """Return the inputs by name, in the types and axes of the file."""
        if isinstance(input, Mapping):
            if lacking := [name for name in self.inputs if name not in input]:
                raise InputError(
                    f"input: {self.path} takes {shorten(self.inputs)}; found a dict of {shorten(input)}, without "
                    f"{shorten(lacking)}"
                )
            return {name: self._converted(name, input[name]) for name in self.inputs}
        if len(self.inputs) > 1:
            raise InputError(f"input: {self.path} takes {shorten(self.inputs)}; found a {type(input).__name__}")
        name = next(iter(self.inputs))
        return {name: self._converted(name, torch.as_tensor(input))}

    def _converted(self, name: str, value: Tensor) -> Tensor:
        wanted = self.inputs[name]
        dtype = _DTYPES.get(wanted.type)
        if dtype is None:
            raise InputError(f"input: {self.path} takes {name} of type {wanted.type}; expected {shorten(_DTYPES, 9)}")
        shape, found = list(wanted.shape), list(value.shape)
        if len(shape) == len(found) == 4 and shape[3] == found[1] in _CHANNELS and shape[1] != found[1]:
            value = value.movedim(1, 3)  # channels last, as TensorFlow has them
            found = list(value.shape)
        elif len(shape) == 2 and len(found) > 2:
            value = value.flatten(1)
            found = list(value.shape)
        fits = len(shape) == len(found) and all(
            not isinstance(one, int) or one == other for one, other in zip(shape[1:], found[1:], strict=True)
        )
        if not fits:
            raise InputError(
                f"input: {self.path} takes {name} of shape {_shown(shape)}; found {tuple(found)}: set preprocess of "
                "the expert, such as ImagePreprocessing, or change the data"
            )
        kept: Tensor = torch.from_numpy(np.ascontiguousarray(value.detach().cpu().numpy().astype(dtype)))
        return kept


def _parts(input: Mapping[str, Tensor], size: int | None) -> Sequence[dict[str, Tensor]]:
    """Return the batch in parts, for outputs that are lists; such files have no fixed size but 1."""
    count = len(next(iter(input.values())))
    size = size or max(count, 1)
    return [{name: value[start : start + size] for name, value in input.items()} for start in range(0, count, size)]


def _is_per_class(output: Any) -> bool:
    return output.type.startswith("seq(map(") or (
        ("float" in output.type or "double" in output.type) and (len(output.shape) == 2)
    )


def _shown(shape: Sequence[Any]) -> str:
    return f"({', '.join(str(each) if isinstance(each, int) else 'any' for each in shape)})"


def _first(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
