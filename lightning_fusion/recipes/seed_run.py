"""What recipes share: one expert per domain for each seed, trained once and asked once."""

import json
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import RichProgressBar
from rich.console import Console
from torch import nn

from lightning_fusion.data.base import SPLITS, FusionDataModule
from lightning_fusion.data.views.role import RoleDataModule
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.diagnosis import diagnose
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.module import ExpertModule
from lightning_fusion.experts.outputs.collect import collect
from lightning_fusion.experts.outputs.store import ExpertOutputs
from lightning_fusion.experts.pool import ExpertPool, check_name
from lightning_fusion.files import atomic_write, digest
from lightning_fusion.hyperparameters import describe_factory
from lightning_fusion.recipes.report import Report, write_text


def check_seeds(seeds: list[int]) -> None:
    """Refuse seeds that are no seeds, or doubled.

    Raises:
        InputError: With what was found.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise InputError(f"seeds: found {seeds}; expected at least one, each once")
    if any(not 0 <= seed < 2**32 for seed in seeds):
        raise InputError(f"seeds: found {seeds}; expected numbers from 0 to 2**32 - 1")


def check_domains(data: FusionDataModule) -> None:
    """Refuse data without domains that could name experts.

    Raises:
        InputError: If there are fewer than two, or a name is unusable.
    """
    if len(data.domains) < 2:
        raise InputError(
            f"data: found the domain {shorten(data.domains)} only; fusion needs two at least: say what tells domains "
            "apart (DomainImageDataModule or num_domains for images, domain_fields for texts and recordings)"
        )
    for name in data.domains:
        check_name(name, "data: the domain")


def describe_data(data: FusionDataModule, seed: int) -> dict[str, Any]:
    """What a run's record says about its data, as plain data."""
    named = type(data.data if isinstance(data, RoleDataModule) else data)
    return {
        "data": {"class_path": f"{named.__module__}.{named.__qualname__}", **dict(data.hparams)},
        "augmentation": repr(getattr(data, "augmentation", None)),
        "content": _content(data.variant(seed=seed)),
    }


def source_of(data: FusionDataModule) -> str:
    """Where data come from, for a report: the class, and what it reads."""
    named = type(data.data if isinstance(data, RoleDataModule) else data)
    return " ".join(
        [named.__name__, *(str(data.hparams[key]) for key in ("source", "root", "path") if data.hparams.get(key))]
    )


def expert_data(data: FusionDataModule) -> FusionDataModule:
    """The data that experts of all domains train on: those of the ``expert`` role, where the data have roles."""
    if not data.has_roles:
        return data
    return data.variant(role="expert", domain=None)


def _content(data: FusionDataModule) -> str:
    """A fingerprint of all samples and of their splits: a run on other images must not go on with these experts."""
    pool = expert_data(data)
    return digest(*(data.fingerprint(split) for split in SPLITS), pool.fingerprint("train"), pool.fingerprint("val"))


def describe(factory: Any) -> Any:
    """A class with its arguments; the name of any other function, which says nothing of its content."""
    if factory is None:
        return None
    described = describe_factory(factory)
    return described if described is not None else getattr(factory, "__qualname__", type(factory).__qualname__)


