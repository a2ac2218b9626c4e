"""State of a policy: arguments and arrays, in memory, in checkpoints and in files."""

import inspect
import json
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from lightning_fusion.described import MemoryLimit, imported_class
from lightning_fusion.errors import InputError, NotImportedError
from lightning_fusion.files import digest
from lightning_fusion.frugal.arguments import costs_of, is_number
from lightning_fusion.frugal.inputs import check_labeled
from lightning_fusion.frugal.risk import RiskEstimator
from lightning_fusion.frugal.search import Calibration
from lightning_fusion.frugal.subset_fusers import SubsetFuser
from lightning_fusion.sharing import SharedModel
from lightning_fusion.store import ArrayStore, StoreWriter

FORMAT = 2
_POLICY = "policy"
_SPARE = 1 << 28  # bytes that the parts of a policy may need beyond its arrays


class Arguments:
    """Plain-data arguments of :class:`~lightning_fusion.FrugalFoE`, as attributes."""

    costs: dict[str, float] | list[float] | None
    trade_off: float | None
    budget: float | None
    neighbors: int | None
    fuser_neighbors: int
    min_queries: int
    leave_one_out: bool
    loss: str
    abstain_above: float | None
    abstain_by: str
    on_failure: str
    look_ahead: int


ARGUMENTS = tuple(Arguments.__annotations__)


class PolicyState(SharedModel, Arguments, nn.Module):
    """Fitted state of :class:`~lightning_fusion.FrugalFoE`."""

    names: list[str]
    classes: list[str] | None
    experts: dict[str, Any] | None
    outputs: Tensor
    targets: Tensor
    costs_: list[float]
    trade_off_: float
    neighbors_: int
    fuser: SubsetFuser
    risk: RiskEstimator
    _calibration: Calibration | None = None
    _valid: Callable[[Tensor], Tensor]

    def _calibrate(self) -> Calibration:
        """Build the data of the search."""
        raise NotImplementedError

    def _check_fitted(self) -> None:
        if not self.names:
            raise InputError("this FrugalFoE is not fitted; call fit(outputs, targets), or FrugalFoE.load(folder)")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move to another device, and keep the precision, which affects the nearest neighbors."""
        kept = {name: value.dtype for name, value in self.state_dict().items()}
        outputs = self.outputs
        apply: Callable[..., Any] = super()._apply  # torch gives it no types
        apply(fn, recurse)
        if self.outputs.dtype != outputs.dtype:
            self.outputs = outputs.to(self.outputs.device)
        for part in (self.fuser, self.risk):
            if any(value.dtype != kept[name] for name, value in self.state_dict().items()):
                part.float()
        self._calibration = None
        return self

    def metadata(self) -> dict[str, Any]:
        """Return the state without arrays, as plain data."""
        self._check_fitted()
        described = {
            "format": FORMAT,
            "names": self.names,
            "classes": self.classes,
            "experts": self.experts,
            "rows": len(self.targets),
            "num_classes": self.outputs.shape[2],
            "costs_": self.costs_,
            "trade_off_": self.trade_off_,
            "neighbors_": self.neighbors_,
            "arguments": {name: getattr(self, name) for name in ARGUMENTS},
            "fuser": describe_part(self.fuser),
            "risk": describe_part(self.risk),
        }
        return described | {"digest": digest_of(self.state_dict(), described)}

    def save(self, folder: str | Path) -> None:
        """Write the policy atomically as a store (:mod:`lightning_fusion.store`).

        Args:
            folder: Folder, created if it is missing; a policy in it is replaced.
        """
        metadata = self.metadata()
        with StoreWriter(folder, _POLICY, overwrite=True) as writer:
            for name, value in self.state_dict().items():
                writer[name] = value.cpu().numpy()
            writer.commit(metadata)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Load a policy written by :meth:`save`; no code in the files is executed.

        Raises:
            InputError: If there is no policy, or it is damaged.
        """
        stored = ArrayStore(folder, _POLICY)
        tensors = {name: torch.from_numpy(np.array(values)) for name, values in stored.items()}
        return cls.from_state(stored.metadata, tensors, str(Path(folder)))

    @classmethod
    def from_state(cls, metadata: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str = "the policy") -> Self:
        """Rebuild a policy from :meth:`metadata` and its ``state_dict``.

        Args:
            metadata: Plain data.
            tensors: Tensors by name.
            where: Origin of the data, for messages.

        Raises:
            InputError: If they are inconsistent.
        """
        try:
            shape = check_metadata(metadata, tensors, where)
            limit = MemoryLimit(_SPARE + 4 * sum(value.nbytes for value in tensors.values()), f"policy: {where}")
            with limit:
                policy = cls(
                    **metadata["arguments"],
                    fuser=build_part(metadata["fuser"], SubsetFuser, where),
                    risk=build_part(metadata["risk"], RiskEstimator, where),
                )
            policy.names, policy.classes, policy.experts = metadata["names"], metadata["classes"], metadata["experts"]
            policy.costs_ = costs_of(metadata["costs_"], policy.names, None)
            policy.trade_off_, policy.neighbors_ = metadata["trade_off_"], metadata["neighbors_"]
            policy.outputs, policy.targets = tensors["outputs"], tensors["targets"]
            with limit:
                policy.fuser.allocate(*shape)
                policy.risk.allocate(*shape)
            policy.load_state_dict(dict(tensors))
            policy._calibrate()
        except (LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError) as error:
            raise InputError(f"policy: {where} is damaged ({type(error).__name__}: {error})") from error
        return policy


