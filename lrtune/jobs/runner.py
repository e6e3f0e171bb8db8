"""One run of a job: from the lock to the published answer; the same period's run twice does nothing the second time."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from lrtune.core.files import clean, make_folder, write_atomically
from lrtune.core.timestamps import stamp, utc
from lrtune.errors import LrtuneError, MismatchError, SearchError, StorageError
from lrtune.jobs.drift import DriftVerdict, Profile
from lrtune.jobs.drift_strategy import Last, Recheck
from lrtune.jobs.hook import HookError, environment, run_hook
from lrtune.jobs.publish import publish
from lrtune.jobs.request import JobOutcome, JobRequest, holding, state_path
from lrtune.jobs.retention import CHECKPOINTS, REPORT, RESULT, tidy
from lrtune.jobs.schedule import Due, DueKind, due
from lrtune.jobs.state import JobRun, Running, State, load, save

if TYPE_CHECKING:
    from collections.abc import Callable

    from optuna.storages import BaseStorage

    from lrtune.config.study_file import StudyFile
    from lrtune.jobs.job_file import JobFile
    from lrtune.search.base import Strategy
    from lrtune.study.result import Result

__all__ = ["ATTEMPTS", "assist", "perform", "run"]

FREEZE_THAW = "freeze-thaw"
ATTEMPTS = 3
"""Failed runs of one period after which the next period is waited for: a scheduler that calls often must not
spend a full search each time."""


def run(job: JobFile, open_store: Callable[[], BaseStorage], asked: JobRequest | None = None) -> JobOutcome:
    """Do what is due, once.

    Parameters
    ----------
    job
        What is to be run.
    open_store
        Opens the storage of its studies; called only when there is something to do.
    asked
        How.

    Raises
    ------
    LockedError
        If a run of the job is going on.
    lrtune.errors.LrtuneError
        Whatever ends the run without an answer; a run that was interrupted, or whose storage failed, is resumed
        by the next call in the same period.
    HookError
        If the answer is published but the hook did not succeed; the next call runs the hook alone.
    """
    asked = asked or JobRequest()
    with holding(job, asked):
        return perform(job, open_store, asked)


def perform(job: JobFile, open_store: Callable[[], BaseStorage], asked: JobRequest) -> JobOutcome:
    """As :func:`run`, where the lock is held already, by this process or its parent."""
    return _Run(job, open_store, asked).go()


def assist(job: JobFile, open_store: Callable[[], BaseStorage], asked: JobRequest) -> None:
    """Train beside the first worker, who looks after all else, until the search of its run has ended.

    Raises
    ------
    lrtune.errors.LrtuneError
        Whatever ends the search without an answer.
    """
    _Run(job, open_store, asked).assist()


class _Run:
    """One call, under the lock."""

    def __init__(self, job: JobFile, open_store: Callable[[], BaseStorage], asked: JobRequest) -> None:
        self.job = job
        self._open_store = open_store
        self._storage: BaseStorage | None = None
        self.asked = asked
        self.state = load(state_path(job), job.name)

    def storage(self) -> BaseStorage:
        """The storage, opened once."""
        self._storage = self._storage or self._open_store()
        return self._storage

    def go(self) -> JobOutcome:
        """Do what is due."""
        task = self._due()
        if task.kind is DueKind.DONE:
            self._hook()
            return JobOutcome(status="nothing to do", row=self.state.answer, due=task)
        if task.kind is DueKind.SKIP:
            return self._skipped(task)
        if task.missed:
            self.asked.log(f"{task.missed} periods were missed; this one run makes up for them")
        self._refuse_hopeless(task)
        result, row = self._searched(task)
        if row is None:
            return JobOutcome(status="interrupted", row=self.state.answer, due=task, result=result)
        self._conclude(row, result)
        return JobOutcome(status="done", row=self.state.answer, due=task, result=result)

    def _due(self) -> Due:
        running = self.state.running
        task = due(
            self.job.schedule,
            self.asked.now(),
            last=self.state.last_period(),
            running=None if running is None else utc(running.period),
            catch_up=self.asked.catch_up,
            late=self.job.late,
        )
        again = (self.asked.force or self.asked.search) and task.kind in (DueKind.DONE, DueKind.SKIP)
        return dataclasses.replace(task, kind=DueKind.RUN) if again else task

    def _skipped(self, task: Due) -> JobOutcome:
        self.asked.log(f"{task.missed} periods were missed and are skipped; the next one begins {stamp(task.next)}")
        at = stamp(self.asked.now())
        row = JobRun(
            number=0,
            study="",
            period=stamp(task.period),
            started=at,
            finished=at,
            status="skipped",
            missed=task.missed,
            why="it was not to be caught up",
        )
        self._save(dataclasses.replace(self.state.with_row(row), last=row.period, running=None))
        return JobOutcome(status="skipped", row=self.state.answer, due=task)

    def _refuse_hopeless(self, task: Due) -> None:
        failed = [row for row in self.state.rows if row.status == "failed" and row.period == stamp(task.period)]
        if len(failed) >= ATTEMPTS and not self.asked.force:
            msg = (
                f"job {self.job.name!r} has failed {len(failed)} times in this period ({failed[-1].why}): "
                f"mend that and run it with --force, or wait for the next period, {stamp(task.next)}"
            )
            raise SearchError(msg)

    def _save(self, state: State) -> None:
        save(state_path(self.job), state)
        self.state = state

    # -- the search --------------------------------------------------------------------------------

    def _searched(self, task: Due) -> tuple[Result | None, JobRun | None]:
        """The run of a period; no row where it was interrupted."""
        from lrtune.config.study_file import read_study

        study = read_study(self.job.study)
        trainer = study.make_trainer()
        storage = self.storage()
        resumed = task.kind is DueKind.RESUME
        running = self.state.running if resumed and self.state.running else self._begin(task, storage)
        if resumed and not self.asked.place.deaths:
            self.asked.log(f"run {running.number} was interrupted and goes on")
        try:
            return self._tune(study, trainer, storage, running, task)
        except MismatchError as error:
            if not resumed:
                raise
            self.asked.log(f"run {running.number} cannot go on: {error}")
        return self._tune(study, trainer, storage, self._begin(task, storage), task)

    def assist(self) -> None:
        """The search of the run that is going on; nothing where it is through already."""
        from lrtune.config.study_file import read_study

        running = self.state.running
        if running is not None:
            study = read_study(self.job.study)
            self._search(study, study.make_trainer(), self.storage(), running, self._strategy(study))

    def _begin(self, task: Due, storage: BaseStorage) -> Running:
        """Note that a run begins, under a number whose study does not exist yet."""
        if self.state.running is not None:
            old = self.state.running
            why = "it was interrupted, and not gone on with in its period"
            row = JobRun(**dataclasses.asdict(old), finished=stamp(self.asked.now()), status="abandoned", why=why)
            self.state = dataclasses.replace(self.state.with_row(row), running=None)
        taken = {study.study_name for study in storage.get_all_studies()}
        number = self.state.highest + 1
        while self.job.study_name(number) in taken:
            number += 1
        running = Running(
            number=number,
            study=self.job.study_name(number),
            period=stamp(task.period),
            started=stamp(self.asked.now()),
        )
        self._save(dataclasses.replace(self.state, running=running))
        return running

    def _tune(
        self, study: StudyFile, trainer: Any, storage: BaseStorage, running: Running, task: Due
    ) -> tuple[Result | None, JobRun | None]:
        strategy = self._strategy(study)
        try:
            result = self._search(study, trainer, storage, running, strategy)
            result.demand_effect()
        except SearchError as error:
            found: Result | None = error.result
            stands = strategy.said is not None and strategy.said.verdict is DriftVerdict.UNCHANGED
            if not (stands and found is not None):
                self._failed(running, error, found)
                raise
            result = found
        if self.asked.should_stop is not None and self.asked.should_stop():
            return result, None
        return result, self._row(running, task, strategy, result, study)

    def _search(
        self, study: StudyFile, trainer: Any, storage: BaseStorage, running: Running, strategy: Recheck
    ) -> Result:
        from lrtune.study.tuning import tune

        folder = self.job.run_folder(running.number)
        make_folder(folder)
        told = {**study.arguments(), **self.job.limits, "name": running.study, "strategy": strategy}
        return tune(
            trainer,
            study.space,
            **told,
            storage=storage,
            checkpoints=folder / CHECKPOINTS,
            observer=self.asked.observer,
            should_stop=self.asked.should_stop,
            place=self.asked.place,
        )

    def _strategy(self, study: StudyFile) -> Recheck:
        answer = self.state.answer
        last = None
        if answer is not None and answer.params is not None and not self.asked.search:
            profile = None if answer.profile is None else Profile.from_json(answer.profile)
            last = Last(params=answer.params, profile=profile)
        return Recheck(inner=_inner(study, answer), last=last, confirm=self._confirm())

    def _confirm(self) -> bool:
        """Whether a learning rate that stands is to be trained in full this time."""
        since = 0
        for row in reversed(self.state.rows):
            if row.status == "done" and row.value is not None:
                break
            since += row.status == "done"
        return 0 < self.job.confirm <= since + 1

    def _failed(self, running: Running, error: LrtuneError, found: Result | None) -> None:
        """Note a run that ended without an answer: the next call in its period begins another one."""
        why = " ".join(str(error).split())[:500]
        told = dataclasses.asdict(running)
        cost = 0.0 if found is None else found.cost
        row = JobRun(**told, finished=stamp(self.asked.now()), status="failed", why=why, cost=cost)
        self._save(dataclasses.replace(self.state.with_row(row), running=None))
        if found is not None and found.study is not None:
            self._write_report(running.number, found)

    def _row(self, running: Running, task: Due, strategy: Recheck, result: Result, study: StudyFile) -> JobRun:
        before, said = self.state.answer, strategy.said
        stands = said is not None and said.verdict is DriftVerdict.UNCHANGED and before is not None
        row = JobRun(
            **dataclasses.asdict(running),
            finished=stamp(self.asked.now()),
            status="done",
            verdict="" if said is None else said.verdict.value,
            why=result.stopped_because if said is None or stands else f"{said.why}; {result.stopped_because}",
            metric=result.metric,
            direction=result.direction,
            cost=result.cost,
            missed=task.missed,
            recipe=None if result.best_recipe is None else result.best_recipe.to_json(),
            params=None if result.best_recipe is None else study.space.params(result.best_recipe),
            value=result.best_value,
            band=result.band,
            profile=None if strategy.profile is None else strategy.profile.to_json(),
        )
        if before is None:
            return dataclasses.replace(row, changed=True)
        if stands:
            profile = before.profile or row.profile  # of the day on which it was found, so that slow drifts add up
            row = dataclasses.replace(
                row, recipe=before.recipe, params=before.params, band=before.band, profile=profile
            )
        return dataclasses.replace(row, changed=row.params != before.params)

    # -- what is done with it ----------------------------------------------------------------------

    def _conclude(self, row: JobRun, result: Result | None) -> None:
        """Write the report, publish, note that the period is done, run the hook, tidy up; in this order.

        Killed in between, the next call goes on: the study is complete and trains nothing, and what was written is
        written again.
        """
        if result is not None:
            self._write_report(row.number, result)
        publish(self.job.publish, self.job.name, row)
        hook_due = bool(self.job.publish.hook) and (row.changed or self.state.hook_due)
        state = dataclasses.replace(self.state.with_row(row), last=row.period, running=None, hook_due=hook_due)
        self._save(state)
        failure = self._hooked()
        self._tidy()
        if failure is not None:
            raise failure

    def _write_report(self, number: int, result: Result) -> None:
        folder = self.job.run_folder(number)
        write_atomically(folder / RESULT, json.dumps(clean(result.to_json()), indent=2, allow_nan=False) + "\n")
        result.report(folder / REPORT)

    def _hook(self) -> None:
        failure = self._hooked()
        if failure is not None:
            raise failure

    def _hooked(self) -> HookError | None:
        """Run the hook where it is due."""
        row, told = self.state.answer, self.job.publish
        if not self.state.hook_due or row is None or not told.hook:
            return None
        done = [old for old in self.state.rows if old.status == "done" and old.number < row.number]
        given = environment(told, self.job.name, row, previous_lr=done[-1].lr if done else None)
        code = run_hook(told, self.job.folder, given, should_stop=self.asked.should_stop)
        rows = tuple(dataclasses.replace(r, hook=code) if r.number == row.number else r for r in self.state.rows)
        self._save(dataclasses.replace(self.state, rows=rows, hook_due=code != 0))
        if code == 0:
            return None
        msg = (
            f"the hook {told.hook[0]!r} ended with code {code}; the answer is published, the same command runs it again"
        )
        return HookError(msg)

    def _tidy(self) -> None:
        """Delete what is too old; what cannot be deleted now is no reason to fail."""
        try:
            state = tidy(self.job, self.state, self.storage(), self.asked.now())
        except StorageError as error:
            self.asked.log(f"old runs could not be deleted: {error}")
            return
        if state != self.state:
            self._save(state)


def _inner(study: StudyFile, answer: JobRun | None) -> Strategy:
    """The strategy of the search, told what is known from last time where it can use it."""
    from lrtune.search.registry import make

    name = study.settings.strategy
    if name == FREEZE_THAW and answer is not None and answer.lr is not None and answer.band is not None:
        from lrtune.study.warm_start import prior_from

        low, high = answer.band
        earlier = {"best": {**(answer.recipe or {}), "lr": answer.lr}, "band": {"low": low, "high": high}}
        return make(name, prior=prior_from(earlier))
    return make(name, prune=study.settings.prune, points=study.settings.points)
