"""The status of a job: its last run, its next one, and the learning rate over time; read without the lock."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lrtune.core.timestamps import stamp, utc, utc_now
from lrtune.jobs.request import state_path
from lrtune.jobs.schedule import DueKind, due
from lrtune.jobs.state import JobRun, Running, load

if TYPE_CHECKING:
    import datetime as dt

    from lrtune.jobs.job_file import JobFile

__all__ = ["JobStatus", "job_status", "points"]

LEFT_OUT = ("profile", "params")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """The status of a job.

    Attributes
    ----------
    job
        Its name.
    rows
        Its runs, the oldest first.
    answer
        The run whose answer is current; None before there is one.
    running
        The run that has begun and not ended, whether or not its process is alive.
    due
        Whether there is something to do now.
    missed
        Periods that nobody has run.
    next
        When the next period begins.
    """

    job: str
    rows: tuple[JobRun, ...]
    answer: JobRun | None
    running: Running | None
    due: bool
    missed: int
    next: str

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "job": self.job,
            "next": self.next,
            "due": self.due,
            "missed": self.missed,
            "running": None if self.running is None else dataclasses.asdict(self.running),
            "answer": None if self.answer is None else _plain(self.answer),
            "runs": [_plain(row) for row in self.rows],
        }


def job_status(job: JobFile, now: dt.datetime | None = None) -> JobStatus:
    """The status of a job now.

    Raises
    ------
    lrtune.errors.StorageError
        If its state cannot be read.
    """
    state = load(state_path(job), job.name)
    running = None if state.running is None else utc(state.running.period)
    task = due(job.schedule, now or utc_now(), last=state.last_period(), running=running, late=job.late)
    return JobStatus(
        job=job.name,
        rows=state.rows,
        answer=state.answer,
        running=state.running,
        due=task.kind is not DueKind.DONE,
        missed=task.missed,
        next=stamp(task.next),
    )


def points(rows: tuple[JobRun, ...]) -> list[dict[str, Any]]:
    """The runs that have an answer, as rows for :func:`lrtune.reporting.figures.history.history`."""
    found = [row for row in rows if row.status == "done" and row.lr is not None]
    return [
        {
            "at": row.finished,
            "study": row.study,
            "lr": row.lr,
            "low": row.band[0] if row.band else None,
            "high": row.band[1] if row.band else None,
            "value": row.value,
            "cost": row.cost,
            "verdict": row.verdict or "searched",
        }
        for row in found
    ]


def _plain(row: JobRun) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(row).items() if name not in LEFT_OUT}