def digest_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """Return a digest of tensors by name, and of the metadata but their own digest."""
    described = json.dumps({key: value for key, value in metadata.items() if key != "digest"})
    return digest(described, *(part for name in sorted(tensors) for part in (name, tensors[name].cpu())))


def check_metadata(metadata: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str) -> tuple[int, int, int]:
    """Check that metadata and tensors of a policy are consistent, and return (K, N, C).

    Args:
        metadata: Plain data.
        tensors: Tensors by name.
        where: Origin of the data, for messages.

    Raises:
        InputError: If they are of another format, out of range, or inconsistent.
    """
    if metadata["format"] != FORMAT:
        raise InputError(f"policy: {where} has format {metadata['format']}; this version reads {FORMAT}")
    names, trade_off, neighbors = metadata["names"], metadata["trade_off_"], metadata["neighbors_"]
    classes, parts = metadata["classes"], [metadata["arguments"], metadata["fuser"], metadata["risk"]]
    if (
        not _are_texts(names)
        or not (classes is None or (_are_texts(classes) and len(classes) == metadata["num_classes"]))
        or not all(isinstance(part, Mapping) for part in (*parts, metadata["experts"] or {}))
        or not is_number(metadata["rows"], True)
    ):
        raise InputError(f"policy: the metadata of {where} has entries of another type")
    if (
        not (is_number(trade_off) and 0 <= trade_off < math.inf)
        or not (is_number(neighbors, True) and 1 <= neighbors <= metadata["rows"])
        or len(set(names)) < len(names)
    ):
        raise InputError(f"policy: the metadata of {where} is out of range")
    shape = len(names), metadata["rows"], metadata["num_classes"]
    if tuple(tensors["outputs"].shape) != shape or digest_of(tensors, metadata) != metadata["digest"]:
        raise InputError(f"policy: the arrays of {where} are not those that its metadata describes")
    if not tensors["outputs"].is_floating_point() or tensors["targets"].dtype != torch.int64:
        raise InputError(f"policy: the arrays of {where} are of another type")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said in the fit
        try:
            check_labeled(names, tensors["outputs"], tensors["targets"])
        except InputError as error:
            raise InputError(f"policy: {where} is damaged ({error})") from error
    return shape


def _are_texts(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(each, str) for each in found)


def describe_part(part: nn.Module) -> dict[str, Any]:
    """Return the class of a fuser or risk estimator with its arguments, which are attributes of the same names.

    Raises:
        InputError: If an argument is not an attribute of the same name.
    """
    names = [name for name in inspect.signature(type(part).__init__).parameters if name != "self"]
    lost = [name for name in names if not hasattr(part, name) and name not in ("args", "kwargs")]
    if lost:
        raise InputError(
            f"{type(part).__name__}: its argument {lost[0]} cannot be saved; store it as an attribute of the same name"
        )
    values = {name: getattr(part, name) for name in names if hasattr(part, name)}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return {"class_path": f"{type(part).__module__}.{type(part).__qualname__}", "init_args": plain}


def build_part(spec: Mapping[str, Any], family: type, where: str) -> Any:
    """Build the fuser or risk estimator that a file names.

    Args:
        spec: Result of :func:`describe_part`.
        family: Required base class.
        where: Origin of the data, for messages.

    Raises:
        InputError: If its class is neither in this library nor imported.
    """
    kind = imported_class(spec["class_path"], family)
    if kind is None:
        raise NotImportedError(
            f"policy: {where} names {spec['class_path']}, which is no imported fuser or risk estimator; import it "
            "first if you trust the file (a policy must not import code by itself)"
        )
    return kind(**spec["init_args"])
