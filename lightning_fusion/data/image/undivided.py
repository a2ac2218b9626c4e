"""Sources of images that define no domains."""

from typing import Any

import numpy as np

from lightning_fusion.data.base import Stage
from lightning_fusion.data.image.datamodule import BaseImageDataModule
from lightning_fusion.data.image.layout import ImageLayout
from lightning_fusion.data.splits import draw_class_subsets
from lightning_fusion.errors import InputError


class UndividedImageDataModule(BaseImageDataModule):
    """Base class of sources that define no domains; domains are drawn as subsets of the classes.

    Args:
        num_domains: Number of domains to draw, each a subset of the classes. ``None`` (default) means one domain of all
            classes.
        classes_per_domain: Number of classes of each domain, before they are merged into super-classes.
        **shared: Arguments of :class:`BaseImageDataModule`.

    Raises:
        InputError: If only one of the two is set, or the subsets cannot cover the classes.
    """

    stage_of = BaseImageDataModule.stage_of | dict.fromkeys(("num_domains", "classes_per_domain"), Stage.CUTTING)

    def __init__(self, num_domains: int | None = None, classes_per_domain: int | None = None, **shared: Any) -> None:
        super().__init__(**shared)
        self.num_domains, self.classes_per_domain = num_domains, classes_per_domain

    def _check(self) -> None:
        super()._check()
        if (self.num_domains is None) != (self.classes_per_domain is None):
            raise InputError("num_domains and classes_per_domain go together; set both or neither")

    def cut_domains(self, layout: ImageLayout, group: np.ndarray | None) -> tuple[list[str], np.ndarray]:
        """Draw the subsets of the classes (:func:`~lightning_fusion.data.splits.draw_class_subsets`)."""
        if self.num_domains is None or self.classes_per_domain is None:
            return super().cut_domains(layout, group)
        sizes = self.num_domains, self.classes_per_domain
        member = draw_class_subsets(len(layout.classes), *sizes, group, self.seed)
        return [f"domain_{number}" for number in range(self.num_domains)], member
