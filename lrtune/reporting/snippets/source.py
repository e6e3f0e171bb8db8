"""Stored values as Python source, quoted so that nothing in a storage becomes a statement of the code to paste."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from lrtune.training.setups import PAIRS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["arguments", "as_source", "assigned", "identifier", "imported", "one_line", "spaced"]

WIDTH = 100


def as_source(value: Any) -> str:
    """A value of :func:`lrtune.training.setups.plain` as Python; lists were tuples.

    Raises
    ------
    TypeError
        If it is none.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, list):
        inside = ", ".join(map(as_source, value))
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    pairs = value[PAIRS]
    return f"{{{', '.join(f'{as_source(key)}: {as_source(one)}' for key, one in pairs)}}}"


def arguments(options: Mapping[str, Any]) -> str:
    """Options as ``", name=value"`` for each."""
    return "".join(f", {identifier(name)}={as_source(value)}" for name, value in options.items())


def assigned(name: str, call: str) -> list[str]:
    """``name = call``, the arguments of long calls on lines of their own."""
    return _broken(f"{name} = {call}", "")


def _broken(text: str, indent: str) -> list[str]:
    opened = re.match(r"[\w.=: \"]*[(\[{]", text)
    if len(indent + text) <= WIDTH or opened is None or text[-1] not in ")]}":
        return [indent + text]
    parts, depth = [""], 0
    for letter in text[opened.end() : -1]:
        depth += (letter in "([{") - (letter in ")]}")
        if depth < 0:  # the bracket that it begins with is closed before its end
            return [indent + text]
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    inner = []
    comma = "," if len(parts) > 1 else ""  # none after a comprehension
    for part in parts:
        lines = _broken(part.strip(), f"{indent}    ")
        inner += [*lines[:-1], lines[-1] + comma]
    return [indent + opened[0], *inner, indent + text[-1]]


def identifier(name: str) -> str:
    """The name itself.

    Raises
    ------
    ValueError
        If it is no Python identifier.
    """
    if not name.isidentifier():
        msg = f"no name: {name!r}"
        raise ValueError(msg)
    return name


def imported(reference: Mapping[str, str], what: str, otherwise: str) -> tuple[str, list[str]]:
    """The name of what a :func:`~lrtune.training.setups.reference` names, and the import that it needs.

    Parameters
    ----------
    reference
        The stored reference.
    what
        What it is, for the comment where it cannot be imported.
    otherwise
        Its name where it has none.
    """
    name = identifier(reference["name"] or otherwise)
    module = reference["module"]
    if not module:
        return name, [f"# {name}: {what}"]
    for part in module.split("."):
        identifier(part)
    return name, [f"from {module} import {name}"]


def one_line(text: object) -> str:
    """A text that stays within a comment."""
    return " ".join(str(text).split())


def spaced(definition: Sequence[str]) -> list[str]:
    """The lines of a function or class, with a blank line before and after."""
    return ["", *definition, ""]
