"""Writes ``docs/faults.md`` from what a run of the faults appended to its log.

::

    LRTUNE_FAULTS_LOG=build/faults.jsonl python -m pytest -m faults
    python tests/faults/table.py build/faults.jsonl
"""

from __future__ import annotations

import datetime as dt
import json
import re
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

PATHS = re.compile(rf"{re.escape(tempfile.gettempdir())}/[^\s']*/")
"""Folders of a run's own: they say nothing to a reader."""
PAGE = Path(__file__).parents[2] / "docs" / "faults.md"

HEAD = """\
# What was broken, and what happened

Every row is a fault that the suite in `tests/faults/` does to the real command, in a process session of its
own; afterwards a checker that imports nothing of lrtune's looks at the invariants with `sqlite3`, `json` and
Optuna: what was acknowledged is stored (I1), nothing is held by the dead (I2), nothing is trained to its end
twice (I3), no limit is exceeded (I4), plain Optuna opens the storage and it is sound (I5), the best value is
finite and the best (I6), the report is whole (I7), no secret is anywhere (I8), the exit code is the documented
one (I9), and the processes are gone (I10).

A number that is missing does not apply: it was of a storage or a service that lrtune does not offer.

This page is written by the run: `nox -s faults`. Seconds are those of the machine it ran on, which was busy.

"""

FAULTS = {
    1: "kill -9 at random times, in a row",
    2: "kill -9 while the schema is created",
    3: "kill -9 between ask and the first report",
    4: "SIGTERM within a trial",
    5: "SIGTERM twice",
    6: "SIGINT",
    7: "SIGINT where it was ignored (cron)",
    8: "SIGINT with two workers",
    9: "SIGHUP",
    10: "SIGSTOP, then SIGCONT, beside another worker",
    11: "the reader of stdout goes away",
    12: "stdout closed, or full",
    13: "disk full, SQLite",
    15: "file size limit",
    16: "disk full while the report is written",
    17: "out of inodes",
    18: "read-only folder, read-only file",
    19: "a folder, a missing folder, a dangling link, a pipe",
    20: "damaged file: header, cut off, one page",
    21: "a CSV, an empty file, a foreign database",
    22: "hot write-ahead log left behind",
    26: "storage removed or replaced within the run",
    27: "schema too new, too old",
    28: "two starts on a fresh SQLite file",
    29: "starts at once on a fresh PostgreSQL",
    30: "several workers on one SQLite file",
    31: "several workers on PostgreSQL",
    32: "somebody holds the write lock",
    33: "PostgreSQL restarts within the run",
    34: "PostgreSQL away for longer than it is waited for",
    35: "PostgreSQL down at the start, wrong password",
    36: "connections cut",
    37: "no connection slots left",
    39: "the clock jumps by an hour",
    40: "the clocks change (time zones, summer time)",
    41: "NaN in any epoch",
    42: "infinities, both directions",
    43: "gradients that are not finite, a loss that is",
    44: "scikit-learn diverges without NaN",
    45: "every trial diverges",
    46: "user code raises: first trial, later",
    47: "wrong return types",
    48: "sys.exit, os._exit, GeneratorExit",
    49: "out of memory; the kernel's kill",
    50: "memory of the device runs out",
    51: "a hung training step",
    52: "a C call that holds the interpreter",
    53: "a process of the data loader is killed",
    54: "user code leaves children behind",
    55: "few file handles",
    56: "100 000 reports",
    57: "two schedulers at once",
    58: "a scheduler killed with the lock",
    59: "the machine was off for some periods",
    60: "a job is asked for while it runs",
    61: "resumed with the same seed",
    62: "workers with the same seed",
    63: "a limit of trials under random kills",
    64: "a grid with a killed worker",
    65: "a finished grid, run again",
    66: "resumed with another direction, metric, range or data",
    67: "malformed study files",
    68: "nonsense of the right type in study files",
    69: "ranges that are none",
    70: "options out of bounds",
    71: "a table with missing or infinite cells",
    72: "a table too small to learn from",
    73: "a table that is malformed",
    74: "a table of a million columns",
    75: "one cell of the table changes between runs",
    76: "hostile study names",
    77: "markup in the study's name",
    78: "markup in metric and error texts",
    79: "the report opened offline",
    80: "the password of the storage",
    81: "a malicious checkpoint",
    83: "pickles in the storage (CMA-ES)",
    84: "modules called like the standard library's",
    85: "paths made from names",
    86: "modes of state files, planted links",
    87: "the dashboard reads while workers write",
}


def rows(log: Path) -> dict[int, list[dict[str, Any]]]:
    """What each row of the catalogue came to; of a test that ran more than once, the last time."""
    last: dict[str, dict[str, Any]] = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        last[entry["test"]] = entry
    found = defaultdict(list)
    for entry in last.values():
        for row in entry["rows"]:
            found[row].append(entry)
    return dict(found)


def written(found: dict[int, list[dict[str, Any]]]) -> str:
    """The page."""
    lines = [
        HEAD,
        f"Run of {dt.datetime.now(tz=dt.UTC):%Y-%m-%d}.\n\n",
        "| # | fault | | what happened |\n|---|---|---|---|\n",
    ]
    for row, fault in FAULTS.items():
        entries = found.get(row, [])
        outcomes = {entry["outcome"] for entry in entries} or {"not tried"}
        verdict = next(word for word in ("not held", "held", "not tried") if word in outcomes)
        told = [text for entry in entries for rows, text in entry["saw"] if not rows or row in rows]
        saw = " / ".join(dict.fromkeys(told))
        lines.append(f"| {row} | {fault} | {verdict} | {_cell(saw)} |\n")
    return "".join(lines)


def _cell(text: str) -> str:
    text = (
        PATHS.sub("", " ".join(text.split()))
        .replace("|", "\\|")
        .replace("<", "&lt;")
        .replace("*", "\\*")
        .replace("_", "\\_")
    )
    return text if len(text) <= 900 else f"{text[:900]} ..."


if __name__ == "__main__":
    PAGE.write_text(written(rows(Path(sys.argv[1]))), encoding="utf-8")
