"""``docs/hosts.md``: which call of which host gives which schedule, and how exactly, as measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lrtune.reporting.snippets import TITLES
from lrtune.reporting.snippets.calls import NEAR

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["PAGE", "Cell", "page"]

PAGE = "hosts.md"
EXACT = 1e-8  # of the peak
HEAD = """\
# Every schedule in every host

<!-- written by tests/hosts/test_pasted.py from what the real packages set: nox -s hosts -->

`lrtune.snippet(result_or_recipe, host)` and the tabs of the report write the answer for a host. The rate of every
update was compared with lrtune's own, in runs of 97 and of 1,000 updates with a warmup of 10 and 100: the two numbers
are the largest deviation, in % of the peak; where there are none it is exact to 1e-6 %.

- **own**: the host's own schedule. **own\\***: its own where there is no warmup, else the function.
- **fn**: the host has none that is exact, so the lines hold the function of the step, and the host calls it.

"""
TAIL = """\

ignite, Paddle and MMEngine take whole updates of warmup: where a fraction of an unknown length is rounded, the warmup
is off by at most 50 / warmup updates % of the peak, and the lines say so. With the length known (`total_steps=`) they
hold the function instead. transformers' `TrainingArguments` rounds such a fraction up.

DeepSpeed's JSON holds no function. Its nearest schedulers start one update late, with a first and a second update at
zero:

| schedule | in the JSON alone | off in 97 updates | in 1,000 |
|---|---|---|---|
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """How a host is given a schedule, and the largest deviations of the two lengths as fractions of the peak."""

    call: str
    off: tuple[float, float]


def page(cells: Mapping[tuple[str, str], Cell], versions: Mapping[str, str], schedules: Sequence[str]) -> str:
    """The page."""
    lines = [f"| host | package | {' | '.join(schedules)} |", "|---|---|" + "---|" * len(schedules)]
    for host, package in versions.items():
        shown = [_cell(cells[host, schedule]) for schedule in schedules]
        lines.append(f"| {TITLES[host]} | {package} | {' | '.join(shown)} |")
    near = [
        f"| {schedule} | `{one.name}` | {100 * one.off[0]:.2g} % | {100 * one.off[1]:.2g} % |"
        for schedule, one in NEAR["deepspeed"].items()
    ]
    return HEAD + "\n".join(lines) + "\n" + TAIL + "\n".join(near) + "\n"


def _cell(cell: Cell) -> str:
    off = "" if max(cell.off) < EXACT else f" {100 * cell.off[0]:.0e} / {100 * cell.off[1]:.0e}"
    return f"{cell.call}{off}"
