"""Whether the range test's interval holds the best learning rate, at what cost; and what other finders suggest.

    OMP_NUM_THREADS=1 python studies/benchmarks/range_test.py [--seeds 10] [--tasks digits-mlp ...] [--dense]

``--dense`` first trains the dense sweep of the one model that has no study; see ``_tasks.py``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent))

from _finders import FINDERS
from _tasks import CNN, RECORD, STUDIES, Task, cnn_sweep, task

from lrtune.search.lr_range.lr_range import RangeTest, range_test

if TYPE_CHECKING:
    from typing import Any

CLOSE, CLOSEST = 0.02, 0.01
"""Normalised regret up to which a learning rate is as good as the best."""


def tested(task: Task, seeds: int) -> list[RangeTest]:
    """The range test with its defaults, under so many seeds that share nothing."""
    return [range_test(task.trainer, recipe=task.seeded(1000 + 10 * seed)) for seed in range(seeds)]


def suggestions(task: Task, seeds: int) -> dict[str, list[float | None]]:
    """What each finder says of its own default sweep."""
    suggested: dict[str, list[float | None]] = {name: [] for name in FINDERS}
    for seed in range(seeds):
        recipe = task.seeded(1000 + 10 * seed)
        sweeps: dict[tuple[float, float, int], Any] = {}
        for name, (rule, *span) in FINDERS.items():
            low, high, steps = span
            if tuple(span) not in sweeps:
                found = range_test(task.trainer, low=low, high=high, steps=steps, seeds=1, recipe=recipe)
                sweeps[low, high, steps] = found.sweeps[0]
            sweep = sweeps[low, high, steps]
            suggested[name].append(rule(sweep.lrs, sweep.losses))
    return suggested


def interval_row(task: Task, found: list[RangeTest]) -> dict[str, Any]:
    """How often the best learning rate lies in the interval, how wide that is, and what it cost."""
    intervals = [r.interval for r in found if r.interval is not None]
    held = sum(low <= task.best <= high for low, high in intervals)
    close = task.lrs[task.regrets <= CLOSE]
    ends = np.median(intervals, axis=0) if intervals else (np.nan, np.nan)
    return {
        "task": task.name,
        "best lr": f"{task.best:.2g}",
        "within 2 %": f"{close.min():.2g} ... {close.max():.2g}",
        "held": f"{held} of {len(found)}",
        "interval (median)": f"{ends[0]:.2g} ... {ends[1]:.2g}",
        "decades": f"{np.log10(ends[1] / ends[0]):.1f}",
        "steps": max(sum(len(sweep.losses) for sweep in r.sweeps) for r in found),
        "cost": f"{max(r.cost for r in found):.2f}",
        "confidence": ", ".join(sorted({r.confidence for r in found})),
    }


def finder_rows(tasks: list[Task], suggested: dict[str, dict[str, list[float | None]]]) -> list[dict[str, Any]]:
    """For each finder and task the median suggestion and the median regret of training with it."""
    rows = []
    for name in next(iter(suggested.values())):
        row: dict[str, Any] = {"finder": name}
        everything: list[float] = []
        for one in tasks:
            lrs = suggested[one.name][name]
            regrets = [one.regret(lr) for lr in lrs]
            everything += regrets
            known = [lr for lr in lrs if lr is not None]
            middle = f"{np.median(known):.1e}" if known else "none"
            row[one.name] = f"{middle} ({np.median(regrets):.3f})"
        row["median regret"] = f"{np.median(everything):.3f}"
        row["within 1 %"] = f"{100 * np.mean(np.array(everything) <= CLOSEST):.0f} %"
        rows.append(row)
    return rows


def middles(found: list[RangeTest]) -> list[float | None]:
    """The middle of the interval: what one would train with who stopped here, which is not what it is for."""
    return [None if r.interval is None else float(np.sqrt(r.interval[0] * r.interval[1])) for r in found]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dense", action="store_true", help=f"train the dense sweep of {CNN} again")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--tasks", nargs="*", default=[*STUDIES, CNN])
    options = parser.parse_args()
    if options.dense:
        lrs = [float(f"{lr:.4g}") for lr in np.geomspace(1e-4, 0.3, 15)]
        RECORD.write_text(json.dumps({CNN: cnn_sweep(lrs, (0, 1))}, separators=(",", ":")) + "\n")
    tasks = [task(name) for name in options.tasks]
    rows, suggested = [], {}
    for one in tasks:
        found = tested(one, options.seeds)
        rows.append(interval_row(one, found))
        suggested[one.name] = suggestions(one, options.seeds) | {"lrtune (middle of the interval)": middles(found)}
    print(pd.DataFrame(rows).to_string(index=False))
    print("\nsuggestion (normalised regret of training with it), medians over the seeds\n")
    print(pd.DataFrame(finder_rows(tasks, suggested)).to_string(index=False))


if __name__ == "__main__":
    main()
