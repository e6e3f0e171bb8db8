"""The arguments and the outcome of one run of a job, the job's lock, and the path of its state."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lrtune.core.files import make_folder
from lrtune.core.locks import FileLock
from lrtune.core.os_errors import cure, reason
from lrtune.core.timestamps import stamp, utc_now
from lrtune.errors import LockedError, StorageError
from lrtune.jobs.retention import REPORT
from lrtune.workers.pool import WorkerContext

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from lrtune.errors import LrtuneError
    from lrtune.jobs.job_file import JobFile
    from lrtune.jobs.schedule import Due
    from lrtune.jobs.state import JobRun
    from lrtune.study.events import Observer
    from lrtune.study.result import Result

__all__ = ["STATE", "JobOutcome", "JobRequest", "RunLock", "holding", "state_path"]

LOCK = "lock"
STATE = "state.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """How a run is called.

    Attributes
    ----------
    now
        Returns the time in UTC.
    catch_up
        Whether one run makes up for missed periods.
    force, search
        Whether a period that is done is run again; with `search` in full, without a drift test.
    wait
        Whether to wait while another process runs the job.
    should_stop
        Called often; True stops the run so that it can be resumed.
    observer
        Called with the progress of the search.
    log
        Called with one line of what happens.
    place
        Which of the command's workers this process is.
    """

    now: Callable[[], dt.datetime] = utc_now
    catch_up: bool = True
    force: bool = False
    search: bool = False
    wait: bool = False
    should_stop: Callable[[], bool] | None = None
    observer: Observer | None = None
    log: Callable[[str], None] = field(default=lambda _line: None)
    place: WorkerContext = field(default_factory=WorkerContext)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOutcome:
    """How a run ended: ``"done"``, ``"nothing to do"``, ``"skipped"`` or ``"interrupted"``.

    `row` is the run whose answer is current, None where there is none; `result` is the search's, where there was one.
    """

    status: str
    row: JobRun | None
    due: Due
    result: Result | None = None

    def to_json(self, job: JobFile) -> dict[str, Any]:
        """The line of JSON that the command prints."""
        line: dict[str, Any] = {"job": job.name, "status": self.status, "period": stamp(self.due.period)}
        line |= {"missed": self.due.missed, "next": stamp(self.due.next)}
        if (row := self.row) is None:
            return line
        return line | {
            "run": row.number,
            "study": row.study,
            "verdict": row.verdict or "searched",
            "why": row.why,
            "lr": row.lr,
            "recipe": row.recipe,
            "band": row.band,
            "value": row.value,
            "cost": round(row.cost, 4),
            "changed": self.status == "done" and row.changed,
            "hook": row.hook,
            "published": str(job.publish.file),
            "report": str(job.run_folder(row.number) / REPORT),
        }


class RunLock(FileLock):
    """A file lock for one run of a job at a time; who comes second raises :class:`~lrtune.errors.LockedError`."""

    beside = "the job's folder"

    def _owner(self, note: dict[str, Any]) -> str:
        try:
            return f"{str(note['since'])[:30]} (pid {int(note['pid'])})"
        except (KeyError, OverflowError, TypeError, ValueError):
            return "a moment ago"

    def _refusal(self, owner: str, timeout: float) -> LrtuneError:
        del timeout
        return LockedError(f"{self._shown} is already running since {owner}; wait for it with --wait")

    def _unopened(self, error: OSError) -> StorageError:
        return StorageError(f"{self._path}: the lock cannot be opened ({reason(error)}); {cure(error)}")


@contextlib.contextmanager
def holding(job: JobFile, request: JobRequest) -> Iterator[None]:
    """Hold the job's lock for the block.

    Raises
    ------
    LockedError
        If another process holds it.
    StorageError
        If the job's folder cannot be written to.
    """
    make_folder(job.out)
    lock = RunLock(job.out / LOCK, f"job {job.name!r}")
    with lock.hold(math.inf if request.wait else 0.0, should_stop=request.should_stop):
        yield


def state_path(job: JobFile) -> Path:
    """The job's state file."""
    return job.out / STATE
