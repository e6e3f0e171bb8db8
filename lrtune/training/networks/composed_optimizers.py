"""Optimizers made of others: two that share a model's parameters, and one whose updates are scaled by the schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrtune.training.base import Setup

__all__ = ["Composed", "ScaledUpdates", "plain_optimizers"]


class Composed(torch.optim.Optimizer):
    """Several optimizers as one, each with parameters of its own; their groups and state are its own.

    The parts have not taken a step yet. Their groups keep their own options.
    """

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        groups = [group for part in parts for group in part.param_groups]
        super().__init__([{"params": group["params"]} for group in groups], {})
        self.parts = list(parts)
        self.param_groups = groups  # the same dicts, so that a learning rate set here is set in the parts
        self.state = parts[0].state
        for part in parts[1:]:
            self.state.update(part.state)
            part.state = self.state

    def step(self, closure: Any = None) -> Any:
        """Take a step with each part; the loss is never evaluated here."""
        del closure
        for part in self.parts:
            part.step()

    def setups(self, of: Callable[[torch.optim.Optimizer], list[Setup]]) -> list[Setup]:
        """The setup of each part, in the order of steps; `of` gives that of one optimizer."""
        return [setup for part in self.parts for setup in of(part)]


class ScaledUpdates(Composed):
    """Makes an optimizer that reads its learning rate at its first step only follow a schedule.

    Its steps use the peak learning rate that it was made with; each update is then multiplied by the current learning
    rate over the peak. At the peak it is the optimizer alone, bit for bit.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer)
        self.peaks = [float(group["lr"]) for group in optimizer.param_groups]

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take a step at the peak, and scale its update by the schedule."""
        rates = [float(group["lr"]) for group in self.param_groups]
        shares = [rate / peak if peak else 1.0 for rate, peak in zip(rates, self.peaks, strict=True)]
        both = zip(self.param_groups, shares, strict=True)
        scaled = [(group["params"], share) for group, share in both if share != 1.0]
        before = [[parameter.clone() for parameter in parameters] for parameters, _ in scaled]
        self._set(self.peaks)
        super().step(closure)
        self._set(rates)
        for (parameters, share), olds in zip(scaled, before, strict=True):
            for parameter, old in zip(parameters, olds, strict=True):
                parameter.copy_(old + share * (parameter - old))

    def setups(self, of: Callable[[torch.optim.Optimizer], list[Setup]]) -> list[Setup]:
        """The same, with `scaled` set."""
        return [{**setup, "scaled": True} for setup in super().setups(of)]

    def _set(self, rates: list[float]) -> None:
        for group, rate in zip(self.param_groups, rates, strict=True):
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


def plain_optimizers(optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    """The optimizers that one is composed of; itself alone where it is not composed."""
    if not isinstance(optimizer, Composed):
        return [optimizer]
    return [one for part in optimizer.parts for one in plain_optimizers(part)]
