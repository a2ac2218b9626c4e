"""Normalization of the channels of sensor data."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lightning_fusion.data.base import Stage, staged_property
from lightning_fusion.data.domains import STATISTICS, DomainsDataModule
from lightning_fusion.data.sensor.arrangement import Source
from lightning_fusion.data.statistics import mean_and_deviation
from lightning_fusion.errors import InputError, shorten


class ChannelNormalization(DomainsDataModule):
    """Part of :class:`~.datamodule.BaseSensorDataModule` that normalizes batches, ``(value - mean) / std``.

    The statistics are arguments, or those in a model's checkpoint, or of the training samples.
    """

    mean: list[float] | None
    std: list[float] | None
    normalization_scope: Literal["all", "own"]
    _source: Source
    _split: np.ndarray

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Parameters of the normalization ``(value - mean) / std``, channels first.

        Of new samples there are none before those of a model are known (:meth:`use_preprocessing`).
        """
        if self.predict_root is not None and not self._carried:
            return {}
        mean, std = self._scale
        found: dict[str, Any] = {"channels": self._channels, "mean": mean.tolist(), "std": std.tolist()}
        return found | ({"normalization_scope": "own"} if self._is_measured_by_domain else {})

    def use_preprocessing(self, known: Mapping[str, Any] | None) -> None:
        """Normalize with the statistics of a model's training, in place of those that are not given as arguments.

        New samples (``predict_root``) have no statistics: without those of a model they keep the values as recorded,
        except that ``normalization_scope: own`` measures them.

        Args:
            known: Preprocessing of the training; ``None`` means statistics of the data again. Statistics of other
                channels are not used.
        """
        if self.predict_root is None:
            super().use_preprocessing(known)
            return
        self._carried = dict(known or {})
        if self.normalization_scope == "own" == self._carried.get("normalization_scope"):
            self._carried = {name: value for name, value in self._carried.items() if name not in STATISTICS}
        self._configure()
        trained = list(self._carried.get("channels") or ())
        if not trained or trained == (own := self._channels):
            return
        if len(own) != len(trained):
            raise InputError(
                f"predict_root: found the channels {shorten(own, 9)}; the model was trained on {shorten(trained, 9)}: "
                "change channels"
            )
        self.messages.warn(
            f"predict_root: the channels {shorten(own, 9)} are read in place of {shorten(trained, 9)} of the training, "
            "in this order"
        )

    def preprocess(self, inputs: Tensor, augment: bool = False) -> Tensor:
        """Turn values as recorded, (B, channels, T) or (B, features), into normalized network input of that shape."""
        floats = inputs.float()
        if augment and self.augmentation is not None:
            floats = self.augmentation(floats)
        mean, std = (value.to(floats.device) for value in self._scale)
        if floats.ndim == 3:
            mean, std = mean[:, None], std[:, None]
        return (floats - mean) / std

    @staged_property(Stage.SPLITTING)
    def _of_all(self) -> dict[str, Any]:
        """Cache of statistics over the training samples of all domains."""
        return {}

    def _over_training(self, what: str, measure: Callable[[Tensor], Any]) -> Any:
        """Return a statistic of training samples in ``normalization_scope``; that of all domains is cached.

        It is of labeled samples; of ``own`` domains also of unlabeled ones that are kept.
        """
        labeled = torch.from_numpy(self._labels[1] >= 0)
        own = self._rows_of("train")  # raises InputError for unknown domains
        if self.normalization_scope == "own":  # of the domain at hand, whose unlabeled samples may be the most
            return measure(own if getattr(self, "unlabeled", None) == "keep" else own[labeled[own]])
        if what not in self._of_all:
            self._of_all[what] = measure(torch.from_numpy(self._split == 0).logical_and(labeled).nonzero()[:, 0])
        return self._of_all[what]

    @property
    def _is_measured_by_domain(self) -> bool:
        return self.normalization_scope == "own" and None in (self.mean, self.std) and "mean" not in self._carried

    @property
    def _channels(self) -> list[str]:
        """Names of the channels."""
        return self._source.channels

    def _are_of_channels(self, known: Mapping[str, Any]) -> bool:
        if self.normalization_scope == "own" and known.get("normalization_scope") == "own":
            return False  # the model was trained on domains with statistics of their own
        return list(known.get("channels") or ()) == self._channels

    def _scale_of_new(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation for new samples, of a model without statistics."""
        if self.normalization_scope == "all" or self.new_samples is None:
            self.messages.warn(
                "predict_root: the model records no mean and std, and the data module has none: the values are used as "
                "recorded; set mean and std to those of the training"
            )
            return torch.zeros(len(self._channels)), torch.ones(len(self._channels))
        self.messages.info("normalization: mean and std are those of the new samples (normalization_scope: own)")
        return self._measured_scale(self.new_samples.rows)

    def _measured_scale(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        inputs: Any = self._inputs() if self.new_samples is None else self.new_samples.inputs
        flat = (chunk.movedim(1, -1).reshape(-1, len(self._channels)) for chunk in inputs.chunks(rows))
        mean, std = (values.float() for values in mean_and_deviation(flat))
        if (constant := std <= 1e-6 * mean.abs()).any():
            std[constant] = 1.0
            names = [self._channels[number] for number in constant.nonzero().flatten().tolist()]
            self.messages.warn(
                f"{len(names)} of {len(std)} channels are constant in the training samples and are not scaled: "
                f"{shorten(names)}; leave them out"
            )
        return mean, std

    @staged_property(Stage.USING)
    def _scale(self) -> tuple[Tensor, Tensor]:
        """(channels,) mean and standard deviation of the normalization."""
        channels = self._channels
        self._check_scale(len(channels), f" {shorten(channels, 9)}")
        given = [
            self._carried.get(name) if value is None else value
            for name, value in (("mean", self.mean), ("std", self.std))
        ]
        measured = (torch.empty(0),) * 2
        if None in given:
            measured = self._scale_of_new() if self.predict_root else self._over_training("scale", self._measured_scale)
        mean, std = (
            found if value is None else torch.tensor(value, dtype=torch.float32)
            for value, found in zip(given, measured, strict=True)
        )
        return mean, std
