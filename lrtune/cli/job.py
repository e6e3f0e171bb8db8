"""``lrtune job``: tuning by the clock. One run for a scheduler, what to install, a scheduler of its own, history."""

from __future__ import annotations

import contextlib
import dataclasses
import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from lrtune.cli.console import note, own_stdout, say, say_json, warn
from lrtune.cli.interrupts import stops
from lrtune.cli.options import Storage, add_command, stored_at
from lrtune.cli.worker_pool import crewed
from lrtune.core.files import clean, write_atomically
from lrtune.errors import InputError, InterruptedSearchError, LockedError, LrtuneError, SearchError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from optuna.storages import BaseStorage

    from lrtune.jobs.job_file import JobFile
    from lrtune.jobs.request import JobRequest
    from lrtune.workers.pool import WorkerContext
    from lrtune.workers.signals import StopFlag

__all__ = ["register"]

JobPath: TypeAlias = Annotated[Path, typer.Argument(metavar="JOB.toml", help="The job file.")]
JobPaths: TypeAlias = Annotated[list[Path], typer.Argument(metavar="JOB.toml", help="The job files.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    jobs = typer.Typer(
        help="Tune by the clock: a job file names a study, a schedule, and what to do with the answer.",
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    for name, command in (("run", run), ("status", status), ("install", install), ("serve", serve)):
        add_command(jobs, name, command)
    app.add_typer(jobs, name="job")


def run(
    job: JobPath,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for a run that is going on.")] = False,
    catch_up: Annotated[
        bool | None, typer.Option("--catch-up/--no-catch-up", help="Whether missed periods are made up for, once.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Run, also where this period's run is done.")] = False,
    search: Annotated[
        bool, typer.Option("--search", help="As --force, and search in full without a drift test.")
    ] = False,
    storage: Storage = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the line of JSON.")] = False,
) -> None:
    """Do what is due, once, and print one line of JSON; made for cron, systemd, Kubernetes and Airflow."""
    from lrtune.jobs import read_job, request
    from lrtune.workers.signals import stopping

    line: dict[str, Any] = {"job": job.stem, "status": "failed"}
    with contextlib.ExitStack() as stack:
        with _telling(line):
            told = read_job(job)
            line["job"] = told.name
            made_up = told.catch_up if catch_up is None else catch_up
            ways = request.JobRequest(wait=wait, force=force, search=search, catch_up=made_up, log=_log)
            with stopping() as flag:
                _locked(stack, told, ways, flag)
        # The parent holds the lock, whatever becomes of its workers; it has loaded nothing heavy.
        crewed(lambda place: _work(told, ways, storage, line, quiet=quiet, place=place), study=told.study)


def _log(text: str) -> None:
    note(f"lrtune: note: {text}")


@contextlib.contextmanager
def _telling(line: dict[str, Any]) -> Iterator[None]:
    """Print the line of JSON of what ends the block without an answer."""
    try:
        yield
    except LrtuneError as error:
        status = {6: "locked", 129: "interrupted", 130: "interrupted", 143: "interrupted"}
        line |= {"status": status.get(error.exit_code, "failed"), "error": " ".join(str(error).split())}
        _say(line, error.exit_code)
        raise


def _say(line: dict[str, Any], code: int) -> None:
    say(jsonlib.dumps(clean(line | {"exit_code": code}), allow_nan=False))


def _locked(stack: contextlib.ExitStack, job: JobFile, told: JobRequest, flag: StopFlag) -> None:
    """Take the job's lock for as long as the stack lasts."""
    from lrtune.jobs.request import holding

    try:
        stack.enter_context(holding(job, dataclasses.replace(told, should_stop=lambda: flag.requested)))
    except LockedError:
        if flag.requested:  # while it waited
            raise _stopped(flag, 0.0) from None
        raise


def _work(
    job: JobFile, told: JobRequest, storage: str | None, line: dict[str, Any], *, quiet: bool, place: WorkerContext
) -> None:
    """What one worker does; the first one does all but train beside others, and tells the outcome."""
    if place.index:
        _assist(job, told, storage, place)
        return
    with _telling(line), stops() as flag, own_stdout():
        ended = _performed(job, told, storage, flag, quiet=quiet, place=place)
    _say(ended, 0)


def _performed(
    job: JobFile, told: JobRequest, storage: str | None, flag: StopFlag, *, quiet: bool, place: WorkerContext
) -> dict[str, Any]:
    from lrtune.cli.progress_display import watching
    from lrtune.jobs import runner as running

    with watching(quiet=quiet, json_log=None) as observer:
        told = dataclasses.replace(told, should_stop=lambda: flag.requested, observer=observer, place=place)
        ended = running.perform(job, lambda: _opened(job, storage), told)
    if ended.status == "interrupted":
        raise _stopped(flag, 0.0 if ended.result is None else ended.result.cost)
    return ended.to_json(job)


def _assist(job: JobFile, told: JobRequest, storage: str | None, place: WorkerContext) -> None:
    from lrtune.jobs import runner as running

    with stops() as flag, own_stdout():
        told = dataclasses.replace(told, should_stop=lambda: flag.requested, place=place)
        try:
            running.assist(job, lambda: _opened(job, storage), told)
        except SearchError as error:
            if type(error) is not SearchError:
                raise
            raise typer.Exit(error.exit_code) from None  # the first worker says so
        if flag.requested:
            raise typer.Exit(flag.exit_code)


def _stopped(flag: StopFlag, cost: float) -> InterruptedSearchError:
    msg = f"stopped by {flag.name}: {cost:.2f} full trainings spent; run the same command to resume"
    return InterruptedSearchError(msg, exit_code=flag.exit_code or 143)


def _opened(job: JobFile, given: str | None) -> BaseStorage:
    from lrtune.config.study_file import read_study
    from lrtune.storage import open_storage

    told = read_study(job.study)
    in_file, folder = (job.storage, job.folder) if job.storage else (told.storage, told.folder)
    return open_storage(stored_at(given, in_file, folder, job.out), warn=warn)


def status(
    job: JobPath,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print the history as JSON, and nothing else.")] = False,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write the learning rate over time as a page.")
    ] = None,
) -> None:
    """Show the last run, the next one, and the learning rate over time."""
    from lrtune.cli.job_status import text
    from lrtune.jobs import read_job
    from lrtune.jobs import status as history

    told = history.standing(read_job(job))
    if figure is not None:
        from lrtune.reporting.figures.history import history as drawn

        write_atomically(figure, drawn(history.points(told.rows)).to_html(include_plotlyjs=True, full_html=True))
    if json:
        say_json(told.to_json())
        return
    say(text(told))
    if figure is not None:
        say(f"\nfigure   {figure}")


