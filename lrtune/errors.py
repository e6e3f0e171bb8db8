"""All errors that lrtune raises on purpose, as a tree; each carries the exit code of the command.

::

    LrtuneError                     1   by itself only for a bug in lrtune
    ├── InputError                  2   usage, study file, space or data: nothing has been trained
    │   ├── SpaceError              2   a space that cannot be searched
    │   ├── RecipeError             2   a recipe that cannot be trained
    │   ├── CheckpointError         2   a paused run's file that is damaged, of another run or unsafe
    │   ├── DataError               2   a table that cannot be learned from
    │   └── StudyFileError          2   a study or job file that cannot be read
    ├── SearchError                 3   no trial completed, or the learning rate changed nothing
    │   └── UserCodeError           3   the user's own training code raised; carries its traceback
    ├── StorageError                4   storage unavailable, damaged, full or incompatible
    │   └── LockLostError           4   a server's restart released a lock; caught, and decided anew
    ├── MismatchError               5   the stored study is another one; carries the difference
    ├── LockedError                 6   another run holds the job's lock
    └── InterruptedSearchError           130, 143 or 129   stopped by a signal, cleanly

A message is one sentence that names the value, what is allowed and the next step.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "CheckpointError",
    "DataError",
    "InputError",
    "InterruptedSearchError",
    "LockLostError",
    "LockedError",
    "LrtuneError",
    "MismatchError",
    "RecipeError",
    "SearchError",
    "SpaceError",
    "StorageError",
    "StudyFileError",
    "UserCodeError",
]


class LrtuneError(Exception):
    """The root of every error that lrtune raises on purpose."""

    exit_code = 1


class InputError(LrtuneError, ValueError):
    """Something given to lrtune cannot be used; nothing has been trained."""

    exit_code = 2


class SpaceError(InputError):
    """A space that cannot be searched."""


class RecipeError(InputError):
    """A recipe that cannot be trained."""


class CheckpointError(InputError):
    """A paused run's file that is damaged, of another run or unsafe; nothing in it was executed."""


class DataError(InputError):
    """A table that cannot be learned from."""


class StudyFileError(InputError):
    """A study or job file that cannot be read."""


class SearchError(LrtuneError):
    """The search ended without a completed trial, or without knowledge about the learning rate.

    Attributes
    ----------
    result
        A :class:`lrtune.study.result.Result` of what is known all the same, or None.
    """

    exit_code = 3
    result: Any = None


class UserCodeError(SearchError):
    """The user's own training code raised on the very first trial.

    Parameters
    ----------
    message
        One sentence.
    user_traceback
        The traceback of the user's code, as text.
    """

    def __init__(self, message: str, *, user_traceback: str) -> None:
        super().__init__(message)
        self.user_traceback = user_traceback


class StorageError(LrtuneError):
    """The storage is unavailable, damaged, full or of an incompatible version."""

    exit_code = 4


class LockLostError(StorageError):
    """The server that kept a lock has restarted: what was read under the lock may be out of date; decide anew."""


class MismatchError(LrtuneError):
    """The stored study was made with other settings than those of this call."""

    exit_code = 5


class LockedError(LrtuneError):
    """Another run holds the lock."""

    exit_code = 6


class InterruptedSearchError(LrtuneError):
    """The search was stopped by a signal; its trials are kept.

    Parameters
    ----------
    message
        One sentence that says how to resume.
    exit_code
        128 + the number of the signal.
    """

    def __init__(self, message: str, *, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code