class SeedRun:
    """One seed of a recipe: its experts, and what they say.

    Args:
        data: The data, with this seed.
        seed: Of the experts' training.
        folder: Of this seed's files.
        report: Gathers the figures.
        console: To print on.
        trainer: Arguments of each Trainer.
    """

    def __init__(
        self, data: FusionDataModule, seed: int, folder: Path, report: Report, console: Console, trainer: dict[str, Any]
    ) -> None:
        self.data, self.seed, self.folder, self.report, self.console = data, seed, folder, report, console
        self.trainer_arguments = trainer
        folder.mkdir(exist_ok=True)

    # --------------------------------------------------------------- experts

    def train_experts(self, arguments: dict[str, Any], epochs: int, precision: str) -> dict[str, Expert]:
        """One expert per domain; those that are there already are taken as they are."""
        experts = {}
        data = {name: self.expert_rows(name) for name in self.data.domains}
        for each in data.values():
            each.classes  # noqa: B018 a domain that cannot be learnt stops a run before anybody is trained
        for number, (name, rows) in enumerate(data.items()):
            label = f"seed {self.seed}  expert {number + 1}/{len(data)} {name}"
            path = self.train_expert(f"experts/{name}", rows, arguments, epochs, precision, label)
            experts[name] = self.load_expert(path, arguments["network"])
        write_text(self.folder / "pool.yaml", self._pool_yaml(experts))
        if hasattr(self.data, "save_tokenizer") and not (self.folder / "tokenizer").is_dir():
            self.data.save_tokenizer(self.folder / "tokenizer")
        return experts

    def expert_rows(self, name: str) -> FusionDataModule:
        """What the expert of a domain is trained on."""
        return self.data.variant(role="expert", domain=name)

    def load_expert(self, path: Path, network: Callable[[int], nn.Module]) -> Expert:
        """The expert in a checkpoint of :meth:`train_expert`."""
        return Expert(network, str(path))

    def train_expert(
        self, name: str, data: FusionDataModule, arguments: dict[str, Any], epochs: int, precision: str, label: str
    ) -> Path:
        """Train one expert, unless it is there already, and give the path of its checkpoint.

        Args:
            name: Of the checkpoint, below the seed's folder.
            data: To train on.
            arguments: Of :class:`~lightning_fusion.ExpertModule`.
            epochs: Passes over the data.
            precision: Lightning's name of it.
            label: To print.
        """
        seed = (self.seed * 1000 + int(digest(Path(name).name)[:6], 16)) % 2**32
        return self.train(name, partial(self._expert_module, data, arguments), data, seed, epochs, precision, label)

    @staticmethod
    def _expert_module(data: FusionDataModule, arguments: dict[str, Any]) -> ExpertModule:
        return ExpertModule(
            classes=data.classes,
            trained_on=data.own_domains,  # type: ignore[attr-defined]
            preprocessing=getattr(data, "preprocessing", None),
            **arguments,
        )

    def train(
        self,
        name: str,
        build: Callable[[], LightningModule],
        data: FusionDataModule,
        seed: int,
        epochs: int,
        precision: str,
        label: str,
        metric: str = "accuracy",
        callbacks: Sequence[Callback] = (),
    ) -> Path:
        """Train one model, unless it is there already, and give the path of its checkpoint.

        Args:
            name: Of the checkpoint, below the seed's folder.
            build: Gives the model, after the random numbers were seeded.
            data: To train on.
            seed: Of this training.
            epochs: Passes over the data.
            precision: Lightning's name of it.
            label: To print.
            metric: Of the validation split, to print.
            callbacks: Of the Trainer.

        Raises:
            InputError: If the training diverged; there is no checkpoint then.
        """
        path = self.folder / f"{name}.ckpt"
        if path.is_file():  # the file was moved into place: it is a whole one
            self.console.print(f"{label}: there already")
            return path
        start = time.perf_counter()
        seed_everything(seed, verbose=False)
        module = build()
        trainer = self.trainer(epochs, precision=precision, callbacks=callbacks)
        trainer.fit(module, datamodule=data)
        if not all(bool(value.isfinite().all()) for value in module.network.state_dict().values()):  # type: ignore[union-attr]
            raise InputError(f"{label}: the training diverged, weights are NaN or infinite; lower the learning rate")
        save_weights(trainer, path)
        self.took("training", start)
        value, took = float(trainer.callback_metrics[f"val_{metric}"]), time.perf_counter() - start
        self.console.print(f"{label}: validation {metric} {value:.3f}, {took:.0f} s")
        return path

    def _pool_yaml(self, experts: dict[str, Expert]) -> str:
        lines = ["# The experts of this run, for 'lightning-fusion collect', 'fit' and 'export'.", "experts:"]
        for name, expert in experts.items():
            lines += [
                f"  {json.dumps(name)}:",
                "    class_path: lightning_fusion.Expert",
                f"    init_args: {{checkpoint: {json.dumps(str(expert.checkpoint))}}}",
            ]
        return "\n".join([*lines, ""])

    # --------------------------------------------------------------- outputs

    def collect(self, experts: dict[str, Expert], features: bool = False) -> ExpertOutputs:
        """Ask the pool once, for features as well where wanted, and diagnose it."""
        start = time.perf_counter()
        pool = ExpertPool(experts, self.data.classes)
        outputs = collect(pool, self.data, self.folder / "outputs", features=features, trainer=self.trainer(1))
        self.took("asking experts", start)
        diagnosis = diagnose(outputs)
        diagnosis.save(self.folder)
        if any(expert.leaks for expert in diagnosis.experts) or not diagnosis.worthwhile:
            self.report.notes.append(f"Seed {self.seed}: {diagnosis.findings[0]}")
        return outputs

    # --------------------------------------------------------------- helpers

    def took(self, what: str, start: float) -> None:
        """Count the seconds since ``start`` (of :func:`time.perf_counter`) as a part of the run."""
        self.report.seconds[what] = self.report.seconds.get(what, 0.0) + time.perf_counter() - start

    def trainer(self, epochs: int, callbacks: Sequence[Callback] = (), **more: Any) -> Trainer:
        """A Trainer that writes nothing but its progress bar."""
        bar = [RichProgressBar(leave=False)] if more.get("enable_progress_bar", True) else []
        return Trainer(
            max_epochs=epochs,
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            callbacks=[*bar, *callbacks],
            default_root_dir=str(self.folder),
            **(self.trainer_arguments | more),
        )


@contextmanager
def quiet_lightning() -> Any:
    """Lightning greets once per Trainer; a recipe makes dozens."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def save_weights(trainer: Trainer, path: Path) -> None:
    """Write a trained module's weights whole or not at all; another process may write the same file."""
    path.parent.mkdir(exist_ok=True, parents=True)
    with atomic_write(path) as draft:
        trainer.save_checkpoint(draft, weights_only=True)
