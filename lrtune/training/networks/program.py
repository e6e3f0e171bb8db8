"""Records the tensor operations of a function once, and repeats them without the function's overhead.

A step of several small models at once spends half its time in Python: in modules, and in the transforms of
:mod:`torch.func`. The operations that these end in are the same at each step, as long as shapes are the same and
nothing depends on values, which :func:`torch.func.vmap` refuses. They are seen by a dispatch mode, as
:func:`torch.fx.experimental.proxy_tensor.make_fx` does it; here that takes milliseconds, so that it can be done anew
whenever a model joins or leaves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Program", "recorded"]

Program: TypeAlias = "Callable[..., Sequence[torch.Tensor]]"

SAME_TENSOR = frozenset({"expand", "view", "_unsafe_view", "detach", "alias", "permute"})
"""Operations that return their argument where they do not change its shape and strides."""

FRESH = frozenset({"empty", "new_empty", "empty_like", "new_empty_strided", "empty_strided"})


class _Call(NamedTuple):
    operation: Any
    args: Sequence[Any]
    options: dict[str, Any]
    found: Any

    @property
    def name(self) -> str:
        return str(self.operation.overloadpacket.__name__)

    @property
    def changes(self) -> bool:
        """Whether it changes a tensor in place; BatchNorm's kernels do so to their running averages unannounced."""
        return bool(self.operation._schema.is_mutable) or "batch_norm" in self.name  # noqa: SLF001 -- no public name


class _Recorder(TorchDispatchMode):
    """Sees every operation, below all transforms."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch is untyped here
        self.calls: list[_Call] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        found = operation(*args, **(kwargs or {}))
        self.calls.append(_Call(operation, args, kwargs or {}, found))
        return found


def recorded(function: Callable[..., Sequence[torch.Tensor]], inputs: Sequence[torch.Tensor]) -> Program:
    """The operations of ``function(*inputs)`` as a function of tensors of the same shapes and types.

    The function is called once, and may change its inputs in place. It must return tensors that it has computed; what
    else it reads is a constant. ValueError where it returns anything else.
    """
    with torch.no_grad(), _Recorder() as recorder:
        outputs = list(function(*inputs))
    return _Writer(recorder.calls, list(inputs), outputs).program()


class _Writer:
    """Writes the calls as the source of a Python function, without those that do nothing or were made before."""

    def __init__(self, calls: list[_Call], inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> None:
        self._calls, self._outputs = calls, outputs
        self._pure = not any(call.changes for call in calls)
        self._names = {id(tensor): f"i{number}" for number, tensor in enumerate(inputs)}
        self._inputs = [self._names[id(tensor)] for tensor in inputs]
        self._constants: dict[str, Any] = {}
        self._made: dict[str, str] = {}
        self._lines: list[tuple[list[str], str, bool]] = []  # names that are set, expression, whether it is needed

    def program(self) -> Program:
        for call in self._calls:
            self._add(call)
        missing = [number for number, tensor in enumerate(self._outputs) if id(tensor) not in self._names]
        if missing:
            msg = f"output {missing[0]} is no result of an operation"
            raise ValueError(msg)
        returned = [self._names[id(tensor)] for tensor in self._outputs]
        body = "".join(f"    {line}\n" for line in self._used(returned))
        source = f"def program({', '.join(self._inputs)}):\n{body}    return [{', '.join(returned)}]\n"
        scope: dict[str, Any] = {"__builtins__": {}, **self._constants}
        exec(compile(source, "<recorded>", "exec"), scope)  # noqa: S102 -- names and numbers alone, as dataclasses do it
        program: Program = scope["program"]
        return program

    def _add(self, call: _Call) -> None:
        if self._same(call):
            self._names[id(call.found)] = self._name(call.args[0])
            return
        arguments = [self._written(value) for value in call.args]
        arguments += [f"{name}={self._written(value)}" for name, value in call.options.items()]
        operation = getattr(call.operation, "_op", call.operation)  # without a call of Python's in between
        expression = f"{self._constant(operation)}({', '.join(arguments)})"
        several = isinstance(call.found, list | tuple)
        results = list(call.found) if several else [call.found]
        if self._pure and not several:
            if expression in self._made:
                self._names[id(call.found)] = self._made[expression]
                return
            if not any(name[0] in "iv" for name in self._read(call)) and call.name not in FRESH:
                return  # a constant: computed once, and found among them when it is read
        names = []
        for tensor in results:
            names.append(f"v{len(self._names)}")
            if isinstance(tensor, torch.Tensor) and (self._pure or id(tensor) not in self._names):
                self._names[id(tensor)] = names[-1]
        if not several:
            self._made[expression] = names[0]
        self._lines.append((names, f"{', '.join(names)}{',' if several else ''} = {expression}", call.changes))

    def _same(self, call: _Call) -> bool:
        """Whether the result is the first argument as it was."""
        if not isinstance(call.found, torch.Tensor) or not call.args or not isinstance(call.args[0], torch.Tensor):
            return False
        given, found = call.args[0], call.found
        alike = given.shape == found.shape and given.stride() == found.stride() and given.dtype == found.dtype
        times_one = self._pure and call.name == "mul" and len(call.args) > 1 and _is_one(call.args[1])
        return alike and (call.name in SAME_TENSOR or times_one)

    def _read(self, call: _Call) -> Iterator[str]:
        return (self._name(tensor) for tensor in _tensors([*call.args, *call.options.values()]))

    def _name(self, tensor: torch.Tensor) -> str:
        name = self._names.get(id(tensor))
        if name is None:
            name = self._names[id(tensor)] = self._constant(tensor)
        return name

    def _constant(self, value: Any) -> str:
        for name, known in self._constants.items():
            if known is value:
                return name
        name = f"c{len(self._constants)}"
        self._constants[name] = value
        return name

    def _written(self, value: Any) -> str:
        if isinstance(value, torch.Tensor):
            return self._name(value)
        if isinstance(value, list | tuple):
            return f"[{', '.join(self._written(item) for item in value)}]"
        return repr(value) if value is None or type(value) in (int, bool) else self._constant(value)

    def _used(self, returned: list[str]) -> list[str]:
        """The lines that are needed, each with what is freed after it."""
        alive, lines = set(returned), []
        for names, line, changes in reversed(self._lines):
            if not changes and not alive.intersection(names):
                continue
            arguments = set(_words(line)) - set(names)
            free = sorted(name for name in (arguments | set(names)) - alive if name[0] == "v")
            lines.append(f"{line}; del {', '.join(free)}" if free else line)
            alive |= arguments
        return lines[::-1]


def _is_one(value: Any) -> bool:
    return type(value) in (int, float) and value == 1


def _words(line: str) -> list[str]:
    plain = "".join(letter if letter.isalnum() else " " for letter in line)
    return [word for word in plain.split() if word[0] == "v" and word[1:].isdigit()]


def _tensors(values: Sequence[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
