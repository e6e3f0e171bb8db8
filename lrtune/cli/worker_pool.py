"""Running a command's work in worker processes under a light parent, or in this process where that cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from lrtune.cli.console import debugging, guarded, note

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from lrtune.workers.pool import WorkerContext

__all__ = ["run_in_workers"]


def run_in_workers(
    work: Callable[[WorkerContext], object], *, study: Path | None, given: Mapping[str, Any] | None = None
) -> None:
    """Run `work` in each worker; ends the command with the first worker's exit code.

    Parameters
    ----------
    work
        Called in a worker with its context. Imports what is heavy: the parent process stays light.
    study, given
        The study file and the options of the command line over it, which say how many workers there are and what
        counts as a stall. A worker checks them in full.
    """
    from lrtune.cli.preload import load_ahead
    from lrtune.config.toml import read_unchecked
    from lrtune.workers.pool import WorkerContext, can_supervise, supervise

    if debugging() or not can_supervise():
        work(WorkerContext())
        return
    given = given or {}
    search = {} if study is None else read_unchecked(study, "search")
    count, stall = (given.get(name) or search.get(name) for name in ("workers", "stall_timeout"))
    code = supervise(
        lambda place: guarded(lambda: work(place), aside=place.index > 0),
        count=count if isinstance(count, int) and count > 1 else 1,
        stall_timeout=float(stall) if isinstance(stall, int | float) and stall > 0 else None,
        preload=lambda: load_ahead(study, given),
        note=note,
    )
    raise typer.Exit(code)
