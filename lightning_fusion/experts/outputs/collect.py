"""Collection of the outputs of experts on a data set."""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning import LightningDataModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn
from torch import nn

from lightning_fusion.data.base import SPLITS
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.answers import OnFailure
from lightning_fusion.experts.identity import VERSION_HINT
from lightning_fusion.experts.outputs.assembly import copy_split, write_former, write_split
from lightning_fusion.experts.outputs.earlier import Earlier, KnownAnswers
from lightning_fusion.experts.outputs.journal import Journal, journal_files, remove_journals, session_of
from lightning_fusion.experts.outputs.loaders import (
    EverySplit,
    check_split,
    expected_rows,
    fingerprints_of,
    set_up,
    warn_class_order,
    warn_random_samples,
)
from lightning_fusion.experts.outputs.querying import QueryingModule
from lightning_fusion.experts.outputs.recovery import read_journals
from lightning_fusion.experts.outputs.seen import describe_seen
from lightning_fusion.experts.outputs.store import OUTPUTS, ExpertOutputs
from lightning_fusion.experts.pool import ExpertPool, check_domains
from lightning_fusion.experts.queries import PoolQueries, check_failure_options
from lightning_fusion.store import MissingStoreError, StoreWriter, check_open_files

_KEPT = "; they stay missing: retry_missing (--retry_missing=true) queries these again"


