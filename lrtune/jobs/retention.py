"""What is deleted of old runs, by number or by age: studies, checkpoints and reports that this job made, and no more.

A run's folder is emptied of the files that a run writes, by name, and removed only if nothing else is in it.
A study is deleted by its name in the state, where it stands only if the job found that name free.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from typing import TYPE_CHECKING

from lrtune.core.timestamps import utc

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Sequence

    from optuna.storages import BaseStorage

    from lrtune.jobs.job_file import JobFile
    from lrtune.jobs.state import JobRun, State

__all__ = ["CHECKPOINTS", "FILES", "REPORT", "RESULT", "outdated", "tidy"]

CHECKPOINTS, REPORT, RESULT = "checkpoints", "report.html", "result.json"
FILES = (REPORT, RESULT)


def tidy(job: JobFile, state: State, storage: BaseStorage, now: dt.datetime) -> State:
    """Delete what is too old; the state that says so."""
    kept = {"study": job.keep.studies, "checkpoints": job.keep.checkpoints, "report": job.keep.reports}
    going = {kind: outdated(state, rule, now) for kind, rule in kept.items()}
    rows = []
    for row in state.rows:
        removed = [kind for kind in kept if row.number in going[kind] and kind not in row.removed]
        gone = [kind for kind in removed if _remove(kind, row, job, storage)]
        rows.append(dataclasses.replace(row, removed=(*row.removed, *gone)) if gone else row)
    return dataclasses.replace(state, rows=tuple(rows))


def outdated(state: State, rule: tuple[int | None, int | None] | None, now: dt.datetime) -> frozenset[int]:
    """Numbers of the runs that a rule lets go; never the run whose answer stands, nor the last one."""
    if rule is None:
        return frozenset()
    rows = [row for row in state.rows if row.number]
    standing = {row.number for row in (state.answer, rows[-1] if rows else None) if row is not None}
    return frozenset(row.number for row in _beyond(rows, *rule, now) if row.number not in standing)


def _beyond(rows: Sequence[JobRun], count: int | None, seconds: int | None, now: dt.datetime) -> Iterator[JobRun]:
    if count is not None:
        yield from rows[:-count]
    if seconds is not None:
        yield from (row for row in rows if (now - utc(row.finished)).total_seconds() > seconds)


def _remove(kind: str, row: JobRun, job: JobFile, storage: BaseStorage) -> bool:
    """Whether it is gone now; a file that cannot be deleted is tried again next time."""
    if kind == "study":
        return _remove_study(storage, row.study)
    folder = job.run_folder(row.number)
    if folder.is_symlink():  # not made by us
        return True
    try:
        if kind == "report":
            for name in FILES:
                (folder / name).unlink(missing_ok=True)
        elif (folder / CHECKPOINTS).is_dir() and not (folder / CHECKPOINTS).is_symlink():
            shutil.rmtree(folder / CHECKPOINTS)
    except OSError:
        return False
    with contextlib.suppress(OSError):
        folder.rmdir()
    return True


def _remove_study(storage: BaseStorage, name: str) -> bool:
    with contextlib.suppress(KeyError):  # by other hands, e.g. in the dashboard
        storage.delete_study(storage.get_study_id_from_name(name))
    return True
