"""What the commands print: answers on stdout, all else on stderr, nothing secret on either, and no traceback.

A closed pipe ends nothing: the search goes on, and what it finds is in its files.
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
    """One line or more on stdout.

    Raises
    ------
    StorageError
        If stdout cannot be written to, other than by a closed pipe.
    """
    if sys.stdout is None:  # closed by whoever started us
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
    """One JSON document on stdout."""
    say(json.dumps(clean(value), indent=2, allow_nan=False))


def note(text: str) -> None:
    """One line or more on stderr; where that cannot be written to, nothing."""
    if sys.stderr is None:
        return
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(redact(text) + "\n")
        sys.stderr.flush()


def warn(text: str) -> None:
    """A warning on stderr."""
    note(f"lrtune: warning: {text}")


def guarded(
    body: Callable[[], object], *, refused: Callable[[Exception], int] | None = None, aside: bool = False
) -> int:
    """Run a body; its exit code (FAULTS.md): 0, 2 input, 3 nothing completed, 4 storage, 5 mismatch, 6 locked.

    Parameters
    ----------
    body
        What to do; an integer that it returns is the exit code.
    refused
        What to do with an error that is not one of lrtune's; None takes it as a bug of ours.
    aside
        Whether the command's exit code is another's, as for all workers but the first: what ends this one is a
        warning then.
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
    """Close what a command has opened: a worker process leaves by ``os._exit``, which closes nothing."""
    opened = sys.modules.get("lrtune.storage.retry")  # not imported here: most commands open none
    if opened is not None:
        opened.close_all()


def complain(error: BaseException, *, aside: bool = False) -> int:
    """The last line on stderr; before it the user's own traceback, and with ``--debug`` ours too. The exit code."""
    error = _told(error)
    if debugging():
        note("".join(traceback.format_exception(error)).rstrip())
    else:
        for text in (getattr(error, "user_traceback", ""), *getattr(error, "__notes__", ())):
            if text:
                note(str(text).rstrip())
    said = " ".join(str(error).split())
    note(f"lrtune: warning: a worker ended: {said}" if aside else f"lrtune: error: {said}")
    return error.exit_code


def _told(error: BaseException) -> LrtuneError:
    """What is said of an exception: one of lrtune's as it is, any other by whose it is."""
    if isinstance(error, LrtuneError):
        return error
    who, what = raised_by(error), f"{type(error).__name__}: {' '.join(str(error).split())}"
    told: LrtuneError
    if who.endswith(".py"):
        msg = f"the training code failed outside of any trial ({what}); mend it and run the same command again"
        told = UserCodeError(msg, user_traceback=users_own(error))
    elif who == "lrtune":
        told = LrtuneError(f"this is a bug of lrtune's ({what}); run it with --debug and report what it prints")
    else:
        told = LrtuneError(f"{who}, which lrtune uses, failed ({what}); run it with --debug and report what it prints")
    told.__cause__ = error
    return told


@contextlib.contextmanager
def own_stdout() -> Iterator[None]:
    """Within it, whatever else prints to stdout (the user's code, its children) goes to stderr."""
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
    """Stdout to nowhere, so that the interpreter's last flush finds nothing to complain of."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
