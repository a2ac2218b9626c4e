"""Arguments of the students of the recipe hat: read and checked before any model is trained."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser

from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.data.views.target import TargetDataModule
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.factories import network_for
from lightning_fusion.hat.module import HaTJointModule
from lightning_fusion.hat.selection import check_selection, select_sources
from lightning_fusion.recipes.hat.plan import OF_SELECTION, OF_TARGET, STUDENTS, Plan


def read_settings(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return settings of a student with values of the types of the arguments, and ``class_path`` as classes.

    Args:
        given: Arguments of :class:`~lightning_fusion.HaTJointModule`, and of the selection and the target.
        where: Name of the argument of the recipe, for messages.

    Raises:
        InputError: If a name is unknown, or a value is of another type.

    Example:
        >>> read_settings({"mixup": 1, "num_sources": 3}, "student")
        {'mixup': 1.0, 'num_sources': 3}
        >>> read_settings({"mixup": "abc"}, "student")
        Traceback (most recent call last):
        ...
        lightning_fusion.errors.InputError: student: mixup is 'abc'; expected float, null
    """
    found = {}
    for name, value in given.items():
        function = _owner(name)
        parser = ArgumentParser(exit_on_error=False)
        if function is HaTJointModule or function is TargetDataModule:
            parser.add_class_arguments(function, skip=_all_but(function.__init__, name))
        else:
            parser.add_function_arguments(function, skip=_all_but(function, name))
        try:
            found[name] = parser.instantiate(parser.parse_object({name: value}, defaults=False))[name]
        except (ArgumentError, TypeError, ValueError) as error:
            hint = get_type_hints(getattr(function, "__init__", function) if isinstance(function, type) else function)
            wanted = shorten([*_kinds(hint[name])], 9)
            raise InputError(f"{where}: {name} is {value!r}; expected {wanted}") from error
    return found


def check_students(plan: Plan, data: FusionDataModule, targets: Sequence[str], seeds: Sequence[int]) -> None:
    """Build the module, the target and the selection of every student once, so that no wrong value ends a long run.

    Args:
        plan: Settings of the training.
        data: The data.
        targets: Names of the target domains.
        seeds: Random seeds.

    Raises:
        InputError: If a value is out of range, has no effect with the student's teacher, or leaves a target without
            labels of a class, or the guard without two classes in a fold.
    """
    for where, arguments in _students(plan):
        with _said_of(where):
            _build(plan, data, arguments)
    changes: dict[str, dict[str, Any]] = {"": {}}
    changes |= {f"variants: {name}": change for name, change in plan.variants.items()}
    for where, change in changes.items():
        target = _part(change, OF_TARGET)
        with _said_of(where):
            check_selection(**(plan.selection | _part(change, OF_SELECTION)))
            for seed in seeds if target or not where else ():
                _draw(data, targets, seed, plan.target | target, folds=plan.guarded and not where)


def _students(plan: Plan) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what sets them, and the arguments of all students of the table."""
    yield "student", plan.student
    if plan.baselines:
        yield from STUDENTS.items()
    for name, change in plan.variants.items():
        own = {key: value for key, value in change.items() if key not in OF_SELECTION | OF_TARGET}
        yield f"variants: {name}", plan.student | own


def _build(plan: Plan, data: FusionDataModule, arguments: Mapping[str, Any]) -> None:
    settings = plan.arguments | {"classes": data.classes} | dict(arguments)
    for network in plan.networks.values():
        made = network_for(network, len(data.classes))
        source = Expert(made, classes=data.classes, features=plan.arguments["features"])
        HaTJointModule(network, {"source": source}, **settings)


def _draw(data: FusionDataModule, targets: Sequence[str], seed: int, arguments: Mapping[str, Any], folds: bool) -> None:
    of_seed = data.variant(seed=seed)
    for name in targets:
        target = TargetDataModule(of_seed, name, seed=seed, **arguments)
        target.rows("train")
        if folds:
            target.folds()


@contextmanager
def _said_of(where: str) -> Iterator[None]:
    """Let errors name the argument of the recipe."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}" if where else str(error)) from error


def _part(change: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in change.items() if name in names}


def _owner(name: str) -> Any:
    """Return the class or the function that has an argument."""
    return select_sources if name in OF_SELECTION else TargetDataModule if name in OF_TARGET else HaTJointModule


def _all_but(function: Callable[..., Any], name: str) -> set[str | int]:
    return {other for other in get_type_hints(function) if other not in (name, "return")}


def _kinds(hint: Any) -> Iterator[str]:
    """Yield the names of the types of an argument."""
    if get_origin(hint) is Literal:
        yield from get_args(hint)
    elif hint is type(None):
        yield "null"
    elif isinstance(hint, type):
        yield hint.__name__
    elif get_origin(hint) is get_origin(Callable[[], Any]):
        yield "a class_path with init_args"
    else:
        for each in get_args(hint):
            yield from _kinds(each)
