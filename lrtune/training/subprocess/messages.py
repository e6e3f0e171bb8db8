"""What a run's process answers: what a call returned, or what it raised, in words that both sides know.

An exception of the user's own goes as its traceback's text: its class may refuse to be sent, and is nobody's
business here.
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

PASSED_ON = (MemoryError, SystemExit, KeyboardInterrupt)
"""What means something to whoever drives a run, besides lrtune's own errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """An exception, in words that both sides know.

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
        for kind in PASSED_ON:
            if isinstance(error, kind):
                code = getattr(error, "code", None)
                argument = code if isinstance(code, int | str | None) else str(code)
                return cls(kind=kind.__name__, argument=argument if kind is SystemExit else str(error), text=text)
        known = (kind for kind in type(error).__mro__ if issubclass(kind, errors.InputError))
        ours = next((kind.__name__ for kind in known if kind.__module__ == errors.__name__), "")
        if not ours:  # nothing is asked of it but its traceback: its own text may fail
            return cls(kind="", argument="", text=text)
        return cls(kind=ours, argument=str(error), text=text, notes=tuple(map(str, getattr(error, "__notes__", ()))))

    def again(self) -> BaseException:
        """The exception to be raised on this side."""
        if not self.kind:
            return RemoteError(self.text.strip().rpartition("\n")[2], user_traceback=self.text)
        passed_on = {kind.__name__: kind for kind in PASSED_ON}
        error: BaseException = (passed_on.get(self.kind) or getattr(errors, self.kind))(self.argument)
        for text in self.notes:
            error.add_note(text)
        error.__cause__ = RemoteError(str(self.argument), user_traceback=self.text)
        return error


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a child answers.

    Attributes
    ----------
    value
        What the call returned.
    alive
        The members of its run that can go on.
    notices
        The trainer's, as of now.
    raised
        What the call raised; None where it returned.
    """

    value: Any = None
    alive: tuple[int, ...] = ()
    notices: tuple[str, ...] = ()
    raised: Raised | None = None

    def given(self) -> Any:
        """The value, or the exception.

        Raises
        ------
        BaseException
            What the call raised: lrtune's own errors, MemoryError and SystemExit as they were, all else as a
            RemoteError.
        """
        if self.raised is not None:
            raise self.raised.again()
        return self.value
