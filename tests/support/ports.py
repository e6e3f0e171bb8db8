"""A port to listen on that nobody else takes between asking for it and listening on it, or while a server is away."""

from __future__ import annotations

import os
import random
import socket
import tempfile
from pathlib import Path

__all__ = ["free_port"]

LOWEST = 10_000
_kept: list[int] = []  # descriptors of locked files: as long as this process lives, the ports are its own


def free_port() -> int:
    """A port on loopback, outside of those that the kernel hands out itself, and not given to another test.

    Binding to port 0 and letting go again is a race: the kernel may hand the same port to the next connection,
    a client's included, before the server that it is meant for listens on it.
    """
    folder = Path(tempfile.gettempdir()) / f"lrtune-ports-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    highest = _first_of_the_kernels() - 1
    for port in random.SystemRandom().sample(range(LOWEST, highest), min(500, highest - LOWEST)):
        if _mine(folder / str(port)) and _unused(port):
            return port
    msg = f"no free port between {LOWEST} and {highest}"
    raise RuntimeError(msg)


def _first_of_the_kernels() -> int:
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first = 32_768
    return first if first > LOWEST + 1000 else 65_536  # all are the kernel's: as good as it gets


def _mine(path: Path) -> bool:
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return False
    _kept.append(descriptor)
    return True


def _unused(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