def install(
    job: JobPath,
    *,
    systemd: Annotated[bool, typer.Option("--systemd", help="A service and its timer.")] = False,
    cron: Annotated[bool, typer.Option("--cron", help="A line for crontab.")] = False,
    kubernetes: Annotated[bool, typer.Option("--kubernetes", help="A CronJob.")] = False,
    image: Annotated[str, typer.Option(help="Kubernetes: the image that holds lrtune and the job.")] = "lrtune:latest",
    claim: Annotated[str, typer.Option(help="Kubernetes: the volume claim of the job's folder.")] = "lrtune",
) -> None:
    """Print what a scheduler needs to run the job; nothing is installed."""
    from lrtune.jobs import read_job, scheduler_templates

    if systemd + cron + kubernetes != 1:
        msg = "which scheduler? give one of --systemd, --cron and --kubernetes"
        raise InputError(msg)
    told = read_job(job)
    if systemd:
        say(scheduler_templates.systemd(told))
    elif cron:
        say(scheduler_templates.cron(told))
    else:
        say(scheduler_templates.kubernetes(told, image=image, claim=claim))


def serve(jobs: JobPaths) -> None:
    """Run several jobs by their own schedules until stopped, for those who have no scheduler."""
    from lrtune.jobs import read_job, server
    from lrtune.workers.signals import stopping

    told = [read_job(path) for path in jobs]
    with stopping() as flag:
        server.serve(told, should_stop=lambda: flag.requested, say=say, log=note)
    msg = f"stopped by {flag.name}: runs that were going on are resumed at the next start"
    raise InterruptedSearchError(msg, exit_code=flag.exit_code or 143)
