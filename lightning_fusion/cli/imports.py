"""Import of the user's own modules, which define classes that files of others name."""

from collections.abc import Sequence
from importlib import import_module

from lightning_fusion.errors import InputError


def import_modules(names: Sequence[str] | None) -> None:
    """Import modules by name.

    Args:
        names: Import paths. ``None`` means none.

    Raises:
        InputError: If one cannot be imported.

    Example:
        >>> import_modules(["no_such_module"])
        Traceback (most recent call last):
        ...
        lightning_fusion.errors.InputError: imports: no_such_module cannot be imported (No module named \
'no_such_module')
    """
    for name in names or []:
        try:
            import_module(name)
        except ImportError as error:
            raise InputError(f"imports: {name} cannot be imported ({error})") from error
