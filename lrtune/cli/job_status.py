"""How a job stands, on a terminal: its answer, what comes next, and a table of its runs."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

from lrtune.cli import formatting

if TYPE_CHECKING:
    from lrtune.jobs.state import JobRun
    from lrtune.jobs.status import JobStatus

__all__ = ["text"]

SHOWN = 20
WIDTH = 110
STYLES = {"failed": "red", "skipped": "dim", "abandoned": "dim"}


def text(told: JobStatus) -> str:
    """Lines for a terminal."""
    lines = [f"job      {told.job}", f"last     {_last(told.rows)}"]
    if told.running is not None:
        lines.append(f"running  {told.running.study}, since {told.running.started}, or interrupted since")
    if told.answer is not None:
        row = told.answer
        band = "" if row.band is None else f", {formatting.band(row.band)} is as good"
        lines.append(f"answer   lr {row.lr:.3g}{band}")
    missed = f" ({told.missed} missed)" if told.missed else ""
    lines.append(f"next     {f'due now{missed}, then ' if told.due else ''}{told.next}")
    rates = [math.log10(row.lr) for row in told.rows if row.status == "done" and row.lr is not None]
    if len(rates) > 1:
        lines.append(f"lr       {formatting.sparkline(rates)}  (log scale)")
    return "\n".join(lines) + ("\n\n" + _table(told.rows) if told.rows else "")


def _last(rows: tuple[JobRun, ...]) -> str:
    if not rows:
        return "never"
    row = rows[-1]
    return f"{row.finished}, {row.status}{f' ({row.verdict})' if row.verdict else ''}"


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
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None, legacy_windows=False)
    console.print(table)
    shown = console.file.getvalue() if isinstance(console.file, io.StringIO) else ""
    more = len(rows) - SHOWN
    return "\n".join(line.rstrip() for line in shown.strip("\n").splitlines()) + (
        f"\nand {more} older runs" if more > 0 else ""
    )


def _cells(row: JobRun) -> list[str]:
    done = row.status == "done"
    return [
        str(row.number or ""),
        row.period,
        (row.verdict or "searched") if done else row.status,
        f"{row.lr:.3g}" if done and row.lr is not None else "",
        formatting.band(row.band) if done and row.band else "",
        f"{row.value:.4g}" if row.value is not None else "",
        f"{row.cost:.2f}" if row.number else "",
        str(row.missed or ""),
        "" if row.hook is None else str(row.hook),
    ]
