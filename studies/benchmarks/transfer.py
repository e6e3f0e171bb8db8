"""What an earlier study's answer is worth to the next search, and what a misleading one costs.

    OMP_NUM_THREADS=1 python studies/benchmarks/transfer.py [FOLDER] [--made-up 30] [--seeds 3] [--each]

Recorded curves in FOLDER (or LRTUNE_CURVES; see ``studies/replay``) and made-up landscapes are searched by
freeze-thaw with no prior, with the answer that a search of the same problem under another seed ended with, and
with answers that are off by about 0.5, 1.5 and 3 decades to either side, but no further than the end of the range,
and sure of themselves. Costs are in full trainings; differences are to the same search without a prior, and the row
of another search without one, whose first looks fell elsewhere, says how much of a difference is chance.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "replay"))

from landscapes import landscapes
from simulate import context_of, play
from tables import read_tables

from lrtune.search.freeze_thaw.answer import answer
from lrtune.search.freeze_thaw.strategy import FreezeThaw
from lrtune.study.warm_start import prior_from

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from simulate import Play
    from tables import Problem

    from lrtune.search.freeze_thaw.strategy import Prior

GOOD = 0.01
BUDGET = 25.0
EARLIER, OTHER = 1000, 500  # added to the seed of the earlier search, and of the other one without a prior
NARROW = 0.2  # decades: width of the band of a misleading answer
ABOUT = 0.25  # decades: looks are a decade apart, and from a whole number of them off one would fall on the best
NONE, CHANCE, SAME = "no prior", "no prior, other first looks", "the same problem's, another seed"
OFF = {f"off by {decades:+g} decades": decades for decades in (-3.0, -1.5, -0.5, 0.5, 1.5, 3.0)}
KINDS = (NONE, CHANCE, SAME, *OFF)


def answered(problem: Problem, played: Play, seed: int) -> Mapping[str, Any]:
    """The answer of a search, as its ``result.json`` would hold it."""
    found = answer(context_of(problem, played.trials, played.cost, seed=seed))
    best = None if found.best is None else {"lr": played.trials[found.best].recipe.lr}
    low, high = found.band or (None, None)
    return {"best": best, "band": None if low is None else {"low": low, "high": high}}


def prior_of(kind: str, problem: Problem, seed: int) -> Prior | None:
    """What the search is given."""
    if kind in {NONE, CHANCE}:
        return None
    if kind == SAME:
        earlier = play(FreezeThaw(), problem, seed=EARLIER + seed, budget=None, self_stopping=True)
        return prior_from(answered(problem, earlier, EARLIER + seed))
    about = np.random.default_rng([seed, KINDS.index(kind)]).uniform(-ABOUT, ABOUT)
    place = problem.grid[int(np.argmin(problem.regrets_under({})))] + OFF[kind] + about
    place = float(np.clip(place, problem.grid[0], problem.grid[-1]))
    ends = {"low": 10 ** (place - NARROW / 2), "high": 10 ** (place + NARROW / 2)}
    return prior_from({"best": {"lr": 10**place}, "band": ends})


def searched(task: tuple[str, Problem, int, str]) -> dict[str, Any]:
    """One search: its cost to 1 % regret, its cost where it ends by itself, and how good its answer is then."""
    source, problem, seed, kind = task
    prior = prior_of(kind, problem, seed)
    row = {"source": source, "problem": problem.name, "seed": seed, "kind": kind}
    seed += OTHER if kind == CHANCE else 0
    ended = play(FreezeThaw(prior), problem, seed=seed, budget=None, self_stopping=True)
    cost = ended.cost_to(GOOD)
    if not math.isfinite(cost):  # until then both are the same
        cost = play(FreezeThaw(prior), problem, seed=seed, budget=BUDGET, stop_at=GOOD).cost_to(GOOD)
    best = answered(problem, ended, seed)["best"]
    regret = math.inf if best is None else problem.regret(best)
    return row | {"to": cost, "ended": ended.cost, "regret": regret}


def spread(values: Sequence[float]) -> str:
    """Median and 90th percentile, where the unsolved count as the budget."""
    held = np.minimum(values, BUDGET)
    return f"{np.median(held):+.2f} / {np.quantile(held, 0.9):+.2f}"


def table(rows: Sequence[dict[str, Any]], source: str, *, each: bool) -> Table:
    """Kind of prior x costs, and their differences to those of the same search without one."""
    columns = ["to 1 %", "more than none", "ends by itself", "more than none", "answer within 1 %"]
    found = Table(f"{source}: median / p90", *columns)
    mine = {(r["kind"], r["problem"], r["seed"]): r for r in rows if r["source"] == source}
    places = list(dict.fromkeys((problem, seed) for _, problem, seed in mine))
    for kind in KINDS:
        here, none = [mine[kind, *place] for place in places], [mine[NONE, *place] for place in places]
        cells = []
        for name in ("to", "ended"):
            costs, bare = (np.minimum([r[name] for r in some], BUDGET) for some in (here, none))
            cells += [spread(costs).replace("+", ""), "" if kind == NONE else spread(costs - bare)]
        good = np.mean([r["regret"] <= GOOD for r in here])
        found.add_row(kind, *cells, f"{good:.0%}")
        for problem in dict.fromkeys(problem for problem, _ in places) if each else ():
            some = [r for r in here if r["problem"] == problem]
            found.add_row("  " + problem, *_costs(some, "to"), *_costs(some, "ended"))
    return found


def _costs(rows: Sequence[dict[str, Any]], name: str) -> tuple[str, str]:
    return " ".join(f"{row[name]:.2f}" for row in rows), ""


def arguments() -> argparse.Namespace:
    """What was asked on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curves", nargs="?", default=os.environ.get("LRTUNE_CURVES"), help="folder of curves")
    parser.add_argument("--made-up", type=int, default=30, metavar="N", help="N made-up landscapes, too")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--each", action="store_true", help="one more row a problem: each seed's costs")
    return parser.parse_args()


def main() -> None:
    """Search, in parallel over problems and seeds, and print a table for the recorded and one for the made-up."""
    options = arguments()
    read = read_tables(Path(options.curves)) if options.curves else []
    recorded = [problem for problem in read if not problem.choices]
    sources = {"recorded": recorded, "made-up": landscapes(options.made_up)}
    tasks = [
        (source, problem, seed, kind)
        for source, problems in sources.items()
        for problem in problems
        for seed in range(options.seeds)
        for kind in KINDS
    ]
    with ProcessPoolExecutor(options.processes) as pool:
        jobs = pool.map(searched, tasks, chunksize=len(KINDS))
        rows = list(track(jobs, total=len(tasks), description="transfer", console=Console(stderr=True)))
    console = Console(width=None if os.isatty(1) else 140)
    for source in (name for name, problems in sources.items() if problems):
        console.print(table(rows, source, each=options.each))


if __name__ == "__main__":
    main()
