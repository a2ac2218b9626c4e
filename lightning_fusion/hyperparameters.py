"""What a checkpoint may hold of a module's constructor arguments: plain data only."""

from functools import partial
from typing import Any

from lightning import LightningDataModule, LightningModule


def is_plain(value: Any) -> bool:
    """Whether a value is made of None, bool, int, float, str, lists, tuples and dicts alone.

    Example:
        >>> is_plain({"a": [1, None]}), is_plain(object())
        (True, False)
    """
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(is_plain(item) for item in value)
    return value is None or type(value) in (bool, int, float, str)


def describe_factory(factory: Any) -> dict[str, Any] | None:
    """The ``class_path`` and ``init_args`` of a class or a ``functools.partial`` of one; None where there is none.

    Example:
        >>> from torch import nn
        >>> describe_factory(partial(nn.Dropout, p=0.3))
        {'class_path': 'torch.nn.modules.dropout.Dropout', 'init_args': {'p': 0.3}}
    """
    keywords: dict[str, Any] = {}
    if isinstance(factory, partial):
        keywords = dict(factory.keywords)
        factory = next((part for part in (factory.func, *factory.args) if isinstance(part, type)), None)
    if not isinstance(factory, type) or not is_plain(keywords):
        return None
    return {"class_path": f"{factory.__module__}.{factory.__qualname__}", "init_args": keywords}


def keep_plain(module: LightningModule | LightningDataModule) -> None:
    """Keep only plain data among the recorded hyperparameters, so that weights-only loading accepts the checkpoint.

    What the command line built holds its parsed configuration, which is plain: nothing changes. What Python built may
    hold factories of networks and optimizers: those that are classes, or partials of classes, are kept as
    ``class_path`` and ``init_args``, and the checkpoint is marked to be rebuilt from them as the command line's are.
    Where something else had to be dropped (a module instance, a function), ``load_from_checkpoint`` wants it again.
    """
    hparams = module.hparams
    if "_instantiator" in hparams or all(is_plain(value) for value in hparams.values()):
        return
    described = {name: describe_factory(value) for name, value in hparams.items() if not is_plain(value)}
    whole = all(value is not None for value in described.values())
    for name, value in described.items():
        if whole:
            hparams[name] = value
        else:
            del hparams[name]
    if whole and isinstance(module, LightningModule):
        kind = type(module)
        hparams["_class_path"] = f"{kind.__module__}.{kind.__qualname__}"
        hparams["_instantiator"] = "lightning.pytorch.cli.instantiate_module"
    module._hparams_initial = dict(hparams)  # type: ignore[union-attr]
