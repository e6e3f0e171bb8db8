"""``lrtune job``: one run of a scheduled job, its history, what to install for a scheduler, a scheduler of its own."""

from __future__ import annotations

import contextlib
import json as jsonlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from lrtune.cli.console import note, own_stdout, say, say_json, warn
from lrtune.cli.interrupts import stopped, stops
from lrtune.cli.options import Storage, add_command, stored_at
from lrtune.cli.worker_pool import run_in_workers
from lrtune.core.files import clean, write_atomically
from lrtune.errors import InputError, InterruptedSearchError, LockedError, LrtuneError, SearchError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from optuna.storages import BaseStorage

    from lrtune.jobs.job_file import JobFile
    from lrtune.jobs.request import JobRequest
    from lrtune.jobs.runner import JobRunner
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
    from lrtune.jobs import read_job
    from lrtune.jobs.request import JobRequest, holding
    from lrtune.workers.signals import stopping

    line: dict[str, Any] = {"job": job.stem}
    with contextlib.ExitStack() as stack:
        with _failure_as_json(line):
            file = read_job(job)
            line["job"] = file.name
            if catch_up is None:
                catch_up = file.catch_up
            request = JobRequest(wait=wait, force=force, search=search, catch_up=catch_up, log=_log)
            with stopping() as flag:
                try:
                    stack.enter_context(holding(file, replace(request, should_stop=lambda: flag.requested)))
                except LockedError:
                    if flag.requested:  # while it waited
                        raise stopped(flag, 0.0) from None
                    raise

        def work(place: WorkerContext) -> None:
            _work(file, replace(request, place=place), storage, line, quiet=quiet)

        run_in_workers(work, study=file.study)  # this process holds the lock, whatever becomes of its workers


def _log(text: str) -> None:
    note(f"lrtune: note: {text}")


@contextlib.contextmanager
def _failure_as_json(line: dict[str, Any]) -> Iterator[None]:
    """Print the line of JSON of an error that ends the block."""
    try:
        yield
    except LrtuneError as error:
        status = {6: "locked", 129: "interrupted", 130: "interrupted", 143: "interrupted"}
        failed = {"status": status.get(error.exit_code, "failed"), "error": " ".join(str(error).split())}
        _say(line | failed, error.exit_code)
        raise


def _say(line: dict[str, Any], code: int) -> None:
    say(jsonlib.dumps(clean(line | {"exit_code": code}), allow_nan=False))


def _work(job: JobFile, request: JobRequest, storage: str | None, line: dict[str, Any], *, quiet: bool) -> None:
    """What one worker does: the first one runs the job and prints the outcome, the others train in its search."""
    from lrtune.cli.progress_display import watching
    from lrtune.jobs.runner import JobRunner

    with contextlib.ExitStack() as stack:
        if not request.place.index:
            stack.enter_context(_failure_as_json(line))
        flag = stack.enter_context(stops())
        request = replace(request, should_stop=lambda: flag.requested)
        with own_stdout():
            if request.place.index:
                _assist(JobRunner(job, lambda: _opened(job, storage), request), flag)
                return
            with watching(quiet=quiet, json_log=None) as observer:
                ended = JobRunner(job, lambda: _opened(job, storage), replace(request, observer=observer)).perform()
        if ended.status == "interrupted":
            raise stopped(flag, 0.0 if ended.result is None else ended.result.cost)
    _say(ended.to_json(job), 0)


def _assist(runner: JobRunner, flag: StopFlag) -> None:
    try:
        runner.assist()
    except SearchError as error:
        if type(error) is not SearchError:
            raise
        raise typer.Exit(error.exit_code) from None  # the first worker reports it
    if flag.requested:
        raise typer.Exit(flag.exit_code)


def _opened(job: JobFile, given: str | None) -> BaseStorage:
    from lrtune.config.study_file import read_study
    from lrtune.storage import open_storage

    study = read_study(job.study)
    in_file, folder = (job.storage, job.folder) if job.storage else (study.storage, study.folder)
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
    from lrtune.jobs.status import job_status, points

    shown = job_status(read_job(job))
    if figure is not None:
        from lrtune.reporting.figures.history import history

        write_atomically(figure, history(points(shown.state.rows)).to_html(include_plotlyjs=True, full_html=True))
    if json:
        say_json(shown.to_json())
        return
    say(text(shown))
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
    file = read_job(job)
    if systemd:
        say(scheduler_templates.systemd(file))
    elif cron:
        say(scheduler_templates.cron(file))
    else:
        say(scheduler_templates.kubernetes(file, image=image, claim=claim))


def serve(jobs: JobPaths) -> None:
    """Run several jobs by their own schedules until stopped, for those who have no scheduler."""
    from lrtune.jobs import read_job, server
    from lrtune.workers.signals import stopping

    files = [read_job(path) for path in jobs]
    with stopping() as flag:
        server.serve(files, should_stop=lambda: flag.requested, say=say, log=note)
    msg = f"stopped by {flag.name}: runs that were going on are resumed at the next start"
    raise InterruptedSearchError(msg, exit_code=flag.exit_code or 143)
