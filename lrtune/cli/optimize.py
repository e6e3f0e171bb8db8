"""``lrtune optimize``: from a study file, or from options alone, to an answer."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 -- typer reads the annotations at run time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lrtune.cli.console import note, own_stdout, say, say_json
from lrtune.cli.interrupts import stopped, stops
from lrtune.cli.options import Debug, Out, Storage, default_out, here, stored_at
from lrtune.cli.range_from_test import ranged
from lrtune.cli.trackers import Followers
from lrtune.cli.worker_pool import crewed
from lrtune.core.files import clean, make_folder, write_atomically
from lrtune.errors import InputError, MismatchError, SearchError

if TYPE_CHECKING:
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
    app.command("optimize")(optimize)


def optimize(
    study: Annotated[Path | None, typer.Argument(metavar="[STUDY.toml]", help="The study file.")] = None,
    *,
    strategy: Annotated[str | None, typer.Option(help="freeze-thaw, tpe, gp, qmc, random or grid.")] = None,
    budget: Annotated[float | None, typer.Option(help="The most to spend, in full trainings.")] = None,
    trials: Annotated[int | None, typer.Option(help="The most trials to start.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds after which to end.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every decision and every run.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that train side by side.")] = None,
    lr: Annotated[str | None, typer.Option(metavar="LOW,HIGH", help="Learning rates to search.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of one full training.")] = None,
    name: Annotated[str | None, typer.Option("--study", metavar="NAME", help="Name of the study.")] = None,
    metric: Annotated[str | None, typer.Option(help="What is watched, e.g. valid_loss.")] = None,
    direction: Annotated[str | None, typer.Option(help="minimize or maximize.")] = None,
    widen: Annotated[
        bool | None, typer.Option("--widen/--no-widen", help="Whether the range may grow where the best is at its end.")
    ] = None,
    stall_timeout: Annotated[float | None, typer.Option(help="Seconds without progress that end a trial.")] = None,
    trial_timeout: Annotated[float | None, typer.Option(help="Seconds that end a trial.")] = None,
    isolate: Annotated[
        bool | None,
        typer.Option("--isolate/--no-isolate", help="Whether each trial trains in a process of its own (Linux)."),
    ] = None,
    checkpoint_every: Annotated[float | None, typer.Option(help="Seconds of training between checkpoints.")] = None,
    storage: Storage = None,
    storage_retry: Annotated[float | None, typer.Option(help="Seconds that an outage is waited for.")] = None,
    range_test: Annotated[
        bool, typer.Option("--range-test", help="Where no range is given, find one by a range test; its cost counts.")
    ] = False,
    like: Annotated[
        Path | None,
        typer.Option(metavar="STUDY", help="Start from an earlier study on similar work: its file or result.json."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew; the old study is moved aside.")] = False,
    out: Out = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on stdout.")
    ] = False,
    json_log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append a line of JSON for each finished trial.")
    ] = None,
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Log every trial's curve into TensorBoard's files there.")
    ] = None,
    mlflow: Annotated[
        str | None, typer.Option(metavar="URI", help="Log every trial's curve into MLflow, at this server or store.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the answer.")] = False,
    estimator: Annotated[
        str | None, typer.Option(metavar="MODULE:CLASS", help="Without a study file: a scikit-learn estimator.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="A CSV or Parquet file, or digits, iris, wine, breast_cancer, diabetes.")
    ] = None,
    target: Annotated[str | None, typer.Option(metavar="COLUMN", help="The column that is predicted.")] = None,
    weight: Annotated[str | None, typer.Option(metavar="COLUMN", help="The column of sample weights.")] = None,
    drop: Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="A column to leave out; repeatable.")] = None,
    debug: Debug = False,
) -> None:
    """Find the learning rate of a study; the same command again goes on where it stopped."""
    given = dict(locals())
    told = OptimizeCommand(
        study=study,
        given=given,
        storage=storage,
        storage_retry=storage_retry,
        range_test=range_test,
        like=like,
        fresh=fresh,
        out=out,
        json=json,
        json_log=json_log,
        followers=Followers(tensorboard=tensorboard, mlflow=mlflow),
        quiet=quiet,
    )
    told.run()


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizeCommand:
    """What the command line said; `given` holds the options that stand over the study file."""

    study: Path | None
    given: dict[str, Any]
    storage: str | None
    storage_retry: float | None
    range_test: bool
    like: Path | None
    fresh: bool
    out: Path | None
    json: bool
    json_log: Path | None
    followers: Followers
    quiet: bool

    def run(self) -> None:
        """Search, write, answer.

        Raises
        ------
        lrtune.errors.LrtuneError
            Whatever ends it without an answer; carries the exit code.
        """
        if self.study is None and self.given["estimator"] is None:
            msg = "nothing to tune: give a study file, or --estimator with --data; see lrtune optimize --help"
            raise InputError(msg)
        if self.storage_retry is not None and not 0 <= self.storage_retry <= MOST_RETRY_SECONDS:
            msg = f"--storage-retry must be from 0 to {MOST_RETRY_SECONDS:g} seconds (got {self.storage_retry})"
            raise InputError(msg)
        self.followers.check()
        crewed(self.work, study=self.study, given=self.given)

    def work(self, place: WorkerContext) -> None:
        """What one worker does; the first one speaks.

        Raises
        ------
        lrtune.errors.LrtuneError
            Whatever ends it without an answer; carries the exit code.
        """
        from lrtune.config.study_file import read_study

        study, start = read_study(self.study, self.given), here()
        shown = self.out or default_out(study.question.name)
        out = start / shown
        where = stored_at(self.storage, study.search.storage, study.folder, shown)
        with stops() as flag, own_stdout(), _trainer(study, place) as trainer:
            os.chdir(start)  # the user's code may have gone elsewhere while it was loaded
            make_folder(shown)
            storage = self._opened(where, study.question.name, fresh=self.fresh and self._first(place))
            study, spent = (
                ranged(study, trainer, out, fresh=self.fresh and self._first(place))
                if self.range_test
                else (study, 0.0)
            )
            os.chdir(start)  # or while a range was tested
            result = self._search(study, trainer, storage, out=out, spent=spent, flag=flag, place=place)
            if place.index:
                return
            os.chdir(start)
            _write(result, shown)
        if self.json:
            say_json(result.to_json())
            result.demand_effect()
            return
        say(result.text())
        say(f"\nreport   {shown / REPORT}\nresult   {shown / RESULT}\nThe same command again goes on from here.")
        result.demand_effect()

    @staticmethod
    def _first(place: WorkerContext) -> bool:
        """Whether this is the first worker of all: a successor goes on with what is there."""
        return place.index == 0 and not place.deaths

    def _opened(self, where: str, name: str, *, fresh: bool) -> BaseStorage:
        from lrtune.cli.archive_study import set_aside
        from lrtune.storage import open_storage

        retry = RETRY_SECONDS if self.storage_retry is None else self.storage_retry
        storage = open_storage(where, retry_seconds=retry, warn=lambda line: note(f"lrtune: warning: {line}"))
        if fresh:
            set_aside(storage, name)
        return storage

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

        def known() -> frozenset[int]:
            return ended(storage, study.question.name)

        with (
            watching(quiet=self.quiet or silent, json_log=None if silent else self.json_log, known=known) as shown,
            self._followed(storage, shown, flag, silent=silent) as observer,
        ):
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
            except MismatchError as error:  # one way out more than a call of tune() has
                msg = f"{error}, or give --fresh: the old study is moved aside"
                raise MismatchError(msg) from None
            except SearchError as error:
                if silent and type(error) is SearchError:  # the first worker says so
                    raise typer.Exit(error.exit_code) from None
                if isinstance(found := getattr(error, "result", None), Result) and not silent:
                    _write(found, out)
                raise
        if flag.requested and silent:
            raise typer.Exit(flag.exit_code)
        if flag.requested:
            raise stopped(flag, result)
        return result

    def _followed(
        self, storage: BaseStorage, shown: Observer, flag: StopFlag, *, silent: bool
    ) -> contextlib.AbstractContextManager[Observer]:
        """The observer with all who follow along; one worker speaks for all."""
        if silent:
            return contextlib.nullcontext(shown)
        return self.followers.following(storage, shown, lambda: flag.requested)

    def _prior(self) -> Any:
        """The earlier study to start from, where one is named."""
        if self.like is None or self.like.suffix != ".toml":
            return self.like
        from lrtune.cli.study_lookup import load, located

        place = located(self.like, name=None, storage=None, out=None)
        return load(place.storage, place.name)


def _trainer(study: StudyFile, place: WorkerContext) -> contextlib.AbstractContextManager[Trainer]:
    """The trainer, for the block; isolated where that is asked for, so that a range test is too."""
    from lrtune.study.tuning import as_trainer
    from lrtune.training.subprocess.trainer import isolating

    told = study.search
    made = as_trainer(study.make_trainer(), study.question.metric)
    return isolating(made, wanted=bool(told.isolate), stall_timeout=told.stall_timeout, place=place)


def _write(result: Result, out: Path) -> None:
    """Write ``result.json`` and the page."""
    import json

    write_atomically(out / RESULT, json.dumps(clean(result.to_json()), indent=2, allow_nan=False) + "\n")
    result.report(out / REPORT)
