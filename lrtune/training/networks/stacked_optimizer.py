"""The steps of SGD, Adam and AdamW for several models at once, each with options of its own.

Weights, gradients and each kind of state are tensors of shape (members, width): a row is all that one model trains.
The operations are those of :mod:`torch.optim`; an option that differs among members is a column. An optimizer's own
state tensors are rows of these, so that it can go on by itself at any time.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import torch

from lrtune.training.networks.optimizers import FUSED_ON_CPU, FUSED_SAFE, RATIO

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["STATE", "StackedOptimizer", "why_not_stacked"]

Column: TypeAlias = "float | torch.Tensor"

STATE: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.SGD: ("momentum_buffer",),
    torch.optim.Adam: ("exp_avg", "exp_avg_sq"),
    torch.optim.AdamW: ("exp_avg", "exp_avg_sq"),
}
"""State of each parameter beside its counter of steps."""

UNUSUAL = ("maximize", "amsgrad", "capturable", "differentiable", "dampening")
HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")


def why_not_stacked(optimizer: torch.optim.Optimizer) -> str:
    """Why there are no such steps for an optimizer; ``""`` where there are."""
    if type(optimizer) not in STATE:
        return f"there is no stacked step of the optimizer {type(optimizer).__name__}, only of SGD, Adam and AdamW"
    if any(getattr(optimizer, name, None) for name in HOOKS) or "step" in vars(optimizer):
        return "the optimizer has hooks"
    for group in optimizer.param_groups:
        odd = [name for name in UNUSUAL if group.get(name)]
        odd += ["eps"] if group.get("eps") == 0 else []  # divides zeros by zeros between parameters
        odd += [name for name, value in group.items() if isinstance(value, torch.Tensor)]
        if odd:
            return f"there is no stacked step of the optimizer's option {odd[0]}"
    return ""


@dataclass(slots=True)
class _Group:
    """A parameter group: its columns of each tensor, and the options of each member."""

    weights: torch.Tensor
    gradients: torch.Tensor
    state: list[torch.Tensor]
    scratch: torch.Tensor
    ratio: Column
    decay: Column
    momentum: Column
    second: Column
    eps: Column
    nesterov: bool
    decoupled: bool
    rows: list[_Row]


class _Row(NamedTuple):
    """One member's part of a group, as PyTorch's fused kernel takes it; `taken` counts its steps."""

    weights: torch.Tensor
    gradients: torch.Tensor
    state: list[torch.Tensor]
    taken: torch.Tensor
    options: dict[str, float]


class StackedOptimizer:
    """Takes the steps of several optimizers of one class.

    Parameters
    ----------
    optimizers
        One for each member, all with the same groups.
    weights, gradients, state
        Of shape (members, width); one of `state` for each name in :data:`STATE`.
    edges
        Where the groups begin along the width, and the width.
    counters
        Steps that each member has taken, shape (members,); read by :meth:`begin`.
    """

    def __init__(
        self,
        optimizers: Sequence[torch.optim.Optimizer],
        *,
        weights: torch.Tensor,
        gradients: torch.Tensor,
        state: Sequence[torch.Tensor],
        edges: Sequence[int],
        counters: torch.Tensor,
    ) -> None:
        self._sgd = isinstance(optimizers[0], torch.optim.SGD)
        self._counters, self._taken = counters, np.zeros(0)
        self._device, self._dtype = weights.device, weights.dtype
        scratch = torch.empty_like(weights)
        self._groups = []
        for number, (begin, end) in enumerate(pairwise(edges)):
            options = [optimizer.param_groups[number] for optimizer in optimizers]
            first = options[0]
            self._groups.append(
                _Group(
                    weights=weights[:, begin:end],
                    gradients=gradients[:, begin:end],
                    state=[one[:, begin:end] for one in state],
                    scratch=scratch[:, begin:end],
                    ratio=self._column([one[RATIO] for one in options]),
                    decay=self._column([one["weight_decay"] for one in options]),
                    momentum=self._column([one["momentum"] if self._sgd else one["betas"][0] for one in options]),
                    second=self._column([0.0 if self._sgd else one["betas"][1] for one in options]),
                    eps=self._column([one.get("eps", 0.0) for one in options]),
                    nesterov=bool(first.get("nesterov")),
                    decoupled=bool(first.get("decoupled_weight_decay", isinstance(optimizers[0], torch.optim.AdamW))),
                    rows=[],
                )
            )
            if not self._sgd and FUSED_ON_CPU and weights.is_cpu and weights.dtype in FUSED_SAFE:
                self._groups[-1].rows = _rows(self._groups[-1], options)
        betas = [[one.get("betas", (0.0, 0.0)) for one in optimizer.param_groups] for optimizer in optimizers]
        self._betas = np.array(betas, np.float64)

    def _column(self, values: Sequence[float]) -> Column:
        """A number where it is the same for all members, else a column."""
        if len(set(values)) == 1:
            return float(values[0])
        return torch.tensor(values, dtype=self._dtype, device=self._device).unsqueeze(1)

    def begin(self) -> None:
        """Read how many steps each member has taken, since it may have gone on alone."""
        self._taken = self._counters.cpu().numpy().astype(np.float64)

    def step(self, rates: torch.Tensor) -> None:
        """Take a step; `rates` are the members' learning rates, a column of shape (members, 1)."""
        self._taken += 1
        for number, group in enumerate(self._groups):
            lr = rates if isinstance(group.ratio, float) and group.ratio == 1 else rates * group.ratio
            if self._sgd:
                _sgd(group, lr)
            elif group.rows:
                _adam_rows(group, lr.flatten().tolist(), self._taken)
            else:
                corrections = 1 - self._betas[:, number] ** self._taken[:, None]
                _adam(group, lr, self._column(corrections[:, 0].tolist()), self._column(corrections[:, 1].tolist()))


