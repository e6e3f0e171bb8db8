"""Killed at any instant: what was finished stays, what was begun goes on."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from faults.checker import check, load
from faults.driver import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from faults.driver import Lab

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


@pytest.mark.row(1, 22, 61)
def test_killed_again_and_again(lab: Lab, saw: Callable[..., None]) -> None:
    lab.study(search={"trials": 5})
    lab.run()
    undisturbed = [trial.params["lr"] for trial in check(lab, trials=5).trials]
    for file in ("s.db", "s.db-wal", "s.db-shm", "books", "log.jsonl"):
        (lab.folder / file).unlink(missing_ok=True)
    dice, left = random.Random(1), 0
    for wanted in (2, 12, 14, 25):
        running = lab.start(sleep=0.05, hold=wanted + 8)
        lab.trained(wanted)
        time.sleep(dice.uniform(0, 0.3))
        assert running.kill() == -signal.SIGKILL
        left += (lab.folder / "s.db-wal").exists()
        check(lab, killed=True, kills=4, result=False)
    lab.run()
    study = check(lab, trials=5, kills=4)
    assert [trial.params["lr"] for trial in study.trials] == undisturbed
    assert left, "no write-ahead log was left behind: row 22 was not tried"
    saw(f"4 kills, exit 137 each, {left} times with a hot write-ahead log; the same 5 learning rates as undisturbed")


@pytest.mark.row(2)
def test_killed_while_the_schema_is_made(lab: Lab, saw: Callable[..., None]) -> None:
    lab.study(search={"trials": 1})
    moments = (0.0, 0.02, 0.06, 0.15)
    for wait in moments:
        running = lab.start(obj="hang@0")
        while not lab.database.exists() and running.process.poll() is None:
            time.sleep(0.002)
        time.sleep(wait)
        running.kill()
        if wait in (0.0, 0.06):
            for suffix in ("", "-wal", "-shm", "-journal"):
                lab.database.with_name(f"s.db{suffix}").unlink(missing_ok=True)
    lab.run()
    check(lab, trials=1)
    saw(f"{len(moments)} kills at up to {max(moments)} s after the file appeared; the next start worked")


@pytest.mark.row(3)
def test_killed_between_ask_and_the_first_report(lab: Lab, saw: Callable[..., None]) -> None:
    lab.study(search={"trials": 2})
    running = lab.start(obj="hang@0")
    lab.began()
    running.kill()
    (held,) = load(lab.database).trials
    lab.run()
    study = check(lab, trials=2)
    assert study.trials[0].params == held.params
    assert lab.count("begin") == 3
    saw("taken over by the next start at once, the same recipe trained from its start, exit 0")


@pytest.mark.row(63, 62, 30)
def test_workers_killed_at_random_end_with_exactly_the_trials(lab: Lab, saw: Callable[..., None]) -> None:
    lab.study(search={"trials": 12})
    dice, kills = random.Random(2), 0
    running = lab.start("--workers", "3", sleep=0.04, hold=80)
    for wanted in (6, 20, 40):
        lab.trained(wanted)
        worker = int(dice.choice([line for line in lab.books if line[0] == "begin"][-3:])[2])
        if worker in running.family():
            os.kill(worker, signal.SIGKILL)
            kills += 1
    lab.trained(60)
    running.kill()
    lab.run("--workers", "3")
    study = check(lab, trials=12, kills=kills + 3)
    assert "locked" not in "".join(call.err for call in lab.calls)
    assert len({trial.params["lr"] for trial in study.trials}) == 12
    assert kills
    saw(f"3 workers, {kills} of them and then the command killed: 12 of 12 trials, 12 distinct learning rates")


@pytest.mark.row(1, 63)
def test_what_ends_while_the_first_worker_is_dead_is_acknowledged_too(lab: Lab, saw: Callable[..., None]) -> None:
    lab.study(search={"trials": 6})
    running = lab.start("--workers", "2", sleep=0.2)
    (first,) = until(lambda: [pid for pid in running.family() if writes(pid, lab.log)], "the worker with the log")
    until(lambda: {line[2] for line in lab.books if line[0] == "begin"} > {str(first)}, "both to train")
    stop(first, lab.database.with_name("s.db.lock"))
    before = sum(trial.state.is_finished() for trial in load(lab.database).trials)
    until(lambda: sum(trial.state.is_finished() for trial in load(lab.database).trials) > before, "the other's trial")
    os.kill(first, signal.SIGKILL)
    assert running.wait() == 0, running.err
    check(lab, trials=6)
    saw("what the second worker ended while the first, which writes the log, was dead: in the log, once")


def stop(pid: int, lock: Path) -> None:
    """Stop a process while it does not hold the decision lock: the others would wait for it."""
    with lock.open("rb") as file:
        for _ in range(1000):
            os.kill(pid, signal.SIGSTOP)
            for _ in range(20):
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                time.sleep(0.02)
            os.kill(pid, signal.SIGCONT)
    msg = "it holds the lock all the time"
    raise AssertionError(msg)


def writes(pid: int, path: Path) -> bool:
    """Whether the process holds the file open."""
    with contextlib.suppress(OSError):
        return any(link.resolve() == path.resolve() for link in Path(f"/proc/{pid}/fd").iterdir())
    return False


@pytest.mark.row(64, 65)
def test_a_grid_with_a_killed_worker_is_complete_and_stays_so(lab: Lab, saw: Callable[..., None]) -> None:
    lab.study(search={"strategy": "grid", "trials": "", "points": 6, "widen": False})
    running = lab.start("--workers", "2", sleep=0.05, hold=20)
    lab.trained(12)
    os.kill(int([line for line in lab.books if line[0] == "begin"][-1][2]), signal.SIGKILL)
    lab.go()
    assert running.wait() == 0, running.err
    study = check(lab, trials=6, kills=1)
    assert all(trial.state.name == "COMPLETE" for trial in study.trials), [t.state for t in study.trials]
    begun = lab.count("begin")
    assert "complete" in lab.run().json["stopped_because"]
    assert len(check(lab, trials=6, kills=1).trials) == 6
    assert lab.count("begin") == begun
    saw("6 of 6 points complete, each once; run again: exit 0, nothing trained")


@pytest.mark.slow
@pytest.mark.row(1, 2, 63)
def test_killed_at_any_time_at_all(lab: Lab, saw: Callable[..., None]) -> None:
    lab.study(search={"trials": 40})
    dice = random.Random(3)
    for _ in range(25):
        running = lab.start("--workers", "2", sleep=0.03)
        time.sleep(dice.uniform(0.02, 8.0))
        running.kill()
        if lab.database.exists():
            os.sync()
    lab.run("--workers", "2")
    check(lab, trials=40, kills=50)
    saw("25 kills between 0.02 and 8 s after the start, two workers; 40 of 40 trials, none twice")
