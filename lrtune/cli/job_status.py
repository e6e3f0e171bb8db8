"""The status of a job on a terminal: its answer, the next run, and a table of its runs."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

from lrtune.study import progress_text

if TYPE_CHECKING:
    from lrtune.jobs.state import JobRun
    from lrtune.jobs.status import JobStatus

__all__ = ["text"]

SHOWN = 20
WIDTH = 110
STYLES = {"failed": "red", "skipped": "dim", "abandoned": "dim"}


def text(status: JobStatus) -> str:
    """Lines for a terminal."""
    state, rows = status.state, status.state.rows
    last = rows[-1] if rows else None
    ended = "never" if last is None else f"{last.finished}, {last.status}{last.verdict and f' ({last.verdict})'}"
    lines = [f"job      {state.job}", f"last     {ended}"]
    if state.running is not None:
        lines.append(f"running  {state.running.study}, since {state.running.started}, or interrupted since")
    if (answer := state.answer) is not None:
        band = "" if answer.band is None else f", {progress_text.band(answer.band)} is as good"
        lines.append(f"answer   lr {answer.lr:.3g}{band}")
    missed = f" ({status.task.missed} missed)" if status.task.missed else ""
    lines.append(f"next     {f'due now{missed}, then ' if status.due else ''}{status.next}")
    rates = [math.log10(row.lr) for row in rows if row.status == "done" and row.lr is not None]
    if len(rates) > 1:
        lines.append(f"lr       {progress_text.sparkline(rates)}  (log scale)")
    return "\n".join(lines) + ("\n\n" + _table(rows) if rows else "")


def _table(rows: tuple[JobRun, ...]) -> str:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("run", "period", "verdict", "lr", "band", "result", "cost", "missed", "hook"):
        table.add_column(name, justify="left" if name in ("period", "verdict") else "right", no_wrap=True)
    for row in rows[-SHOWN:]:
        table.add_row(*(Text(cell) for cell in _cells(row)), style=STYLES.get(row.status, ""))
    file = io.StringIO()
    Console(file=file, width=WIDTH, color_system=None, legacy_windows=False).print(table)
    lines = [line.rstrip() for line in file.getvalue().strip("\n").splitlines()]
    more = len(rows) - SHOWN
    return "\n".join([*lines, f"and {more} older runs"] if more > 0 else lines)


def _cells(row: JobRun) -> list[str]:
    done = row.status == "done"
    return [
        str(row.number or ""),
        row.period,
        (row.verdict or "searched") if done else row.status,
        f"{row.lr:.3g}" if done and row.lr is not None else "",
        progress_text.band(row.band) if done and row.band else "",
        f"{row.value:.4g}" if row.value is not None else "",
        f"{row.cost:.2f}" if row.number else "",
        str(row.missed or ""),
        "" if row.hook is None else str(row.hook),
    ]
