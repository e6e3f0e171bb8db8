"""The traceback of the user's own code: their frames and their libraries', none of lrtune's that called them."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["users_own"]

OURS = f"{Path(__file__).parent.absolute()}{os.sep}"
IMPORTING = "<frozen importlib."


def users_own(error: BaseException) -> str:
    """What Python prints of an exception and of those that led to it, without the frames of lrtune.

    Nothing is asked of the exception but its text, and that may fail.
    """
    shown = traceback.TracebackException.from_exception(error)
    if not any(_thin(each) for each in list(_all(shown))):
        return "".join(shown.format_exception_only())
    return "".join(shown.format())


def _all(shown: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    """The exception, those that led to it, and those that it groups."""
    yield shown
    for other in (shown.__cause__, shown.__context__, *(getattr(shown, "exceptions", None) or ())):
        if other is not None:
            yield from _all(other)


def _thin(shown: traceback.TracebackException) -> int:
    """Leave lrtune's frames out; how many are left."""
    kept = [f for f in shown.stack if not f.filename.startswith((OURS, IMPORTING))]
    shown.stack = traceback.StackSummary.from_list(kept)
    return len(kept)
