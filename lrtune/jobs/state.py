"""The state of a job, stored between its runs: which periods are done, the runs that ended, the one that began.

One JSON file of mode 0600, replaced atomically; its times are in UTC.
"""

from __future__ import annotations

import dataclasses
import json
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lrtune.core.files import clean, write_atomically
from lrtune.core.timestamps import utc
from lrtune.errors import StorageError
from lrtune.jobs.schedule import Due, due

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping
    from pathlib import Path

    from lrtune.jobs.job_file import JobFile

__all__ = ["JobRun", "Running", "State", "load", "save"]

SCHEMA = 1
MOST_ROWS = 2000
MOST_BYTES = 50_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A run that has begun and not ended."""

    number: int
    study: str
    period: str
    started: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRun:
    """One run that has ended.

    Attributes
    ----------
    number, study
        Of the run; a skipped period has the number 0 and no study.
    period, started, finished
        Times in UTC, as :func:`lrtune.core.timestamps.stamp` writes them.
    status
        ``"done"``, ``"failed"``, ``"skipped"`` or ``"abandoned"``.
    verdict, why
        The verdict of the drift test, empty where there was none, and the reason in one sentence.
    recipe, params, band
        The answer: the recipe's fields, its searched settings, and the learning rates that are as good.
    value, metric, direction
        The answer's result; None where it was not trained in full.
    cost
        In full trainings.
    missed
        Periods without a run before this one.
    changed
        Whether the answer differs from the one before.
    hook
        Exit code of the hook; None where there was none.
    profile
        :class:`lrtune.jobs.drift.Profile` of the answer as JSON, for the next drift test.
    removed
        What retention has deleted of the run: ``"study"``, ``"checkpoints"``, ``"report"``.
    """

    number: int
    study: str
    period: str
    started: str
    finished: str
    status: str
    verdict: str = ""
    why: str = ""
    recipe: Mapping[str, Any] | None = None
    params: Mapping[str, Any] | None = None
    band: tuple[float, float] | None = None
    value: float | None = None
    metric: str = ""
    direction: str = ""
    cost: float = 0.0
    missed: int = 0
    changed: bool = False
    hook: int | None = None
    profile: Mapping[str, Any] | None = None
    removed: tuple[str, ...] = ()

    @property
    def lr(self) -> float | None:
        """The learning rate of the answer."""
        return None if self.recipe is None else float(self.recipe["lr"])


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The whole state.

    Attributes
    ----------
    job, id
        The job's name, and a random identity of this state.
    last
        The last period that is done, or was skipped; None before the first one.
    hook_due
        Whether the hook has still to succeed for the current answer.
    rows
        The runs that have ended, the oldest first; at most 2,000 are kept.
    """

    job: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    last: str | None = None
    running: Running | None = None
    hook_due: bool = False
    rows: tuple[JobRun, ...] = ()

    @property
    def answer(self) -> JobRun | None:
        """The last run that found an answer."""
        return next((row for row in reversed(self.rows) if row.status == "done" and row.recipe is not None), None)

    @property
    def highest(self) -> int:
        """The highest number of any run."""
        return max([row.number for row in self.rows] + ([self.running.number] if self.running else []), default=0)

    def due(self, job: JobFile, now: dt.datetime, *, catch_up: bool = True) -> Due:
        """What is due by the job's schedule."""
        last = None if self.last is None else utc(self.last)
        running = None if self.running is None else utc(self.running.period)
        return due(job.schedule, now, last=last, running=running, catch_up=catch_up, late=job.late)

    def with_row(self, row: JobRun) -> State:
        """The state with one run more."""
        return dataclasses.replace(self, rows=(*self.rows, row)[-MOST_ROWS:])


def load(path: Path, job: str) -> State:
    """The state of a file; a new one where there is none.

    Raises
    ------
    StorageError
        If it cannot be read, is damaged, or is another job's; it is left untouched.
    """
    try:
        with path.open("rb") as file:
            data = json.loads(file.read(MOST_BYTES))
        return _read(data, path, job)
    except FileNotFoundError:
        return State(job=job)
    except OSError as error:
        msg = f"{path}: the job's state cannot be read ({error.strerror}); correct that and run it again"
        raise StorageError(msg) from None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        what = f"{type(error).__name__}: {str(error)[:80]}"
        msg = f"{path}: the job's state is damaged ({what}); restore it, or move it away and the job starts anew"
        raise StorageError(msg) from None


def save(path: Path, state: State) -> None:
    """Replace the state's file.

    Raises
    ------
    StorageError
        If it cannot be written; the old one is still there.
    """
    data = {"schema": SCHEMA, **dataclasses.asdict(state)}
    write_atomically(path, json.dumps(clean(data), indent=1, allow_nan=False) + "\n")


def _read(data: Any, path: Path, job: str) -> State:
    if data["schema"] != SCHEMA:
        msg = f"{path}: the job's state is of version {data['schema']!r}, this lrtune reads {SCHEMA}; update lrtune"
        raise StorageError(msg)
    if data["job"] != job:
        msg = f"{path}: this is the state of job {data['job']!r}, not of {job!r}; give each job its own folder (out)"
        raise StorageError(msg)
    state = State(
        job=job,
        id=str(data["id"]),
        last=data["last"],
        running=None if data["running"] is None else Running(**data["running"]),
        hook_due=bool(data["hook_due"]),
        rows=tuple(_row(row) for row in data["rows"]),
    )
    for period in (state.last, *(row.period for row in state.rows)):
        if period is not None:
            utc(period)
    return state


def _row(data: Mapping[str, Any]) -> JobRun:
    band, known = data.get("band"), {spec.name for spec in dataclasses.fields(JobRun)}
    values = {name: value for name, value in data.items() if name in known}
    texts = ("study", "period", "started", "finished", "status", "verdict", "why", "metric", "direction")
    odd = next((name for name in texts if not isinstance(values.get(name, ""), str)), None)
    if odd is not None:
        msg = f"{odd} of a run is {values[odd]!r}, not a text"
        raise TypeError(msg)
    row = JobRun(
        **{**values, "band": None if band is None else (band[0], band[1]), "removed": tuple(values["removed"])}
    )
    if row.lr is not None and not row.lr > 0:
        msg = f"run {row.number} has the learning rate {row.lr!r}"
        raise ValueError(msg)
    return row
