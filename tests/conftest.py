"""Fixtures that every test file may ask for."""

from __future__ import annotations

import signal

from postgres_server import postgres, postgres_url

__all__ = ["postgres", "postgres_url"]

# Under nohup, or a runner that ignores it, every process that a test starts would ignore SIGHUP too.
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
