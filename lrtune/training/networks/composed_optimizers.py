"""Optimizers made of others: two that share a model's parameters, and one whose updates are scaled by the schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrtune.training.base import Setup

__all__ = ["Composed", "ScaledUpdates", "plain_optimizers"]


class Composed(torch.optim.Optimizer):
    """Several optimizers as one, each with parameters of its own; all groups are its groups, all state is its state.

    Parameters
    ----------
    parts
        Optimizers that have not taken a step yet. Their options stay their own: no group has defaults of another.
    """

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        groups = [group for part in parts for group in part.param_groups]
        super().__init__([{"params": group["params"]} for group in groups], {})
        self.parts = list(parts)
        self.param_groups = groups  # the very dicts, so that a learning rate set here is theirs
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
        """What it is made of, in the order of its steps; `of` says it of one optimizer."""
        return [setup for part in self.parts for setup in of(part)]


class ScaledUpdates(Composed):
    """An optimizer that reads its learning rate once, made to follow a schedule: each of its updates is scaled.

    It always sees the peak learning rate that it was made with; what a step has changed is multiplied by the current
    learning rate over the peak. At the peak nothing differs from the optimizer alone, bit for bit.

    Parameters
    ----------
    optimizer
        Such as Rprop, made at its peak learning rates.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer)
        self.peaks = [float(group["lr"]) for group in optimizer.param_groups]

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take a step at the peak, and keep of it the schedule's share."""
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
        """The same, and that its updates are scaled."""
        return [{**setup, "scaled": True} for setup in super().setups(of)]

    def _set(self, rates: list[float]) -> None:
        for group, rate in zip(self.param_groups, rates, strict=True):
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


def plain_optimizers(optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    """Those that it is composed of, to the last; itself alone where it is not."""
    if not isinstance(optimizer, Composed):
        return [optimizer]
    return [one for part in optimizer.parts for one in plain_optimizers(part)]
