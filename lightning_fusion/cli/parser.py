"""Argument parser without abbreviations, with short help and errors of one line."""

import os
import re
from argparse import Action
from contextlib import suppress
from importlib import import_module
from pkgutil import walk_packages
from typing import Any

from jsonargparse import DefaultHelpFormatter
from lightning.pytorch.cli import LightningArgumentParser

import lightning_fusion
from lightning_fusion.errors import InputError, input_error

_SUBCLASSES = re.compile(r"known subclasses: ([\w., ]+)")


def _own_subclasses(found: re.Match[str]) -> str:
    own = [name for name in found[1].split(", ") if name.startswith("lightning_fusion.")]
    return (
        f"known subclasses: {', '.join(own)}, any other by its import path" if own else "any class by its import path"
    )


class FusionHelpFormatter(DefaultHelpFormatter):
    """Help formatter that lists subclasses of this library only, not those of torch and others.

    Example:
        >>> _SUBCLASSES.sub(_own_subclasses, "(known subclasses: torch.nn.Module, lightning_fusion.Expert)")
        '(known subclasses: lightning_fusion.Expert, any other by its import path)'
    """

    def _expand_help(self, action: Action) -> str:
        return _SUBCLASSES.sub(_own_subclasses, super()._expand_help(action))


class FusionArgumentParser(LightningArgumentParser):
    """Argument parser that accepts no abbreviations and reports the wrong key in one line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        own: dict[str, Any] = {"allow_abbrev": False, "formatter_class": FusionHelpFormatter}
        super().__init__(*args, **(own | kwargs))

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """Format the help with all classes of this library, which are imported first."""
        for module in walk_packages(lightning_fusion.__path__, "lightning_fusion."):
            if module.name.split(".")[1] not in ("__main__", "cli", "recipes"):
                with suppress(InputError):  # module of an extra that is not installed
                    import_module(module.name)
        return super().format_help(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Exit with one line that names the key; ``JSONARGPARSE_DEBUG=true`` shows the full message."""
        if os.environ.get("JSONARGPARSE_DEBUG", "").lower() == "true":
            return super().error(message, ex)
        raise InputError(condense(message)) from input_error(ex)


_NOISE = re.compile(
    r"(Parser key|Problem with given class_path|Does not validate|Subtypes:|Errors:|Given value|tip:|usage:|"
    r"Expected a <class 'NoneType'>)"
)


def condense(message: str) -> str:
    r"""Reduce a parser's message to the innermost error, preceded by its keys.

    Example:
        >>> condense('Parser key "model":\n  Errors:\n    - Option \'hidn\' is not accepted\n  Given value: 3')
        "model: Option 'hidn' is not accepted"
        >>> condense('Parser key "epochs":\n  Expected a <class \'int\'>. Got value: x')
        "epochs: Expected a <class 'int'>. Got value: x"
        >>> condense('Parser key "a":\n  Errors:\n    - Expected a typing.Literal[\'x\', 1]\n  Given value: y')
        "a: Expected one of 'x', 1. Got value: y"
        >>> condense('Parser key "labels":\n  Expected a <class \'str\'>. Got value: [True]')[-40:]
        "put names in quotes, as in ['yes', 'no']"
    """
    keys = list(dict.fromkeys(re.findall(r'Parser key "([^"]+)"', message)))
    lines = [re.sub(r"\s+", " ", line).strip(" -") for line in message.splitlines()]
    complaints = [line for line in lines if line and not _NOISE.match(line)]
    for line in lines:
        if (problem := re.match(r"Problem with given class_path '([^']+)'", line)) and complaints:
            complaints[0] = f"{problem[1]}: {complaints[0]}"
            break
    text = complaints[0] if complaints else re.sub(r"\s+", " ", message).strip()
    given = re.findall(r"Given value: (.+)", message)
    if given and re.match(r"Expected a (<class '\w+'>|typing.Literal\[.*\])$", text):  # of a union, the first type
        words = ", ".join(re.findall(r"Expected a typing.Literal\[(.+)\]", message))
        text = f"{f'Expected one of {words}' if words else text}. Got value: {given[-1]}"
    if "in quotes" not in text and (found := re.search(r"<class 'str'>.* Got value: (.+)", text)):  # once if nested
        text += _quoting(found[1])
    return f"{'.'.join(keys)}: {text}"[:600] if keys else text[:600]


def _quoting(given: str) -> str:
    """Return how to write names that YAML reads as other values."""
    if re.search(r"\b(True|False)\b", given):
        return "; YAML reads yes, no, on, off, true and false as truth values: put names in quotes, as in ['yes', 'no']"
    return "; put names that look like numbers in quotes, as in ['1', '2']" if re.search(r"\d", given) else ""
