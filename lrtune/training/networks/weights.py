"""The weights of a module to a checkpoint's plain values and back: parameters and buffers, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lrtune.errors import InputError
from lrtune.training.networks.nested import decoded, encoded

if TYPE_CHECKING:
    from torch import nn

    from lrtune.training.base import State

__all__ = ["load_weights", "save_weights"]


def save_weights(model: nn.Module) -> State:
    """A snapshot of every parameter and buffer, those included that a state dict leaves out."""
    return {name: encoded(tensor) for name, tensor in _tensors(model).items()}


def load_weights(model: nn.Module, saved: State) -> None:
    """Give a model, made as the saved one was, its weights; InputError if it is another one."""
    tensors = _tensors(model)
    if set(tensors) != set(saved):
        odd = sorted(set(tensors) ^ set(saved))
        msg = f"the state is of another model: {len(odd)} tensors differ, e.g. {odd[0]!r}; start the run again"
        raise InputError(msg)
    for name, tensor in tensors.items():
        value = decoded(saved[name])
        if not isinstance(value, torch.Tensor) or value.shape != tensor.shape:
            msg = f"the state is of another model: {name!r} has not the shape {tuple(tensor.shape)}"
            raise InputError(msg)
        with torch.no_grad():
            tensor.copy_(value)


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
