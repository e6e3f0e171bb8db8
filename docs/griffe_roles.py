"""An extension of griffe: roles of reStructuredText in docstrings become code, which Markdown knows."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import griffe

if TYPE_CHECKING:
    from griffe import Object

ROLE = re.compile(r":[a-z]+:`~?(?P<target>[^`]+)`")


def _code(found: re.Match[str]) -> str:
    target = found["target"]
    short = target.rpartition(".")[2] if found[0].partition("`")[2].startswith("~") else target
    return f"`{short}`"


class Roles(griffe.Extension):
    """``:class:`~lrtune.Recipe` `` is read as ``Recipe``, and a ``::`` before a block of code as a colon."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            text = ROLE.sub(_code, obj.docstring.value)
            obj.docstring.value = re.sub(r"(?m)^::$", "For example:", re.sub(r"::$", ":", text, flags=re.MULTILINE))
