"""Fixtures that every test file may ask for."""

from __future__ import annotations

import os
import re
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from postgres_server import postgres, postgres_url

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["postgres", "postgres_url", "pytest_runtest_makereport"]

# What .ci/run and the extra "test" install: without it nothing is proved by a run that skips. A GPU, the curves beside
# the checkout and packages of other extras stay reasons to skip.
INSTALLED = re.compile(
    r"systemd-analyze|PostgreSQL's server programs|no C compiler|[Cc]hromium|chromedriver|\btmux\b|\bsqlite3\b|\b(?:"
    r"psycopg|pyarrow|selenium|tensorboard|apscheduler|prodigyopt|schedulefree|optuna_dashboard|grpc|yaml)\b"
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where CI is set, a test that skips because something is missing which CI installs has failed."""
    report = yield
    if os.environ.get("CI", "").lower() in {"", "0", "false"} or not report.skipped or hasattr(report, "wasxfail"):
        return report
    *_, reason = report.longrepr if isinstance(report.longrepr, tuple) else (str(report.longrepr),)
    if INSTALLED.search(reason):
        report.outcome = "failed"
        report.longrepr = f"{reason}; CI installs it, so that nothing is left untried: see .ci/run"
    return report


# One thread a process, as .ci/run has it: several processes share the cores, and sums of floats keep their order.
# Nothing that reads these is loaded yet; a value that is set already stays.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# The suite starts hundreds of commands: without bytecode each of them would compile the package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Under nohup, or a runner that ignores it, every process that a test starts would ignore SIGHUP too.
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# The same examples in every run, and nothing that is timed: what decides whether a change is good must turn neither on
# chance nor on how busy the machine is. Looking for new counterexamples is `nox -s search`.
settings.register_profile(
    "same", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("search", settings.get_profile("same"), derandomize=False, max_examples=1000)
settings.load_profile("same")
