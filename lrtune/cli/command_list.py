"""The commands, a file each; :data:`COMMANDS` is the list from which the command line registers them.

A module of this family has a function ``register(app)`` and loads, at its top, only typer and the standard library.
"""

from __future__ import annotations

__all__ = ["COMMANDS"]

COMMANDS = ("optimize", "compare", "range_test", "report", "dashboard", "job", "storage")
