"""An extension of griffe, which reads the docstrings for the reference of the Python API.

Roles of reStructuredText become links where the reference has what they name, else code; parameters that a docstring
describes together become one each, since each has its own type and default.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import griffe

if TYPE_CHECKING:
    from griffe import Object

ROLE = re.compile(r":[a-z]+:`(?P<short>~?)(?P<target>[^`]+)`")
TOGETHER = re.compile(r"^(?P<names>\w+(?:, \w+)+)\n(?P<text>(?:(?:[ ]+\S[^\n]*)?\n)+)", re.MULTILINE)


def _link(found: re.Match[str]) -> str:
    target = found["target"]
    shown = target.rpartition(".")[2] if found["short"] else target
    return f'<autoref identifier="{target}" optional>`{shown}`</autoref>'


def _apart(found: re.Match[str]) -> str:
    return "".join(f"{name}\n{found['text']}" for name in found["names"].split(", "))


class Roles(griffe.Extension):
    """``:class:`lrtune.Recipe` `` links to the recipe, ``metric, direction`` are two, and ``::`` is a colon."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is None:
            return
        text = ROLE.sub(_link, f"{obj.docstring.value}\n")
        text = re.sub(r"^::$", "For example:", text, flags=re.MULTILINE)
        obj.docstring.value = TOGETHER.sub(_apart, re.sub(r"::$", ":", text, flags=re.MULTILINE)).rstrip()
