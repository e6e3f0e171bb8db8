"""What a run's process sends back: what a call returned, or the exception that it raised.

An exception of lrtune's own is built again on this side. One of the user's own comes as the text of its traceback: its
class may refuse to be pickled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lrtune import errors
from lrtune.core.tracebacks import users_own
from lrtune.workers.process import RemoteError

__all__ = ["Raised", "Reply"]

MOST_TEXT = 100_000
"""Characters of a traceback, its end."""

PASSED_ON = {kind.__name__: kind for kind in (MemoryError, SystemExit, KeyboardInterrupt)}
"""What means something to whoever drives a run, besides lrtune's own errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """An exception, as it is sent.

    Attributes
    ----------
    kind
        A name out of :mod:`lrtune.errors` or the builtins; empty for one of the user's own.
    argument
        Its message, or the code of a SystemExit.
    text
        Its traceback, without lrtune's frames.
    notes
        What was added to it.
    """

    kind: str
    argument: Any
    text: str
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, error: BaseException) -> Raised:
        """The exception caught by whoever called the trainer."""
        text = users_own(error)[-MOST_TEXT:]
        for name, kind in PASSED_ON.items():
            if isinstance(error, kind):
                code = getattr(error, "code", None)
                argument = code if isinstance(code, int | str | None) else str(code)
                return cls(kind=name, argument=argument if kind is SystemExit else str(error), text=text)
        known = (kind for kind in type(error).__mro__ if issubclass(kind, errors.InputError))
        ours = next((kind.__name__ for kind in known if kind.__module__ == errors.__name__), "")
        if not ours:  # nothing is asked of it but its traceback: its own text may fail
            return cls(kind="", argument="", text=text)
        return cls(kind=ours, argument=str(error), text=text, notes=tuple(map(str, getattr(error, "__notes__", ()))))

    def exception(self) -> BaseException:
        """The exception to be raised on this side."""
        if not self.kind:
            return RemoteError(self.text.strip().rpartition("\n")[2], user_traceback=self.text)
        error: BaseException = (PASSED_ON.get(self.kind) or getattr(errors, self.kind))(self.argument)
        for text in self.notes:
            error.add_note(text)
        error.__cause__ = RemoteError(str(self.argument), user_traceback=self.text)
        return error


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a child answers to a call; `alive` are the members of its run that can go on."""

    value: Any = None
    alive: tuple[int, ...] = ()
    notices: tuple[str, ...] = ()  # the trainer's, as of now
    raised: Raised | None = None

    def result(self) -> Any:
        """What the call returned.

        Raises
        ------
        BaseException
            What the call raised: lrtune's own errors, MemoryError and SystemExit as they were, all else as a
            RemoteError.
        """
        if self.raised is not None:
            raise self.raised.exception()
        return self.value