def _sgd(group: _Group, lr: torch.Tensor) -> None:
    """As ``_single_tensor_sgd``."""
    weights, step, scratch = group.weights, group.gradients, group.scratch
    if not _zero(group.decay):
        step = torch.mul(weights, group.decay, out=scratch).add_(step)
    if not _zero(group.momentum):
        (held,) = group.state
        held.mul_(group.momentum).add_(step)
        step = torch.mul(held, group.momentum).add_(step) if group.nesterov else held
    weights.sub_(torch.mul(step, lr, out=scratch))


def _adam(group: _Group, lr: torch.Tensor, first: Column, second: Column) -> None:
    """As ``_single_tensor_adam``; `first` and `second` are the bias corrections."""
    weights, step, scratch = group.weights, group.gradients, group.scratch
    average, square = group.state
    if not _zero(group.decay):
        if group.decoupled:
            weights.mul_(1 - lr * group.decay)
        else:
            step = torch.mul(weights, group.decay).add_(step)
    torch.sub(step, average, out=scratch)
    average.add_(scratch.mul_(1 - group.momentum))
    square.mul_(group.second).add_(torch.mul(step, step, out=scratch).mul_(1 - group.second))
    torch.sqrt(square, out=scratch).div_(second**0.5).add_(group.eps)
    weights.sub_(torch.div(average, scratch, out=scratch).mul_(lr / first))


def _rows(group: _Group, options: Sequence[dict[str, Any]]) -> list[_Row]:
    parts = zip(group.weights, group.gradients, zip(*group.state, strict=True), options, strict=True)
    return [
        _Row(
            weights,
            gradients,
            list(state),
            torch.zeros((), dtype=torch.float32, device="cpu"),
            {
                "beta1": one["betas"][0],
                "beta2": one["betas"][1],
                "weight_decay": one["weight_decay"],
                "eps": one["eps"],
            },
        )
        for weights, gradients, state, one in parts
    ]


def _adam_rows(group: _Group, rates: Sequence[float], taken: np.ndarray[Any, Any]) -> None:
    """By the fused kernel, a call for each member: it reads and writes everything once."""
    update: Any = torch._fused_adamw_ if group.decoupled else torch._fused_adam_
    for row, lr, count in zip(group.rows, rates, taken.tolist(), strict=True):
        row.taken.fill_(count)
        update(
            [row.weights],
            [row.gradients],
            row.state[:1],
            row.state[1:],
            [],
            [row.taken],
            lr=lr,
            **row.options,
            amsgrad=False,
            maximize=False,
        )


def _zero(column: Column) -> bool:
    return isinstance(column, float) and column == 0
