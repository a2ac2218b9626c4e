"""Figures and tables of the predictions of validation and test."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import move_data_to_device, rank_zero_info, rank_zero_warn
from matplotlib.figure import Figure
from torch import Tensor

from lightning_fusion import plotting
from lightning_fusion.errors import InputError
from lightning_fusion.files import atomic_write
from lightning_fusion.trackers.base import Cell
from lightning_fusion.trackers.kinds import tracker_class, trackers_of

_PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}


class _Predictions(NamedTuple):
    """Index of the sample, target, predicted class, confidence and probability of the target, (N,) each."""

    sample: np.ndarray
    target: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    of_target: np.ndarray


@dataclass
class _Collected:
    """Predictions of a split, and the inputs of its most confident errors."""

    parts: list[tuple[Tensor, ...]] = field(default_factory=list)
    inputs: dict[int, tuple[float, Any]] = field(default_factory=dict)
    count: int = 0


class EvaluationReport(Callback):
    """Log the predictions of the last validation of a fit; log and write those of a validation and of a test.

    - The confusion matrix and the reliability diagram.
    - The mean weight of each expert by true class, for modules with a method ``expert_weights``
      (:meth:`FoEFuserModule.expert_weights <lightning_fusion.FoEFuserModule.expert_weights>`).
    - After a test also a table of precision, recall, F1 and support of each class, and the most confident errors: a
      table with file, line or start where the data module knows them (``origins``), the text where it decodes tokens
      (``decode``), and pictures of images.

    ``validation_step`` and ``test_step`` of the module must return a dict with ``index`` (B,), ``target`` (B,) and
    ``probabilities`` (B, C), as those of this library do; the module has ``classes``. Of several loaders, the first is
    reported. Samples that several processes repeat count once.

    Args:
        folder: Folder of the files of a validation and of a test, whose names begin with the split. ``None`` (default)
            writes none.
        num_errors: Number of errors.

    Raises:
        InputError: If ``num_errors`` is negative.

    Example:
        >>> EvaluationReport("runs/evaluation", num_errors=12).num_errors
        12
    """

    def __init__(self, folder: str | None = None, num_errors: int = 18) -> None:
        if num_errors < 0:
            raise InputError(f"num_errors is {num_errors}; expected at least 0")
        self.folder = None if folder is None else Path(folder)
        self.num_errors = num_errors
        self._found = _Collected()

    # -------------------------------------------------------------- collecting

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the predictions of an earlier validation."""
        self._found = _Collected()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the predictions of an earlier test."""
        self._found = _Collected()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the predictions of a batch."""
        if not trainer.sanity_checking and dataloader_idx == 0:
            self._keep(pl_module, outputs)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the predictions of a batch, and the inputs of its most confident errors."""
        if dataloader_idx == 0 and self._keep(pl_module, outputs):
            self._keep_errors(getattr(batch, "input", None))

    def _keep(self, module: LightningModule, outputs: Any) -> bool:
        if not isinstance(outputs, dict) or not {"index", "target", "probabilities"} <= set(outputs):
            if self._found.count == 0:
                rank_zero_warn(
                    f"EvaluationReport: the steps of {type(module).__name__} return no dict with index, target and "
                    "probabilities, so that nothing is reported"
                )
            self._found.count = -1
            return False
        probabilities, target = outputs["probabilities"].detach().float(), outputs["target"]
        confidence, predicted = probabilities.max(1)
        of_target = probabilities.gather(1, target[:, None])[:, 0]
        index = outputs["index"]
        place = self._found.count + torch.arange(len(index), device=index.device)
        self._found.count += len(index)
        self._found.parts.append((torch.where(index < 0, place, index), target, predicted, confidence, of_target))
        return True

    def _keep_errors(self, input: Any) -> None:
        """Keep the inputs of the most confident errors so far."""
        index, target, predicted, confidence, _ = self._found.parts[-1]
        wrong = (predicted != target).nonzero().flatten()
        best = wrong[confidence[wrong].argsort(descending=True, stable=True)[: self.num_errors]].tolist()
        kept = self._found.inputs
        for row in best:
            kept[int(index[row])] = (float(confidence[row]), _sample(input, row))
        for key in sorted(kept, key=lambda key: -kept[key][0])[self.num_errors :]:
            del kept[key]

    # --------------------------------------------------------------- reporting

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the last validation of a fit."""
        self._report(trainer, pl_module, "val", trainer.global_step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report a validation outside of a fit."""
        if trainer.state.fn != TrainerFn.FITTING:
            self._report(trainer, pl_module, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report a test."""
        self._report(trainer, pl_module, "test")

    def _report(self, trainer: Trainer, module: LightningModule, split: str, step: int | None = None) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by a connector of the Trainer
            return
        drawn = any(tracker_class(type(logger)).shows_figures for logger in trainer.loggers)
        if not drawn and (self.folder is None or step is not None):
            return
        found, inputs = self._gathered(trainer)
        weights = _mean_weights(trainer, module, split)
        if found is None or not trainer.is_global_zero:
            return
        classes = list(module.classes)  # type: ignore[arg-type]  # modules that return probabilities have them
        what = "validation" if split == "val" else "test"
        figures = {
            "confusion": plotting.confusion(
                found.target, found.predicted, classes, title=f"Fractions of each true class, {what}"
            ),
            "reliability": plotting.reliability(
                found.confidence, found.predicted == found.target, title=f"Reliability, {what}"
            ),
        }
        if weights is not None:
            title = f"Mean weight of each expert by true class, {what}"
            rows, names, values = weights
            figures["weights"] = plotting.heat_map(
                values, rows, names, title=title, label="mean weight", xlabel="expert", ylabel="true class", top=None
            )
        tables: dict[str, tuple[Sequence[str], list[list[Cell]]]] = {}
        if split == "test":
            tables["classes"] = _by_class(found, classes)
            data = getattr(trainer, "datamodule", None)
            columns, lines, figure = _errors(found, inputs, classes, data, self.num_errors)
            if lines:
                tables["errors"] = columns, lines
            if figure is not None:
                figures["errors"] = figure
        self._write(trainer, split, figures, tables, step)

    def _write(
        self,
        trainer: Trainer,
        split: str,
        figures: dict[str, Figure],
        tables: dict[str, tuple[Sequence[str], list[list[Cell]]]],
        step: int | None,
    ) -> None:
        for tracker in trackers_of(trainer.loggers):
            for name, figure in figures.items():
                tracker.log_figure(f"{split}_{name}", figure, step)
            for name, (columns, rows) in tables.items():
                tracker.log_table(f"{split}_{name}", columns, rows)
        if self.folder is None or step is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            plotting.save(figure, self.folder / f"{split}_{name}.png")
        for name, (columns, rows) in tables.items():
            with (
                atomic_write(self.folder / f"{split}_{name}.csv") as draft,
                open(draft, "w", newline="", encoding="utf-8") as file,
            ):
                csv.writer(file).writerows([columns, *rows])
        names = [*(f"{split}_{name}.png" for name in figures), *(f"{split}_{name}.csv" for name in tables)]
        rank_zero_info(f"wrote {', '.join(names)} to {self.folder}")

    def _gathered(self, trainer: Trainer) -> tuple[_Predictions | None, dict[int, tuple[float, Any]]]:
        """Return the predictions and inputs of all processes, each sample once."""
        parts = [tuple(part.cpu() for part in batch) for batch in self._found.parts]
        everything: tuple[Any, Any] = parts, self._found.inputs
        if trainer.world_size > 1:
            shards: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(shards, everything)
            everything = (
                [part for shard in shards for part in shard[0]],
                {key: value for shard in shards for key, value in shard[1].items()},
            )
        self._found = _Collected()
        if not everything[0]:
            return None, {}
        columns = [torch.cat(column).numpy() for column in zip(*everything[0], strict=True)]
        first = np.unique(columns[0], return_index=True)[1]
        return _Predictions(*(column[first] for column in columns)), everything[1]


def _sample(input: Any, row: int) -> Any:
    """Return the input of one sample that can be shown: an image, a text, or the tokens of a text."""
    if isinstance(input, Tensor):
        return input[row].float().cpu() if input.ndim == 4 and input.shape[1] in (1, 3) else None
    if isinstance(input, dict):
        found = input.get("text", input.get("input_ids"))
        return found[row].cpu() if isinstance(found, Tensor) else None if found is None else str(found[row])
    return input[row] if isinstance(input, list) and isinstance(input[row], str) else None


def _mean_weights(trainer: Trainer, module: Any, split: str) -> tuple[list[str], list[str], np.ndarray] | None:
    """Return classes, experts, and the (C, K) mean weights of the experts over the samples of each true class."""
    if not hasattr(module, "expert_weights"):
        return None
    loaders = trainer.val_dataloaders if split == "val" else trainer.test_dataloaders
    loader = loaders[0] if isinstance(loaders, list) else loaders
    parts: list[tuple[Tensor, Tensor]] = []
    with torch.inference_mode():
        for batch in loader or ():
            weights = module.expert_weights(move_data_to_device(batch, module.device))
            if weights is None:
                return None
            parts.append((batch.target.cpu(), weights.float().cpu()))
    if not parts:
        return None
    target, stacked = (torch.cat(column) for column in zip(*parts, strict=True))
    present = target.unique().tolist()
    means = torch.stack([stacked[target == number].mean(0) for number in present])
    return [module.classes[number] for number in present], list(module.expert_classes), means.numpy()


def _by_class(found: _Predictions, classes: list[str]) -> tuple[Sequence[str], list[list[Cell]]]:
    """Return precision, recall, F1 and support of each class, and their mean over the classes."""
    from sklearn.metrics import precision_recall_fscore_support  # imports pandas, which is slow

    values = precision_recall_fscore_support(
        found.target, found.predicted, labels=range(len(classes)), zero_division=np.nan
    )
    rows: list[list[Cell]] = [
        [
            name,
            *(None if np.isnan(part[number]) else float(part[number]) for part in values[:3]),
            int(values[3][number]),
        ]
        for number, name in enumerate(classes)
    ]
    return ["class", "precision", "recall", "f1", "support"], rows


def _errors(
    found: _Predictions, inputs: dict[int, tuple[float, Any]], classes: list[str], data: Any, most: int
) -> tuple[list[str], list[list[Cell]], Figure | None]:
    """Return the columns and rows of the most confident errors, and their pictures where there are images."""
    wrong = np.flatnonzero(found.predicted != found.target)
    order = wrong[np.argsort(-found.confidence[wrong], kind="stable")][:most]
    index = torch.from_numpy(found.sample[order])
    origins = data.origins(index) if len(order) and hasattr(data, "origins") else None
    places = {} if origins is None else origins.columns()
    kept = [inputs.get(int(number), (0.0, None))[1] for number in found.sample[order]]
    texts = [_text(each, data) for each in kept]
    columns = ["index", *places, "true class", "predicted class", "confidence", "probability of the true class"]
    columns += ["text"] if any(texts) else []
    lines: list[list[Cell]] = []
    images: list[np.ndarray] = []
    captions: list[str] = []
    for number, row in enumerate(order):
        true, predicted = classes[found.target[row]], classes[found.predicted[row]]
        confidence = float(found.confidence[row])
        own = [column[number] for column in places.values()]
        line = [int(found.sample[row]), *own, true, predicted, confidence, float(found.of_target[row])]
        lines.append([*line, *([texts[number]] if any(texts) else [])])
        image = kept[number] if isinstance(kept[number], Tensor) and kept[number].ndim == 3 else None
        picture = image.numpy() if image is not None else _read_picture(places.get("file", []), number)
        if picture is not None:
            images.append(picture)
            captions.append(f"{predicted} ({confidence:.2f})\nnot {true}")
    title = "The most confident errors"
    return columns, lines, plotting.pictures(images, captions, title=title) if images else None


def _text(sample: Any, data: Any) -> str | None:
    if isinstance(sample, str):
        return sample
    tokens = isinstance(sample, Tensor) and sample.ndim == 1 and hasattr(data, "decode")
    return str(data.decode(sample)) if tokens else None


def _read_picture(files: Sequence[str], number: int) -> np.ndarray | None:
    """Return the (C, H, W) image in the file of a sample, for fusers that read stored outputs; None if it has none."""
    path = Path(files[number]) if files else None
    if path is None or path.suffix.lower() not in _PICTURES or not path.is_file():
        return None
    from PIL import Image

    with Image.open(path) as image:
        values: np.ndarray = np.asarray(image.convert("RGB"), np.float32)
    return values.transpose(2, 0, 1)
