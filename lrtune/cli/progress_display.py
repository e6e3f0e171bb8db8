"""The progress of a search: a live display on a terminal, plain lines elsewhere, and the log of trials."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from lrtune.cli.console import note
from lrtune.cli.trial_log import trial_log
from lrtune.core.redaction import redact
from lrtune.study import progress_text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from pathlib import Path

    from rich.console import Console, RenderableType

    from lrtune.study.events import Observer, Progress

__all__ = ["Display", "watching"]

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
        note(f"[{progress_text.clock(progress.elapsed)}] {progress.spent:.2f}  {_printable(progress.event)}")


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
        for name, shown in progress_text.rows(self._progress, time.monotonic() - self._at, ascii_only=ascii_only):
            style = "bold" if name == "best" else "yellow" if name == "warning" else ""
            table.add_row(name, Text(_printable(shown), style=style))
        yield table
