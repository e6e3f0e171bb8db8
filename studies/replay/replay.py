"""Plays strategies on recorded curves and prints what each needed to reach 2 %, 1 % and 0.5 % regret."""

from __future__ import annotations

import argparse
import math
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from baselines import Grid, Race, Random
from landscapes import landscapes
from rich.console import Console
from rich.progress import track
from rich.table import Table
from simulate import play
from tables import Problem, read_tables

if TYPE_CHECKING:
    from collections.abc import Callable

THRESHOLDS = (0.02, 0.01, 0.005)


def _freeze_thaw() -> Any:
    from lrtune.search.freeze_thaw import FreezeThaw

    return FreezeThaw()


STRATEGIES: dict[str, Callable[[], Any]] = {
    "random": Random, "grid": Grid, "race": Race, "freeze-thaw": _freeze_thaw,
}


def _one(task: tuple[str, Problem, int, float, int]) -> dict[str, Any]:
    name, problem, seed, budget, workers = task
    played = play(STRATEGIES[name](), problem, seed=seed, budget=budget, workers=workers, stop_at=THRESHOLDS[-1])
    costs = [played.cost_to(t) for t in THRESHOLDS]
    return {"strategy": name, "problem": problem.name, "seed": seed, "costs": costs, "why": played.why}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("curves", nargs="?", default=os.environ.get("LRTUNE_CURVES"), help="folder of curves")
    parser.add_argument("--made-up", type=int, default=0, help="that many made-up landscapes instead")
    parser.add_argument("--joint", action="store_true", help="made-up landscapes with batch size and schedule")
    parser.add_argument("--strategies", default="freeze-thaw,race,grid,random")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", type=float, default=25.0)
    parser.add_argument("--workers", type=int, default=1, help="workers of one search")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--each", action="store_true", help="one row a problem")
    options = parser.parse_args()
    if options.made_up:
        problems = landscapes(options.made_up, joint=options.joint)
    else:
        problems = read_tables(Path(options.curves))
    names = options.strategies.split(",")
    tasks = [
        (n, p, s, options.budget, options.workers) for n in names for p in problems for s in range(options.seeds)
    ]
    with ProcessPoolExecutor(options.processes) as pool:
        rows = list(track(pool.map(_one, tasks, chunksize=4), total=len(tasks), description="replay", console=Console(stderr=True)))
    table = Table(*["strategy", *[f"{t:.1%} median" + " / p90 / unsolved" for t in THRESHOLDS]])
    for name in names:
        costs = np.array([r["costs"] for r in rows if r["strategy"] == name])
        table.add_row(name, *[_cell(costs[:, i], options.budget) for i in range(len(THRESHOLDS))])
        if options.each:
            for problem in problems:
                costs = np.array([r["costs"] for r in rows if r["strategy"] == name and r["problem"] == problem.name])
                table.add_row("  " + problem.name, *[" ".join(f"{c:.2f}" for c in costs[:, i]) for i in range(3)])
    Console().print(table)


def _cell(costs: np.ndarray, budget: float) -> str:
    capped = np.where(np.isfinite(costs), costs, math.inf)
    ranks = np.sort(capped)
    median, high = (ranks[min(len(ranks) - 1, math.ceil(q * len(ranks)) - 1)] for q in (0.5, 0.9))
    text = [f"{v:.2f}" if math.isfinite(v) else f">{budget:g}" for v in (median, high)]
    return f"{text[0]} / {text[1]} / {np.mean(~np.isfinite(costs)):.1%}"


if __name__ == "__main__":
    main()
