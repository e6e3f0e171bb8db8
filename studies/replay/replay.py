"""Plays strategies on recorded curves and prints what each needed to reach 2 %, 1 % and 0.5 % regret.

    python studies/replay/replay.py FOLDER [--strategies freeze-thaw,race,grid] [--seeds 5] [--through tune]

With `--answers` it prints instead how good, dear and honest the answers of a search that ends by itself are.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from answers import judged, summary
from baselines import Grid, Race, Random
from landscapes import landscapes
from rich.console import Console
from rich.progress import track
from rich.table import Table
from simulate import play
from tables import read_tables
from through import through_tune

from lrtune.search.freeze_thaw.strategy import FreezeThaw

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tables import Problem

    from lrtune.search.base import Strategy

THRESHOLDS = (0.02, 0.01, 0.005)
STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "random": Random,
    "grid": Grid,
    "race": Race,
    "freeze-thaw": FreezeThaw,
}


def replay(task: tuple[str, Problem, int], options: argparse.Namespace) -> dict[str, Any]:
    """One search; its cost to each threshold."""
    name, problem, seed = task
    common: dict[str, Any] = {"seed": seed, "budget": options.budget, "stop_at": THRESHOLDS[-1]}
    if options.through == "tune":
        played, _ = through_tune(name, problem, **common)
    else:
        played = play(STRATEGIES[name](), problem, workers=options.workers, **common)
    return {"strategy": name, "problem": problem.name, "costs": [played.cost_to(t) for t in THRESHOLDS]}


def cell(costs: Sequence[float], budget: float) -> str:
    """Median, 90th percentile and share of the unsolved, where the unsolved count as dearer than all others."""
    ranked = sorted(costs)
    quantiles = [ranked[math.ceil(q * len(ranked)) - 1] for q in (0.5, 0.9)]
    text = [f"{v:.2f}" if math.isfinite(v) else f">{budget:g}" for v in quantiles]
    return f"{text[0]} / {text[1]} / {np.mean(~np.isfinite(ranked)):.1%}"


def table(rows: Sequence[dict[str, Any]], options: argparse.Namespace) -> Table:
    """Strategy x (median, 90th percentile, unsolved) at each threshold."""
    found = Table("strategy", *[f"{t:.1%}: median / p90 / unsolved" for t in THRESHOLDS])
    for name in dict.fromkeys(row["strategy"] for row in rows):
        mine = [row for row in rows if row["strategy"] == name]
        found.add_row(name, *[cell([r["costs"][i] for r in mine], options.budget) for i in range(len(THRESHOLDS))])
        for problem in dict.fromkeys(row["problem"] for row in mine) if options.each else ():
            costs = [row["costs"] for row in mine if row["problem"] == problem]
            found.add_row("  " + problem, *[" ".join(f"{c[i]:.2f}" for c in costs) for i in range(len(THRESHOLDS))])
    return found


def arguments() -> argparse.Namespace:
    """What was asked on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curves", nargs="?", default=os.environ.get("LRTUNE_CURVES"), help="folder of curves")
    parser.add_argument("--made-up", type=int, default=0, metavar="N", help="N made-up landscapes instead")
    parser.add_argument("--joint", action="store_true", help="made-up landscapes with batch size and schedule")
    parser.add_argument("--strategies", default="freeze-thaw,race,grid,random")
    parser.add_argument("--through", choices=["simulation", "tune"], default="simulation", help="what drives them")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", type=float, default=25.0)
    parser.add_argument("--workers", type=int, default=1, help="workers of one simulated search")
    parser.add_argument("--stack", type=int, default=1, help="runs that one worker trains side by side, in --answers")
    parser.add_argument("--beside-price", type=float, default=0.4, help="share of its time that each further one takes")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--each", action="store_true", help="one more row a problem")
    parser.add_argument("--answers", action="store_true", help="answers of freeze-thaw when it ends by itself")
    options = parser.parse_args()
    if not options.made_up and not options.curves:
        parser.error("a folder of curves is needed, as an argument or as LRTUNE_CURVES; or --made-up N")
    return options


def main() -> None:
    """Play, in parallel over problems and seeds, and print the table."""
    options = arguments()
    made = options.made_up
    problems = landscapes(made, joint=options.joint) if made else read_tables(Path(options.curves))
    names = ["freeze-thaw"] if options.answers else options.strategies.split(",")
    tasks = [(name, problem, seed) for name in names for problem in problems for seed in range(options.seeds)]
    work = functools.partial(judged if options.answers else replay, options=options)
    with ProcessPoolExecutor(options.processes) as pool:
        jobs = pool.map(work, tasks, chunksize=2)
        rows = list(track(jobs, total=len(tasks), description="replay", console=Console(stderr=True)))
    Console(width=None if os.isatty(1) else 140).print(summary(rows) if options.answers else table(rows, options))


if __name__ == "__main__":
    main()
