"""What is deleted of old runs, by number or by age: studies, checkpoints and reports of this job, and nothing else.

Only files that a run writes are deleted, by name, and a run's folder only if nothing else is in it. Only a study that
the job has created is deleted: its name is in the job's state.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from typing import TYPE_CHECKING

from lrtune.core.timestamps import utc

if TYPE_CHECKING:
    import datetime as dt

    from optuna.storages import BaseStorage

    from lrtune.jobs.job_file import JobFile
    from lrtune.jobs.state import JobRun, State

__all__ = ["CHECKPOINTS", "REPORT", "RESULT", "outdated", "tidy"]

CHECKPOINTS, REPORT, RESULT = "checkpoints", "report.html", "result.json"


def tidy(job: JobFile, state: State, storage: BaseStorage, now: dt.datetime) -> State:
    """Delete what is too old; the state with what was deleted."""
    kept = {"study": job.keep.studies, "checkpoints": job.keep.checkpoints, "report": job.keep.reports}
    going = {kind: outdated(state, rule, now) for kind, rule in kept.items()}
    rows = []
    for row in state.rows:
        old = [kind for kind in kept if row.number in going[kind] and kind not in row.removed]
        gone = [kind for kind in old if _remove(kind, row, job, storage)]
        rows.append(dataclasses.replace(row, removed=(*row.removed, *gone)) if gone else row)
    return dataclasses.replace(state, rows=tuple(rows))


def outdated(state: State, rule: tuple[int | None, int | None] | None, now: dt.datetime) -> frozenset[int]:
    """Numbers of the runs that a rule lets go; never the run whose answer is current, nor the last one."""
    if rule is None:
        return frozenset()
    rows = [row for row in state.rows if row.number]
    needed = {row.number for row in (state.answer, *rows[-1:]) if row is not None}
    count, seconds = rule
    old = [] if count is None else rows[:-count]
    if seconds is not None:
        old = [row for row in rows if (now - utc(row.finished)).total_seconds() > seconds]
    return frozenset(row.number for row in old) - needed


def _remove(kind: str, row: JobRun, job: JobFile, storage: BaseStorage) -> bool:
    """Whether it is deleted now; a file that cannot be is tried again next time."""
    if kind == "study":
        with contextlib.suppress(KeyError):  # deleted by other hands, e.g. in the dashboard
            storage.delete_study(storage.get_study_id_from_name(row.study))
        return True
    folder = job.run_folder(row.number)
    if folder.is_symlink():  # not made by us
        return True
    try:
        if kind == "report":
            for name in (REPORT, RESULT):
                (folder / name).unlink(missing_ok=True)
        elif (folder / CHECKPOINTS).is_dir() and not (folder / CHECKPOINTS).is_symlink():
            shutil.rmtree(folder / CHECKPOINTS)
    except OSError:
        return False
    with contextlib.suppress(OSError):
        folder.rmdir()
    return True
