"""A model and its optimizer as plain arrays, and back; and their way between device and host.

Everything goes by position and name within objects that were built anew from the same recipe, so a
state holds numbers only: weights, buffers, the optimizer's entries of each parameter and its groups'
options.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lrtune.errors import InputError
from lrtune.training.tensors import decoded, encoded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from lrtune.training.base import State

__all__ = ["load_model", "load_optimizer", "move_optimizer", "save_model", "save_optimizer"]


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


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def save_optimizer(optimizer: torch.optim.Optimizer) -> State:
    """Entries of each parameter by its position, and options of each group.

    Raises
    ------
    TypeError
        If the optimizer keeps something that is no number and no tensor.
    """
    places = {parameter: str(place) for place, parameter in enumerate(_parameters(optimizer))}
    return {
        "entries": {places[p]: encoded(dict(entry)) for p, entry in optimizer.state.items() if p in places},
        "groups": [
            encoded({name: option for name, option in group.items() if name != "params"})
            for group in optimizer.param_groups
        ],
    }


def load_optimizer(optimizer: torch.optim.Optimizer, saved: State) -> None:
    """Put the entries back; each lies where its optimizer looks for it.

    Raises
    ------
    InputError
        If the groups or parameters differ.
    """
    parameters = _parameters(optimizer)
    if len(saved["groups"]) != len(optimizer.param_groups) or len(saved["entries"]) > len(parameters):
        msg = "the state is of another optimizer: its groups differ; start the run again"
        raise InputError(msg)
    fused: set[int] = set()
    for group, options in zip(optimizer.param_groups, saved["groups"], strict=True):
        group.update(decoded(options))
        if group.get("fused") or group.get("capturable"):
            fused.update(id(parameter) for parameter in group["params"])
    optimizer.state.clear()
    for place, entry in saved["entries"].items():
        parameter = parameters[int(place)]
        optimizer.state[parameter] = {
            name: _placed(name, value, parameter, fused=id(parameter) in fused)
            for name, value in decoded(entry).items()
        }


def _placed(name: str, value: Any, parameter: torch.Tensor, *, fused: bool) -> Any:
    """A value where the optimizer wants it: counters of steps stay on the host unless a kernel reads them."""
    if not isinstance(value, torch.Tensor) or (name == "step" and not fused):
        return value
    return value.to(parameter.device)


def move_optimizer(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Bring the entries to the device of their parameters, as after a move of the model."""
    for group in optimizer.param_groups:
        fused = bool(group.get("fused") or group.get("capturable"))
        for parameter in group["params"]:
            entry = optimizer.state.get(parameter, {})
            for name, value in entry.items():
                if isinstance(value, torch.Tensor) and (name != "step" or fused):
                    entry[name] = value.to(device)
