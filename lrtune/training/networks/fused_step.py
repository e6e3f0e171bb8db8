"""Backward pass and optimizer step by calling PyTorch's engine and kernels directly, without its wrappers' overhead.

A step of a small model takes some 100 us on the CPU. Of these ``loss.backward()`` spends 30 before the engine
starts, on checks for tensor subclasses and compilers, and ``optimizer.step()`` 30 to 70 on hooks, on the choice
among its implementations, and on collecting the same tensors each time. Here the engine and kernels that they end in
are called, so the numbers are theirs bit for bit; unusual options, tensors and optimizers take the usual way.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch

from lrtune.training.networks.optimizers import plain_step

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["backward", "step_of"]

Tensors: TypeAlias = list[torch.Tensor]
Group: TypeAlias = dict[str, Any]
Kernel: TypeAlias = "Callable[[Group, Tensors, Tensors, list[Tensors]], None]"

UNUSUAL = ("maximize", "amsgrad", "foreach", "capturable", "differentiable")
"""Options that leave the steps to the optimizer itself."""

ENGINE = getattr(getattr(torch.autograd, "Variable", None), "_execution_engine", None)


def backward(loss: torch.Tensor, one: torch.Tensor | None = None) -> None:
    """Add the gradients of a loss without dimensions to its leaves.

    `one` is its gradient with respect to itself, to be reused where no user's code can change it.
    """
    if ENGINE is None or type(loss) is not torch.Tensor or not loss.is_cpu or not loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]  # PyTorch is untyped here
        return
    keep, differentiable, leaves = False, False, ()  # as torch.autograd.backward calls it: no graph, all leaves
    one = torch.ones_like(loss) if one is None or one.dtype != loss.dtype else one
    ENGINE.run_backward((loss,), (one,), keep, differentiable, leaves, allow_unreachable=True, accumulate_grad=True)


def step_of(optimizer: torch.optim.Optimizer) -> Callable[[], Any]:
    """The function that takes an optimizer's step: kernels for SGD, Adam and AdamW on the CPU, else its own step."""
    own = plain_step(optimizer)
    return own if own == optimizer.step or type(optimizer) not in STATE else FusedStep(optimizer, own).step


class FusedStep:
    """An optimizer's steps over lists of tensors that are collected once.

    The first step is the optimizer's own, which creates its state. So is every step at which a parameter has no
    gradient, and all of them where there are options that no kernel here has.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, own: Callable[[], Any]) -> None:
        self._optimizer, self._own = optimizer, own
        self._groups: list[_GroupTensors] | None = None
        self._no_grad = torch.no_grad()

    def step(self) -> None:
        """Take a step."""
        groups = self._groups
        gradients = _gradients(groups) if groups else None
        if groups and gradients:
            with self._no_grad:
                for (group, parameters, state, kernel), found in zip(groups, gradients, strict=True):
                    kernel(group, parameters, found, state)
            return
        self._own()
        if groups is None:
            self._groups = _collected(self._optimizer)


class _GroupTensors(NamedTuple):
    """A group's parameters, their state tensors by name, and the kernel that updates them all."""

    group: Group
    parameters: Tensors
    state: list[Tensors]
    kernel: Kernel


def _gradients(groups: list[_GroupTensors]) -> list[Tensors] | None:
    """The gradients of each group; None where one is missing."""
    found = []
    for group in groups:
        gradients = []
        for parameter in group.parameters:
            gradient = parameter.grad
            if gradient is None:
                return None
            gradients.append(gradient)
        found.append(gradients)
    return found


def _collected(optimizer: torch.optim.Optimizer) -> list[_GroupTensors]:
    """The tensors of an optimizer that has taken a step; empty where one of its groups has no kernel here."""
    found = []
    for group in optimizer.param_groups:
        kernel = _kernel(optimizer, group)
        names = [name for name in STATE[type(optimizer)] if name != "momentum_buffer" or group["momentum"]]
        entries = [optimizer.state.get(parameter, {}) for parameter in group["params"]]
        if kernel is None or not all(isinstance(entry.get(name), torch.Tensor) for name in names for entry in entries):
            return []
        state = [[entry[name] for entry in entries] for name in names]
        found.append(_GroupTensors(group, group["params"], state, kernel))
    return found


def _kernel(optimizer: torch.optim.Optimizer, group: Group) -> Kernel | None:
    """The kernel that the optimizer itself chooses for a group."""
    gradients = [parameter.grad for parameter in group["params"]]
    odd = any(group.get(name) for name in UNUSUAL) or any(isinstance(value, torch.Tensor) for value in group.values())
    if odd or not gradients or any(g is None or g.is_sparse or g.device.type != "cpu" for g in gradients):
        return None
    fused = bool(group.get("fused"))
    if fused and len({tensor.dtype for tensor in (*gradients, *group["params"])}) > 1:
        return None
    if isinstance(optimizer, torch.optim.SGD):
        return _sgd_fused if fused else _sgd
    decoupled = group.get("decoupled_weight_decay", isinstance(optimizer, torch.optim.AdamW))  # no option before 2.7
    return partial(_adam_fused, torch._fused_adamw_ if decoupled else torch._fused_adam_) if fused else None


# -- the kernels: their names begin with an underscore, and torch.optim ends in the same calls ------------------------


def _sgd(group: Group, parameters: Tensors, gradients: Tensors, state: list[Tensors]) -> None:
    """The operations of torch.optim's ``_single_tensor_sgd``, each over all tensors at once."""
    momentum, decay = group["momentum"], group["weight_decay"]
    if decay:
        gradients = list(torch._foreach_add(gradients, parameters, alpha=decay))  # noqa: SLF001 -- PyTorch has no public kernel
    if momentum:
        (buffers,) = state
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, gradients, alpha=1 - group["dampening"])
        ahead = group["nesterov"]
        gradients = list(torch._foreach_add(gradients, buffers, alpha=momentum)) if ahead else buffers  # noqa: SLF001 -- PyTorch has no public kernel
    torch._foreach_add_(parameters, gradients, alpha=-group["lr"])


def _sgd_fused(group: Group, parameters: Tensors, gradients: Tensors, state: list[Tensors]) -> None:
    torch._fused_sgd_(
        parameters,
        gradients,
        state[0] if state else [],
        weight_decay=group["weight_decay"],
        momentum=group["momentum"],
        lr=group["lr"],
        dampening=group["dampening"],
        nesterov=group["nesterov"],
        maximize=False,
        is_first_step=False,
    )


def _adam_fused(
    update: Callable[..., Any], group: Group, parameters: Tensors, gradients: Tensors, state: list[Tensors]
) -> None:
    averages, squares, steps = state
    torch._foreach_add_(steps, 1)
    first, second = group["betas"]
    update(
        parameters,
        gradients,
        averages,
        squares,
        [],
        steps,
        lr=group["lr"],
        beta1=first,
        beta2=second,
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=False,
    )


STATE: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.SGD: ("momentum_buffer",),
    torch.optim.Adam: ("exp_avg", "exp_avg_sq", "step"),
    torch.optim.AdamW: ("exp_avg", "exp_avg_sq", "step"),
}
"""State of each parameter, in the order in which the kernel takes it."""
