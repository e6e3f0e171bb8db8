"""``lrtune optimize``: search a study, write its result and report, print the answer."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path  # noqa: TC003 -- typer reads the annotations at run time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lrtune.cli.console import own_stdout, say, say_json, warn
from lrtune.cli.interrupts import stopped, stops
from lrtune.cli.options import AnyStudy, Out, Quiet, Storage, add_command, default_out, here, stored_at
from lrtune.cli.preload import load_ahead
from lrtune.cli.range_from_test import ranged
from lrtune.cli.worker_pool import run_in_workers
from lrtune.config.study_file import schema
from lrtune.core.files import clean, make_folder, write_atomically
from lrtune.errors import InputError, MismatchError, SearchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from optuna.storages import BaseStorage

    from lrtune.config.study_file import StudyFile
    from lrtune.study.events import Observer
    from lrtune.study.result import Result
    from lrtune.training.base import Trainer
    from lrtune.workers.pool import WorkerContext
    from lrtune.workers.signals import StopFlag

__all__ = ["register"]

CHECKPOINTS = "checkpoints"
RESULT = "result.json"
REPORT = "report.html"
RETRY_SECONDS = 30.0
MOST_RETRY_SECONDS = 86_400.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    options = schema()
    train = [option for option in options if option.table == "train"]
    search = [option for option in options if option not in train]
    add_command(app, "optimize", OptimizeCommand, study=search, quiet=train)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizeCommand:
    """Find the learning rate of a study; the same command again goes on where it stopped."""

    study: AnyStudy = None
    storage: Storage = None
    storage_retry: Annotated[float | None, typer.Option(help="Seconds that an outage is waited for.")] = None
    range_test: Annotated[
        bool, typer.Option("--range-test", help="Where no range is given, find one by a range test; its cost counts.")
    ] = False
    like: Annotated[
        Path | None,
        typer.Option(metavar="STUDY", help="Start from an earlier study on similar work: its file or result.json."),
    ] = None
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew; the old study is moved aside.")] = False
    out: Out = None
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on stdout.")] = False
    json_log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append a line of JSON for each finished trial.")
    ] = None
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Log every trial's curve into TensorBoard's files there.")
    ] = None
    mlflow: Annotated[
        str | None, typer.Option(metavar="URI", help="Log every trial's curve into MLflow, at this server or store.")
    ] = None
    quiet: Quiet = False
    given: dict[str, Any]

    def run(self) -> None:
        """Check the command's own options, and search in workers."""
        from lrtune.integrations.trackers import check

        if self.study is None and self.given["estimator"] is None:
            msg = "nothing to tune: give a study file, or --estimator with --data; see lrtune optimize --help"
            raise InputError(msg)
        if self.storage_retry is not None and not 0 <= self.storage_retry <= MOST_RETRY_SECONDS:
            msg = f"--storage-retry must be from 0 to {MOST_RETRY_SECONDS:g} seconds (got {self.storage_retry})"
            raise InputError(msg)
        check(*self._trackers())
        run_in_workers(self.work, study=self.study, given=self.given)

    def work(self, place: WorkerContext) -> None:
        """What one worker does; the first one writes the result and prints it."""
        from lrtune.config.study_file import read_study

        study, start = read_study(self.study, self.given, lr_needed=not self.range_test), here()
        shown = self.out or default_out(study.settings.name)
        out = start / shown
        where = stored_at(self.storage, study.storage, study.folder, shown)
        with stops() as flag, own_stdout(), self._trainer(study, place) as trainer:
            from lrtune.cli.archive_study import set_aside
            from lrtune.storage import open_storage

            os.chdir(start)  # the user's code may have gone elsewhere while it was loaded
            make_folder(shown)
            fresh = self.fresh and place.index == 0 and not place.deaths  # a replacement resumes what is there
            retry = RETRY_SECONDS if self.storage_retry is None else self.storage_retry
            storage = open_storage(where, retry_seconds=retry, warn=warn)
            if fresh:
                set_aside(storage, study.settings.name)
            spent = 0.0
            if self.range_test:
                study, spent = ranged(study, trainer, out, fresh=fresh)
            os.chdir(start)  # or while a range was tested
            result = self._search(study, trainer, storage, out=out, spent=spent, flag=flag, place=place)
            if place.index:
                return
            os.chdir(start)
            _write(result, shown)
        if self.json:
            say_json(result.to_json())
        else:
            say(result.text())
            say(f"\nreport   {shown / REPORT}\nresult   {shown / RESULT}\nThe same command again goes on from here.")
        result.demand_effect()

    def _trainer(self, study: StudyFile, place: WorkerContext) -> contextlib.AbstractContextManager[Trainer]:
        """The trainer, for the block; isolated with `isolate`, so that a range test is too."""
        if place.forked and not place.index:  # the others have done so
            with contextlib.suppress(Exception, SystemExit):  # they come again, where they are explained
                load_ahead(self.study, self.given)
        from lrtune.study.tuning import as_trainer
        from lrtune.training.subprocess.trainer import isolating

        settings = study.settings
        made = as_trainer(study.make_trainer(), settings.metric)
        return isolating(made, wanted=settings.isolate, stall_timeout=settings.stall_timeout, place=place)

    def _search(
        self,
        study: StudyFile,
        trainer: Any,
        storage: BaseStorage,
        *,
        out: Path,
        spent: float,
        flag: StopFlag,
        place: WorkerContext,
    ) -> Result:
        from lrtune.cli.progress_display import watching
        from lrtune.cli.study_lookup import ended
        from lrtune.study.result import Result
        from lrtune.study.tuning import tune

        silent = place.index > 0

        with contextlib.ExitStack() as until_end:
            observer = until_end.enter_context(
                watching(
                    quiet=self.quiet or silent,
                    json_log=None if silent else self.json_log,
                    known=partial(ended, storage, study.settings.name),
                    others=() if silent else self._observers(storage, flag, until_end),  # one worker reports for all
                )
            )
            try:
                result = tune(
                    trainer,
                    study.space,
                    **study.arguments(),
                    spent=spent,
                    storage=storage,
                    checkpoints=out / CHECKPOINTS,
                    observer=observer,
                    should_stop=lambda: flag.requested,
                    place=place,
                    prior=self._prior(),
                )
            except MismatchError as error:  # the command has one remedy that tune() has not
                msg = f"{error}, or give --fresh: the old study is moved aside"
                raise MismatchError(msg) from None
            except SearchError as error:
                if silent and type(error) is SearchError:  # the first worker reports it
                    raise typer.Exit(error.exit_code) from None
                if isinstance(found := getattr(error, "result", None), Result) and not silent:
                    _write(found, out)
                raise
        if flag.requested and silent:
            raise typer.Exit(flag.exit_code)
        if flag.requested:
            trials = sum(many for group, many in result.trials_by_outcome.items() if group != "interrupted")
            raise stopped(flag, result.cost, trials)
        return result

    def _observers(self, storage: BaseStorage, flag: StopFlag, until_end: contextlib.ExitStack) -> Iterator[Observer]:
        """The trackers, and the note that optuna-dashboard shows of the study."""
        from lrtune.integrations.optuna_dashboard import Notes, installed
        from lrtune.integrations.trackers import tracker

        for name, where in self._trackers().items():
            yield tracker(name, where, warn=warn)
        if installed():
            notes = Notes(storage, warn=warn)

            def unless_stopped(call: Callable[..., None], *arguments: Any) -> None:
                if not flag.requested:  # drawing the note's figures takes seconds
                    call(*arguments)

            until_end.callback(unless_stopped, notes.close)
            yield partial(unless_stopped, notes)

    def _trackers(self) -> dict[str, Path | str]:
        """Where the trackers that were asked for log, by name."""
        from lrtune.integrations.trackers import NAMES

        asked = {name: getattr(self, name, None) for name in NAMES}
        return {name: where for name, where in asked.items() if where is not None}

    def _prior(self) -> Any:
        """The earlier study to start from, where one is named."""
        if self.like is None or self.like.suffix != ".toml":
            return self.like
        from lrtune.cli.study_lookup import load, located

        place = located(self.like, name=None, storage=None, out=None)
        return load(place.storage, place.name)


def _write(result: Result, out: Path) -> None:
    """Write ``result.json`` and the page."""
    import json

    write_atomically(out / RESULT, json.dumps(clean(result.to_json()), indent=2, allow_nan=False) + "\n")
    result.report(out / REPORT)
