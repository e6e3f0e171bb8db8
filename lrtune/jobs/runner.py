"""One run of a job: what is due is searched, the answer is published, old runs are deleted; all of it under a lock.

A second call in the same period does nothing. A run that was interrupted is resumed by the next call.
"""

from __future__ import annotations

import dataclasses
import json
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lrtune.core.files import clean, make_folder, write_atomically
from lrtune.core.timestamps import stamp
from lrtune.errors import MismatchError, SearchError, StorageError
from lrtune.jobs.drift import DriftVerdict, Profile
from lrtune.jobs.drift_strategy import DriftStrategy, LastAnswer
from lrtune.jobs.hook import HookError, environment, run_hook
from lrtune.jobs.publish import publish
from lrtune.jobs.request import JobOutcome, JobRequest, holding, state_path
from lrtune.jobs.retention import CHECKPOINTS, REPORT, RESULT, tidy
from lrtune.jobs.schedule import Due, DueKind
from lrtune.jobs.state import JobRun, Running, State, load, save

if TYPE_CHECKING:
    from collections.abc import Callable

    from optuna.storages import BaseStorage

    from lrtune.config.study_file import StudyFile
    from lrtune.jobs.job_file import JobFile
    from lrtune.search.base import Strategy
    from lrtune.study.result import Result

__all__ = ["ATTEMPTS", "JobRunner", "run"]

FREEZE_THAW = "freeze-thaw"
ATTEMPTS = 3
"""Failed runs of one period after which the next period is waited for: a scheduler that calls often must not
spend a full search each time."""


def run(job: JobFile, open_storage: Callable[[], BaseStorage], request: JobRequest | None = None) -> JobOutcome:
    """Take the job's lock and do what is due, once; see :class:`JobRunner`.

    Raises
    ------
    LockedError
        If another process runs the job.
    lrtune.errors.LrtuneError
        As :meth:`JobRunner.perform`.
    """
    request = request or JobRequest()
    with holding(job, request):
        return JobRunner(job, open_storage, request).perform()


