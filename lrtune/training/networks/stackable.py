"""Which runs can be trained as one model with a leading dimension, and why others cannot.

All that differs among members is numbers in tensors: weights, buffers, the optimizer's options. Their modules must do
the same, which is seen by their classes and attributes, and the options of a trainer that have no stacked form are
refused by name.
"""

from __future__ import annotations

import functools
import types
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.utils.parametrize import type_before_parametrizations

from lrtune.training.networks.data import TensorSource
from lrtune.training.networks.stacked_optimizer import STATE, why_not_stacked

if TYPE_CHECKING:
    from collections.abc import Hashable

    from torch import nn

    from lrtune.training.networks.build import NetworkSettings
    from lrtune.training.networks.run import NetworkMember

__all__ = ["UnstackableError", "attributes", "difference", "hooked", "key_of", "state_names", "why_not_settings"]

TENSORS = frozenset({"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"})
CODE = (types.BuiltinFunctionType, types.ModuleType, type, torch.dtype, torch.device)
HOOKS = frozenset({"_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"})
DEEPEST = 8


class UnstackableError(Exception):
    """Runs cannot be stacked; the message is the reason, the rest of a sentence. It never leaves the trainer."""


def why_not_settings(settings: NetworkSettings) -> str:
    """Why no runs of a trainer can be stacked; ``""`` where some may."""
    if not isinstance(settings.train, TensorSource):
        return "train_data is not tensors in memory"
    if settings.precision != "float32":
        return f"precision={settings.precision!r} has no stacked form"
    if settings.accumulate > 1:
        return "accumulate has no stacked form"
    if settings.compiled is not None:
        return "the model is compiled"
    loss = settings.objective.torch_loss
    if loss is not None and loss.class_weight is not None:
        return "a loss with class weights has no stacked form"
    return ""


def key_of(member: NetworkMember) -> Hashable:
    """What members that are stacked have in common, beside their modules; UnstackableError where one cannot be."""
    live = member.live
    if live is None:
        msg = "memory ran out as a model was made"
        raise UnstackableError(msg)
    optimizer, model = live.stepper.optimizer, live.model
    why = why_not_stacked(optimizer)
    if not why and live.stepper.micro_batch is not None:
        why = "batches are cut to fit into memory"
    if not why and any(getattr(module, "sparse", False) for module in model.modules()):
        why = "gradients are sparse"
    tensors = [*model.named_parameters(), *model.named_buffers()]
    if not why and len({(tensor.device, tensor.dtype) for tensor in model.parameters()}) > 1:
        why = "the model has parameters of several types or devices"
    names = {id(tensor): name for name, tensor in model.named_parameters()}
    if not why and any(id(p) not in names for group in optimizer.param_groups for p in group["params"]):
        why = "the optimizer trains tensors that are not the model's parameters"
    if why:
        raise UnstackableError(why)
    groups = tuple(
        (
            tuple(names[id(parameter)] for parameter in group["params"]),
            bool(group.get("nesterov")),
            bool(group.get("momentum")),
            bool(group.get("decoupled_weight_decay", False)),
        )
        for group in optimizer.param_groups
    )
    shapes = tuple((name, tuple(tensor.shape), tensor.dtype, tensor.requires_grad) for name, tensor in tensors)
    size = member.settings.train.batch_size(member.recipe, member.settings.batch_size)
    return type(optimizer), groups, shapes, size, member.per_epoch


def state_names(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """Names of the state that an optimizer has of each parameter."""
    momentum = any(group.get("momentum") for group in optimizer.param_groups)
    return STATE[type(optimizer)] if momentum or not isinstance(optimizer, torch.optim.SGD) else ()


def attributes(model: nn.Module) -> dict[str, Any]:
    """All that a model's modules hold beside parameters, buffers and modules, by name."""
    found: dict[str, Any] = {}
    for path, module in model.named_modules():
        found[path] = type_before_parametrizations(module)  # a parametrized module has a class of its own
        for name, value in vars(module).items():
            if name not in TENSORS and "state_dict" not in name:
                found[f"{path}.{name}".removeprefix(".")] = value
    return found


def hooked(model: nn.Module) -> bool:
    """Whether a model's modules or parameters have hooks, which would not be called."""
    held = (value for name, value in attributes(model).items() if name.rpartition(".")[2] in HOOKS)
    return any(held) or any(parameter._backward_hooks for parameter in model.parameters())  # noqa: SLF001 -- no public name


def difference(first: dict[str, Any], second: dict[str, Any]) -> str:
    """The name of an attribute in which two models differ; ``""`` where there is none."""
    if first.keys() != second.keys():
        return min(first.keys() ^ second.keys())
    return next((name or "class" for name, value in first.items() if not _alike(value, second[name])), "")


def _alike(one: Any, two: Any, depth: int = 0) -> bool:  # noqa: C901, PLR0911, PLR0912 -- a table of types
    if one is two:
        return True
    if type(one) is not type(two) or depth > DEEPEST:
        return False
    if isinstance(one, torch.nn.Parameter | weakref.ref):  # a second way to what is registered
        return True
    if isinstance(one, torch.Tensor):
        return one.shape == two.shape and torch.equal(one, two)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, two)
    if isinstance(one, dict):
        return list(one) == list(two) and all(_alike(value, two[name], depth + 1) for name, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(_alike(a, b, depth + 1) for a, b in zip(one, two, strict=True))
    if isinstance(one, types.MethodType):
        return one.__func__ is two.__func__
    if isinstance(one, types.FunctionType):
        cells = [[cell.cell_contents for cell in function.__closure__ or ()] for function in (one, two)]
        same = one.__code__ == two.__code__ and _alike(one.__defaults__, two.__defaults__, depth + 1)
        return same and _alike(cells[0], cells[1], depth + 1)
    if isinstance(one, functools.partial):
        parts = [(found.func, found.args, found.keywords) for found in (one, two)]
        return _alike(parts[0], parts[1], depth + 1)
    if isinstance(one, torch.nn.Module):  # its parameters are compared where it is registered
        return difference(attributes(one), attributes(two)) == ""
    if isinstance(one, CODE) or not hasattr(one, "__dict__"):
        try:
            return bool(one == two)
        except (RuntimeError, TypeError, ValueError):
            return False
    return _alike(vars(one), vars(two), depth + 1)
