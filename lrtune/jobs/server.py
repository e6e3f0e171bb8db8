"""``lrtune job serve``: a process that starts jobs at their times (APScheduler); it listens on no port.

Each run is a process of its own, ``lrtune job run``: whatever it leaks or breaks ends with it, and the job's lock
handles a run that is killed, or that another scheduler has begun.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lrtune.core.timestamps import stamp, utc_now
from lrtune.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lrtune.jobs.job_file import JobFile

__all__ = ["GRACE_SECONDS", "Shift", "command", "serve"]

GRACE_SECONDS = 6.0  # a run ends within five seconds of SIGTERM
LOOK_SECONDS = 0.2
LOCKED = 6


def command(job: JobFile) -> list[str]:
    """The command of one run."""
    return [sys.executable, "-m", "lrtune", "job", "run", str(job.path), "--quiet"]


@dataclass(slots=True, kw_only=True)
class Shift:
    """One job's runs, one at a time.

    `say` is called with a run's line of JSON, `log` with notes and warnings. `runs` counts those that were begun, and
    `skipped` those that were due while one was running.
    """

    job: JobFile
    say: Callable[[str], object]
    log: Callable[[str], object]
    runs: int = 0
    skipped: int = 0
    _process: subprocess.Popen[str] | None = field(default=None, repr=False)
    _busy: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _ended: bool = False

    def run(self) -> None:
        """Run the job unless it is running already, and print how it ended."""
        if not self._busy.acquire(blocking=False):
            self.skip()
            return
        try:
            if not self._ended:
                self._run()
        finally:
            self._busy.release()

    def skip(self) -> None:
        """Count a run that was due while another one was running."""
        self.skipped += 1
        self.log(f"lrtune: note: job {self.job.name!r} is still running; {self.skipped} skipped so far")

    def _run(self) -> None:
        self.runs += 1
        # stderr is the server's own; its session stays, so that a terminal's Ctrl-C reaches the run too.
        self._process = subprocess.Popen(  # noqa: S603 -- this program
            command(self.job), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        if self._ended:  # asked to end while the process was being started
            self._process.terminate()
        out, _ = self._process.communicate()
        for line in out.splitlines():
            self.say(line)
        code, self._process = self._process.returncode, None
        if code == LOCKED:
            self.skip()
        elif code:
            self.log(f"lrtune: warning: job {self.job.name!r} ended with exit code {code}")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to a run that is going on, and begin none any more; it is resumed by the next start."""
        self._ended = True
        if (process := self._process) is not None:
            with contextlib.suppress(OSError):
                process.send_signal(number)

    @property
    def running(self) -> bool:
        """Whether a run is going on."""
        return self._busy.locked()


def serve(
    jobs: Sequence[JobFile],
    *,
    should_stop: Callable[[], bool],
    say: Callable[[str], object],
    log: Callable[[str], object],
    now: Callable[[], dt.datetime] = utc_now,
) -> list[Shift]:
    """Run what is due now, and then each job when it is due; until `should_stop`.

    Raises
    ------
    InputError
        If APScheduler is not installed, or two jobs share a folder.
    """
    scheduler = _scheduler()
    _refuse_shared(jobs)
    shifts = [Shift(job=job, say=say, log=log) for job in jobs]
    from apscheduler.events import EVENT_JOB_MAX_INSTANCES

    scheduler.add_listener(lambda event: shifts[int(event.job_id)].skip(), EVENT_JOB_MAX_INSTANCES)
    for index, shift in enumerate(shifts):
        options: dict[str, Any] = {"id": str(index), "coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        scheduler.add_job(shift.run, _trigger(shift.job), **options, next_run_time=now())
        log(f"lrtune: note: job {shift.job.name!r} is next due at {stamp(shift.job.schedule.next(now()))}")
    scheduler.start()
    try:
        while not should_stop():
            time.sleep(LOOK_SECONDS)
    finally:
        scheduler.remove_all_jobs()
        for shift in shifts:
            shift.stop()
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline and any(shift.running for shift in shifts):
            time.sleep(LOOK_SECONDS / 4)
        for shift in shifts:
            shift.stop(signal.SIGKILL)
        scheduler.shutdown(wait=True)
        counts = {shift.job.name: {"runs": shift.runs, "skipped": shift.skipped} for shift in shifts}
        log(f"lrtune: note: served {json.dumps(counts)}")
    return shifts


def _refuse_shared(jobs: Sequence[JobFile]) -> None:
    folders = [job.out.resolve() for job in jobs]
    for job, folder in zip(jobs, folders, strict=True):
        if folders.count(folder) > 1:
            msg = f"{job.path}: another job writes into {folder} too; give each its own name or folder (out)"
            raise InputError(msg)


def _scheduler() -> Any:
    try:
        from apscheduler.executors.pool import ThreadPoolExecutor
        from apscheduler.schedulers.background import BackgroundScheduler
    except ImportError:
        msg = "lrtune job serve needs APScheduler; install it with: pip install 'lrtune[serve]'"
        raise InputError(msg) from None
    return BackgroundScheduler(timezone=dt.UTC, executors={"default": ThreadPoolExecutor(64)})


def _trigger(job: JobFile) -> Any:
    """APScheduler's trigger for the job's own schedule."""
    from apscheduler.triggers.base import BaseTrigger

    class Trigger(BaseTrigger):  # type: ignore[misc]  # an optional package
        """Fires when a period begins."""

        def get_next_fire_time(self, previous: dt.datetime | None, at: dt.datetime) -> dt.datetime:
            """The first beginning after the previous one, or after now."""
            return job.schedule.next(at if previous is None else max(previous, job.schedule.previous(previous)))

    return Trigger()
