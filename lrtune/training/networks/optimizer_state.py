"""All the state of an optimizer, to a checkpoint's plain values and back.

``state_dict()`` of PyTorch covers the state of each parameter and the options of the groups, and ``load_state_dict()``
casts the former to the type of the parameter. Optimizers of other packages have more, as attributes: counters,
rotations, an inner optimizer, a generator. Here every attribute is saved that holds numbers. Restoring starts from an
optimizer made anew by the same call: no class or function is looked up by a name from a file.
"""

from __future__ import annotations

import copy
import enum
import logging
import random
import types
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from lrtune.errors import InputError
from lrtune.training.networks.nested import ITEMS, TENSOR, TUPLE, decoded, encoded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lrtune.training.base import State

__all__ = ["load_optimizer", "move_optimizer", "save_optimizer"]

PYTORCH_OWN = frozenset({"state", "param_groups", "defaults", "_zero_grad_profile_name"})
CONSTANT = (
    *(type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, partial),
    *(enum.Enum, logging.Logger, torch.dtype, torch.device, nn.Module),
)
"""What no optimizer changes as it trains; a module's weights are saved with the model."""

DEEPEST = 20
HOST_DEVICE = torch.device("cpu")

PARAMETER, IDENTITY, AGAIN, HOST, STRIDES = "parameter", "identity", "again", "host", "strides"
DEQUE, SET, SAME, RANDOM, OBJECT, OPTIMIZER = "deque", "set", "same", "random", "object", "optimizer"


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _beside(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The attributes that are not PyTorch's own."""
    return {
        name: value
        for name, value in vars(optimizer).items()
        if name not in PYTORCH_OWN and not name.startswith("_optimizer_")
    }


def save_optimizer(optimizer: torch.optim.Optimizer) -> State:
    """The state of each parameter by its position, the groups' options, and other attributes by name.

    TypeError if something in it cannot be written as numbers.
    """
    return _Writer(_parameters(optimizer)).optimizer(optimizer)


def load_optimizer(optimizer: torch.optim.Optimizer, saved: State) -> None:
    """Put everything back, each tensor on the device where the optimizer needs it.

    InputError if the groups or parameters differ.
    """
    _Reader(_parameters(optimizer)).optimizer(optimizer, saved)


class _Writer:
    """Writes values; two references to one tensor are so again when they are read."""

    def __init__(self, parameters: list[torch.Tensor]) -> None:
        self._places = {id(parameter): place for place, parameter in enumerate(parameters)}
        self._on_host = not parameters or parameters[0].device.type == "cpu"
        self._seen: dict[int, int] = {}
        self._states: set[int] = set()
        self._of_a_parameter = False

    def optimizer(self, optimizer: torch.optim.Optimizer) -> State:
        groups = [
            self.write({name: option for name, option in group.items() if name != "params"})
            for group in optimizer.param_groups
        ]
        shared = id(optimizer.state) in self._states  # an inner optimizer may use the outer one's
        self._states.add(id(optimizer.state))
        held = [] if shared else list(optimizer.state.items())
        self._of_a_parameter = True
        entries = {str(self._places[id(k)]): self.write(dict(v)) for k, v in held if id(k) in self._places}
        self._of_a_parameter = False
        keyed = [[self.write(k), self.write(v)] for k, v in held if id(k) not in self._places]
        beside = {name: self.write(value) for name, value in _beside(optimizer).items()}
        return {"groups": groups, "entries": entries, "keyed": keyed, "beside": beside}

    def write(self, value: Any, depth: int = 0) -> Any:
        if depth > DEEPEST:
            msg = f"a {type(value).__name__} is nested too deeply to be saved"
            raise TypeError(msg)
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, list | tuple | deque | set | frozenset | dict):
            return self._collection(value, depth + 1)
        if isinstance(value, torch.optim.Optimizer):
            return {OPTIMIZER: self.optimizer(value)}
        if type(value) is int and value in self._places:  # a key that is id(parameter)
            return {IDENTITY: self._places[value]}
        generator = _generator(value)
        if generator is not None:
            return {RANDOM: self.write(generator[0](), depth + 1)}
        return self._object(value, depth + 1)

    def _object(self, value: Any, depth: int) -> Any:
        if isinstance(value, CONSTANT):
            return {SAME: type(value).__name__}
        if hasattr(value, "__dict__") and not self._of_a_parameter:  # there it is made by a step: a new one has none
            return {OBJECT: {name: self.write(item, depth) for name, item in vars(value).items()}}
        return encoded(value)

    def _collection(self, value: Any, depth: int) -> Any:
        if isinstance(value, dict):
            return {ITEMS: [[self.write(key, depth), self.write(item, depth)] for key, item in value.items()]}
        items = [self.write(item, depth) for item in value]
        if isinstance(value, tuple):
            return {TUPLE: items}
        if isinstance(value, deque):
            return {DEQUE: items, "longest": value.maxlen}
        return items if isinstance(value, list) else {SET: items}

    def _tensor(self, tensor: torch.Tensor) -> Any:
        if id(tensor) in self._places:
            return {PARAMETER: self._places[id(tensor)]}
        if id(tensor) in self._seen:
            return {AGAIN: self._seen[id(tensor)]}
        self._seen[id(tensor)] = len(self._seen)
        plain: dict[str, Any] = encoded(tensor)
        if tensor.layout == torch.strided and not tensor.is_contiguous():  # e.g. eigenvectors: products round by order
            plain[STRIDES] = list(tensor.stride())
        return plain | {HOST: True} if tensor.device.type == "cpu" and not self._on_host else plain


