"""The class, options and parameter groups of an optimizer as plain JSON, for code that makes the same one.

They are read from the optimizer itself, however it was made. Options are those of the class's constructor that differ
from their defaults; parameters are given by their names in the model.
"""

from __future__ import annotations

import bisect
import inspect
import math
from functools import partial
from typing import TYPE_CHECKING, Any

from lrtune.training.networks.averaged_weights import has_averaged_weights
from lrtune.training.networks.composed_optimizers import Composed
from lrtune.training.networks.optimizers import RATIO
from lrtune.training.setups import plain, reference

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lrtune.training.base import Setup

__all__ = ["optimizer_setup"]

NO_SETTINGS = frozenset({"params", "lr", "foreach", "fused", "capturable", "differentiable", "defaults"})
"""Arguments of constructors that are given elsewhere, or only choose among kernels that do the same."""

VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
NOWHERE = object()


def optimizer_setup(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Setup]:
    """The optimizer of a model in training, before its first step.

    Returns
    -------
    list of Setup
        One for each part of a composed optimizer (:mod:`lrtune.training.networks.composed_optimizers`), in step order,
        or one alone. Each has ``optimizer``, a :func:`~lrtune.training.setups.reference` to its class; ``options`` of
        the constructor by name; ``unread``, names of those that cannot be read from it; ``groups``, each with its
        ``ratio`` to the recipe's learning rate, ``options`` of its own, and ``parameters``, their names, or of a
        module all of whose trained parameters are in the group its name and a dot (``[""]``: all of the model), None
        where they are not the model's; ``two_points``, whether it has ``train()`` and ``eval()``;
        ``scaled``, whether it steps at its peak and each update is multiplied by the learning rate over the peak;
        ``changes_lr``, whether its constructor changes the learning rate that it is given, so that groups need their
        own.
    """
    if isinstance(optimizer, Composed):
        return optimizer.setups(partial(optimizer_setup, model))
    return [_one(model, optimizer)]


def _one(model: nn.Module, optimizer: torch.optim.Optimizer) -> Setup:
    arguments = _arguments(optimizer)
    groups: list[dict[str, Any]] = [
        {"ratio": float(group[RATIO]), "parameters": found, "options": {}}
        for group, found in zip(optimizer.param_groups, _named(model, optimizer), strict=True)
    ]
    options, unread = {}, _elsewhere(optimizer)
    for name, default in arguments.items():
        try:
            values = [plain(value) for value in _values(optimizer, name)]
            usual = plain(default) if default is not inspect.Parameter.empty else NOWHERE
        except TypeError:
            unread.append(name)
            continue
        if all(value == values[0] for value in values):
            if values[0] != usual:
                options[name] = values[0]
            continue
        for group, value in zip(groups, values, strict=True):
            group["options"][name] = value
    return {
        "optimizer": reference(type(optimizer)),
        "options": options,
        "unread": unread,
        "groups": groups,
        "two_points": has_averaged_weights(optimizer),
        "scaled": False,
        "changes_lr": _changes_lr(optimizer),
    }


def _changes_lr(optimizer: torch.optim.Optimizer) -> bool:
    group = optimizer.param_groups[0]
    given = float(group["lr"]) / group[RATIO] if group[RATIO] else 0.0
    return not math.isclose(float(optimizer.defaults.get("lr", math.nan)), given, rel_tol=1e-9)


def _arguments(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The constructor's arguments that are settings, with their defaults; ``**options`` are those of the next base."""
    found: dict[str, Any] = {}
    for base in type(optimizer).__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = _parameters(base)
        found = {p.name: p.default for p in parameters if p.kind not in VARIADIC} | found
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
            break
    return {name: default for name, default in found.items() if name not in NO_SETTINGS}


def _parameters(kind: type) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(vars(kind)["__init__"]).parameters.values())[1:]
    except (TypeError, ValueError):  # it has no signature that could be read
        return []


def _elsewhere(optimizer: torch.optim.Optimizer) -> list[str]:
    """Settings of its groups that no constructor of its classes takes: it passes them to another optimizer."""
    bases = [base for base in type(optimizer).__mro__ if "__init__" in vars(base)]
    taken = {p.name for base in bases for p in _parameters(base)}
    return [name for name in optimizer.defaults if name not in taken | NO_SETTINGS]


def _values(optimizer: torch.optim.Optimizer, name: str) -> list[Any]:
    """An argument as each group has it, or as the optimizer itself has; TypeError if neither has it."""
    own = vars(optimizer).get(name, optimizer.defaults.get(name, NOWHERE))
    values = [group.get(name, own) for group in optimizer.param_groups]
    if any(value is NOWHERE for value in values):
        raise TypeError(name)
    return values


def _named(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[list[str] | None]:
    """For each group the names of its parameters and modules; None where a parameter is not the model's."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    trained = sorted(names[id(p)] for p in model.parameters() if p.requires_grad)
    found: list[list[str] | None] = []
    for group in optimizer.param_groups:
        mine = [names.get(id(p)) for p in group["params"] if p.requires_grad or id(p) not in names]
        known = [name for name in mine if name is not None]
        found.append(_short(sorted(known), trained) if len(known) == len(mine) else None)
    return found


def _short(mine: list[str], trained: list[str]) -> list[str]:
    """Names of parameters, those of a whole module as its name and a dot; both lists are sorted."""
    found: list[str] = []
    for name in mine:
        if found and _whole(found[-1]) and name.startswith(found[-1]):
            continue
        starts = (name[:end] for end in [0, *(place + 1 for place, letter in enumerate(name) if letter == ".")])
        found.append(next((s for s in starts if _count(mine, s) == _count(trained, s)), name))
    return found


def _whole(name: str) -> bool:
    """Whether it is a module's and not a parameter's."""
    return not name or name.endswith(".")


def _count(names: list[str], start: str) -> int:
    """How many of the sorted names begin so."""
    return bisect.bisect_left(names, f"{start}\U0010ffff") - bisect.bisect_left(names, start)
