"""Fixtures that every test file may ask for."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings
from postgres_server import postgres, postgres_url

__all__ = ["postgres", "postgres_url"]

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
