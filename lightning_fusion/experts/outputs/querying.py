"""Queries of a pool in the Trainer's predict loop; every answer is in a journal as soon as it is received."""

import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningModule
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, nn

from lightning_fusion.data.batch import Batch, as_batch
from lightning_fusion.data.indexed import numbered
from lightning_fusion.errors import InputError
from lightning_fusion.experts.answers import OnFailure, take_rows, valid_rows
from lightning_fusion.experts.outputs.earlier import KnownAnswers
from lightning_fusion.experts.outputs.journal import Journal, JournalWriter, journal_path
from lightning_fusion.experts.pool import ExpertPool, call_expert, check_outputs, check_representations
from lightning_fusion.experts.queries import PoolQueries


class QueryingModule(LightningModule):
    """Query each expert for the samples of each batch that it has not answered, and append the answers to a journal.

    Args:
        pool: The pool.
        folder: Folder of the store.
        session: Number of the run, part of the name of its journals.
        prints: Fingerprint of the data of each split that the loaders give, in their order.
        fingerprints: Fingerprint of each expert by name.
        known: Answers that need no query.
        keep_representations: Keep each expert's representations.
        overwrite: Whether the run replaces a store.
        on_failure: Behavior where an answer is invalid.
        retries: Further attempts on samples without a valid answer.

    Attributes:
        queries: Queries of this process.
    """

    def __init__(
        self,
        pool: ExpertPool,
        folder: Path,
        session: int,
        prints: Mapping[str, str],
        fingerprints: Mapping[str, str],
        known: KnownAnswers,
        keep_representations: bool = False,
        overwrite: bool = False,
        on_failure: OnFailure = "raise",
        retries: int = 0,
    ) -> None:
        super().__init__()
        self.pool, self.folder, self.session, self.known = pool, folder, session, known
        self.prints, self.fingerprints, self.overwrite = dict(prints), dict(fingerprints), overwrite
        self.splits = list(prints)
        self.keep_representations, self.queries = keep_representations, PoolQueries(on_failure, retries)
        self.queries.answered = {name for number, name in enumerate(pool.names) if known.count(number)}
        remote = any(not isinstance(expert.network, nn.Module) for expert in pool.members.values())
        self._local = keep_representations or (on_failure == "raise" and not retries and not remote)
        self._journal: JournalWriter | None = None

    def setup(self, stage: str) -> None:
        """Convert the input to the experts' normalizations."""
        found = getattr(self.trainer.datamodule.data, "preprocessing", None) or {}  # type: ignore[attr-defined]  # EverySplit
        self.queries.preprocessing = found
        self.pool.convert_from(found)

    def teardown(self, stage: str) -> None:
        """End the conversion."""
        self.pool.convert_from(None)

    def on_predict_start(self) -> None:
        """Begin the journal of this process."""
        session = self.trainer.strategy.broadcast(self.session)  # that of the first process
        path = journal_path(self.folder, session, self.global_rank)
        precision = str(self.trainer.precision)
        self._journal = JournalWriter(path, self.fingerprints, self.prints, precision, self.overwrite)

    @property
    def written(self) -> Journal | None:
        """Content of the journal of this process; None if it has none."""
        return None if self._journal is None else self._journal.journal

    @property
    def journal(self) -> JournalWriter:
        """The journal of this process."""
        assert self._journal is not None
        return self._journal

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Query the pool on one batch."""
        split = self.splits[dataloader_idx]
        batch = as_batch(batch, f"the {split} loader", num_classes=len(self.pool.classes))
        batch = numbered(batch, self, batch_idx, dataloader_idx)
        index = batch.index.cpu().numpy().astype(np.int64)
        target = batch.target.cpu().numpy().astype(np.int64)
        domain = batch.domain.reshape(len(index), -1).cpu().numpy().astype(bool)
        self.journal.add_samples(split, index, target, domain)
        rows = {name: self.known.lacking(split, number, index) for number, name in enumerate(self.pool.names)}
        rows = {name: lacking for name, lacking in rows.items() if lacking is None or len(lacking)}
        if rows:
            batch = batch._replace(input=self.pool.input_of(batch, self.trainer.datamodule.data))  # type: ignore[attr-defined]
        if not rows:
            pass  # an earlier run has all answers
        elif self._local:
            self._run(batch, rows)
        else:
            self._query(batch, rows)
        self._heed_signals()
        result: Tensor = batch.index
        return result

    def _heed_signals(self) -> None:
        """End the run after SIGTERM, which the Trainer's predict loop ignores."""
        if self.trainer.received_sigterm:
            raise SIGTERMException(128 + signal.SIGTERM)  # the status of a terminated process

    def _run(self, batch: Batch, rows: Mapping[str, np.ndarray | None]) -> None:
        """Run networks, with one check of all their outputs."""
        outputs: dict[str, Tensor] = {}
        representations: dict[str, Tensor] = {}
        self._check_features(rows)
        try:
            for name, lacking in rows.items():
                expert = self.pool.members[name]
                input = batch.input if lacking is None else take_rows(batch.input, torch.from_numpy(lacking))
                call = expert.forward_with_representations if self.keep_representations else expert
                answer = call_expert(name, call, input)
                outputs[name] = answer[0] if self.keep_representations else answer
                if self.keep_representations:
                    representations[name] = answer[1]
            check_outputs(outputs)
            check_representations(representations)
        except InputError as error:
            self._keep_valid(rows, outputs, representations)
            if self.keep_representations:
                raise
            raise self.queries.advised(error) from error
        except BaseException:
            self._keep_valid(rows, outputs, representations)
            raise
        whole = {name: values for name, values in outputs.items() if rows[name] is None}
        if whole:
            found = {name: _as_floats(representations[name]) for name in whole} if self.keep_representations else None
            self.journal.add({name: _as_floats(values) for name, values in whole.items()}, found)
        for name, values in outputs.items():
            if (some := rows[name]) is not None:
                self._add(name, some, values, representations.get(name))

    def _check_features(self, names: Sequence[str] | Mapping[str, Any]) -> None:
        members = self.pool.members
        if self.keep_representations and (lacking := [name for name in names if members[name].features is None]):
            raise InputError(
                f"features: the experts {', '.join(lacking)} have no layer set; set features to a submodule's name"
            )

    def _keep_valid(
        self,
        rows: Mapping[str, np.ndarray | None],
        outputs: Mapping[str, Tensor],
        representations: Mapping[str, Tensor],
    ) -> None:
        """Keep the valid answers of a batch on which some expert failed."""
        for name, values in outputs.items():
            valid = valid_rows(values)
            found = representations.get(name)
            if self.keep_representations:
                if found is None:
                    continue
                valid &= found.isfinite().flatten(1).all(1)
            some = rows[name]
            some = np.arange(len(values)) if some is None else some
            self._add(name, some[valid.cpu().numpy()], values[valid], None if found is None else found[valid])

    def _add(self, name: str, positions: np.ndarray, values: Tensor, representations: Tensor | None = None) -> None:
        """Keep the answers on some samples of the batch."""
        if len(positions):
            found = None if representations is None else {name: _as_floats(representations)}
            self.journal.add({name: _as_floats(values)}, found, positions)

    def _query(self, batch: Batch, rows: Mapping[str, np.ndarray | None]) -> None:
        """Query experts that may fail; each call is in the journal before the next."""
        for name, lacking in rows.items():
            expert = self.pool.members[name]
            lacking = np.arange(len(batch.index)) if lacking is None else lacking

            def received(some: Tensor, values: Tensor, name: str = name) -> None:
                self._add(name, some.numpy(), values)

            values = self.queries.query(name, expert, batch.input, torch.from_numpy(lacking), received)
            missing = values.isnan().any(1).cpu()
            self._add(name, lacking[missing.numpy()], values[missing.to(values.device)])
            self._heed_signals()

    def on_predict_end(self) -> None:
        """Complete the journal."""
        self.close()

    def close(self) -> None:
        """Close the journal."""
        if self._journal is not None:
            self._journal.close()

    def abort(self) -> None:
        """Close the journal after an error, and remove it where it has no answers."""
        if self._journal is not None:
            with suppress(InputError):  # a full disk, which was reported
                self._journal.close()
            if not self._journal.journal.answers:
                self._journal.journal.path.unlink(missing_ok=True)


def _as_floats(values: Tensor) -> np.ndarray:
    found: np.ndarray = values.detach().to(torch.float32).cpu().numpy()
    return found