class _Reader:
    """Reads what a writer wrote, in the same order; `fresh` is the value that a new optimizer has there."""

    def __init__(self, parameters: list[torch.Tensor]) -> None:
        self._parameters = parameters
        self._device = parameters[0].device if parameters else HOST_DEVICE
        self._seen: list[torch.Tensor] = []

    def optimizer(self, optimizer: torch.optim.Optimizer, saved: State) -> None:
        if len(saved["groups"]) != len(optimizer.param_groups) or len(saved["entries"]) > len(self._parameters):
            msg = "the state is of another optimizer: its groups differ; start the run again"
            raise InputError(msg)
        reading: set[int] = set()
        for group, options in zip(optimizer.param_groups, saved["groups"], strict=True):
            group.update(self.read(options, group))
            if group.get("fused") or group.get("capturable"):
                reading.update(id(parameter) for parameter in group["params"])
        entries, keyed = saved["entries"], saved.get("keyed", [])
        before = dict(optimizer.state)
        if entries or keyed:
            optimizer.state.clear()
        for place, entry in entries.items():
            parameter = self._parameters[int(place)]
            optimizer.state[parameter] = self._entry(entry, before.get(parameter, {}), counts=id(parameter) in reading)
        for key, value in keyed:
            name = self.read(key)
            optimizer.state[name] = self.read(value, before.get(name))
        for name, value in saved.get("beside", {}).items():
            if not (isinstance(value, dict) and SAME in value):
                setattr(optimizer, name, self.read(value, vars(optimizer).get(name)))

    def _entry(self, entry: Any, fresh: dict[str, Any], *, counts: bool) -> dict[str, Any]:
        """The state of a parameter; its step counter stays on the host unless a kernel reads it."""
        items = {}
        for key, value in entry[ITEMS]:
            name = self.read(key)
            on_host = name == "step" and not counts and isinstance(value, dict) and TENSOR in value
            items[name] = self.read(value | {HOST: True} if on_host else value, fresh.get(name))
        return items

    def read(self, value: Any, fresh: Any = None) -> Any:  # noqa: C901, PLR0911, PLR0912 -- a table of marks
        """The value of a written one; `fresh` is what a new optimizer has there."""
        if isinstance(value, list):
            return [self.read(item, old) for item, old in _beside_each(value, fresh)]
        if not isinstance(value, dict):
            return value
        if TENSOR in value:
            return self._tensor(value)
        if TUPLE in value:
            items = [self.read(item, old) for item, old in _beside_each(value[TUPLE], fresh)]
            return type(fresh)(*items) if hasattr(fresh, "_fields") else tuple(items)
        if ITEMS in value:
            return self._items(value[ITEMS], fresh if isinstance(fresh, dict) else {})
        if DEQUE in value:
            return deque((self.read(item, old) for item, old in _beside_each(value[DEQUE], fresh)), value["longest"])
        if SET in value:
            found = {self.read(item) for item in value[SET]}
            return frozenset(found) if isinstance(fresh, frozenset) else found
        if OBJECT in value:
            if fresh is None:
                msg = "the state holds an object that a new optimizer has not; start the run again"
                raise InputError(msg)
            for name, item in value[OBJECT].items():
                setattr(fresh, name, self.read(item, vars(fresh).get(name)))
        elif RANDOM in value:
            generator = _generator(fresh)
            if generator is None:
                msg = "the state holds a generator that a new optimizer has not; start the run again"
                raise InputError(msg)
            state = self.read(value[RANDOM])
            generator[1](state.cpu() if isinstance(state, torch.Tensor) else state)
        elif OPTIMIZER in value:
            self.optimizer(fresh, value[OPTIMIZER])
        elif PARAMETER in value:
            return self._parameters[value[PARAMETER]]
        elif IDENTITY in value:
            return id(self._parameters[value[IDENTITY]])
        elif AGAIN in value:
            return self._seen[value[AGAIN]]
        elif SAME not in value:
            return decoded(value)
        return fresh

    def _tensor(self, value: Any) -> torch.Tensor:
        tensor: torch.Tensor = decoded({TENSOR: value[TENSOR], "dtype": value["dtype"]})
        if STRIDES in value:
            tensor = torch.empty_strided(tensor.shape, value[STRIDES], dtype=tensor.dtype).copy_(tensor)
        if not value.get(HOST):
            tensor = tensor.to(self._device)
        self._seen.append(tensor)
        return tensor

    def _items(self, written: Any, fresh: dict[Any, Any]) -> Any:
        items = {}
        for name, item in written:
            key = self.read(name)
            items[key] = self.read(item, fresh.get(key))
        if type(fresh) is dict:
            return items
        made = copy.copy(fresh)  # e.g. a defaultdict
        made.clear()
        made.update(items)
        return made


def _beside_each(items: list[Any], fresh: Any) -> Iterator[tuple[Any, Any]]:
    """Each item with the one at its place in a new optimizer, where there is one."""
    there = list(fresh) if isinstance(fresh, list | tuple | deque) else []
    return zip(items, [*there, *[None] * len(items)], strict=False)


def _generator(value: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]] | None:
    """How the state of a random generator is read and set; None for anything else."""
    if isinstance(value, torch.Generator):
        return value.get_state, value.set_state
    if isinstance(value, random.Random):
        return value.getstate, value.setstate
    if isinstance(value, np.random.RandomState):
        return value.get_state, value.set_state
    if isinstance(value, np.random.Generator):
        return lambda: value.bit_generator.state, partial(setattr, value.bit_generator, "state")
    return None


def move_optimizer(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Bring the entries to the device of their parameters, as after a move of the model; each stays the same tensor."""
    for group in optimizer.param_groups:
        fused = bool(group.get("fused") or group.get("capturable"))
        for parameter in group["params"]:
            for name, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor) and (name != "step" or fused):
                    value.data = value.data.to(device)
