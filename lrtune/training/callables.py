"""Calls a user's function with only those of the offered arguments that its signature has."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["call_with", "wanted"]

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def wanted(function: Callable[..., Any]) -> tuple[list[str], set[str]]:
    """Names of a function's required positional parameters, and of all its parameters.

    Empty where Python cannot read its signature, as for some built-in functions.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return [], set()
    required = [p.name for p in parameters.values() if p.kind in POSITIONAL and p.default is p.empty]
    named = {p.name for p in parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    return required, named


def call_with(function: Callable[..., Any], **offered: Any) -> Any:
    """Call a function with those of the offered values that it has parameters for.

    A required parameter of another name takes the next value, in the order of the offer, that the function has no
    parameter for: ``lambda r: ...`` gets the first.
    """
    required, named = wanted(function)
    spare = [name for name in offered if name not in named]
    strange = [name for name in required if name not in offered]
    taken = dict(zip(strange, spare, strict=False))  # with too few, the call raises TypeError
    positional = [offered[taken.get(name, name)] for name in required if name in offered or name in taken]
    by_name = {name: value for name, value in offered.items() if name in named and name not in required}
    return function(*positional, **by_name)
