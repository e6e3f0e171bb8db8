"""The log of trials: one line of JSON for each finished trial, exactly once, also after kills and resumptions.

A line is written after its trial is stored. Before lines are added, the file is read again under an ``flock``, so that
the replacement of a killed worker, the same command again, and several commands with one log add what is missing and
nothing else.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
from typing import TYPE_CHECKING, Any

from lrtune.core.files import clean
from lrtune.core.locks import flock
from lrtune.core.outcome import Outcome
from lrtune.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from lrtune.core.records import TrialRecord
    from lrtune.study.events import Progress

__all__ = ["trial_log"]

PRIVATE = 0o600
HEAD = b'{"study": '
"""How each line begins."""


@contextlib.contextmanager
def trial_log(path: Path, known: Callable[[], Collection[int]] = tuple) -> Iterator[Callable[[Progress], None]]:
    """An observer that appends a line for each trial that has finished and is stored.

    Parameters
    ----------
    path
        The file.
    known
        Returns the numbers of the trials that had finished before, which are not logged where the file cannot be read
        again (a pipe).

    Raises
    ------
    StorageError
        If it cannot be written to.
    """
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, PRIVATE)
    except OSError as error:
        msg = f"{path}: the log of trials cannot be opened ({error.strerror}); give another --json-log"
        raise StorageError(msg) from None
    reader = _reader(path, file)
    log = _Log(file, reader, frozenset() if reader is not None else frozenset(known()))

    def observe(progress: Progress) -> None:
        try:
            log.add(progress.name, progress.ended)
        except OSError as error:
            msg = f"{path}: the log of trials cannot be written ({error.strerror}); the trials are kept"
            raise StorageError(msg) from None

    try:
        yield observe
    finally:
        for descriptor in (file, reader):
            if descriptor is not None:
                with contextlib.suppress(OSError):
                    os.close(descriptor)


def _reader(path: Path, file: int) -> int | None:
    """The same file opened to read; None where that cannot be."""
    if not stat.S_ISREG(os.fstat(file).st_mode):
        return None
    with contextlib.suppress(OSError):
        reader = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        if os.path.samestat(os.fstat(reader), os.fstat(file)):
            return reader
        os.close(reader)
    return None


class _Log:
    """An open log, and which trials are in it."""

    def __init__(self, file: int, reader: int | None, known: frozenset[int]) -> None:
        self._file, self._reader, self._known = file, reader, known
        self._read = 0
        self._there: set[tuple[Any, Any, Any]] = set()

    def add(self, study: str, ended: Collection[TrialRecord]) -> None:
        """Append the trials that are not in it yet."""
        if not ended:
            return
        with self._held():
            lead = self._catch_up()
            lines = [_line(study, trial) for trial in ended if not self._has(study, trial)]
            if lines:
                self._write(lead + "".join(lines).encode())

    def _has(self, study: str, trial: TrialRecord) -> bool:
        if trial.number in self._known:
            return True
        return not self._there.isdisjoint({(study, trial.number, trial.started), (study, trial.number, None)})

    def _catch_up(self) -> bytes:
        """Read what was added since the last time; returns what to write before the next line, after a torn one."""
        if self._reader is None:
            return b""
        os.lseek(self._reader, self._read, os.SEEK_SET)
        with os.fdopen(os.dup(self._reader), "rb") as stream:
            *lines, torn = stream.read().split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                row = json.loads(line)
                self._there.add((row["study"], row["trial"], row.get("started")))
        self._read += sum(len(line) + 1 for line in lines)
        if torn and torn[: len(HEAD)] == HEAD[: len(torn)]:  # the machine was switched off while it was written
            os.ftruncate(self._file, self._read)
            return b""
        return b"\n" if torn else b""

    def _write(self, data: bytes) -> None:
        """All of it or, in a file, nothing."""
        size = os.fstat(self._file).st_size
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError:
            if self._reader is not None:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file, size)
            raise

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the file's lock for the block, where there are locks."""
        if self._reader is None:
            yield
            return
        with contextlib.suppress(OSError):  # a system or a file system without locks
            flock(self._file, wait=True)
        try:
            yield
        finally:
            with contextlib.suppress(ImportError, OSError):
                import fcntl

                fcntl.flock(self._file, fcntl.LOCK_UN)


def _line(study: str, trial: TrialRecord) -> str:
    row = {
        "study": study,
        "trial": trial.number,
        "outcome": (trial.outcome or Outcome.INTERRUPTED).key,
        "value": trial.value if trial.value is not None and math.isfinite(trial.value) else None,
        "trained": trial.trained,
        "recipe": trial.recipe.to_json(),
        "started": trial.started,
    }
    return json.dumps(clean(row), allow_nan=False) + "\n"
