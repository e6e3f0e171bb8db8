"""A model's weights and buffers as plain arrays by name, and back into one built anew from the same recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lrtune.errors import InputError
from lrtune.training.tensors import decoded, encoded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from lrtune.training.base import State

__all__ = ["load_model", "save_model"]


def _named(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers, those included that a state dict leaves out."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def save_model(model: nn.Module) -> State:
    """Weights and buffers by name."""
    return {name: encoded(tensor) for name, tensor in _named(model)}


def load_model(model: nn.Module, saved: State) -> None:
    """Put weights and buffers back into a model of the same making.

    Raises
    ------
    InputError
        If names or shapes differ.
    """
    held = dict(_named(model))
    if set(held) != set(saved):
        odd = sorted(set(held) ^ set(saved))
        msg = f"the state is of another model: {len(odd)} tensors differ, e.g. {odd[0]!r}; start the run again"
        raise InputError(msg)
    for name, tensor in held.items():
        value = decoded(saved[name])
        if not isinstance(value, torch.Tensor) or value.shape != tensor.shape:
            msg = f"the state is of another model: {name!r} has not the shape {tuple(tensor.shape)}"
            raise InputError(msg)
        with torch.no_grad():
            tensor.copy_(value)
