"""Names of experts, and of their classes."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from lightning_fusion.data.names import canonical_label
from lightning_fusion.errors import InputError, shorten, suggestion


class NamedModules(nn.ModuleDict):
    """Modules by names that are free text, such as ``gpt-3.5-turbo``.

    Names that torch takes are keys of the state dict as they are; in others, dots, control characters and ``%`` are
    written as in URLs, and attributes of torch modules begin with ``%_``.

    Example:
        >>> modules = NamedModules({"v1.0": nn.Linear(2, 1), "keys": nn.Identity(), "org/model": nn.Identity()})
        >>> list(modules), "v1.0" in modules, list(modules.state_dict())
        (['v1.0', 'keys', 'org/model'], True, ['v1%2E0.weight', 'v1%2E0.bias'])
    """

    def __getitem__(self, name: str) -> nn.Module:
        return super().__getitem__(module_key(name))

    def __setitem__(self, name: str, module: nn.Module) -> None:
        super().__setitem__(module_key(name), module)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(module_key(name))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(module_key(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def keys(self) -> Any:
        """Return the names."""
        return dict.fromkeys(_name(key) for key in self._modules).keys()

    def items(self) -> Any:
        """Return names and modules."""
        return {_name(key): module for key, module in self._modules.items()}.items()


_RESERVED = frozenset(dir(NamedModules())) | frozenset(vars(NamedModules()))


def module_key(name: str) -> str:
    """Return the key of a name in state dicts and in the names of metrics, which may not have dots.

    Example:
        >>> module_key("org/model"), module_key("v1.0"), module_key("keys")
        ('org/model', 'v1%2E0', '%_keys')
    """
    key = re.sub(r"[%.\x00-\x1f]", lambda found: f"%{ord(found[0]):02X}", name)
    return f"%_{key}" if key in _RESERVED or not key else key


def _name(key: str) -> str:
    return re.sub("%([0-9A-F]{2})", lambda found: chr(int(found[1], 16)), key.removeprefix("%_"))


def check_expert_names(names: Iterable[Any]) -> None:
    """Check that names of experts are different texts that also look different.

    Raises:
        InputError: If one is no text or empty, or two differ in invisible characters only.
    """
    seen: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"experts: {name!r} cannot name an expert; expected a text")
        form = unicodedata.normalize("NFC", "".join(each for each in name if unicodedata.category(each) != "Cf"))
        if form in seen:
            raise InputError(
                f"experts: the names {seen[form]!a} and {name!a} differ in invisible characters only; rename one"
            )
        seen[form] = name


def renamed_classes(classes: Sequence[str], rename: Mapping[Any, Any]) -> list[str]:
    """Return the classes of an expert with other names for some of them.

    Args:
        classes: Names of the C classes.
        rename: New name by name.

    Raises:
        InputError: If a name is no class, or two classes would have one name.

    Example:
        >>> renamed_classes(["sparrow", "cat"], {"sparrow": "bird"})
        ['bird', 'cat']
        >>> renamed_classes(["sparrow", "crow"], {"sparrow": "bird", "crow": "bird"})
        Traceback (most recent call last):
        ...
        lightning_fusion.errors.InputError: rename: sparrow and crow would both be bird; expected a name for each class
    """
    table = {canonical_label(old): canonical_label(new) for old, new in rename.items()}
    if unknown := [name for name in table if name not in classes]:
        raise InputError(
            f"rename: the expert has no class {shorten(unknown)}; it has {shorten(classes, 20)}"
            f"{suggestion(unknown[0], classes)}"
        )
    first: dict[str, str] = {}
    for name in classes:
        new = table.get(name, name)
        if new in first:
            raise InputError(f"rename: {first[new]} and {name} would both be {new}; expected a name for each class")
        first[new] = name
    return list(first)


def spelled_classes(
    expert_classes: Mapping[str, Sequence[str]], folded: Iterable[str], classes: Sequence[str] | None
) -> dict[str, list[str]]:
    """Return the classes of experts as the task spells them, for those whose case is folded.

    Args:
        expert_classes: Classes of each expert.
        folded: Names of the experts whose case is folded.
        classes: Classes of the task. ``None`` means those of the other experts.

    Returns:
        Classes of the experts in ``folded``.

    Raises:
        InputError: If two classes of the task, or of an expert, differ in case only.

    Example:
        >>> spelled_classes({"a": ["CAT", "Dog"], "b": ["cat", "dog"]}, ["a"], None)
        {'a': ['cat', 'dog']}
    """
    folded = list(folded)
    if not folded:
        return {}
    known = classes
    if known is None:
        known = list(
            dict.fromkeys(name for each, names in expert_classes.items() if each not in folded for name in names)
        )
    spelling: dict[str, str] = {}
    for name in known:
        if (other := spelling.setdefault(name.casefold(), name)) != name:
            raise InputError(f"fold_case: the classes {other} and {name} of the task differ in case only")
    result = {}
    for each in folded:
        result[each] = [spelling.setdefault(name.casefold(), name) for name in expert_classes[each]]
        if len(set(result[each])) < len(result[each]):
            twice = next(name for name in result[each] if result[each].count(name) > 1)
            raise InputError(f"fold_case: several classes of expert {each} would be {twice}; rename one of them")
    return result
