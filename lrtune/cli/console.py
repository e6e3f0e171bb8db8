"""Printing: answers to stdout, all else to stderr, with secrets redacted and errors as one line.

A closed pipe does not end a command: the search goes on, and its result is in its files.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any

import typer

from lrtune.core.files import clean
from lrtune.core.redaction import redact
from lrtune.core.tracebacks import raised_by, users_own
from lrtune.errors import LrtuneError, StorageError, UserCodeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["complain", "debugging", "guarded", "note", "own_stdout", "say", "say_json", "warn"]

SIGINT = 130
STDOUT = 1

_state = {"debug": False}


def debugging(value: bool | None = None) -> bool:  # noqa: FBT001 -- the callback of a flag
    """Whether lrtune's own tracebacks are shown; a value given is kept for the process."""
    if value is not None:
        _state["debug"] = value
    return _state["debug"]


def say(text: str) -> None:
    """Print lines to stdout.

    Raises
    ------
    StorageError
        If stdout cannot be written to for another reason than a closed pipe.
    """
    if sys.stdout is None:  # closed by the parent process
        return
    try:
        sys.stdout.write(redact(text) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _mute()
    except UnicodeEncodeError:
        say(text.encode("ascii", "backslashreplace").decode("ascii"))
    except OSError as error:
        _mute()
        msg = f"the standard output cannot be written to ({error.strerror}); the results are in the output folder"
        raise StorageError(msg) from None


def say_json(value: Any) -> None:
    """Print one JSON document to stdout."""
    say(json.dumps(clean(value), indent=2, allow_nan=False))


def note(text: str) -> None:
    """Print lines to stderr, if it can be written to."""
    if sys.stderr is None:
        return
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(redact(text) + "\n")
        sys.stderr.flush()


def warn(text: str) -> None:
    """Print a warning to stderr."""
    note(f"lrtune: warning: {text}")


def guarded(
    body: Callable[[], object], *, refused: Callable[[Exception], int] | None = None, aside: bool = False
) -> int:
    """Call `body`, print its error, and return the exit code.

    0 success, 1 a bug, 2 wrong input, 3 nothing completed, 4 storage, 5 another study is stored, 6 locked, 130 SIGINT.

    Parameters
    ----------
    body
        An integer that it returns is the exit code.
    refused
        Handles an error that is not lrtune's, and returns the exit code; None takes it as a bug.
    aside
        Whether another worker's exit code is the command's: an error is printed as a warning then.
    """
    try:
        code = body()
    except LrtuneError as error:
        return complain(error, aside=aside)
    except (KeyboardInterrupt, typer.Abort):
        if not aside:
            note("lrtune: error: interrupted; run the same command to resume")
        return SIGINT
    except typer.Exit as ending:
        return int(ending.exit_code)
    except Exception as error:  # noqa: BLE001 -- the last line of defence
        if refused is not None:
            return refused(error)
        return complain(error, aside=aside)
    else:
        return code if isinstance(code, int) else 0
    finally:
        _close_storages()


def _close_storages() -> None:
    """Close the command's storages: a worker process ends by ``os._exit``, which closes nothing."""
    opened = sys.modules.get("lrtune.storage.retry")  # not imported here: most commands open none
    if opened is not None:
        opened.close_all()


def complain(error: BaseException, *, aside: bool = False) -> int:
    """Print an error, with the user's traceback, or lrtune's with ``--debug``; the exit code."""
    error = _explained(error)
    if debugging():
        note("".join(traceback.format_exception(error)).rstrip())
    else:
        for text in (getattr(error, "user_traceback", ""), *getattr(error, "__notes__", ())):
            if text:
                note(str(text).rstrip())
    message = " ".join(str(error).split())
    note(f"lrtune: warning: a worker ended: {message}" if aside else f"lrtune: error: {message}")
    return error.exit_code


def _explained(error: BaseException) -> LrtuneError:
    """The error itself if it is lrtune's, else one that says whose code has raised it."""
    if isinstance(error, LrtuneError):
        return error
    who, what = raised_by(error), f"{type(error).__name__}: {' '.join(str(error).split())}"
    found: LrtuneError
    if who.endswith(".py"):
        msg = f"the training code failed outside of any trial ({what}); mend it and run the same command again"
        found = UserCodeError(msg, user_traceback=users_own(error))
    elif who == "lrtune":
        found = LrtuneError(f"this is a bug of lrtune's ({what}); run it with --debug and report what it prints")
    else:
        found = LrtuneError(f"{who}, which lrtune uses, failed ({what}); run it with --debug and report what it prints")
    found.__cause__ = error
    return found


@contextlib.contextmanager
def own_stdout() -> Iterator[None]:
    """For the block, what other code prints to stdout (the user's, its child processes') goes to stderr."""
    try:
        real = sys.stdout is not None and sys.stdout.fileno() == STDOUT
    except (OSError, ValueError):
        real = False
    with contextlib.redirect_stdout(sys.stderr):
        if not real:
            yield
            return
        kept = os.dup(STDOUT)
        os.dup2(2, STDOUT)
        try:
            yield
        finally:
            os.dup2(kept, STDOUT)
            os.close(kept)


def _mute() -> None:
    """Redirect stdout to the null device, so that the interpreter's last flush raises nothing."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
