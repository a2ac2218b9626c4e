"""Errors of all experts of a configuration in one message, in place of that of the first one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lightning_fusion.errors import InputError
from lightning_fusion.experts.expert import Expert


class ExpertErrors:
    """Instantiates experts for a parser; while it collects, an expert with an error is left out until all are made."""

    def __init__(self) -> None:
        self._collects = False
        self._made: list[InputError | None] = []

    def __call__(self, kind: type[Expert], *args: Any, **kwargs: Any) -> Expert | None:
        """Return an expert, or ``None`` for one that cannot be instantiated."""
        try:
            expert = kind(*args, **kwargs)
        except InputError as error:
            if not self._collects:
                raise
            self._made.append(error)
            return None
        self._made.append(None)
        return expert

    @contextmanager
    def collected(self, config: Mapping[str, Any]) -> Iterator[None]:
        """Context of an instantiation, which ends with the errors of all experts if there are any.

        Args:
            config: What is instantiated, as plain data.

        Raises:
            InputError: If an expert cannot be instantiated; those of a pool are named.
        """
        self._collects, self._made = True, []
        try:
            yield
        except Exception:  # of what was given no expert
            if not any(self._made):
                raise
        finally:
            self._collects = False
        names = list(pool_of(config))
        if len(names) != len(self._made):  # others than those of a pool
            names = []
        if errors := {place: error for place, error in enumerate(self._made) if error is not None}:
            listed = [f"experts.{names[place]}: {error}" if names else str(error) for place, error in errors.items()]
            raise InputError("; ".join(listed)) from next(iter(errors.values()))


def pool_of(config: Any) -> dict[str, Any]:
    """Return the specifications of the experts of a configuration by name.

    Example:
        >>> pool_of({"model": {"init_args": {"experts": {"a": {"class_path": "lightning_fusion.Expert"}}}}})
        {'a': {'class_path': 'lightning_fusion.Expert'}}
    """
    found: dict[str, Any] = {}
    for key, value in config.items() if isinstance(config, Mapping) else ():
        named = isinstance(value, Mapping) and all(isinstance(part, Mapping) for part in value.values())
        found |= value if key == "experts" and named else pool_of(value)
    return found


def invalid_experts(args: Sequence[str], parse: Callable[[Mapping[str, Any]], object]) -> dict[str, InputError]:
    """Return the errors of experts in configuration files by name, each parsed alone.

    Args:
        args: Arguments of a command; experts that they change are left out, and those with interpolations.
        parse: Parses the specification of an expert.
    """
    files = [path for arg in args if (path := Path(arg.rpartition("=")[2])).suffix in (".yaml", ".yml")]
    try:
        read = [OmegaConf.load(path) for path in files if path.is_file()]
        content = OmegaConf.to_container(OmegaConf.merge(*read), resolve=False) if read else {}
    except (OmegaConfBaseException, YAMLError, ValueError, OSError):
        return {}  # the error that led here says so
    found = {}
    for name, spec in pool_of(content).items():
        if "${" in str(spec) or any(f"experts.{name}" in arg for arg in args):
            continue
        try:
            parse(spec)
        except InputError as error:
            found[name] = error
    return found
