"""The tensors of several models as rows of common ones, of which the models' own tensors are views.

Whatever one model does alone (it is evaluated, saved, trained on) sees and changes the same numbers, and nothing is
ever copied back. A model leaves by getting storage of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lrtune.training.networks.optimizers import apply_lr
from lrtune.training.networks.stackable import state_names
from lrtune.training.networks.stacked_optimizer import StackedOptimizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.training.networks.build import LiveModel

__all__ = ["StackedTensors"]

ALIGNED = 16
"""Columns at whose multiples a parameter begins, so that kernels may read several numbers at once."""

HOST = torch.device("cpu")


class StackedTensors:
    """All that models in training have, copied once.

    Attributes
    ----------
    weights, gradients
        Of what is trained, shape (members, width).
    names, parts, gradient_parts
        Of each trained parameter its name, and the columns of it as a tensor of shape (members, ...).
    held
        Buffers and parameters that are not trained, by name, each of shape (members, ...).
    optimizer
        What takes the steps of all.
    """

    def __init__(self, lives: Sequence[LiveModel]) -> None:
        self._lives = tuple(lives)
        optimizers = [live.stepper.optimizer for live in lives]
        first, count = optimizers[0], len(lives)
        name_of = {id(parameter): name for name, parameter in lives[0].model.named_parameters()}
        places: list[tuple[int, torch.Size]] = []
        edges, width = [0], 0
        self.names = []
        for group in first.param_groups:
            for parameter in group["params"]:
                self.names.append(name_of[id(parameter)])
                places.append((width, parameter.shape))
                width += -(-parameter.numel() // ALIGNED) * ALIGNED
            edges.append(width)
        example = first.param_groups[0]["params"][0].detach()
        self.weights, self.gradients = (example.new_zeros(count, width) for _ in range(2))
        self._state = {name: example.new_zeros(count, width) for name in state_names(first)}
        counts = not isinstance(first, torch.optim.SGD)
        self._counters = torch.zeros(count, len(places), device=_home_of_counters(first))
        for row, one in enumerate(optimizers):
            parameters = [parameter for group in one.param_groups for parameter in group["params"]]
            for place, (parameter, (begin, shape)) in enumerate(zip(parameters, places, strict=True)):
                columns = slice(begin, begin + shape.numel())
                parameter.data = self.weights[row, columns].view(shape).copy_(parameter.data)
                entry = one.state[parameter]
                for name, state in self._state.items():
                    _replace(entry, name, state[row, columns].view(shape))
                if counts:
                    _replace(entry, "step", self._counters[row, place])
        self.parts = [_columns(self.weights, *place) for place in places]
        self.gradient_parts = [_columns(self.gradients, *place) for place in places]
        self.held = self._stacked_others()
        self.optimizer = StackedOptimizer(
            optimizers,
            weights=self.weights,
            gradients=self.gradients,
            state=list(self._state.values()),
            edges=edges,
            counters=self._counters[:, 0],
        )

    def _stacked_others(self) -> dict[str, torch.Tensor]:
        each = [dict([*live.model.named_parameters(), *live.model.named_buffers()]) for live in self._lives]
        found: dict[str, torch.Tensor] = {}
        for name in each[0]:
            if name not in self.names:
                found[name] = torch.stack([tensors[name].detach() for tensors in each])
                for row, tensors in enumerate(each):
                    tensors[name].data = found[name][row]
        return found

    def has(self, row: int) -> bool:
        """Whether that model's own tensors are still views of these."""
        first = self._lives[row].stepper.optimizer.param_groups[0]["params"][0]
        return bool(first.data_ptr() == self.weights[row].data_ptr())

    def release(self, row: int) -> None:
        """Give a model storage of its own, so that this can be freed."""
        live = self._lives[row]
        if self.has(row):
            entries = live.stepper.optimizer.state.values()
            state = [value for entry in entries for value in entry.values() if isinstance(value, torch.Tensor)]
            for tensor in (*live.model.parameters(), *live.model.buffers(), *state):
                tensor.data = tensor.data.clone()

    def after(self, steps: int, rates: Sequence[Sequence[float]]) -> None:
        """Tell the models' own optimizers of steps that were taken; `rates` has those of each."""
        self._counters += steps
        for live, of_steps in zip(self._lives, rates, strict=True):
            if steps:
                apply_lr(live.stepper.optimizer, of_steps[steps - 1])
                live.stepper.begun = True

    def non_finite(self) -> list[str]:
        """For each model what is not finite: ``"a gradient"``, ``"a weight"`` or ``""``."""
        both = (self.gradients, self.weights)
        sums = torch.stack([tensor.sum(1) for tensor in both])  # may overflow on its own, and then is looked at again
        if bool(torch.isfinite(sums).all()):
            return [""] * len(self._lives)
        gradient, weight = (torch.isfinite(tensor).all(1).tolist() for tensor in both)
        return ["" if g and w else "a gradient" if not g else "a weight" for g, w in zip(gradient, weight, strict=True)]


def _columns(tensor: torch.Tensor, begin: int, shape: torch.Size) -> torch.Tensor:
    return tensor[:, begin : begin + shape.numel()].view(len(tensor), *shape)


def _replace(entry: dict[str, Any], name: str, row: torch.Tensor) -> None:
    """Make a state tensor a view of a row: the same object if there was one, since others may hold it."""
    value = entry.get(name)
    if isinstance(value, torch.Tensor):
        value.data = row.copy_(value)
    else:
        entry[name] = row


def _home_of_counters(optimizer: torch.optim.Optimizer) -> torch.device:
    """Where an optimizer counts its steps: on the device only where a fused kernel reads them."""
    group = optimizer.param_groups[0]
    device: torch.device = group["params"][0].device
    return device if group.get("fused") else HOST
