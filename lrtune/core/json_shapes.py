"""Validation of stored JSON: whether a value has the expected shape, and a clause that says what is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["FLAG", "MAPPING", "NOTHING", "NUMBER", "TEXT", "WHOLE", "Each", "FixedList", "Named", "Shape", "wrong"]


@dataclass(frozen=True, slots=True)
class Plain:
    """A value of one kind: its name in a message, and the test for it."""

    name: str
    fits: Callable[[Any], bool]

    def wrong(self, value: Any, where: str) -> str:
        """See :func:`wrong`."""
        return "" if self.fits(value) else f"{where} is {_kind(value)}, not {self.name}"


@dataclass(frozen=True, slots=True)
class Each:
    """A list whose items all have one shape."""

    item: Shape

    def wrong(self, value: Any, where: str) -> str:
        """See :func:`wrong`."""
        if not isinstance(value, list):
            return f"{where} is {_kind(value)}, not a list"
        return _first(wrong(item, self.item, f"{where}[{i}]") for i, item in enumerate(value))


@dataclass(frozen=True, slots=True)
class Named:
    """A mapping whose values all have one shape."""

    item: Shape

    def wrong(self, value: Any, where: str) -> str:
        """See :func:`wrong`."""
        found = MAPPING.wrong(value, where)
        return found or _first(wrong(item, self.item, _under(where, name)) for name, item in value.items())


@dataclass(frozen=True, slots=True)
class FixedList:
    """A list of a fixed length; each item has a shape of its own."""

    items: tuple[Shape, ...]

    def wrong(self, value: Any, where: str) -> str:
        """See :func:`wrong`."""
        if not isinstance(value, list) or len(value) != len(self.items):
            return f"{where} is {_kind(value)}, not a list of {len(self.items)}"
        return _first(wrong(v, s, f"{where}[{i}]") for i, (v, s) in enumerate(zip(value, self.items, strict=True)))


Shape: TypeAlias = "Plain | Each | Named | FixedList | tuple[Shape, ...] | Mapping[str, Shape]"
"""A tuple names alternatives; a mapping the keys that are needed, those that end in ``?`` only if they are there."""

NOTHING = Plain("null", lambda value: value is None)
WHOLE = Plain("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool))
NUMBER = Plain(
    "a finite number", lambda value: WHOLE.fits(value) or (isinstance(value, float) and math.isfinite(value))
)
TEXT = Plain("a text", lambda value: isinstance(value, str))
FLAG = Plain("true or false", lambda value: isinstance(value, bool))
MAPPING = Plain("a mapping", lambda value: isinstance(value, dict))


def wrong(value: Any, shape: Shape, where: str = "it") -> str:
    """What does not fit, as a clause such as ``"curve.step is a text, not a list"``; empty where all fits."""
    if isinstance(shape, tuple):
        found = [wrong(value, one, where) for one in shape]
        return "" if "" in found else found[-1]
    if isinstance(shape, Mapping):
        return MAPPING.wrong(value, where) or _first(_key(value, key, one, where) for key, one in shape.items())
    return shape.wrong(value, where)


def _key(value: Mapping[str, Any], name: str, shape: Shape, where: str) -> str:
    key = name.removesuffix("?")
    if key in value:
        return wrong(value[key], shape, _under(where, key))
    return "" if name.endswith("?") else f"{_under(where, key)} is missing"


def _first(found: Iterable[str]) -> str:
    return next(filter(None, found), "")


def _under(where: str, key: str) -> str:
    return key if where == "it" else f"{where}.{key}"


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, str):
        return "a text"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else "a number"
