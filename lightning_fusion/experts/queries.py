"""Queries of a pool whose experts may fail."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_fusion.data.batch import num_samples
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.answers import OnFailure, query_rows, take_rows
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.pool import ExpertPool

_CONTINUES = "; on_failure='skip' continues without it"


def check_failure_options(on_failure: str, retries: int = 0) -> None:
    """Check the options of :class:`PoolQueries`.

    Raises:
        InputError: If one is out of range.
    """
    if on_failure not in ("raise", "skip") or retries < 0:
        raise InputError(f"on_failure is {on_failure!r}, retries {retries}; expected raise or skip, and at least 0")


class PoolQueries:
    """Queries of all experts of pools, with one rule for failures.

    An expert fails on a sample if it raises, or if the row of its outputs has another shape or is no distribution.

    Args:
        on_failure: ``raise``, or ``skip``: the answer is missing, NaN in all classes of the expert. An expert that
            answers none of the first samples raises in any case.
        retries: Further attempts on samples without a valid answer.

    Attributes:
        preprocessing: Preprocessing of the data, for messages; empty if there is none.
        failures: Number of missing answers by reason, for each expert.
        num_samples: Number of samples that were queried.
        answered: Names of the experts that have had a valid answer.

    Example:
        >>> def remote(x):
        ...     return [None if row.sum() > 1 else [0.9, 0.1] for row in x]
        >>> pool = ExpertPool({"remote": Expert(remote, classes=["cat", "dog"], output="probabilities")})
        >>> PoolQueries("skip")(pool, torch.tensor([[0.0], [2.0]]))["remote"]
        tensor([[0.9000, 0.1000],
                [   nan,    nan]])
    """

    def __init__(self, on_failure: OnFailure = "raise", retries: int = 0) -> None:
        check_failure_options(on_failure, retries)
        self.on_failure, self.retries = on_failure, retries
        self.preprocessing: Mapping[str, Any] = {}
        self.failures: dict[str, Counter[str]] = {}
        self.num_samples = 0
        self.answered: set[str] = set()

    def __call__(self, pool: ExpertPool, input: Any) -> dict[str, Tensor]:
        """Return the (B, C_k) float32 probabilities of each expert, NaN if an answer is missing.

        Args:
            pool: The experts.
            input: A batch.

        Raises:
            InputError: If an expert fails and ``on_failure`` is ``raise``, or answers none of the first samples.
        """
        if torch.compiler.is_compiling():
            return pool(input)  # type: ignore[no-any-return]  # torch calls are untyped
        remote = any(not isinstance(expert.network, nn.Module) for expert in pool.members.values())
        if self.on_failure == "raise" and not self.retries and not remote:
            try:
                return pool(input)  # type: ignore[no-any-return]
            except InputError as error:
                raise self.advised(error) from error
        count = num_samples(input) or 0
        self.num_samples += count
        rows = torch.arange(count)
        return {name: self.query(name, expert, input, rows) for name, expert in pool.members.items()}

    def advised(self, error: InputError) -> InputError:
        """Return the error of an expert with what may help."""
        hint = _CONTINUES if str(error).startswith("expert ") else ""
        if error.__cause__ is not None and self.preprocessing.get("frontend") == "log_mel":
            hint = "; the data are log-mel features: frontend: waveform of the data module gives waveforms"
        return InputError(f"{error}{hint}")

    def query(
        self,
        name: str,
        expert: Expert,
        input: Any,
        rows: Tensor,
        received: Callable[[Tensor, Tensor], None] | None = None,
    ) -> Tensor:
        """Return the (R, C_k) float32 probabilities of one expert on some samples of a batch, NaN if one is missing.

        Args:
            name: Name of the expert.
            expert: The expert.
            input: A batch.
            rows: (R,) int64 positions of the samples in the batch.
            received: Called with positions and outputs of each valid part of an answer, before the next call.

        Raises:
            InputError: If the expert fails and ``on_failure`` is ``raise``, or answers none of the first samples.
        """

        def ask(some: Tensor) -> Tensor:
            return expert(take_rows(input, some))  # type: ignore[no-any-return]  # torch calls are untyped

        counts = self.failures.setdefault(name, Counter())
        values = query_rows(
            ask,
            rows,
            len(expert.classes),
            name,
            self.on_failure,
            self.retries,
            counts,
            answered=name in self.answered,
            received=received,
        )
        if not values.isnan().any(1).all():
            self.answered.add(name)
        elif name not in self.answered and (tried := sum(counts.values())) > 1:
            raise InputError(
                f"expert {name} has no valid answer for any of the first {tried} samples: it {next(iter(counts))}; "
                "correct the expert, or leave it out of the pool"
            )
        return values.to(torch.float32)

    def reasons(self, name: str) -> str:
        """Return the most frequent reasons for missing answers of an expert; empty if there are none."""
        return shorten([reason for reason, _ in self.failures.get(name, Counter()).most_common()], 3)

    def report(self, stage: str) -> None:
        """Warn about missing answers since the last report, with their number and reasons.

        Args:
            stage: What the experts were queried in, for the message.
        """
        where = getattr(stage, "value", stage)
        for name, counts in self.failures.items():
            if lost := sum(counts.values()):
                rank_zero_warn(
                    f"{lost} of {self.num_samples} answers of expert {name} are missing in {where}: it "
                    f"{self.reasons(name)}; these samples are fused without it"
                )
        self.failures, self.num_samples = {}, 0
