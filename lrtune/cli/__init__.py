"""The command line: ``lrtune``. :mod:`lrtune.cli.app` registers the commands and runs one."""

from __future__ import annotations

from lrtune.cli.app import main, run

__all__ = ["main", "run"]
