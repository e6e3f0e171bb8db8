"""The hook: a command run without a shell when the answer has changed, with a time limit; its exit code is stored."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING

from lrtune.errors import LrtuneError
from lrtune.jobs.publish import settings_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lrtune.jobs.job_file import Publishing
    from lrtune.jobs.state import JobRun

__all__ = ["HookError", "environment", "run_hook"]

TIMED_OUT, NOT_FOUND, NOT_EXECUTABLE = 124, 127, 126  # exit codes of shells and of timeout(1)
LOOK_SECONDS = 0.2
LRTUNE_SECRETS = ("LRTUNE_STORAGE",)


class HookError(LrtuneError):
    """The hook did not succeed; the answer is published, and the same command again runs the hook alone."""

    exit_code = 4


def environment(publishing: Publishing, job: str, row: JobRun, *, previous_lr: float | None) -> dict[str, str]:
    """Environment variables of the hook: LRTUNE_LR, LRTUNE_FILE and so on."""
    settings = {
        f"LRTUNE_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in settings_of(row).items()
    }
    return {
        "LRTUNE_JOB": job,
        "LRTUNE_STUDY": row.study,
        "LRTUNE_PERIOD": row.period,
        "LRTUNE_FILE": str(publishing.file),
        "LRTUNE_VERDICT": row.verdict or "searched",
        "LRTUNE_METRIC": row.metric,
        "LRTUNE_VALUE": "" if row.value is None else repr(row.value),
        "LRTUNE_BAND": "" if row.band is None else f"{row.band[0]!r},{row.band[1]!r}",
        "LRTUNE_PREVIOUS_LR": "" if previous_lr is None else repr(previous_lr),
        **settings,
    }


def run_hook(
    publishing: Publishing, folder: Path, given: dict[str, str], *, should_stop: Callable[[], bool] | None = None
) -> int:
    """Run the hook in `folder`; its exit code, 124 where it was killed, 126 or 127 where it could not be started.

    Its output goes to stderr. It has a process group of its own, which is killed with it. The storage's URL, which may
    hold a password, is not in its environment.
    """
    kept = {name: value for name, value in os.environ.items() if name not in LRTUNE_SECRETS}
    try:
        process = subprocess.Popen(  # noqa: S603 -- the job file's own command, without a shell
            publishing.hook,
            cwd=folder,
            env={**kept, **given},
            stdin=subprocess.DEVNULL,
            stdout=2,
            start_new_session=True,
        )
    except FileNotFoundError:
        return NOT_FOUND
    except OSError:
        return NOT_EXECUTABLE
    left = float(publishing.hook_seconds)
    while left > 0 and not (should_stop is not None and should_stop()):
        try:
            return process.wait(min(LOOK_SECONDS, left))
        except subprocess.TimeoutExpired:
            left -= LOOK_SECONDS
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return TIMED_OUT
