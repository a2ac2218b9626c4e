"""Names of experts."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from lightning_fusion.errors import InputError


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
