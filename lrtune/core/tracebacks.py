"""The traceback of the user's own code: their frames and their libraries', none of lrtune's that called them."""

from __future__ import annotations

import os
import sysconfig
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["raised_by", "users_own"]

OURS = f"{Path(__file__).parents[1].absolute()}{os.sep}"  # the package
IMPORTING = "<frozen importlib."
PYTHONS = tuple(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "platstdlib", "purelib", "platlib"))
INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


def users_own(error: BaseException) -> str:
    """What Python prints of an exception and of those that led to it, without the frames of lrtune.

    Nothing is asked of the exception but its text, and that may fail.
    """
    shown = traceback.TracebackException.from_exception(error)
    if not any(_thin(each) for each in list(_all(shown))):
        return "".join(shown.format_exception_only())
    return "".join(shown.format())


def raised_by(error: BaseException) -> str:
    """Whose exception it is: ``"lrtune"``, the name of a library that lrtune called, or the user's file.

    A library that the user's code called raises on their behalf, and one that lrtune called on lrtune's.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        file = frame.f_code.co_filename
        if file.startswith(OURS):
            module = str(frames[-1].f_globals.get("__name__", ""))
            return module.partition(".")[0] or "lrtune"
        if file.endswith(".py") and not file.startswith(PYTHONS) and not any(part in file for part in INSTALLED):
            return file
    return "lrtune"


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
