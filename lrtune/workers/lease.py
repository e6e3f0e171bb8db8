"""Leases: which process works on a running trial, and whether it is still alive.

That one process alone trains a trial follows from the claim, which :class:`.TrialStore` writes under the study's lock
and which holds the lease; where another one takes the trial over, the first one's result is dropped.
:mod:`lrtune.study.trials.recovery` says what happens when its process has died.

On the same machine a process is identified by its pid *and* its start time, so that a recycled pid does
not keep a dead worker's trial claimed, and what a killed process had claimed is free at once. There are no
heartbeats: a process that is suspended or in a long C call is alive. Of other machines and containers only the lease's
time tells, which a worker renews while its training progresses: in a longer C call it loses its claim.

The start time is read from /proc rather than by `psutil`, whose ``create_time()`` adds the time of the boot: that one
moves when the clock is set, and a living worker would look dead.
"""

from __future__ import annotations

import functools
import hashlib
import os
import socket
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "LEASE_SECONDS",
    "RENEW_SECONDS",
    "Lease",
    "alive",
    "boot_id",
    "host_id",
    "process_start",
    "steady_now",
]

LEASE_SECONDS = 180.0  # never below 120: a busy machine may not come to renew it for a while
RENEW_SECONDS = 30.0
PROC = Path("/proc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A worker, and until when it counts as alive where only the time can tell.

    Attributes
    ----------
    host
        The machine, see :func:`host_id`.
    boot_id
        The boot of that machine and the pid namespace (a container has its own), see :func:`boot_id`.
    pid, started
        The process, and when it started, in clock ticks since boot; empty where the system does not say.
    worker
        Which worker within the process.
    until_time
        Unix time (seconds) until which the claim holds unless it is renewed.
    """

    host: str
    boot_id: str
    pid: int
    started: str
    worker: str = ""
    until_time: float = 0.0

    @classmethod
    def mine(cls, worker: str | None = None, *, now: float | None = None) -> Lease:
        """A new lease of this process; the worker is named after its thread by default."""
        pid = os.getpid()
        return cls(
            host=host_id(),
            boot_id=boot_id(),
            pid=pid,
            started=process_start(pid) or "",
            worker=threading.current_thread().name if worker is None else worker,
        ).renewed(now=now)

    def renewed(self, *, now: float | None = None) -> Lease:
        """The same claim for 180 s from now."""
        return replace(self, until_time=(steady_now() if now is None else now) + LEASE_SECONDS)

    def same_holder(self, other: Lease) -> bool:
        """Whether both are claims of the same worker, whenever they were renewed."""
        return replace(self, until_time=0.0) == replace(other, until_time=0.0)

    def to_json(self) -> dict[str, Any]:
        """The lease as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None) -> Lease | None:
        """The lease that :meth:`to_json` wrote; None for anything else, so that nobody waits for it."""
        if not isinstance(data, dict):
            return None
        try:
            return cls(
                host=str(data["host"]),
                boot_id=str(data["boot_id"]),
                pid=int(data["pid"]),
                started=str(data["started"]),
                worker=str(data.get("worker", "")),
                until_time=float(data["until_time"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            return None


def alive(lease: Lease | None, now: float | None = None) -> bool:
    """Whether the process that has a lease may still be working.

    Parameters
    ----------
    lease
        None (no lease, or one that cannot be read) counts as dead.
    now
        Unix time in seconds; :func:`steady_now` by default.
    """
    if lease is None:
        return False
    in_time = (steady_now() if now is None else now) < lease.until_time
    if lease.host != host_id():
        return in_time
    here_boot, _, here_namespace = boot_id().partition("/")
    boot, _, namespace = lease.boot_id.partition("/")
    if not here_boot or not boot:  # not Linux: there is only the pid, which may have been recycled
        return in_time and _exists(lease.pid)
    if boot != here_boot:
        return False
    if namespace != here_namespace:  # another container of this machine: its pids mean nothing here
        return in_time
    start = process_start(lease.pid)
    return start is not None and start == lease.started


def _elapsed() -> float:
    # Unlike the monotonic clock it goes on while the machine is suspended.
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


_elapsed_since = time.time() - _elapsed()  # Unix time of its zero


def steady_now() -> float:
    """Unix time (seconds) as it goes on from this process's start: a clock set in between does not move it."""
    return _elapsed_since + _elapsed()


@functools.cache
def host_id() -> str:
    """The name of this machine, and a hash of its machine id where it has one."""
    secret = _text(Path("/etc/machine-id")) or _text(Path("/var/lib/dbus/machine-id"))
    digest = hashlib.sha256(f"lrtune:{secret}".encode()).hexdigest()[:12] if secret else ""
    return f"{socket.gethostname()}:{digest}" if digest else socket.gethostname()


@functools.cache
def boot_id() -> str:
    """The boot of this machine and the pid namespace of this process, ``"BOOT/NAMESPACE"``; empty if not on Linux."""
    boot = _text(PROC / "sys/kernel/random/boot_id")
    if not boot:
        return ""
    try:
        namespace = (PROC / "self/ns/pid").readlink().name
    except OSError:
        namespace = ""
    return f"{boot}/{namespace}"


def process_start(pid: int) -> str | None:
    """When a process started, in clock ticks since boot; None if it is dead, a zombie, or there is no /proc."""
    stat = _text(PROC / str(pid) / "stat")
    # The second field is the name in parentheses and may hold anything (man 5 proc).
    rest = stat.rpartition(")")[2].split()
    if len(rest) < 20 or rest[0] in ("Z", "X", "x"):  # noqa: PLR2004 -- the start time is field 22
        return None
    return rest[19]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _exists(pid: int) -> bool:
    if os.name != "posix":  # elsewhere os.kill(pid, 0) would end the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
