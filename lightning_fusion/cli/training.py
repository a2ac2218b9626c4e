"""LightningCLI for ``fit``, ``validate``, ``test`` and ``predict``."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from jsonargparse import Namespace
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_warn

from lightning_fusion import __version__
from lightning_fusion.callbacks.prediction import PredictionWriter
from lightning_fusion.callbacks.termination import EndOnTermination
from lightning_fusion.checkpoints import read_checkpoint
from lightning_fusion.cli.checks import check_checkpoints, check_folder, check_trained, check_trains, warn_untrained
from lightning_fusion.cli.config import config_files
from lightning_fusion.cli.help import TRAINING
from lightning_fusion.cli.messages import error_of_user
from lightning_fusion.cli.parser import FusionArgumentParser, load_dumped, parse
from lightning_fusion.described import check_arguments
from lightning_fusion.errors import InputError, nearest_path, shorten
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.files import exclusive, write_text
from lightning_fusion.hyperparameters import constructor_arguments, flat
from lightning_fusion.recipes.trainers import check_processes
from lightning_fusion.trackers.base import without_none
from lightning_fusion.trackers.kinds import trackers_of

# Attributes that are linked from the data module to the model, by their common name.
_LINKS = {
    "classes": "classes",
    "expert_classes": "expert_classes",
    "expert_domains": "expert_domains",
    "representation_dims": "representation_dims",
    "domains": "domains",
    "own_domains": "trained_on",
    "preprocessing": "preprocessing",
    "vocab_size": "vocab_size",
}


class FusionSaveConfig(SaveConfigCallback):
    """Save the configuration of each run in the logger's folder and in the config of wandb."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._claims = ExitStack()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Release the checkpoints."""
        self._claims.close()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save once, before anything is trained; checkpoints of fixed names are claimed until the run ends."""
        if stage == "fit" and trainer.is_global_zero:
            for callback in trainer.checkpoint_callbacks:
                folder, name = getattr(callback, "dirpath", None), getattr(callback, "filename", None)
                if folder and name and "{" not in name:
                    self._claims.enter_context(exclusive(Path(folder) / f".{name}.lock", f"checkpoint {name}"))
        if self.already_saved:
            return
        config = self.config.clone()
        config.overwrite = False  # a run of the saved file is another run
        text = self.parser.dump(config, skip_none=False, skip_validation=True)  # it was parsed
        if trainer.is_global_zero:
            for folder in self._folders(trainer):
                folder.mkdir(parents=True, exist_ok=True)
                write_text(folder / self.config_filename, text)
            for tracker in trackers_of(trainer.loggers):  # under the keys of the configuration, which sweeps use
                tracker.log_hyperparameters(without_none(flat(load_dumped(text))))
        self.already_saved = True

    @staticmethod
    def _folders(trainer: Trainer) -> list[Path]:
        folders = []
        for logger in trainer.loggers:
            if type(logger).__name__ == "WandbLogger":  # its save_dir is shared by all runs
                folders.append(Path(logger.save_dir or ".") / str(logger.name) / str(logger.version))
            elif folder := getattr(logger, "log_dir", None):
                folders.append(Path(folder))
        return folders or [Path(trainer.default_root_dir)]


class FusionCLI(LightningCLI):
    """LightningCLI in subclass mode, with attributes linked from the data module to the model."""

    def __init__(self, args: Sequence[str]) -> None:
        self._only = {args[0]} if args and args[0] in TRAINING else set(TRAINING)
        super().__init__(
            LightningModule,
            LightningDataModule,
            save_config_callback=FusionSaveConfig,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            parser_kwargs={"parser_mode": "omegaconf+", "version": __version__},
            parser_class=FusionArgumentParser,
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=list(args),
            auto_configure_optimizers=False,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # the parent's is static
        """Return the command that is run: parsers of the others are needed only by files with their sections."""
        return {name: skipped for name, skipped in LightningCLI.subcommands().items() if name in self._only}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add ``--overwrite``, of fit."""
        parser.add_argument(
            "--overwrite", type=bool, default=False, help="Let fit replace checkpoints of an earlier run."
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the given arguments instead of those of the process."""
        self.config = parse(parser, args)
        chosen = self.config[self.config.subcommand].as_dict()
        if not ((chosen.get("data") or {}).get("init_args") or {}).get("predict_root"):  # of the folder's own model
            check_folder(chosen, [name for _, _, name in config_files(args)])
        if self.config.subcommand == "fit":
            check_trains(chosen["trainer"])

    def before_instantiate_classes(self) -> None:
        """Link attributes of the data module to the arguments of the model class with the same name.

        Links are added here, when both classes are known: a link to an argument that the class does not have would be
        stored in the checkpoint's hyperparameters.
        """
        chosen = self.config[self.subcommand]
        if not chosen.get("data") or not chosen.get("model"):
            return
        has = resolve_name(chosen.data.class_path)
        takes = constructor_arguments(resolve_name(chosen.model.class_path))
        for source, target in _LINKS.items():
            if target in takes and hasattr(has, source):
                self._parser(self.subcommand).link_arguments(
                    "data", f"model.init_args.{target}", compute_fn=self._fact(source, target), apply_on="instantiate"
                )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the Trainer; wrong arguments raise InputError."""
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, TypeError, ValueError) as error:
            if error_of_user(error):
                raise
            raise InputError(f"trainer: {' '.join(str(error).split())}") from error
        check_processes(trainer)
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
        callbacks.append(EndOnTermination())
        writes = any(isinstance(each, PredictionWriter | BasePredictionWriter) for each in callbacks)
        if getattr(self.datamodule, "predict_root", None) is not None and not writes:
            callbacks.append(PredictionWriter(str(Path(trainer.default_root_dir) / "predictions.csv")))
        chosen = self.config[self.subcommand]
        if self.subcommand != "fit":
            check_trained(trainer, self.model, chosen.get("ckpt_path"), str(self.subcommand))
        else:
            check_checkpoints(trainer, self.model, chosen.get("ckpt_path"), chosen.overwrite)
        return trainer

    def after_instantiate_classes(self) -> None:
        """Warn about untrained experts, and keep Lightning from logging arguments a second time.

        :class:`FusionSaveConfig` logs those of the configuration. Lightning would merge those of model and data.
        """
        if isinstance(pool := getattr(self.model, "pool", None), ExpertPool):
            model_config = self.config[self.subcommand].model.as_dict()
            warn_untrained(pool.members, (model_config.get("init_args") or {}).get("experts"))
        for part in (self.model, self.datamodule):
            if part is not None:
                part._log_hyperparams = False

    def after_fit(self) -> None:
        """Report a resumed run that trained nothing, since its checkpoint is of a finished one."""
        path = self.config[self.subcommand].get("ckpt_path")
        if self.trainer.optimizers and self._resumed_step == self.trainer.global_step:
            rank_zero_warn(
                f"fit trained nothing: {path} is of epoch {self.trainer.current_epoch}, and trainer.max_epochs is "
                f"{self.trainer.max_epochs}; raise it to train further"
            )

    def _fact(self, source: str, target: str) -> Callable[[Any], Any]:
        written = self.config[self.subcommand].get(f"model.init_args.{target}")
        written = written.as_dict() if isinstance(written, Namespace) else written

        return partial(_linked_value, command=str(self.subcommand), source=source, target=target, written=written)

    def _parse_ckpt_path(self) -> None:
        """Take the model's arguments from the checkpoint, as Lightning does, and report the changed ones.

        A checkpoint without a class was written by a module built in Python from objects: the YAML is used.
        """
        self._resumed_step: int | None = None
        subcommand = self.config.get("subcommand")
        path = self.config[subcommand].get("ckpt_path") if subcommand else None
        if not path or not Path(path).is_file():
            if path and path not in ("best", "last", "hpc", "registry"):
                raise InputError(f"ckpt_path: found no file {path}{nearest_path(path)}")
            return
        content = read_checkpoint(path, "ckpt_path")
        self._resumed_step = content.get("global_step")  # noted now: the run may replace the file
        recorded = content.get("hyper_parameters", {})
        if "_class_path" not in recorded:
            return
        chosen = self.config[subcommand].model.class_path
        if not _same_class(recorded["_class_path"], chosen):
            held = str(recorded["_class_path"])[:80]
            raise InputError(
                f"ckpt_path: {path} contains a {held}, the configuration names {chosen}; give the checkpoint's own "
                "configuration, or change model.class_path"
            )
        before = flat(self.config[subcommand].get("model").as_dict())
        given = self.config[subcommand].model.init_args.clone()
        own = self._plain(self.config)[subcommand]["model"].get("init_args") or {}
        plain = check_arguments(resolve_name(chosen), recorded, f"ckpt_path: {path}", own)
        spec = {"class_path": chosen, "dict_kwargs": plain}
        self.config = self.parser.parse_object({subcommand: {"model": spec}}, self.config)
        self._restore(given)
        after = flat(self.config[subcommand].get("model").as_dict())
        if changed := _changed(before, after):
            print(f"ckpt_path: {path} sets {shorten(changed, 20)} (resuming keeps the checkpoint's values)")

    def _plain(self, config: Namespace) -> dict[str, Any]:
        """Return a parsed configuration as plain data."""
        text = self.parser.dump(config, skip_link_targets=False, skip_none=False, skip_validation=True)
        return load_dumped(text)

    def _dump_config(self) -> None:
        """Keep the configuration as plain data; Lightning's own would validate it once more."""
        if not hasattr(self, "config_dump"):
            self.config_dump = self._plain(self.config)[self.config.subcommand]

    def _restore(self, given: Namespace) -> None:
        """Keep the experts that the user gave where the checkpoint has none, as of a training on their outputs."""
        own = self.config[self.config.subcommand].model.init_args
        if own.get("experts", "other") is None and given.get("experts") is not None:
            own.experts = given.experts


