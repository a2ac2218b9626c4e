"""Files of sweeps in the format of Weights & Biases: which parameters are drawn, and the command that they go to."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_fusion.cli.config import find_config, read_config
from lightning_fusion.errors import InputError, shorten, suggestion

PROGRAM = "lightning-fusion"
_KEYS = ("program", "method", "metric", "parameters", "command", "name", "description", "project", "entity", "run_cap")
_METHODS = ("bayes", "grid", "random")
_LOGGER = "trainer/wandb.yaml"  # which needs an account
_TAKES = {
    "constant": ("value",),
    "categorical": ("values",),
    "int_uniform": ("min", "max"),
    "uniform": ("min", "max"),
    "q_uniform": ("min", "max", "q"),
    "log_uniform_values": ("min", "max"),
}
"""Keys of a parameter, by its distribution."""
_TEST = re.compile(r"(?:^|[\s=,'\"\[{:])test[_/]\w+")


@dataclass(frozen=True)
class Parameter:
    """A key of the command line whose value is drawn.

    Attributes:
        distribution: One of ``constant``, ``categorical``, ``int_uniform``, ``uniform``, ``q_uniform`` (multiples of
            ``step``) and ``log_uniform_values``.
        values: Values of a constant or categorical parameter.
        low: Lower bound, included.
        high: Upper bound, included.
        step: Distance of the values of ``q_uniform``.
    """

    distribution: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None


@dataclass(frozen=True)
class SweepFile:
    """A sweep, as its file describes it.

    Attributes:
        path: Path of the file.
        method: ``bayes``, ``grid`` or ``random``.
        metric: Name of a logged metric of the validation split.
        goal: ``maximize`` or ``minimize``.
        parameters: Parameters by key.
        command: Words after the program, without those of the parameters.
        place: Position of the parameters among the words.
        most: Largest number of trials (``run_cap``); ``None`` if there is no limit.
    """

    path: str
    method: str
    metric: str
    goal: str
    parameters: dict[str, Parameter]
    command: tuple[str, ...]
    place: int
    most: int | None = None

    @property
    def of_recipe(self) -> bool:
        """Whether trials are runs of a recipe."""
        return self.command[0] == "recipe"

    def line(self, drawn: Mapping[str, Any]) -> list[str]:
        """Return the words after the program for drawn values, as the agent of Weights & Biases makes them."""
        options = [f"--{key}={value}" for key, value in drawn.items()]
        return [*self.command[: self.place], *options, *self.command[self.place :]]

    def grid(self) -> dict[str, list[Any]]:
        """Return the values of each parameter, for the method ``grid``.

        Raises:
            InputError: If a parameter has a range in place of values.
        """
        ranges = [key for key, one in self.parameters.items() if not one.values]
        if ranges:
            raise InputError(
                f"parameters.{ranges[0]}: {self.path} has the method grid, which needs values; found a range: list "
                "values, or set method to random or bayes"
            )
        return {key: list(one.values) for key, one in self.parameters.items()}


def read_sweep(name: str) -> SweepFile:
    """Read a sweep by the path of its file, or by its name among the shipped ones.

    Args:
        name: Path, or name such as ``sweeps/foe.yaml``.

    Raises:
        InputError: If there is no such file, it has an unknown key or distribution, or names a test metric.
    """
    path = find_config(name)
    content = read_config(path)
    if unknown := [str(key) for key in content if key not in _KEYS]:
        hint = ": trials are not stopped early; leave it out" if unknown[0] == "early_terminate" else ""
        raise InputError(f"{unknown[0]}: {path} is no sweep of known keys{hint or suggestion(unknown[0], _KEYS)}")
    if lacking := [key for key in ("method", "metric", "parameters", "command") if not content.get(key)]:
        raise InputError(f"{lacking[0]}: {path} has none; expected a sweep with method, metric, parameters and command")
    if content["method"] not in _METHODS:
        raise InputError(f"method: {path} has {content['method']!r}; expected {', '.join(_METHODS)}")
    if content.get("program", PROGRAM) != PROGRAM:
        raise InputError(f"program: {path} has {content['program']!r}; expected {PROGRAM}")
    metric, goal = _metric(path, content["metric"])
    if not isinstance(content["parameters"], Mapping):
        raise InputError(f"parameters: {path} has a {type(content['parameters']).__name__}; expected keys with values")
    parameters = {str(key): _parameter(f"parameters.{key}", one) for key, one in content["parameters"].items()}
    words, place = _command(path, content["command"])
    if words[0] == "recipe" and "output" in parameters:
        raise InputError(f"parameters.output: {path} draws it, and each trial writes to a folder of its own; remove it")
    most = content.get("run_cap")
    if most is not None and (type(most) is not int or most < 1):
        raise InputError(f"run_cap: {path} has {most!r}; expected a number of trials")
    sweep = SweepFile(path, content["method"], metric, goal, parameters, words, place, most)
    for word in sweep.line({key: value for key, one in parameters.items() for value in one.values}):
        _check_no_test(path, word)
    for key, one in parameters.items():
        for value in one.values:
            _check_no_test(path, f"--{key}={value}")
    return sweep


def _metric(path: str, found: Any) -> tuple[str, str]:
    if not isinstance(found, Mapping) or not isinstance(found.get("name"), str):
        raise InputError(f"metric: {path} has {found!r}; expected name and goal")
    if unknown := [str(key) for key in found if key not in ("name", "goal")]:
        raise InputError(f"metric.{unknown[0]}: {path} has an unknown key; expected name and goal")
    name, goal = found["name"], found.get("goal")
    if re.match(r"(test|train)([_/]|$)", name):
        raise InputError(
            f"metric.name: {path} has {name}; settings are selected on the validation split: expected a metric such as "
            "val_accuracy"
        )
    if goal not in ("maximize", "minimize"):
        raise InputError(f"metric.goal: {path} has {goal!r}; expected maximize or minimize")
    return name, goal


def _command(path: str, found: Any) -> tuple[tuple[str, ...], int]:
    """Return the words of a command without program and parameters, and the place of the parameters."""
    words = [str(word) for word in found] if isinstance(found, list) else []
    if len(words) < 3 or words[0] not in ("${program}", PROGRAM) or words.count("${args}") != 1:
        raise InputError(
            f"command: {path} has {shorten(words, 20) or repr(found)}; expected the words ${{program}}, fit or recipe "
            "NAME, configuration files, and ${args}"
        )
    if macros := [word for word in words[1:] if word.startswith("${") and word != "${args}"]:
        raise InputError(f"command: {path} has {macros[0]}; expected no macro but ${{program}} and ${{args}}")
    if words[1] not in ("fit", "recipe"):
        raise InputError(f"command: {path} runs {words[1]}, which trains nothing; expected fit or recipe NAME")
    kept = words[1:]
    for number in range(len(kept) - 1):
        if kept[number] in ("-c", "--config") and kept[number + 1].removeprefix("configs/") == _LOGGER:
            del kept[number : number + 2]  # the results of a trial need no tracker
            break
    place = kept.index("${args}")
    return (*kept[:place], *kept[place + 1 :]), place


def _check_no_test(path: str, word: str) -> None:
    if _TEST.search(word.partition("=")[2] if word.startswith("--") else word):
        raise InputError(
            f"command: {path} names a metric of the test split ({word}); settings are selected on the validation split"
        )


def _parameter(key: str, content: Any) -> Parameter:
    if not isinstance(content, Mapping):
        raise InputError(f"{key}: found {content!r}; expected values, or min and max")
    if "parameters" in content:
        raise InputError(f"{key}: found nested parameters, which replace their parent; write flat keys with dots")
    given = {str(name): value for name, value in content.items()}
    kind = given.pop("distribution", None) or _usual(given)
    if kind not in _TAKES:
        raise InputError(f"{key}.distribution: found {kind!r}; expected {', '.join(_TAKES)}")
    takes = _TAKES[kind]
    if set(given) != set(takes):
        wrong = next((name for name in given if name not in takes), None)
        what = f"found {wrong}" if wrong else f"found no {next(name for name in takes if name not in given)}"
        raise InputError(f"{key}: {what}; the distribution {kind} has {' and '.join(takes)}")
    if kind in ("constant", "categorical"):
        values = [given["value"]] if kind == "constant" else given["values"]
        if not isinstance(values, list) or not values or any(not isinstance(v, str | int | float) for v in values):
            found = shorten(values) if isinstance(values, list) else repr(values)
            raise InputError(
                f"{key}: found {found}; expected texts, numbers or truth values, which a command line can have"
            )
        if same := [value for place, value in enumerate(values) if value != value or value in values[:place]]:
            raise InputError(
                f"{key}: found {same[0]!r}, which equals another value or is no number; list each value once"
            )
        return Parameter(kind, tuple(values))
    return _range(key, kind, given)


def _range(key: str, kind: str, given: Mapping[str, Any]) -> Parameter:
    low, high, step = given["min"], given["max"], given.get("q")
    numbers = [value for value in (low, high, step) if value is not None]
    whole = int if kind == "int_uniform" else (int, float)
    if any(isinstance(value, bool) or not isinstance(value, whole) or not math.isfinite(value) for value in numbers):
        wanted = "whole numbers" if kind == "int_uniform" else "numbers"
        raise InputError(f"{key}: found {shorten([str(value) for value in numbers])}; expected {wanted}")
    if low >= high or (kind == "log_uniform_values" and low <= 0) or (step is not None and step <= 0):
        positive = ", above 0" if kind == "log_uniform_values" else ""
        raise InputError(f"{key}: found min {low} and max {high}; expected min below max{positive}")
    return Parameter(kind, (), low, high, step)


def _usual(given: Mapping[str, Any]) -> str:
    """Return the distribution of a parameter that names none."""
    if "values" in given or "value" in given:
        return "categorical" if "values" in given else "constant"
    if "q" in given:
        return "q_uniform"
    whole = all(type(given.get(name)) is int for name in ("min", "max"))
    return "int_uniform" if whole else "uniform"