class JobRunner:
    """One call, for which this process or its parent holds the job's lock.

    `open_storage` opens the storage of the job's studies; it is called only when something is due.
    """

    def __init__(self, job: JobFile, open_storage: Callable[[], BaseStorage], request: JobRequest) -> None:
        self.job = job
        self._open_storage = open_storage
        self.request = request
        self.state = load(state_path(job), job.name)

    @cached_property
    def storage(self) -> BaseStorage:
        """The storage of the job's studies."""
        return self._open_storage()

    @cached_property
    def study(self) -> StudyFile:
        """The job's study file."""
        from lrtune.config.study_file import read_study

        return read_study(self.job.study)

    @cached_property
    def trainer(self) -> Any:
        """The trainer of the study file."""
        return self.study.make_trainer()

    def perform(self) -> JobOutcome:
        """Do what is due.

        Raises
        ------
        lrtune.errors.LrtuneError
            Whatever ends the run without an answer. A run that was interrupted, or whose storage failed, is resumed
            by the next call in the same period.
        HookError
            If the answer is published and the hook failed; the next call runs the hook alone.
        """
        task = self._due()
        result, status = None, "nothing to do"
        if task.kind is DueKind.DONE:
            self._run_hook()
        elif task.kind is DueKind.SKIP:
            self._skip(task)
            status = "skipped"
        else:
            if task.missed:
                self.request.log(f"{task.missed} periods were missed; this one run makes up for them")
            self._refuse_hopeless(task)
            result, run = self._run_period(task)
            status = "interrupted" if run is None else "done"
            if run is not None:
                self._conclude(run, result)
        return JobOutcome(status=status, row=self.state.answer, due=task, result=result)

    def assist(self) -> None:
        """Train beside the first worker, which does all else, until the search of the current run has ended.

        Raises
        ------
        lrtune.errors.LrtuneError
            Whatever ends the search without an answer.
        """
        if self.state.running is not None:
            self._search(self.state.running, self._strategy())

    def _due(self) -> Due:
        task = self.state.due(self.job, self.request.now(), catch_up=self.request.catch_up)
        forced = (self.request.force or self.request.search) and task.kind in (DueKind.DONE, DueKind.SKIP)
        return dataclasses.replace(task, kind=DueKind.RUN) if forced else task

    def _skip(self, task: Due) -> None:
        self.request.log(f"{task.missed} periods were missed and are skipped; the next one begins {stamp(task.next)}")
        skipped = Running(number=0, study="", period=stamp(task.period), started=stamp(self.request.now()))
        row = self._ended(skipped, "skipped", missed=task.missed, why="it was not to be caught up")
        self._save(dataclasses.replace(self.state.with_row(row), last=row.period, running=None))

    def _refuse_hopeless(self, task: Due) -> None:
        failed = [row for row in self.state.rows if row.status == "failed" and row.period == stamp(task.period)]
        if len(failed) >= ATTEMPTS and not self.request.force:
            msg = (
                f"job {self.job.name!r} has failed {len(failed)} times in this period ({failed[-1].why}): "
                f"mend that and run it with --force, or wait for the next period, {stamp(task.next)}"
            )
            raise SearchError(msg)

    def _save(self, state: State) -> None:
        save(state_path(self.job), state)
        self.state = state

    # -- the search --------------------------------------------------------------------------------

    def _run_period(self, task: Due) -> tuple[Result | None, JobRun | None]:
        """The run of a period, resumed or begun; None for the run where it was interrupted."""
        _ = self.trainer, self.storage  # a run begins only where its code and its storage are usable
        resumed = task.kind is DueKind.RESUME
        running = self.state.running if resumed and self.state.running else self._begin(task)
        if resumed and not self.request.place.deaths:
            self.request.log(f"run {running.number} was interrupted and goes on")
        try:
            return self._tune(running, task)
        except MismatchError as error:
            if not resumed:
                raise
            self.request.log(f"run {running.number} cannot go on: {error}")
        return self._tune(self._begin(task), task)

    def _begin(self, task: Due) -> Running:
        """Store that a run begins, under a number whose study does not exist yet."""
        if self.state.running is not None:
            row = self._ended(
                self.state.running, "abandoned", why="it was interrupted, and not gone on with in its period"
            )
            self.state = dataclasses.replace(self.state.with_row(row), running=None)
        taken = {study.study_name for study in self.storage.get_all_studies()}
        number = self.state.highest + 1
        while self.job.study_name(number) in taken:
            number += 1
        study, started = self.job.study_name(number), stamp(self.request.now())
        running = Running(number=number, study=study, period=stamp(task.period), started=started)
        self._save(dataclasses.replace(self.state, running=running))
        return running

    def _tune(self, running: Running, task: Due) -> tuple[Result | None, JobRun | None]:
        strategy = self._strategy()
        try:
            result = self._search(running, strategy)
            result.demand_effect()
        except SearchError as error:
            found: Result | None = error.result
            if found is None or strategy.drift is None or strategy.drift.verdict is not DriftVerdict.UNCHANGED:
                self._failed(running, error, found)
                raise
            result = found
        if self.request.should_stop is not None and self.request.should_stop():
            return result, None
        return result, self._row(running, task, strategy, result)

    def _search(self, running: Running, strategy: DriftStrategy) -> Result:
        from lrtune.study.tuning import tune

        trainer, folder = self.trainer, self.job.run_folder(running.number)
        make_folder(folder)
        arguments = {**self.study.arguments(), **self.job.limits, "name": running.study, "strategy": strategy}
        return tune(
            trainer,
            self.study.space,
            **arguments,
            storage=self.storage,
            checkpoints=folder / CHECKPOINTS,
            observer=self.request.observer,
            should_stop=self.request.should_stop,
            place=self.request.place,
        )

    def _strategy(self) -> DriftStrategy:
        answer, last = self.state.answer, None
        if answer is not None and answer.params is not None and not self.request.search:
            profile = None if answer.profile is None else Profile.from_json(answer.profile)
            last = LastAnswer(params=answer.params, profile=profile)
        return DriftStrategy(inner=_inner(self.study, answer), last=last, confirm=self._confirm())

    def _confirm(self) -> bool:
        """Whether an unchanged learning rate is to be trained in full this time."""
        since = 0
        for row in reversed(self.state.rows):
            if row.status == "done" and row.value is not None:
                break
            since += row.status == "done"
        return 0 < self.job.confirm <= since + 1

    def _ended(self, running: Running, status: str, **more: Any) -> JobRun:
        return JobRun(**dataclasses.asdict(running), finished=stamp(self.request.now()), status=status, **more)

    def _failed(self, running: Running, error: SearchError, found: Result | None) -> None:
        """Store that a run ended without an answer: the next call in its period begins another one."""
        cost = 0.0 if found is None else found.cost
        row = self._ended(running, "failed", why=" ".join(str(error).split())[:500], cost=cost)
        self._save(dataclasses.replace(self.state.with_row(row), running=None))
        if found is not None and found.study is not None:
            self._write_report(running.number, found)

    def _row(self, running: Running, task: Due, strategy: DriftStrategy, result: Result) -> JobRun:
        before, drift, recipe = self.state.answer, strategy.drift, result.best_recipe
        unchanged = drift is not None and drift.verdict is DriftVerdict.UNCHANGED and before is not None
        row = self._ended(
            running,
            "done",
            verdict="" if drift is None else drift.verdict.value,
            why=result.stopped_because if drift is None or unchanged else f"{drift.why}; {result.stopped_because}",
            metric=result.metric,
            direction=result.direction,
            cost=result.cost,
            missed=task.missed,
            recipe=None if recipe is None else recipe.to_json(),
            params=None if recipe is None else self.study.space.params(recipe),
            value=result.best_value,
            band=result.band,
            profile=None if strategy.profile is None else strategy.profile.to_json(),
        )
        if before is None:
            return dataclasses.replace(row, changed=True)
        if unchanged:
            profile = before.profile or row.profile  # of the day on which it was found, so that slow drifts add up
            row = dataclasses.replace(
                row, recipe=before.recipe, params=before.params, band=before.band, profile=profile
            )
        return dataclasses.replace(row, changed=row.params != before.params)

    # -- the answer --------------------------------------------------------------------------------

    def _conclude(self, row: JobRun, result: Result | None) -> None:
        """Write the report, publish, store that the period is done, run the hook, delete old runs; in this order.

        After a kill in between, the next call finds the study complete, trains nothing, and writes all of it again.
        """
        if result is not None:
            self._write_report(row.number, result)
        publish(self.job.publish, self.job.name, row)
        hook_due = bool(self.job.publish.hook) and (row.changed or self.state.hook_due)
        self._save(dataclasses.replace(self.state.with_row(row), last=row.period, running=None, hook_due=hook_due))
        try:
            self._run_hook()
        finally:
            self._tidy()

    def _write_report(self, number: int, result: Result) -> None:
        folder = self.job.run_folder(number)
        write_atomically(folder / RESULT, json.dumps(clean(result.to_json()), indent=2, allow_nan=False) + "\n")
        result.report(folder / REPORT)

    def _run_hook(self) -> None:
        """Run the hook where it is due, and store its exit code."""
        row, publishing = self.state.answer, self.job.publish
        if not self.state.hook_due or row is None or not publishing.hook:
            return
        done = [old for old in self.state.rows if old.status == "done" and old.number < row.number]
        variables = environment(publishing, self.job.name, row, previous_lr=done[-1].lr if done else None)
        code = run_hook(publishing, self.job.folder, variables, should_stop=self.request.should_stop)
        rows = tuple(dataclasses.replace(r, hook=code) if r.number == row.number else r for r in self.state.rows)
        self._save(dataclasses.replace(self.state, rows=rows, hook_due=code != 0))
        if code:
            shown = publishing.hook[0]
            msg = f"the hook {shown!r} ended with code {code}; the answer is published, the same command runs it again"
            raise HookError(msg)

    def _tidy(self) -> None:
        """Delete what is too old; what cannot be deleted now is tried again by the next run."""
        try:
            state = tidy(self.job, self.state, self.storage, self.request.now())
        except StorageError as error:
            self.request.log(f"old runs could not be deleted: {error}")
            return
        if state != self.state:
            self._save(state)


def _inner(study: StudyFile, answer: JobRun | None) -> Strategy:
    """The strategy of the search; freeze-thaw starts from the last answer and its band."""
    from lrtune.search.registry import make

    name = study.settings.strategy
    if name == FREEZE_THAW and answer is not None and answer.lr is not None and answer.band is not None:
        from lrtune.study.warm_start import prior_from

        low, high = answer.band
        earlier = {"best": {**(answer.recipe or {}), "lr": answer.lr}, "band": {"low": low, "high": high}}
        return make(name, prior=prior_from(earlier))
    return make(name, prune=study.settings.prune, points=study.settings.points)
