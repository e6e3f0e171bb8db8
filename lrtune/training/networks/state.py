"""A training in memory as plain arrays by name, and back into one built anew from the same recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lrtune.errors import InputError
from lrtune.training.networks.nested import decoded, encoded
from lrtune.training.networks.optimizer_state import load_optimizer, save_optimizer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from lrtune.training.base import State
    from lrtune.training.networks.build import Live

__all__ = ["load_live", "load_model", "save_live", "save_model"]


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


def save_live(live: Live) -> State:
    """A training in memory: weights, the optimizer's state, and what its steps and its schedule remember.

    Raises
    ------
    TypeError
        If the optimizer keeps something that cannot be saved.
    """
    scaler = live.stepper.scaler
    return {
        "micro": live.stepper.micro,
        "whole_only": live.stepper.whole_only,
        "schedule": encoded(dict(live.schedule.state())) if live.schedule.listens else None,
        "scaler": None if scaler is None else encoded(scaler.state_dict()),
        "model": save_model(live.model),
        "optimizer": save_optimizer(live.stepper.optimizer),
    }


def load_live(live: Live, saved: State) -> None:
    """Put what :func:`save_live` saved, and the ``step`` that it stood at, back into a training just built.

    Raises
    ------
    InputError
        If it is of another model or optimizer.
    """
    load_model(live.model, saved["model"])
    load_optimizer(live.stepper.optimizer, saved["optimizer"])
    live.stepper.whole_only = bool(saved.get("whole_only"))  # states of before there was such a thing have none
    live.stepper.micro, live.stepper.begun = saved["micro"], saved["step"] > 0
    if live.stepper.scaler is not None and saved["scaler"] is not None:
        live.stepper.scaler.load_state_dict(decoded(saved["scaler"]))
    if saved["schedule"] is not None:
        live.schedule.restore(decoded(saved["schedule"]))
