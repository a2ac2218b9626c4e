"""Checks of the arguments that data modules share."""

import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from lightning_fusion.errors import InputError, shorten


class ArgumentChecks:
    """Mixin of a data module with checks of its arguments, which are attributes."""

    role: str
    domain: Any

    def _check(self) -> None:
        """Raise InputError for arguments that are out of range or inconsistent; subclasses add their own checks."""

    def _check_choices(self, choices: Mapping[str, Sequence[Any]]) -> None:
        """Raise InputError for an argument that is not one of its permitted values."""
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}; expected {shorten(known)}")

    def _check_loading(self) -> None:
        """Raise InputError for an invalid batch size, number of workers or seed."""
        for name, least in (("batch_size", 1), ("num_workers", 0), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool):
                raise InputError(f"{name} is {value!r}; expected a whole number")
            if value < least:
                raise InputError(f"{name} is {value}; expected at least {least}")

    def _check_scale(self, count: int, channels: str = "") -> None:
        """Raise InputError unless ``mean`` and ``std`` have ``count`` finite values and ``std`` is positive."""
        for name, low, expected in (("mean", -math.inf, "finite numbers"), ("std", 0.0, "numbers above 0")):
            values = getattr(self, name)
            if values is None:
                continue
            if len(values) != count:
                raise InputError(f"{name} has {len(values)} values for {count} channels{channels}")
            if not all(low < value < math.inf for value in values):
                raise InputError(f"{name} is {values}; expected {expected}")

    def _check_minimum(self, least: int, *names: str) -> None:
        """Raise InputError for arguments below a minimum."""
        for name in names:
            if not getattr(self, name) >= least:
                raise InputError(f"{name} is {getattr(self, name)}; expected at least {least}")

    def _check_fractions(self, *names: str, zero: bool = False) -> None:
        """Raise InputError for arguments outside (0, 1), or [0, 1) with ``zero``."""
        for name in names:
            value = getattr(self, name)
            if not 0 <= value < 1 or (value == 0 and not zero):
                expected = "from 0, below 1" if zero else "between 0 and 1"
                raise InputError(f"{name} is {value}; expected a fraction {expected}")

    def _check_held_out(self, val_fraction: float, test_fraction: float) -> None:
        """Raise InputError for validation and test fractions that are invalid or leave no training samples."""
        self._check_fractions("val_fraction", "test_fraction", zero=True)
        if val_fraction + test_fraction >= 1:
            raise InputError(
                f"val_fraction {val_fraction} and test_fraction {test_fraction} leave no training samples; lower them"
            )

    def _check_role(self) -> None:
        """Raise InputError for an unknown role, or for a domain with a role other than ``expert``."""
        self._check_choices({"role": ("expert", "fuser")})
        if self.domain is not None and self.role != "expert":
            raise InputError("domain selects the training data of one expert; set role: expert, or remove domain")
