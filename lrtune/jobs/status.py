"""The status of a job: its last run, its next one, and the learning rate over time; read without the lock."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lrtune.core.timestamps import stamp, utc_now
from lrtune.jobs.request import state_path
from lrtune.jobs.schedule import Due, DueKind
from lrtune.jobs.state import JobRun, State, load

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable

    from lrtune.jobs.job_file import JobFile

__all__ = ["JobStatus", "job_status", "points"]

LEFT_OUT = ("profile", "params")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """The state of a job, and what is due. A run that has begun may or may not be alive."""

    state: State
    task: Due

    @property
    def due(self) -> bool:
        """Whether there is something to do now."""
        return self.task.kind is not DueKind.DONE

    @property
    def next(self) -> str:
        """When the next period begins."""
        return stamp(self.task.next)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        running, answer = self.state.running, self.state.answer
        return {
            "job": self.state.job,
            "next": self.next,
            "due": self.due,
            "missed": self.task.missed,
            "running": None if running is None else dataclasses.asdict(running),
            "answer": None if answer is None else _plain(answer),
            "runs": [_plain(row) for row in self.state.rows],
        }


def job_status(job: JobFile, now: dt.datetime | None = None) -> JobStatus:
    """The status of a job now.

    Raises
    ------
    lrtune.errors.StorageError
        If its state cannot be read.
    """
    state = load(state_path(job), job.name)
    return JobStatus(state=state, task=state.due(job, now or utc_now()))


def points(rows: Iterable[JobRun]) -> list[dict[str, Any]]:
    """The runs that have an answer, as rows for :func:`lrtune.reporting.figures.history.history`."""
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
        for row in rows
        if row.status == "done" and row.lr is not None
    ]


def _plain(row: JobRun) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(row).items() if name not in LEFT_OUT}
