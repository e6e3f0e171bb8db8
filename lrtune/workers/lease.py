"""Leases: who is working on a running trial, and whether that process still lives.

On the same machine a process is known by its number *and* its start time, so that a reused number does
not keep a dead worker's trial alive, and what a killed process held is free at once. Of other machines
only the lease's time tells. Heartbeats are not asked: a process that was asleep or sat in a long C call
is alive (FAULTS.md, F7 to F9).
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
    """One worker's claim on a trial; frozen, and plain JSON outside.

    Attributes
    ----------
    host
        The machine: its name and a hash of its machine id.
    boot_id
        Which start of that machine, and which space of process numbers (a container has its own);
        empty where the machine does not say.
    pid
        Number of the process.
    started
        When the process started, in the kernel's own count; empty where the machine does not say.
    worker
        Which worker within the process.
    until_time
        Unix time (seconds) up to which the claim holds unless it is renewed.
    """

    host: str
    boot_id: str
    pid: int
    started: str
    worker: str = ""
    until_time: float = 0.0

    @classmethod
    def mine(cls, worker: str | None = None, *, seconds: float = LEASE_SECONDS, now: float | None = None) -> Lease:
        """A lease of this process, for `seconds` from now; the worker is named after its thread by default."""
        pid = os.getpid()
        return cls(
            host=host_id(),
            boot_id=boot_id(),
            pid=pid,
            started=process_start(pid) or "",
            worker=threading.current_thread().name if worker is None else worker,
            until_time=(steady_now() if now is None else now) + seconds,
        )

    def renewed(self, *, seconds: float = LEASE_SECONDS, now: float | None = None) -> Lease:
        """The same claim for `seconds` from now."""
        return replace(self, until_time=(steady_now() if now is None else now) + seconds)

    def same_holder(self, other: Lease) -> bool:
        """Whether both are claims of one and the same worker, whenever they were renewed."""
        return replace(self, until_time=0.0) == replace(other, until_time=0.0)

    def to_json(self) -> dict[str, Any]:
        """The lease as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None) -> Lease | None:
        """The lease that :meth:`to_json` wrote; None for what is not one, so that nobody waits for it."""
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
    """Whether the holder of a lease may still be working.

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
    here_boot, _, here_space = boot_id().partition("/")
    boot, _, space = lease.boot_id.partition("/")
    if not here_boot or not boot:  # not Linux: the number alone tells, but it may have been reused
        return in_time and _exists(lease.pid)
    if boot != here_boot:
        return False
    if space != here_space:  # another container of this machine: its numbers mean nothing here
        return in_time
    start = process_start(lease.pid)
    return start is not None and start == lease.started


_wall_start = time.time()


def _elapsed() -> float:
    # Unlike the monotonic clock it goes on while the machine is suspended.
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


_elapsed_start = _elapsed()


def steady_now() -> float:
    """Unix time (seconds) as it goes on from this process's start: a clock set in between does not move it."""
    return _wall_start + (_elapsed() - _elapsed_start)


@functools.cache
def host_id() -> str:
    """The name of this machine, and a hash of its machine id where it has one."""
    secret = _text(Path("/etc/machine-id")) or _text(Path("/var/lib/dbus/machine-id"))
    digest = hashlib.sha256(f"lrtune:{secret}".encode()).hexdigest()[:12] if secret else ""
    return f"{socket.gethostname()}:{digest}" if digest else socket.gethostname()


@functools.cache
def boot_id() -> str:
    """Which start of this machine and which space of process numbers, ``"BOOT/SPACE"``; else empty."""
    boot = _text(PROC / "sys/kernel/random/boot_id")
    if not boot:
        return ""
    try:
        space = (PROC / "self/ns/pid").readlink().name
    except OSError:
        space = ""
    return f"{boot}/{space}"


def process_start(pid: int) -> str | None:
    """When a process started, in clock ticks since boot; None if it is dead (or a zombie), or not to be known."""
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
