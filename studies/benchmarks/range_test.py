"""Does the range test's interval hold the best learning rate, at what cost, and what do other finders suggest?

    OMP_NUM_THREADS=1 python studies/benchmarks/range_test.py [--dense] [--seeds 10] [--tasks digits-mlp ...]

The best learning rate is that of a dense sweep of full trainings (four per decade, two seeds), recorded beside
this file in ``range_test_dense.json``; ``--dense`` trains it again. The regret of a suggestion is read off that
sweep, linearly in log lr between its points: (value there - best) / (untrained - best), 1 at most.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from _finders import FINDERS  # noqa: E402 -- found beside this file
from _tasks import TASKS, Task  # noqa: E402 -- likewise

from lrtune.rangetest import RangeTest, range_test  # noqa: E402 -- after the path

if TYPE_CHECKING:
    from typing import Any

    from lrtune.training.base import Trainer

DENSE = HERE / "range_test_dense.json"
METRIC = "valid_loss"
PER_DECADE = 4
DENSE_SEEDS = (0, 1)


def final(trainer: Trainer, task: Task, lr: float, seed: int) -> float:
    """The held-out loss at the end of a full training; infinite where it diverged."""
    recipe = task.recipe(lr, seed, trainer)
    run = trainer.start([recipe])
    value = np.inf
    while run.alive:
        report = run.advance(recipe.epochs * trainer.steps_per_epoch(recipe))[-1]
        value = report.point.values.get(METRIC, np.inf) if not run.alive else value
        if report.outcome is not None and report.outcome.diverged:
            value = np.inf
    run.close()
    return float(value) if np.isfinite(value) else np.inf


def dense(task: Task) -> dict[str, Any]:
    """The dense sweep of a task."""
    trainer = task.make()
    count = round(PER_DECADE * np.log10(task.high / task.low)) + 1
    lrs = np.logspace(np.log10(task.low), np.log10(task.high), count)
    began = time.perf_counter()
    values = [[final(trainer, task, lr, seed) for seed in DENSE_SEEDS] for lr in lrs]
    untrained = trainer.baseline(task.recipe(1e-3, 0, trainer), METRIC).untrained
    cleaned = [[None if np.isinf(v) else round(v, 6) for v in row] for row in values]
    seconds = round(time.perf_counter() - began)
    return {"lr": [float(f"{lr:.4g}") for lr in lrs], "values": cleaned, "untrained": untrained, "seconds": seconds}


def regrets(record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """log10 lr and normalised regret of the dense sweep, each of shape (n,)."""
    filled = [[record["untrained"] if v is None else v for v in row] for row in record["values"]]
    values = np.minimum(np.mean(filled, axis=1), record["untrained"])
    return np.log10(record["lr"]), (values - values.min()) / (record["untrained"] - values.min())


def regret_of(lr: float | None, record: dict[str, Any]) -> float:
    """The regret of training with a suggestion; without one, and outside the sweep, that of not training."""
    x, regret = regrets(record)
    return 1.0 if lr is None else float(np.interp(np.log10(lr), x, regret, right=1.0, left=1.0))


def tested(task: Task, seeds: int) -> list[RangeTest]:
    """The range test with its defaults, under so many seeds that share nothing."""
    trainer = task.make()
    return [range_test(trainer, recipe=task.recipe(1.0, 1000 + 10 * seed, trainer)) for seed in range(seeds)]


def suggestions(task: Task, seeds: int) -> dict[str, list[float | None]]:
    """What each finder says of its own default sweep."""
    trainer = task.make()
    said: dict[str, list[float | None]] = {name: [] for name in FINDERS}
    for seed in range(seeds):
        for name, (rule, low, high, steps) in FINDERS.items():
            recipe = task.recipe(1.0, 1000 + 10 * seed, trainer)
            sweep = range_test(trainer, low=low, high=high, steps=steps, seeds=1, recipe=recipe).sweeps[0]
            said[name].append(rule(sweep.lrs, sweep.losses))
    return said


def interval_row(task: Task, found: list[RangeTest], record: dict[str, Any]) -> dict[str, Any]:
    """How often the best learning rate lies in the interval, how wide that is, and what it cost."""
    x, regret = regrets(record)
    best = 10 ** x[int(regret.argmin())]
    held = [r.interval is not None and r.interval[0] <= best <= r.interval[1] for r in found]
    widths = [np.log10(r.interval[1] / r.interval[0]) for r in found if r.interval is not None]
    ends = np.median([r.interval for r in found if r.interval is not None], axis=0)
    good = [10**point for point, value in zip(x, regret, strict=True) if value <= 0.02]
    return {
        "task": task.name,
        "best lr": f"{best:.2g}",
        "within 2 %": f"{min(good):.2g} ... {max(good):.2g}",
        "held": f"{sum(held)} of {len(held)}",
        "interval (median)": f"{ends[0]:.2g} ... {ends[1]:.2g}",
        "decades": round(float(np.median(widths)), 1),
        "cost (largest)": round(max(r.cost for r in found), 3),
        "confidence": ", ".join(sorted({r.confidence for r in found})),
    }


def finder_rows(said: dict[str, dict[str, list[float | None]]], records: dict[str, Any]) -> list[dict[str, Any]]:
    """For each finder and task the median suggestion and the median regret of training with it."""
    rows = []
    for name in next(iter(said.values())):
        row: dict[str, Any] = {"finder": name}
        everything = []
        for task, by_finder in said.items():
            lrs = by_finder[name]
            all_regrets = [regret_of(lr, records[task]) for lr in lrs]
            everything += all_regrets
            known = [lr for lr in lrs if lr is not None]
            middle = f"{np.median(known):.1e}" if known else "none"
            row[task] = f"{middle} ({np.median(all_regrets):.3f})"
        row["median regret"] = round(float(np.median(everything)), 3)
        row["within 1 %"] = f"{100 * np.mean(np.array(everything) <= 0.01):.0f} %"
        rows.append(row)
    return rows


def middles(found: list[RangeTest]) -> list[float | None]:
    """The middle of the interval: what one would train with who stopped here, which is not what it is for."""
    return [None if r.interval is None else float(np.sqrt(r.interval[0] * r.interval[1])) for r in found]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dense", action="store_true", help="train the dense sweep again")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--tasks", nargs="*", default=[task.name for task in TASKS])
    told = parser.parse_args()
    records = json.loads(DENSE.read_text()) if DENSE.exists() else {}
    tasks = [task for task in TASKS if task.name in told.tasks]
    for task in tasks:
        if told.dense or task.name not in records:
            records[task.name] = dense(task)
            DENSE.write_text(json.dumps(records, separators=(",", ":")) + "\n")
    rows, said = [], {}
    for task in tasks:
        found = tested(task, told.seeds)
        rows.append(interval_row(task, found, records[task.name]))
        said[task.name] = suggestions(task, told.seeds) | {"lrtune (middle of the interval)": middles(found)}
    print(pd.DataFrame(rows).to_string(index=False))
    print("\nsuggestion (normalised regret of training with it), medians\n")
    print(pd.DataFrame(finder_rows(said, records)).to_string(index=False))


if __name__ == "__main__":
    main()
