"""Programs of torch.export and TorchScript as experts."""

import hashlib
import io
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_fusion.errors import InputError
from lightning_fusion.experts.adapters.batches import in_batches
from lightning_fusion.experts.adapters.files import FileExpert
from lightning_fusion.experts.formats import check_format, model_format

_KINDS = ("a torch.export program", "a TorchScript program")


class ProgramExpert(FileExpert):
    """Classifier in a program that ``torch.export.save`` or ``torch.jit.save`` wrote; its outputs only.

    Such a file is code: torch runs what it contains when it is loaded and called, and offers no way to load it without.
    It is loaded only where its ``sha256`` is given, which says that you trust this very file.

    Args:
        path: Path of the file.
        classes: Names of the classes, in the order of the outputs.
        sha256: SHA-256 of the file, as ``sha256sum`` prints it.
        output: ``logits`` or ``probabilities``. ``None`` (default) means logits; probabilities that are taken for
            logits raise an error.
        preprocess: Module that prepares raw samples, such as
            :class:`~lightning_fusion.data.samples.images.ImagePreprocessing`.
        raw_input: Whether the program takes raw values, not the input of the data module.
        **shared: Arguments of :class:`~lightning_fusion.Expert`.

    Raises:
        InputError: If the digest is missing or that of another file, or torch cannot load the file.
    """

    def __init__(
        self,
        path: str,
        classes: list[str],
        sha256: str | None = None,
        output: Literal["logits", "probabilities"] | None = None,
        preprocess: nn.Module | None = None,
        raw_input: bool = True,
        **shared: Any,
    ) -> None:
        network = _Program(path, sha256)
        super().__init__(
            network=network,
            digest=network.digest,
            classes=classes,
            output=output,
            preprocess=preprocess,
            raw_input=raw_input,
            **shared,
        )


class _Program(nn.Module):
    """A loaded program, in evaluation as it was exported.

    Args:
        path: Path of the file.
        expected: Its SHA-256, as the user gives it.
    """

    def __init__(self, path: str, expected: str | None) -> None:
        super().__init__()
        check_format(path, _KINDS)
        content = Path(path).read_bytes()  # what is compared is what is loaded
        self.digest = hashlib.sha256(content).hexdigest()
        if expected is None:
            raise InputError(
                f"sha256 is not set, and {path} is a program, which torch runs when it is loaded; where you trust who "
                f"made it, set sha256: {self.digest}"
            )
        if expected.strip().lower() != self.digest:
            raise InputError(f"sha256: {path} has {self.digest}; found {expected}: it is not the file that you trust")
        found = model_format(path)
        try:
            if found is not None and found[0] == "a TorchScript program":
                self.program: Any = torch.jit.load(io.BytesIO(content), map_location="cpu").eval()
                self.batch_size: int | None = None
            else:
                exported = torch.export.load(io.BytesIO(content))
                self.program, self.batch_size = exported.module(), _fixed_batch(exported)
        except Exception as error:  # of torch, which raises many types for truncated files
            what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise InputError(f"path: torch cannot load {path} ({what})") from error

    def train(self, mode: bool = True) -> "_Program":
        """Stay as exported: exported programs have no modes."""
        self.training = False
        return self

    def forward(self, input: Any) -> Tensor:
        """Run the program."""
        return in_batches(self.program, input, self.batch_size)


def _fixed_batch(exported: Any) -> int | None:
    """Return the number of samples that an exported program takes; ``None`` if it takes any."""
    names = set(exported.graph_signature.user_inputs)
    for node in exported.graph.nodes:
        value = node.meta.get("val") if node.op == "placeholder" and node.name in names else None
        if isinstance(value, Tensor) and value.ndim:
            return value.shape[0] if isinstance(value.shape[0], int) else None
    return None