def collect(
    pool: ExpertPool,
    data: LightningDataModule | Mapping[str, Any],
    output: str | Path | None = None,
    splits: Sequence[str] = SPLITS,
    keep_representations: bool = False,
    trainer: Trainer | None = None,
    overwrite: bool = False,
    on_failure: OnFailure = "raise",
    retries: int = 0,
    retry_missing: bool = False,
) -> ExpertOutputs:
    """Run every expert once on every sample of some splits, and store the outputs.

    Experts run in the Trainer's predict loop, with its devices, precision and processes. Each process appends every
    answer to a journal in the folder as soon as it is received. At the end the journals are sorted by sample index,
    which also drops samples that a distributed sampler repeats, and replaced by the store. Memory does not grow with
    the number of samples, except for labels, domains and indices.

    No answer is queried twice. A run that was killed or failed is resumed by the same call: only samples without an
    answer are queried, by their index, with the same batches where the loader has the same. Where the folder contains a
    store of the same data, only what it lacks is queried: experts that are new in the pool, other splits, or
    representations. An expert of another name and the same fingerprint counts as renamed; outputs of experts that have
    left the pool stay in the folder for their return. Experts or data that have changed raise an error.

    Args:
        pool: Pool of experts.
        data: Data module with loaders that yield :class:`~lightning_fusion.Batch`, or for each split a pair (inputs,
            targets (N,)): a tensor (N, ...), or a list of N texts or other samples.
        output: Folder of the store. ``None`` (default) uses a temporary folder that is deleted with the result.
        splits: Some of ``train``, ``val``, ``test``.
        keep_representations: Store each expert's representations as well.
        trainer: Trainer that runs the experts. ``None`` (default) uses a default Trainer on the available device.
        overwrite: Replace a store of another pool or other data, and query all experts on all samples again; a killed
            run with ``overwrite`` is resumed by another one.
        on_failure: Behavior if an expert raises, or a row of its outputs has another shape or is no distribution:
            ``raise``, or ``skip``: the answer is missing (NaN, and marked in ``missing`` of the split), with a warning.
            A batch that fails as a whole is halved, and each half is queried again, down to single samples: one failing
            sample of 64 takes 12 more calls. An expert without a valid answer for its first samples (one batch) raises.
        retries: Further attempts on samples without a valid answer, after pauses of 0.1 s, 0.2 s, 0.4 s and so on. As
            long as an expert has had no valid answer, whole batches are queried again, and the last attempt halves.
        retry_missing: Query experts again on samples whose answer is missing in the store or in an interrupted run.

    Returns:
        The opened store.

    Raises:
        InputError: If the outputs or labels are wrong, the folder contains another store, a loader leaves out
            samples, or an expert answers none of its first samples.

    Example:
        >>> import torch
        >>> from lightning_fusion import Expert
        >>> pool = ExpertPool({"a": Expert(torch.nn.Linear(4, 2), classes=["cat", "dog"])})
        >>> data = {"test": (torch.zeros(6, 4), torch.zeros(6, dtype=torch.long))}
        >>> collect(pool, data, trainer=Trainer(logger=False, enable_progress_bar=False))
        ExpertOutputs(1 experts, 2 classes; rows: test 6)
    """
    if not isinstance(data, LightningDataModule):
        splits = [split for split in splits if split in data]
        data = TensorDataModule(data, classes=pool.classes)
        data.report_duplicates()
    check_failure_options(on_failure, retries)
    if keep_representations and (on_failure == "skip" or retries):
        raise InputError(
            "keep_representations: a representation cannot be missing; leave on_failure and retries out, or collect "
            "outputs alone"
        )
    if not splits:
        raise InputError(f"splits is empty; choose from {shorten(SPLITS)}")
    for split in splits:
        check_split(split)
    if output is None and trainer is not None and trainer.world_size > 1:
        raise InputError("output is not set; several processes need one folder for their outputs")
    kept = tempfile.TemporaryDirectory(prefix="expert-outputs-") if output is None else None
    folder = Path(kept.name if kept is not None else str(output))
    data.prepare_data()
    set_up(data)
    task = list(getattr(data, "classes", pool.classes))
    pool = pool.for_task(task)  # the data module's vocabulary is the task's
    if not hasattr(data, "classes"):
        warn_class_order(data, splits[0], task)
    for split in splits:
        warn_random_samples(data, split)
    domains = list(getattr(data, "domains", []))
    if foreign := check_domains({name: expert.domains for name, expert in pool.members.items()}, domains):
        rank_zero_warn(
            f"domains: those of expert(s) {shorten(foreign)} are none of the data's ({shorten(domains)}): no sample "
            "counts as one of their own domains"
        )
    trainer = quiet_trainer() if trainer is None else trainer
    request = _Request(
        pool,
        pool.metadata(),  # before running: a precision such as bf16-true changes the weights
        data,
        fingerprints_of(data, splits),
        domains,
        folder,
        keep_representations,
        overwrite,
        retry_missing,
    )
    _warn_equal(request.metadata)
    earlier = request.earlier(trainer, journals=False)
    if earlier.store is not None and request.contained(earlier):
        rank_zero_info(f"{folder} contains these outputs already; no expert is run")
        _warn_missing(earlier.store, None)
        _warn_seen(earlier.store)
        return earlier.store
    check_open_files(len(splits) * (len(pool.names) * (1 + keep_representations) + 6), "arrays of the store")
    if output is not None:
        _warn_unidentified(pool)
    if first_process():
        with StoreWriter(folder, OUTPUTS, overwrite or earlier.store is not None) as writer:
            earlier = request.earlier(trainer, verify=False)
            if overwrite:
                remove_journals(folder, earlier.journals)
            querying, todo = _query(request, earlier, trainer, on_failure, retries)
            _assemble(request, earlier, writer, querying, todo)
            remove_journals(folder, request.left_out(earlier))
    else:
        querying, _ = _query(request, request.earlier(trainer, verify=False), trainer, on_failure, retries)
    trainer.strategy.barrier("collect: merged")
    result = ExpertOutputs.open(folder, verify=False)
    result._keep = kept
    _warn_changed(pool, request.metadata)
    _warn_missing(result, querying.queries)
    _warn_seen(result)
    return result


