"""LightningModule of a FrugalFoE policy: fit, test and predict with any number of processes."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning import Callback, LightningModule
from lightning.pytorch.callbacks import ModelPruning, WeightAveraging
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from lightning_fusion.callbacks.checkpoints import default_callbacks
from lightning_fusion.callbacks.early_parts import expect_eval_mode
from lightning_fusion.checkpoints import CheckedLoading
from lightning_fusion.data.base import labeled_attribute
from lightning_fusion.data.batch import as_batch, num_samples
from lightning_fusion.data.indexed import numbered
from lightning_fusion.errors import InputError
from lightning_fusion.experts.answers import take_rows
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.outputs.datamodule import OutputsBatch, OutputsDataModule
from lightning_fusion.experts.outputs.seen import warn_seen
from lightning_fusion.experts.pool import (
    POOL,
    ExpertPool,
    check_classes,
    check_same_experts,
    scatter,
)
from lightning_fusion.experts.preprocessing import carry_from_experts, data_preprocessing, release_new_samples
from lightning_fusion.experts.queries import PoolQueries
from lightning_fusion.experts.vocabulary import ClassesOfVocabulary, Vocabulary, take_order
from lightning_fusion.frugal.policy import FrugalFoE
from lightning_fusion.frugal.prediction import FrugalPrediction
from lightning_fusion.frugal.state import ARGUMENTS
from lightning_fusion.hooks import CheckedHooks
from lightning_fusion.metrics.logging import SampleMean, SplitMetrics
from lightning_fusion.sharing import SharedModel

_POLICY = "policy."


class FrugalFoEModule(SharedModel, CheckedHooks, CheckedLoading, ClassesOfVocabulary, LightningModule):
    """Fits, tests and serves a :class:`~lightning_fusion.FrugalFoE` policy.

    ``fit`` is one epoch that gathers the training rows of all processes and fits the policy on them; there is no
    gradient. ``validate``, ``test`` and ``predict`` run it. On stored outputs
    (:class:`~lightning_fusion.OutputsDataModule`) decisions are replayed. On raw input, with ``experts``, each expert
    runs only on the samples that query it.

    Args:
        policy: The policy; a fitted one can be used without training. ``None`` (default) means ``FrugalFoE()``.
        experts: The frozen experts by name, or a pool. ``None`` (default) if only stored outputs are read.
        classes: The task's C classes. The command line takes this and the next from the data module; with ``experts``
            alone they are every class of some expert.
        expert_classes: Classes of each expert, in the order of its outputs; from ``experts`` if given.
        folder: Folder of the saved policy: ``fit`` writes it, and an unfitted policy is read from it. ``None`` means
            the policy is stored in checkpoints only.

    Raises:
        InputError: If metadata are missing or contradict the experts.

    Example:
        >>> module = FrugalFoEModule(FrugalFoE(trade_off=0.05), expert_classes={"a": ["cat", "dog"], "b": ["owl"]})
        >>> module.classes
        ['cat', 'dog', 'owl']
    """

    def __init__(
        self,
        policy: FrugalFoE | None = None,
        experts: dict[str, Expert] | ExpertPool | None = None,
        classes: list[str] | None = None,
        expert_classes: dict[str, list[str]] | None = None,
        folder: str | None = None,
    ) -> None:
        super().__init__()
        given, experts = experts, None  # recording arguments copies them: not the weights of all experts
        known, policy = policy, None
        self.save_hyperparameters()
        self.pool: ExpertPool | None = None
        if given is not None:
            self.pool = ExpertPool.of(given, classes)
        if self.pool is None and expert_classes is None and known is not None and known.experts:
            expert_classes = {name: known.experts[name]["classes"] for name in known.names}
            classes = classes or known.classes
        self.vocabulary = Vocabulary.of(self.pool, expert_classes, classes)
        self.hparams.update(classes=self.classes, expert_classes=self.expert_classes)
        self.policy = known if known is not None else FrugalFoE()
        self.folder = folder
        self.still = nn.Parameter(torch.zeros(()))  # never changes: the Trainer counts steps of an optimizer
        names = (*_FIGURES, "selective_accuracy")
        self.metrics = SplitMetrics({name: SampleMean() for name in names})
        self.metrics.shown.add("cost")
        self._queries = PoolQueries()
        self._rows: list[tuple[Tensor, Tensor, Tensor]] = []
        self._used = 0  # batches that the policy was fitted on
        self._expert_metadata = None if self.pool is None else self.pool.metadata()
        if self.policy.names:
            take_order(self, self.policy.classes)
            self._check(self._expert_metadata)

    # --------------------------------------------------------------- deciding

    def forward(self, input: Any) -> FrugalPrediction:
        """Query as few experts as each sample of a batch of raw inputs needs."""
        if self.pool is None:
            raise InputError(
                "this policy reads stored outputs and has no experts; pass experts to query them on raw input"
            )
        members, names = self.pool.members, list(self.expert_classes)

        def ask(name: str, rows: Tensor) -> Tensor:
            outputs = members[name](take_rows(input, rows))
            number = names.index(name)
            return scatter(outputs, [self.vocabulary.columns[number]], len(self.classes))[:, 0]

        found: FrugalPrediction = self.policy.predict(ask, num_samples(input))
        return found

    def _decide(self, batch: OutputsBatch | Any) -> FrugalPrediction:
        if not isinstance(batch, OutputsBatch):
            found: FrugalPrediction = self(self._input_of(batch))
            return found
        spread = self.vocabulary.scatter(batch.outputs)
        replayed: FrugalPrediction = self.policy.predict(spread.transpose(0, 1), missing=spread.isnan().any(2))
        return replayed

    def _input_of(self, batch: Any) -> Any:
        return (
            batch.input if self.pool is None else self.pool.input_of(batch, getattr(self.trainer, "datamodule", None))
        )

    def _read(self, batch: Any, split: str) -> Any:
        if isinstance(batch, OutputsBatch):
            return batch
        labeled = split != "predict"
        return as_batch(batch, f"the {split} loader", labeled, len(self.classes) if labeled else None)

    # ------------------------------------------------------------------ steps

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Store the outputs of every expert on the batch."""
        batch = self._read(batch, "train")
        if isinstance(batch, OutputsBatch):
            outputs = batch.outputs
        elif self.pool is None:
            raise InputError("raw input needs experts to query; give experts, or use OutputsDataModule as data")
        else:
            batch = numbered(batch, self, batch_idx)
            self._queries.on_failure = self.policy.on_failure  # type: ignore[assignment]  # checked by the policy
            outputs = torch.cat(list(self._queries(self.pool, self._input_of(batch)).values()), dim=1)
        spread = self.vocabulary.scatter(outputs)
        self._rows.append((spread.cpu(), batch.target.cpu(), batch.index.cpu()))
        return self.still * 0

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Log accuracy, cost, number of queries, risk, and the fractions that abstained or are out-of-distribution.

        ``val_selective_accuracy``, that of the samples that did not abstain, is logged if some may.
        """
        self.metrics.loader = dataloader_idx
        return None if self.trainer.sanity_checking else self._evaluate(self._read(batch, "val"), "val")

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Log the same of the test split."""
        self.metrics.loader = dataloader_idx
        return self._evaluate(self._read(batch, "test"), "test")

    def _evaluate(self, batch: Any, split: str) -> dict[str, Tensor]:
        answer = self._decide(batch)
        right = (answer.predicted == batch.target).float()
        figures = (right, answer.cost, answer.num_queries, answer.risk, answer.abstained, answer.ood)
        for name, values in zip(_FIGURES, figures, strict=True):
            self.metrics[split][name].update(values.float())
        if self.policy.abstain_above is not None:
            self.metrics[split]["selective_accuracy"].update(right[~answer.abstained])
        self.metrics.log(self, split, batch)
        return {"index": batch.index, "target": batch.target, "probabilities": answer.probabilities}

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """The ``index`` (B,) and the fields of :class:`FrugalPrediction`."""
        batch = numbered(self._read(batch, "predict"), self, batch_idx, dataloader_idx)
        return {"index": batch.index, **self._decide(batch)._asdict()}

    # ----------------------------------------------------- around the training

    def setup(self, stage: str) -> None:
        """Connect policy, experts and data, and check that they belong together."""
        data = getattr(self.trainer, "datamodule", None)
        take_order(self, labeled_attribute(data, "classes"))
        if self.pool is not None:
            carry_from_experts(self.pool.members.values(), self.trainer)
            self._queries.preprocessing = data_preprocessing(self.trainer) or {}
            self.pool.convert_from(self._queries.preprocessing or None)
        metadata = self._expert_metadata
        if isinstance(data, OutputsDataModule):
            outputs = data.outputs
            outputs.check_experts("the policy", self.expert_classes, self.classes)
            if self.pool is not None:
                outputs.check_pool(self.pool)
            metadata = self._expert_metadata = outputs.experts
        else:
            check_classes("the policy", self.classes, data, stage)
            if stage == "fit" and self.pool is not None:
                warn_seen(self.pool.members, data)
        if stage == "fit":
            launcher = self.trainer.strategy.launcher
            if (method := getattr(launcher, "_start_method", None)) is not None:  # of Lightning's multiprocessing
                raise InputError(
                    f"trainer.strategy: the processes that {method} starts fit the policy and end, and it does not "
                    "return to this process; use strategy ddp, or one process"
                )
            for callback in self.trainer.callbacks:  # type: ignore[attr-defined]  # set by a connector
                if isinstance(callback, (WeightAveraging, ModelPruning)):
                    does = "prunes" if isinstance(callback, ModelPruning) else "averages"
                    raise InputError(
                        f"trainer.callbacks: {type(callback).__name__} {does} weights, and a query policy has none; "
                        "remove it"
                    )
            return
        if self.policy.names:
            self._check(metadata)

    def teardown(self, stage: str) -> None:
        """Release the experts, and report their failures."""
        if self.pool is not None:
            self.pool.convert_from(None)
            release_new_samples(self.trainer)
            self._queries.report(stage)

    def on_validation_start(self) -> None:
        """Fit the policy before the first validation, or read the saved one."""
        self._finish()
        self._read_saved()

    def on_test_start(self) -> None:
        """Read the saved policy."""
        self._read_saved()

    def on_predict_start(self) -> None:
        """Read the saved policy."""
        self._read_saved()

    def _read_saved(self) -> None:
        """Read the policy of the folder, unless this one is fitted: a checkpoint has been loaded before."""
        if self.policy.names or self.folder is None or self.trainer.state.fn == "fit":
            return
        self._serve(FrugalFoE.load(self.folder).to(self.device))
        self._check(self._expert_metadata)

    def _serve(self, saved: FrugalFoE) -> None:
        """Use a saved policy with the serving options of this one; report options that require another fit."""
        wanted, plain = self.policy, FrugalFoE()
        changed = [
            name for name in ARGUMENTS if getattr(wanted, name) not in (getattr(plain, name), getattr(saved, name))
        ]
        for name in {"abstain_above", "abstain_by", "on_failure"} & set(changed):
            setattr(saved, name, getattr(wanted, name))
        differ = [
            f"{name} {getattr(saved, name)} (not {getattr(wanted, name)})"
            for name in changed
            if getattr(saved, name) != getattr(wanted, name)
        ]
        if differ:
            rank_zero_warn(f"the policy saved in {self.folder} has {', '.join(differ)}; fit again to change that")
        self.policy = saved
        if labeled_attribute(getattr(self.trainer, "datamodule", None), "classes") is None:
            take_order(self, saved.classes)  # otherwise the order is that of the targets

    def _check(self, metadata: Mapping[str, Any] | None) -> None:
        """Check that experts and classes are those that the policy was fitted with."""
        if self.policy.names != list(self.expert_classes):
            raise InputError(
                f"policy: it was fitted with the experts {self.policy.names}; found {list(self.expert_classes)}"
            )
        if self.policy.experts and metadata:
            check_same_experts(self.policy.experts, metadata)
        if self.policy.classes not in (None, self.classes):
            raise InputError(f"policy: it was fitted on the classes {self.policy.classes}; found {self.classes}")

    def on_fit_start(self) -> None:
        """Clear the samples of an earlier fit."""
        self._rows, self._used = [], 0
        expect_eval_mode(self, [self.pool])

    def on_train_epoch_end(self) -> None:
        """Fit the policy if there was no validation."""
        self._finish()
        self._rows, self._used = [], 0

    def _finish(self) -> None:
        if len(self._rows) == self._used:
            return
        parts, self._used = self._rows, len(self._rows)
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, parts)
            parts = [part for rank in gathered for part in rank]
        outputs, target, index = (torch.cat(some) for some in zip(*parts, strict=True))
        order = index.argsort(stable=True)
        first = torch.ones_like(order, dtype=torch.bool)
        first[1:] = index[order][1:] != index[order][:-1]  # a sampler repeats rows to give all processes as many
        order = order[first]
        costs = (
            None
            if self._expert_metadata is None
            else {name: entry["cost"] for name, entry in self._expert_metadata.items()}
        )
        names, stacked = list(self.expert_classes), outputs[order].transpose(0, 1)
        missing = stacked.isnan().any(2)  # of a store
        metadata = {"classes": self.classes, "experts": self._expert_metadata, "costs": costs}
        self.policy.fit_array(names, stacked, target[order], missing=missing if missing.any() else None, **metadata)
        if self.folder is not None and self.trainer.is_global_zero and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.policy.save(self.folder)
            rank_zero_info(f"policy in {self.folder}: {self.policy.extra_repr()}")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return a dummy optimizer, which the Trainer requires."""
        return torch.optim.SGD([self.still], lr=0.0)

    def configure_callbacks(self) -> list[Callback]:
        """Return the callbacks for reproducible runs and whole checkpoints that the trainer lacks."""
        return default_callbacks(self)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the policy, which names its experts."""
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {
            name: value for name, value in weights.items() if not name.startswith((_POLICY, POOL))
        }
        if self.policy.names:
            checkpoint["policy"] = {"metadata": self.policy.metadata(), "tensors": dict(self.policy.state_dict())}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the policy, check its experts, and complete the weights for strict loading."""
        super().on_load_checkpoint(checkpoint)
        saved = checkpoint.get("policy")
        if saved is not None:
            if not isinstance(saved, Mapping) or not all(
                isinstance(saved.get(k), Mapping) for k in ("metadata", "tensors")
            ):
                raise InputError("policy: that of the checkpoint is damaged; expected metadata and tensors")
            self.policy = FrugalFoE.from_state(saved["metadata"], saved["tensors"], "the checkpoint").to(self.device)
            self._check(self._expert_metadata)
        own = {name: value for name, value in self.state_dict().items() if name.startswith((_POLICY, POOL))}
        checkpoint["state_dict"].update(own)


_FIGURES = ("accuracy", "cost", "num_queries", "risk", "abstained", "ood")
