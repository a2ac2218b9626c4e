"""Stored outputs of a pool of experts on a data set, memory-mapped."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_fusion.costs import costs_in_order
from lightning_fusion.data.names import as_labels, canonical_label
from lightning_fusion.data.targets import check_meaning
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.identity import VERSION_HINT
from lightning_fusion.experts.names import check_expert_names
from lightning_fusion.experts.outputs.checks import check_stored_metadata, check_stored_split
from lightning_fusion.experts.outputs.split import OutputsSplit, open_split, read_split
from lightning_fusion.experts.outputs.values import check_parts, copies_message, origin_names
from lightning_fusion.experts.pool import ExpertPool, check_domains, task_classes
from lightning_fusion.files import digest
from lightning_fusion.store import ArrayStore, DamagedStoreError, MissingStoreError, StoreWriter

OUTPUTS = "expert outputs"
"""Kind of the store of :class:`ExpertOutputs`."""


class ExpertOutputs:
    """Outputs of a pool on the splits of a data set, with the metadata of both.

    Created by :func:`~lightning_fusion.collect`, opened by :meth:`open`, or built from existing predictions by
    :meth:`from_arrays`. Arrays of a store on disk are memory-mapped.

    Attributes:
        classes: Names of the C classes of the task.
        domains: Names of the D domains.
        experts: Metadata of each expert by name: classes, domains, cost, fingerprint, checkpoint.
        splits: :class:`OutputsSplit` by name.
        fingerprints: Fingerprint of the data of each split.
        former: Metadata of experts that have left the pool of the store by fingerprint; only ``collect`` reads their
            outputs, if they join the pool again.
        path: Folder of the store; ``None`` in memory.
    """

    def __init__(
        self,
        classes: Sequence[str],
        domains: Sequence[str],
        experts: Mapping[str, Mapping[str, Any]],
        splits: Mapping[str, OutputsSplit],
        fingerprints: Mapping[str, str] | None = None,
        path: Path | None = None,
        former: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.classes, self.domains = list(classes), list(domains)
        self.experts = {name: dict(metadata) for name, metadata in experts.items()}
        self.splits, self.path = dict(splits), path
        for split in self.splits.values():
            split.classes, split.experts = self.classes, self.experts
        self.fingerprints = dict(fingerprints or {})
        self.former = {key: dict(metadata) for key, metadata in (former or {}).items()}
        self._keep: Any = None  # keeps a temporary folder until the store is deleted

    # --------------------------------------------------------------- metadata

    @property
    def names(self) -> list[str]:
        """Names of the experts, in order."""
        return list(self.experts)

    @property
    def expert_classes(self) -> dict[str, list[str]]:
        """Classes of each expert, in the order of its outputs."""
        return {name: metadata["classes"] for name, metadata in self.experts.items()}

    @property
    def expert_domains(self) -> dict[str, list[str]]:
        """Domains that each expert was trained on; empty if unknown."""
        return {name: list(metadata.get("domains") or []) for name, metadata in self.experts.items()}

    def fuser_arguments(self) -> dict[str, Any]:
        """Return the constructor arguments of a fuser for these outputs: classes, expert_classes and expert_domains."""
        return {
            "classes": self.classes,
            "expert_classes": self.expert_classes,
            "expert_domains": self.expert_domains,
            "domains": self.domains,
        }

    def metadata(self) -> dict[str, Any]:
        """Return the metadata in the manifest of the store."""
        return {
            "classes": self.classes,
            "domains": self.domains,
            "experts": self.experts,
            "former": self.former,
            "fingerprints": self.fingerprints,
            "origins": {name: origin_names(split.origins, split.notes) for name, split in self.splits.items()},
            "versions": {"torch": torch.__version__, "numpy": np.__version__},
        }

    def __repr__(self) -> str:
        rows = ", ".join(
            f"{name} {len(split)}" + (f" ({split.missing.sum()} answers missing)" if split.missing.any() else "")
            for name, split in self.splits.items()
        )
        return f"ExpertOutputs({len(self.experts)} experts, {len(self.classes)} classes; rows: {rows})"

    # ------------------------------------------------------------------ views

    def __getitem__(self, split: str) -> OutputsSplit:
        if split not in self.splits:
            raise InputError(f"the store has no split {split!r}; it has {shorten(self.splits)}")
        return self.splits[split]

    def concatenated(self, split: str, representations: bool = False) -> np.ndarray:
        """Return the (N, sum of C_k) float32 input of a fuser, concatenated in the order of experts.

        Optionally followed by the representations (N, sum of D_k). Missing answers are NaN.
        """
        return np.concatenate([np.asarray(values) for values in self[split].read(representations)], axis=1)

    def scattered(self, split: str) -> np.ndarray:
        """Return the (N, K, C) float32 input of baselines, zero for classes that an expert does not have.

        Missing answers are NaN in all classes.
        """
        return self[split].scattered()

    def expert_targets(self, split: str) -> np.ndarray:
        """Return (N, K) bool, which experts were trained on a domain of each sample; all False where unknown."""
        found: np.ndarray = (
            np.asarray(self[split].domain, bool) @ expert_target_matrix(self.domains, self.expert_domains).numpy()
        )
        return found

    # ------------------------------------------------------------------ tests

    def check_experts(self, whose: str, expert_classes: Mapping[str, Sequence[str]], classes: Sequence[str]) -> None:
        """Check that a model was built for the experts and classes of the store, in their order.

        Args:
            whose: Name of the model, for the message.
            expert_classes: Classes of each expert of the model, in order.
            classes: Classes of the model.

        Raises:
            InputError: If they differ.
        """
        if list(self.expert_classes.items()) != list(expert_classes.items()) or self.classes != classes:
            raise InputError(
                f"the store {self.path} has the experts {self.names} and classes {self.classes}; {whose} was built for "
                f"{list(expert_classes)} and {classes}"
            )

    def check_pool(self, pool: ExpertPool) -> None:
        """Check that a pool is the one that produced the outputs.

        Raises:
            InputError: If it is not; the message has both fingerprints.
        """
        if pool.names != self.names:
            raise InputError(
                f"{self._where()} contains experts {shorten(self.names)}; the pool has {shorten(pool.names)}"
            )
        self.check_members(pool, pool.metadata())
        if pool.classes != self.classes:
            raise InputError(self._other_classes(pool))

    def check_members(self, pool: ExpertPool, metadata: Mapping[str, Mapping[str, Any]]) -> None:
        """Check that the experts that a pool shares with the store, by name, have not changed.

        Args:
            pool: The pool.
            metadata: Metadata of its experts from :meth:`ExpertPool.metadata`.

        Raises:
            InputError: If one has, with both fingerprints, or the classes have, other than by further ones at the end.
        """
        for name, expert in pool.members.items():
            stored, found = self.experts.get(name, {}).get("fingerprint"), metadata[name]["fingerprint"]
            if stored not in (None, found):
                hint = "" if isinstance(expert.network, nn.Module) else f"; {VERSION_HINT}"
                raise InputError(
                    f"{self._where()} is from another expert {name}: its fingerprint is {stored}, the pool's "
                    f"{found}; give the changed expert another name to query it alone, or collect all "
                    f"again with overwrite (--overwrite=true){hint}"
                )
        if any(one != other for one, other in zip(pool.classes, self.classes, strict=False)):
            raise InputError(self._other_classes(pool))

    def _other_classes(self, pool: ExpertPool) -> str:
        return f"{self._where()} has the classes {shorten(self.classes)}; the pool {shorten(pool.classes)}"

    def check_data(self, fingerprints: Mapping[str, str]) -> None:
        """Check that data are those of the outputs.

        Args:
            fingerprints: Fingerprint of each split.

        Raises:
            InputError: If they are not; the message has both fingerprints.
        """
        for split, fingerprint in fingerprints.items():
            if split not in self.splits:
                raise InputError(
                    f"{self._where()} has no split {split}; collect again with overwrite (--overwrite=true)"
                )
            if self.fingerprints.get(split) != fingerprint:
                raise InputError(
                    f"{self._where()} is from other data: the fingerprint of {split} is "
                    f"{self.fingerprints.get(split)} there and {fingerprint} here; "
                    "collect again with overwrite (--overwrite=true)"
                )

    def check_metadata(self, metadata: Mapping[str, Mapping[str, Any]]) -> None:
        """Check that the declared domains and costs of experts have not changed since the outputs were collected.

        Args:
            metadata: Metadata of each expert from :meth:`ExpertPool.metadata`.

        Raises:
            InputError: If they have changed; the message names the expert.
        """
        for name, entry in metadata.items():
            for key in ("domains", "cost"):
                if entry[key] != self.experts[name][key]:
                    raise InputError(
                        f"{self._where()} has {key} {self.experts[name][key]} of expert {name}, the pool {entry[key]}; "
                        "collect again with overwrite (--overwrite=true)"
                    )

    def _where(self) -> str:
        return f"the store {self.path}" if self.path else "this ExpertOutputs"

    # --------------------------------------------------------------- creation

    @classmethod
    def from_arrays(
        cls,
        splits: Mapping[str, Mapping[str, Any]],
        expert_classes: Mapping[str, Sequence[str]],
        classes: Sequence[str] | None = None,
        domains: Sequence[str] = (),
        expert_domains: Mapping[str, Sequence[str]] | None = None,
        costs: Mapping[str, float] | None = None,
        missing: Literal["nan"] | Mapping[str, Any] | None = None,
    ) -> "ExpertOutputs":
        """Build outputs from existing predictions of experts of any framework.

        Args:
            splits: For each split a dict with ``probabilities`` ({expert: (N, C_k)}), ``target`` (N,) and, if known,
                ``domain`` (N, D) bool, ``index`` (N,), ``representations`` ({expert: (N, D_k)}) and ``missing``.
            expert_classes: Classes of each expert, in the order of its columns. Data frames and lists of dicts are read
                by the names of their columns or keys instead, as are data frames for ``domain`` and ``missing``.
            classes: Names of the classes of the task. ``None`` (default) uses the union of all experts' classes.
            domains: Names of the D domains.
            expert_domains: Domains that each expert was trained on.
            costs: Cost of a query to each expert, by name. ``None`` (default) means 1.
            missing: Missing answers: ``"nan"`` for rows of NaN or None, or for each split a mask (N, K) bool in the
                order of ``expert_classes``; ``missing`` of a split takes either. ``None`` (default) means that none is
                missing.

        Raises:
            InputError: If shapes, labels or probabilities are wrong.

        Example:
            >>> outputs = ExpertOutputs.from_arrays(
            ...     {"test": {"probabilities": {"a": [[0.9, 0.1]], "b": [[1.0]]}, "target": [0]}},
            ...     expert_classes={"a": ["cat", "dog"], "b": ["owl"]},
            ... )
            >>> outputs.scattered("test").tolist()
            [[[0.8999999761581421, 0.10000000149011612, 0.0], [0.0, 0.0, 1.0]]]
            >>> nothing = [[float("nan")] * 2]
            >>> ExpertOutputs.from_arrays(
            ...     {"test": {"probabilities": {"a": nothing, "b": [[1.0]]}, "target": [0]}},
            ...     expert_classes={"a": ["cat", "dog"], "b": ["owl"]},
            ...     missing="nan",
            ... )
            ExpertOutputs(2 experts, 3 classes; rows: test 1 (1 answers missing))
        """
        expert_classes = {
            name: as_labels(labels, f"expert_classes of {name}") for name, labels in expert_classes.items()
        }
        check_expert_names(expert_classes)
        vocabulary = task_classes(expert_classes, classes)
        domains = as_labels(domains, "domains")
        if not expert_classes:
            raise InputError("expert_classes is empty; name at least one expert")
        named = {f"classes of {name}": labels for name, labels in expert_classes.items()}
        for what, names in {**named, "classes of the task": vocabulary, "domains": domains}.items():
            if len(set(names)) < len(names):
                raise InputError(f"{what}: found duplicate names in {shorten(names)}")
        found = [1.0] * len(expert_classes) if costs is None else costs_in_order(costs, list(expert_classes))
        prices = dict(zip(expert_classes, found, strict=True))
        if unknown := set(expert_domains or {}) - set(expert_classes):
            raise InputError(f"expert_domains names {shorten(sorted(unknown))}, which is no expert")
        check_domains({name: as_labels(own, "expert_domains") for name, own in (expert_domains or {}).items()}, domains)
        for split in splits:
            if not re.fullmatch(r"[\w-]+", split):
                raise InputError(f"splits: found the name {split!r}; expected letters, digits, '_' and '-' only")
        if isinstance(missing, Mapping) and (strange := sorted(set(missing) - set(splits))):
            raise InputError(f"missing: found the split(s) {shorten(strange)}; the splits are {shorten(splits)}")
        masks = missing if isinstance(missing, Mapping) else dict.fromkeys(splits, missing)
        parts = {}
        for split, given in splits.items():
            check_parts(split, given)
        check_meaning({f"split {split}: target": given["target"] for split, given in splits.items()}, vocabulary)
        for split, given in splits.items():
            parts[split] = read_split(split, given, expert_classes, vocabulary, domains, masks.get(split))
        if message := copies_message({split: list(part.probabilities.values()) for split, part in parts.items()}):
            rank_zero_warn(message)
        experts = {
            name: {
                "classes": names,
                "domains": as_labels((expert_domains or {}).get(name), f"expert_domains of {name}") or None,
                "cost": prices[name],
                "fingerprint": None,  # the origin of the predictions is unknown
                "checkpoint": None,
            }
            for name, names in expert_classes.items()
        }
        fingerprints = {name: digest(part.target, part.domain, part.index) for name, part in parts.items()}
        return cls(vocabulary, domains, experts, parts, fingerprints)

    @classmethod
    def open(cls, path: str | Path, verify: bool = True) -> "ExpertOutputs":
        """Open a store; arrays are memory-mapped.

        Args:
            path: Folder of the store.
            verify: Compare all arrays with the digests in the manifest, and check their values: targets among the
                classes, unique indices, answers that are distributions or missing. False leaves this out, which reads
                no array; the manifest, its digest, and sizes, dtypes and shapes are checked in any case.

        Raises:
            MissingStoreError: If there is no store.
            DamagedStoreError: If it is damaged.
            ForeignFolderError: If the folder contains something else.
        """
        try:
            stored = ArrayStore(path, OUTPUTS, verify)
        except MissingStoreError as error:
            raise MissingStoreError(f"{error}; make a store with 'lightning-fusion collect'") from error
        metadata, splits = stored.metadata, {}
        try:
            check_stored_metadata(metadata)
            for split in metadata["fingerprints"]:
                splits[split] = open_split(stored, split)
                check_stored_split(split, splits[split], metadata, verify)
            known = metadata["classes"], metadata["domains"], metadata["experts"], splits, metadata["fingerprints"]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            what = f"without {error}" if isinstance(error, KeyError) else str(error)
            raise DamagedStoreError(
                f"{OUTPUTS}: {path} is damaged ({what}); collect again with overwrite (--overwrite=true)"
            ) from error
        return cls(*known, path=stored.folder, former=metadata["former"])

    def save(self, path: str | Path, overwrite: bool = False) -> "ExpertOutputs":
        """Write a store atomically, and open it.

        Raises:
            InputError: If the folder contains a store already and ``overwrite`` is not set, or something else.
        """
        with StoreWriter(path, OUTPUTS, overwrite) as writer:
            for split, part in self.splits.items():
                for name, values in part.arrays():
                    writer[f"{split}/{name}"] = values
            writer.commit(self.metadata())
        return ExpertOutputs.open(path, verify=False)


def expert_target_matrix(domains: Sequence[str], expert_domains: Mapping[str, Sequence[str]]) -> Tensor:
    """Return (D, K) bool, which domains each expert was trained on.

    Example:
        >>> expert_target_matrix(["x", "y"], {"a": ["x"], "b": ["x", "y"]}).tolist()
        [[True, True], [False, True]]
    """
    known = [set(map(canonical_label, names)) for names in expert_domains.values()]
    rows = [[canonical_label(domain) in names for names in known] for domain in domains]
    return torch.tensor(rows, dtype=torch.bool).reshape(len(domains), len(expert_domains))