@dataclass
class _Request:
    """Outputs that are to be in a store.

    Attributes:
        pool: The pool.
        metadata: Metadata of its experts.
        data: Data module.
        prints: Fingerprint of each requested split.
        domains: Domains of the data.
        folder: Folder of the store.
        keep_representations: Store representations.
        overwrite: Replace a store.
        retry_missing: Query missing answers again.
    """

    pool: ExpertPool
    metadata: dict[str, dict[str, Any]]
    data: LightningDataModule
    prints: dict[str, str]
    domains: list[str]
    folder: Path
    keep_representations: bool
    overwrite: bool
    retry_missing: bool

    def earlier(self, trainer: Trainer, journals: bool = True, verify: bool = True) -> Earlier:
        """Return what earlier runs have stored, after checking that it is of this pool and these data.

        Args:
            trainer: Trainer of this run.
            journals: Read the journals of interrupted runs as well.
            verify: Compare the arrays of the store with their digests.

        Raises:
            InputError: If it is of other experts or data.
        """
        store = None
        if not self.overwrite:
            with suppress(MissingStoreError):
                store = ExpertOutputs.open(self.folder, verify)
        found = read_journals(self.folder) if journals else []
        precision = str(trainer.precision)
        if self.overwrite:  # only an interrupted run of the same kind is resumed
            found = [each for each in found if each.overwrite and self._fits(each, precision)]
        elif store is not None:
            found = [each for each in found if not each.overwrite]
        earlier = Earlier(self.pool, store, found, self.metadata)
        earlier.check(self.folder, self.prints, self.domains, precision)
        return earlier

    def _fits(self, journal: Journal, precision: str) -> bool:
        try:
            Earlier(self.pool, None, [journal], self.metadata).check(self.folder, self.prints, self.domains, precision)
        except InputError:
            return False
        return True

    def known(self, earlier: Earlier) -> KnownAnswers:
        """Return the answers that need no query."""
        return earlier.known(list(self.prints), self.keep_representations, self.retry_missing)

    def todo(self, earlier: Earlier) -> list[str]:
        """Return the splits that the store lacks, or lacks answers of; their samples are read."""
        stored = {} if earlier.store is None else earlier.store.splits
        known = self.known(replace(earlier, journals=[]))
        return [
            split
            for split in self.prints
            if split not in stored or not known.complete(split, stored[split].index, len(self.pool.names))
        ]

    def contained(self, earlier: Earlier) -> bool:
        """Return whether the store contains just these outputs."""
        store = earlier.store
        if store is None or store.names != self.pool.names or store.classes != self.pool.classes:
            return False
        return not self.todo(earlier)

    def left_out(self, earlier: Earlier) -> list[Journal]:
        """Return journals with answers of experts that are not in the pool."""
        return [] if self.overwrite else [each for each in earlier.journals if not earlier.reads_all(each)]


def _query(
    request: _Request, earlier: Earlier, trainer: Trainer, on_failure: OnFailure, retries: int
) -> tuple[QueryingModule, list[str]]:
    """Query what is lacking; return the module and the splits whose samples were read."""
    splits = list(request.prints)
    known = request.known(earlier)
    todo = request.todo(earlier) or (splits if trainer.world_size > 1 else [])  # processes meet there
    rows = [expected_rows(request.data, split) for split in splits]
    total = None if None in rows else sum(rows)  # type: ignore[arg-type]  # no None
    if message := earlier.describe(known, total, splits):
        rank_zero_info(message)
    querying = QueryingModule(
        request.pool,
        request.folder,
        1 + max(map(session_of, journal_files(request.folder)), default=0),
        {split: request.prints[split] for split in todo},
        {name: entry["fingerprint"] for name, entry in request.metadata.items()},
        known,
        request.keep_representations,
        request.overwrite,
        on_failure,
        retries,
    )
    if todo:
        try:
            trainer.predict(querying, datamodule=EverySplit(request.data, todo), return_predictions=False)
            trainer.strategy.barrier("collect: outputs")
        except BaseException:
            querying.abort()
            raise
    return querying, todo