def _linked_value(data: Any, command: str, source: str, target: str, written: Any) -> Any:
    """Return the value of a linked argument; processes that Lightning spawns receive this function by its name."""
    if getattr(data, "predict_root", None) is not None:
        data.setup(command)  # an error in other commands than predict
        return written  # of the checkpoint: the labeled data may not exist
    value = getattr(data, source)
    if written is None or written == value:
        return value
    if target in ("classes", "expert_classes"):
        raise InputError(
            f"model.init_args.{target}: the configuration or checkpoint has {shorten(written)}, the data have "
            f"{shorten(value)}; change the data, or leave {target} out"
        )
    return written


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the arguments of the model, with dotted names, that a checkpoint sets to other values than the user.

    Example:
        >>> before = {"init_args.mixup": 0, "init_args.metric.class_path": "F1", "init_args.dim": 8}
        >>> _changed(before, {"init_args.mixup": None, "init_args.metric": None, "init_args.dim": 8})
        ['init_args.mixup', 'init_args.metric']
    """
    from_data = {f"init_args.{name}" for name in _LINKS.values()}
    found = []
    for key, value in before.items():
        parts = key.split(".")
        ancestors = [".".join(parts[:count]) for count in range(len(parts), 1, -1)]
        known = next((name for name in ancestors if name in after), key)
        if parts[0] != "init_args" or known not in after or (known in from_data and value is None):
            continue
        if known != key and after[known] is not None:
            continue
        if after[known] != value:
            found.append(known)
    return list(dict.fromkeys(found))


def _same_class(one: Any, other: str) -> bool:
    """Whether two import paths name one class; modules that are not imported are compared by name."""
    if one == other:
        return True
    kind = resolve_name(other)
    module, _, name = str(one).rpartition(".")
    return one == f"{kind.__module__}.{kind.__qualname__}" or getattr(sys.modules.get(module), name, None) is kind
