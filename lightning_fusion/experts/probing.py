"""Look at networks on a few samples without leaving a trace."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def _undisturbed(*modules: nn.Module) -> Iterator[None]:
    """Random states, buffers and modes are afterwards what they were."""
    kept = [
        (
            {name: value.clone() for name, value in module.named_buffers()},
            {part: part.training for part in module.modules()},
        )
        for module in modules
    ]
    devices = {value.device for module in modules for value in module.parameters() if value.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        try:
            yield
        finally:
            for module, (buffers, modes) in zip(modules, kept, strict=True):
                for name, value in module.named_buffers():
                    value.copy_(buffers[name])
                for part, mode in modes.items():
                    part.training = mode


def _head(value: Any, rows: int) -> Any:
    if isinstance(value, Mapping):
        return {key: _head(part, rows) for key, part in value.items()}
    return value[:rows]