def _assemble(
    request: _Request, earlier: Earlier, writer: StoreWriter, querying: QueryingModule, todo: Sequence[str]
) -> None:
    """Write the store."""
    own = querying.written  # of the only process, or the first
    if own is None or querying.trainer.world_size > 1:
        written = read_journals(request.folder, querying.session)
    else:
        written = [own]
    prints = ({} if earlier.store is None else earlier.store.fingerprints) | request.prints
    origins = {}
    for split in prints:
        if split in todo:
            origins[split] = write_split(split, writer, earlier, written, request.data, request.keep_representations)
        else:
            origins[split] = copy_split(split, writer, earlier, request.data if split in request.prints else None)
    former = write_former(writer, earlier)
    store = ExpertOutputs(request.pool.classes, request.domains, request.metadata, {}, prints, former=former)
    writer.commit(store.metadata() | {"origins": origins})


def _warn_seen(outputs: ExpertOutputs) -> None:
    """Warn about samples that experts were trained on."""
    for split, part in outputs.splits.items():
        if part.seen is not None and (message := describe_seen(part.seen, outputs.names, split)):
            rank_zero_warn(message)


def _warn_missing(outputs: ExpertOutputs, queries: PoolQueries | None) -> None:
    """Warn about missing answers, with their number in each split and the reasons in this process.

    Args:
        outputs: The store.
        queries: Queries of this process; ``None`` if the store contained all outputs, and no expert was run.
    """
    for number, name in enumerate(outputs.names):
        counts = {split: int(part.missing[:, number].sum()) for split, part in outputs.splits.items()}
        if any(counts.values()):
            listed = shorten(f"{count} of {len(outputs[split])} in {split}" for split, count in counts.items() if count)
            reasons = "" if queries is None else queries.reasons(name)
            rank_zero_warn(
                f"answers of expert {name} are missing: {listed}"
                + (f"; it {reasons}" if reasons else "")
                + (_KEPT if queries is None else "")
            )


def _warn_equal(metadata: Mapping[str, Mapping[str, Any]]) -> None:
    """Warn about experts of one fingerprint, such as a checkpoint under two names."""
    alike: dict[str, list[str]] = {}
    for name, entry in metadata.items():
        alike.setdefault(entry["fingerprint"], []).append(name)
    if several := [" and ".join(names) for names in alike.values() if len(names) > 1]:
        rank_zero_warn(
            f"experts: {shorten(several)} have the same weights and classes, so that their outputs count more than "
            "once in averages and votes; remove one"
        )


def _warn_changed(pool: ExpertPool, metadata: Mapping[str, Mapping[str, Any]]) -> None:
    """Warn about callables whose state has changed while they were run: they count as other experts from now on."""
    called = {
        name: expert
        for name, expert in pool.members.items()
        if not isinstance(expert.network, nn.Module) and not expert.identified_by_version
    }
    changed = [name for name, expert in called.items() if expert.fingerprint != metadata[name]["fingerprint"]]
    if changed:
        rank_zero_warn(
            f"the state of expert(s) {shorten(changed)} has changed while they ran, such as a counter that the "
            f"function uses, so that they no longer match these outputs; {VERSION_HINT}"
        )


def _warn_unidentified(pool: ExpertPool) -> None:
    """Warn about experts whose answers another run cannot reuse."""
    reasons = {name: reason for name, expert in pool.members.items() if (reason := expert.unknown_state()) is not None}
    if reasons:
        rank_zero_warn(
            f"expert(s) {shorten(reasons)}: {next(iter(reasons.values()))}, so that a later run cannot reuse their "
            "answers, as after an interruption; set the experts' version"
        )


def quiet_trainer() -> Trainer:
    """Return the default Trainer of experts: one device, no checkpoints, no logger."""
    return Trainer(devices=1, logger=False, enable_checkpointing=False, enable_model_summary=False)


def first_process() -> bool:
    """Return whether this is the only process, or the first of several."""
    return getattr(rank_zero_only, "rank", 0) == 0
