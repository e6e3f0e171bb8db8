"""Validation of stored JSON: whether a value has the expected shape, and a clause that says what is wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["FLAG", "MAPPING", "NOTHING", "NUMBER", "TEXT", "WHOLE", "Each", "FixedList", "Named", "Shape", "wrong"]


@dataclass(frozen=True, slots=True)
class Plain:
    """A value of one kind: its name in a message, and the test for it."""

    name: str
    fits: Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class Each:
    """A list whose items all have one shape."""

    item: Shape


@dataclass(frozen=True, slots=True)
class Named:
    """A mapping whose values all have one shape."""

    item: Shape


@dataclass(frozen=True, slots=True)
class FixedList:
    """A list of a fixed length; each item has a shape of its own."""

    items: tuple[Shape, ...]


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
LIST = Plain("a list", lambda value: isinstance(value, list))


def wrong(value: Any, shape: Shape, where: str = "it") -> str:
    """What does not fit, as a clause such as ``"curve.step is a text, not a list"``; empty where all fits."""
    if isinstance(shape, Plain):
        return "" if shape.fits(value) else f"{where} is {_kind(value)}, not {shape.name}"
    if isinstance(shape, tuple):
        found = [wrong(value, one, where) for one in shape]
        return "" if "" in found else found[-1]
    return next(filter(None, _wrong_parts(value, shape, where)), "")


def _wrong_parts(value: Any, shape: Each | Named | FixedList | Mapping[str, Shape], where: str) -> Iterator[str]:
    """What does not fit of a list or a mapping as such, then of what it holds; empty texts for what fits."""
    if isinstance(shape, FixedList):
        count = len(shape.items)
        yield wrong(value, Plain(f"a list of {count}", lambda v: LIST.fits(v) and len(v) == count), where)
        yield from (wrong(v, s, f"{where}[{i}]") for i, (v, s) in enumerate(zip(value, shape.items, strict=True)))
        return
    yield wrong(value, LIST if isinstance(shape, Each) else MAPPING, where)
    if isinstance(shape, Each):
        yield from (wrong(item, shape.item, f"{where}[{i}]") for i, item in enumerate(value))
    elif isinstance(shape, Named):
        yield from (wrong(item, shape.item, _under(where, name)) for name, item in value.items())
    else:
        for key, one in shape.items():
            name = key.removesuffix("?")
            if name in value:
                yield wrong(value[name], one, _under(where, name))
            elif name == key:
                yield f"{_under(where, name)} is missing"


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
