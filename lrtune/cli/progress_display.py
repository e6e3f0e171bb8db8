"""The progress of a search: a live display on a terminal, plain lines elsewhere, and the log of trials."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from lrtune.cli import formatting
from lrtune.cli.console import note
from lrtune.cli.trial_log import trial_log
from lrtune.core.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from pathlib import Path

    from rich.console import Console, RenderableType

    from lrtune.study.events import Observer, Progress

__all__ = ["Display", "watching"]

SHOWN_RUNS = 4
BAR = 30
REDRAWS = 4  # a second


@contextlib.contextmanager
def watching(
    *,
    quiet: bool,
    json_log: Path | None,
    known: Callable[[], Collection[int]] = tuple,
    others: Iterable[Observer] = (),
) -> Iterator[Observer]:
    """An observer that shows the progress unless `quiet`, and logs trials and calls `others` in any case."""
    with contextlib.ExitStack() as stack:
        observers: list[Observer] = []
        if json_log is not None:
            observers.append(stack.enter_context(trial_log(json_log, known)))
        if not quiet:
            observers.append(stack.enter_context(_display()) if _on_terminal() else _line)
        observers.extend(others)

        def observe(progress: Progress) -> None:
            for observer in observers:
                observer(progress)

        yield observe


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _line(progress: Progress) -> None:
    """One plain line for an event."""
    if progress.event:
        note(f"[{formatting.clock(progress.elapsed)}] {progress.spent:.2f}  {_printable(progress.event)}")


def _printable(text: str) -> str:
    """The text without control characters, which could move the cursor."""
    return "".join(character if character.isprintable() else " " for character in redact(text))


@contextlib.contextmanager
def _display() -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.live import Live

    display = Display()
    console = Console(stderr=True, highlight=False)
    with Live(display, console=console, refresh_per_second=REDRAWS, transient=True):
        yield display.update


class Display:
    """The live display, drawn a few times a second so that the clock moves between events."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._at = time.monotonic()

    def update(self, progress: Progress) -> None:
        """Take a new snapshot."""
        self._progress = progress
        self._at = time.monotonic()

    def __rich_console__(self, console: Console, _: Any) -> Iterator[RenderableType]:
        from rich.table import Table
        from rich.text import Text

        if self._progress is None:
            yield "lrtune: starting ..."
            return
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="ellipsis", no_wrap=True)
        ascii_only = not console.encoding.lower().startswith("utf")
        for name, shown in _rows(self._progress, time.monotonic() - self._at, ascii_only=ascii_only):
            style = "bold" if name == "best" else "yellow" if name == "warning" else ""
            table.add_row(name, Text(_printable(shown), style=style))
        yield table


def _rows(progress: Progress, since: float, *, ascii_only: bool) -> Iterator[tuple[str, str]]:
    """A name and a text for each line."""
    yield "lrtune", progress.name
    yield "cost", f"{_bar(progress, ascii_only=ascii_only)}{progress.spending}"
    spent, left = formatting.clock(progress.elapsed + since), progress.seconds_left
    yield "time", spent if left is None else f"{spent}, about {formatting.clock(max(0.0, left - since))} left"
    if progress.best is not None:
        value = "" if progress.best_value is None else f"{progress.metric} {progress.best_value:.4g} at "
        yield "best", f"{value}{formatting.recipe(progress.best)}"
        curve = [value for _, value in progress.best_curve]
        if len(curve) > 1:
            line = formatting.sparkline(curve, ascii_only=ascii_only)
            yield "curve", f"{curve[0]:.4g} {line} {curve[-1]:.4g}  epoch {progress.best_curve[-1][0]:g}"
    if progress.band is not None:
        yield "band", f"{formatting.band(progress.band)} look as good"
    for run in progress.training[:SHOWN_RUNS]:
        yield f"trial {run.number}", f"{formatting.recipe(run.recipe)}, epoch {run.trained:g} to {run.until:g}"
    if len(progress.training) > SHOWN_RUNS:
        yield "", f"and {len(progress.training) - SHOWN_RUNS} more"
    if progress.counts:
        yield "trials", formatting.counts(progress)
    for warning in progress.warnings[-2:]:
        yield "warning", warning


def _bar(progress: Progress, *, ascii_only: bool) -> str:
    limits = ((progress.spent, progress.budget), (progress.machine_time, progress.machine_budget))
    shares = [spent / limit for spent, limit in limits if limit]
    if not shares:
        return ""
    full = min(BAR, round(BAR * max(shares)))
    on, off = ("#", ".") if ascii_only else ("█", "░")
    return f"{on * full}{off * (BAR - full)} "
