"""Leases: a dead process is known at once here, and by its lease's time elsewhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import lrtune.workers.lease
from lrtune.workers.lease import LEASE_SECONDS, Lease, alive, process_start, steady_now

if TYPE_CHECKING:
    from collections.abc import Iterator

SLEEPER = """
import json, time
from lrtune.workers.lease import Lease
print(json.dumps(Lease.mine().to_json()), flush=True)
time.sleep(600)
"""
linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


@pytest.fixture
def other() -> Iterator[tuple[subprocess.Popen[str], Lease]]:
    process = subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        lease = Lease.from_json(json.loads(process.stdout.readline()))
    assert lease is not None
    yield process, lease
    process.kill()
    process.wait()


def test_my_own_lease_is_alive_and_survives_json() -> None:
    before = steady_now()
    lease = Lease.mine()
    assert alive(lease)
    assert Lease.from_json(json.loads(json.dumps(lease.to_json()))) == lease
    assert LEASE_SECONDS >= 120
    assert before + LEASE_SECONDS <= lease.until_time <= steady_now() + LEASE_SECONDS


@linux
def test_a_killed_process_is_dead_at_once(other: tuple[subprocess.Popen[str], Lease]) -> None:
    process, lease = other
    assert lease.pid == process.pid
    assert alive(lease)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now: nobody has asked for its end
    assert not alive(lease)
    process.wait()
    assert not alive(lease)


@linux
def test_a_sleeping_process_is_alive_however_late_its_lease(other: tuple[subprocess.Popen[str], Lease]) -> None:
    process, lease = other
    process.send_signal(signal.SIGSTOP)
    assert alive(lease, lease.until_time + 1e6)
    process.send_signal(signal.SIGCONT)
    assert alive(lease, lease.until_time + 1e6)


@linux
def test_a_reused_number_is_another_process() -> None:
    assert not alive(replace(Lease.mine(), started="1"))
    assert not alive(replace(Lease.mine(), pid=2**22 + 1))


@linux
def test_another_boot_of_this_machine_is_dead() -> None:
    lease = Lease.mine()
    _, _, space = lease.boot_id.partition("/")
    assert not alive(replace(lease, boot_id=f"another/{space}"))


@linux
def test_another_container_is_judged_by_time() -> None:
    lease = Lease.mine()
    boot = lease.boot_id.partition("/")[0]
    there = replace(lease, boot_id=f"{boot}/pid:[1]", pid=1)
    assert alive(there)
    assert not alive(there, there.until_time + 1)


def test_another_machine_is_judged_by_time() -> None:
    there = replace(Lease.mine(), host="elsewhere", pid=1)
    assert alive(there)
    assert alive(there, there.until_time - 1)
    assert not alive(there, there.until_time + 1)


def test_a_renewed_lease_is_the_same_holders() -> None:
    lease = Lease.mine("worker 1", now=0.0)
    renewed = lease.renewed(now=100.0)
    assert renewed.until_time == 100.0 + LEASE_SECONDS
    assert lease.same_holder(renewed)
    assert not lease.same_holder(Lease.mine("worker 2"))


@pytest.mark.parametrize("data", [None, {}, [], "x", {"host": "h"}, {"host": "h", "boot_id": "", "pid": "x",
                                  "started": "", "until_time": 1}])  # fmt: skip
def test_what_is_not_a_lease_keeps_nobody_waiting(data: object) -> None:
    lease = Lease.from_json(data)  # type: ignore[arg-type]
    assert lease is None
    assert not alive(lease)


def test_a_clock_that_is_set_does_not_move_the_steady_one(monkeypatch: pytest.MonkeyPatch) -> None:
    before = steady_now()
    monkeypatch.setattr(time, "time", lambda: before + 3600)
    assert 0 <= steady_now() - before < 1800


def test_without_proc_the_number_and_the_time_decide(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lrtune.workers.lease, "PROC", tmp_path)
    monkeypatch.setattr(lrtune.workers.lease, "boot_id", lrtune.workers.lease.boot_id.__wrapped__)
    lease = Lease.mine()
    assert lease.boot_id == ""
    assert lease.started == ""
    assert alive(lease)
    assert not alive(lease, lease.until_time + 1)
    assert not alive(replace(lease, pid=2**22 + 1))


@linux
def test_a_process_name_with_parentheses_does_not_confuse(tmp_path: Path) -> None:
    program = tmp_path / "a) S 1 (b"
    program.symlink_to(sys.executable)
    process = subprocess.Popen([program, "-c", "import time; time.sleep(600)"])
    try:
        stat = Path(f"/proc/{process.pid}/stat").read_text()
        assert process_start(process.pid) == stat[stat.rindex(")") :].split()[20]
    finally:
        process.kill()
        process.wait()
