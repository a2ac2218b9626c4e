"""Models in files of other frameworks as experts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from torch import nn

from lightning_fusion.errors import InputError
from lightning_fusion.experts.expert import Expert


class FileExpert(Expert):
    """Model in a file that only answers: it has no representations, and the digest of its file is its version.

    Args:
        network: Function of a batch.
        digest: Digest of the file.
        classes: Names of the classes; ``None`` uses those of the network.
        output: ``logits`` or ``probabilities``.
        preprocess: Module that prepares raw samples.
        raw_input: Whether the model takes raw values, not the input of the data module.
        **shared: Arguments of :class:`~lightning_fusion.Expert`.
    """

    def __init__(
        self,
        network: nn.Module | Callable[[Any], Any],
        digest: str,
        classes: list[str] | None,
        output: Literal["logits", "probabilities"] | None,
        preprocess: nn.Module | None,
        raw_input: bool,
        **shared: Any,
    ) -> None:
        shared["version"] = shared.get("version") or digest  # files of configurations give all arguments
        super().__init__(
            network=network,
            checkpoint=None,
            classes=classes,
            output=output,
            features=None,
            preprocess=preprocess,
            raw_input=raw_input,
            **shared,
        )

    @property
    def takes_lists(self) -> bool:
        """Whether the network takes lists: models in files take tensors, and texts where ``preprocess`` is None."""
        return False


@contextmanager
def boosted_trees(library: str, path: str) -> Iterator[None]:
    """Context that reads a file of boosted trees; what its library raises for damaged files becomes an InputError."""
    try:
        yield
    except Exception as error:  # of the library, and what numpy raises
        what = str(error).strip().partition("\n")[0][:200]
        raise InputError(f"path: {library} cannot read {path} ({what})") from error


def check_objective(path: str, objective: str, known: tuple[str, ...]) -> None:
    """Raise InputError for the objective of another task than classification."""
    if objective not in known:
        raise InputError(f"path: {path} has the objective {objective}; expected one of {', '.join(known)}")
