"""A command's work in worker processes under a light parent, or right here where that cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from lrtune.cli.console import debugging, guarded, note, own_stdout

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from lrtune.workers.pool import WorkerContext

__all__ = ["crewed"]


def crewed(
    work: Callable[[WorkerContext], object], *, study: Path | None, given: Mapping[str, Any] | None = None
) -> None:
    """Have the work done; ends the command with the first worker's exit code.

    Parameters
    ----------
    work
        What one worker does, told where it stands. Loads what is heavy: its parent stays light.
    study
        The study file, whose ``[search]`` says how many workers and what counts as a stall.
    given
        What stands over it.
    """
    from lrtune.workers.pool import WorkerContext, can_supervise, supervise

    if debugging() or not can_supervise():
        work(WorkerContext())
        return
    count, stall_timeout = _size(study, given or {})
    code = supervise(
        lambda place: guarded(lambda: work(place), aside=place.index > 0),
        count=count,
        stall_timeout=stall_timeout,
        preload=lambda: _ahead(study, given or {}),
        note=note,
    )
    raise typer.Exit(code)


def _ahead(study: Path | None, given: Mapping[str, Any]) -> None:
    """Load what the work will need; some libraries greet on stdout."""
    from lrtune.cli.preload import load_ahead

    with own_stdout():
        load_ahead(study, given)


def _size(study: Path | None, given: Mapping[str, Any]) -> tuple[int, float | None]:
    """How many workers, and the time without progress that ends one; a worker checks what is given in full."""
    from lrtune.config.toml import glance

    search = glance(study, "search") if study is not None else {}
    count, stall = (given.get(name) or search.get(name) for name in ("workers", "stall_timeout"))
    return (
        count if isinstance(count, int) and count > 1 else 1,
        float(stall) if isinstance(stall, int | float) and stall > 0 else None,
    )
