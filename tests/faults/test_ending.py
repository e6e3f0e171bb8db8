"""Signals, sleep, and streams that close."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from faults.checker import check
from faults.driver import COMMAND, until
from ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from faults.driver import Lab

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

SHELL = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]
"""SIGINT is ignored from the start, as for a job that cron or a script started with `&`."""


@pytest.mark.parametrize(
    ("number", "code", "workers", "shell"),
    [
        pytest.param(signal.SIGTERM, 143, 1, [], marks=pytest.mark.row(4)),
        pytest.param(signal.SIGINT, 130, 1, SHELL, marks=pytest.mark.row(6, 7)),
        pytest.param(signal.SIGINT, 130, 2, [], marks=pytest.mark.row(8)),
        pytest.param(signal.SIGHUP, 129, 1, [], marks=pytest.mark.row(9)),
    ],
    ids=["term", "int-ignored", "int-two-workers", "hup"],
)
def test_a_signal_stops_cleanly_and_the_same_command_resumes(  # noqa: PLR0917 -- a row of a table
    lab: Lab, saw: Callable[..., None], number: int, code: int, workers: int, shell: list[str]
) -> None:
    lab.study(search={"trials": 4})
    more = ["--workers", str(workers)]
    running = lab.start(words=[*shell, *lab.words(*more)], sleep=0.1, slow=14)
    lab.trained(13)
    began = time.monotonic()
    running.send(number)
    assert running.wait() == code
    took = time.monotonic() - began
    assert "run the same command to resume" in running.last
    assert "Traceback" not in running.err
    until(lambda: not running.family(), "the workers to be gone")
    check(lab, over=False, result=False)
    lab.run(*more)
    check(lab, trials=4)
    saw(f"exit {code} after {took:.1f} s, {running.last.partition('error: ')[2]!r}; resumed to 4 of 4")


@pytest.mark.row(5)
def test_the_second_signal_ends_at_once(lab: Lab, saw: Callable[..., None]) -> None:
    lab.study(search={"trials": 2})
    running = lab.start(obj="hang@3")
    lab.hung()
    running.send(signal.SIGTERM)
    time.sleep(0.5)
    running.send(signal.SIGTERM)
    assert running.wait() == 143
    until(lambda: not running.family(), "the workers to be gone")
    check(lab, killed=True, result=False)
    lab.run()
    check(lab, trials=2)
    saw(f"exit 143, {running.last!r}; resumed")


@pytest.mark.row(4)
def test_a_step_that_does_not_come_back_is_left_after_the_grace(lab: Lab, saw: Callable[..., None]) -> None:
    running = lab.start(obj="gil@3")
    lab.hung()
    began = time.monotonic()
    running.send(signal.SIGTERM)
    assert running.wait() == 143
    took = time.monotonic() - began
    until(lambda: not running.family(), "the workers to be gone")
    check(lab, killed=True, result=False)
    saw(f"in a C call that holds the interpreter: exit 143 after {took:.1f} s")


@pytest.mark.row(10)
def test_a_worker_that_was_asleep(lab: Lab, saw: Callable[..., None]) -> None:
    running = lab.start("--workers", "2", sleep=0.05, hold=8)
    lab.trained(3)
    plateaued = int(next(line for line in lab.books if line[0] == "begin")[2])
    os.kill(plateaued, signal.SIGSTOP)
    lab.go()
    time.sleep(3)
    os.kill(plateaued, signal.SIGCONT)
    assert running.wait() == 0, running.err
    check(lab, trials=6)
    saw("3 s asleep beside a second worker: its trial stayed its own, exit 0, 6 of 6 once")


@pytest.mark.row(11)
def test_a_reader_that_goes_away(lab: Lab, saw: Callable[..., None]) -> None:
    running = lab.start(stdout=subprocess.PIPE)
    assert running.process.stdout is not None
    running.process.stdout.close()
    assert running.wait() == 0, running.err
    assert "Traceback" not in running.err
    assert "BrokenPipe" not in running.err
    check(lab, trials=6)
    saw("exit 0, all stored, nothing on stderr about it")


@pytest.mark.row(12)
def test_stdout_closed_or_full(lab: Lab, saw: Callable[..., None]) -> None:
    lab.study(search={"trials": 2})
    codes = []
    for redirection in (">&-", ">/dev/full"):
        words = ["sh", "-c", f'exec "$@" {redirection}', "sh", *lab.words()]
        codes.append(lab.run(words=words, expect=(0, 4)).wait())
        check(lab, trials=2)
    saw(f"closed: exit {codes[0]}; full: exit {codes[1]}; results stored")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_dashboard_ends_as_soon_as_its_address_is_out(lab: Lab, number: int) -> None:
    pytest.importorskip("optuna_dashboard")
    lab.study(search={"trials": 1})
    lab.run()
    words = [*COMMAND, "dashboard", "study.toml", "--storage", str(lab.database), "--port", str(free_port())]
    running = lab.start(words=words)
    until(lambda: "/dashboard/" in running.out or running.process.poll() is not None, "the address")
    running.send(number)
    assert running.wait() == 0, running.err
    assert running.last == "the dashboard has ended"
