"""How good, how dear and how honest the answer of a search is, measured against the whole table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table
from simulate import context_of, play

from lrtune.search.freeze_thaw.answer import answer
from lrtune.search.freeze_thaw.strategy import FreezeThaw

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from tables import Problem

__all__ = ["judged", "summary"]

GOOD, AS_GOOD = 0.01, 0.02  # regret of the answer, and of what lies in its band
LEARNS = 0.9  # regret from which a recipe has not learned


def judged(task: tuple[str, Problem, int], options: argparse.Namespace) -> dict[str, Any]:
    """One search that ends by itself, and its answer beside the table."""
    _, problem, seed = task
    side_by_side = {"stack": options.stack, "beside_price": options.beside_price}
    played = play(
        FreezeThaw(), problem, seed=seed, budget=None, self_stopping=True, workers=options.workers, **side_by_side
    )
    context = context_of(problem, played.trials, played.cost, seed=seed)
    found = answer(context)
    if found.best is None or found.band is None:
        return {
            "problem": problem.name,
            "regret": math.inf,
            "cost": played.cost,
            "clock": played.clock,
            "holds": False,
            "inside": [],
            "width": 0,
        }
    params = context.space.params(played.trials[found.best].recipe)
    regrets = problem.regrets_under(params)
    low, high = (math.log10(lr) for lr in found.band)
    best = int(np.argmin(regrets))
    dead = [x for x, regret in zip(problem.grid[best:], regrets[best:], strict=True) if regret >= LEARNS]
    edge = found.edge
    known = edge.lr is not None and edge.low is not None and edge.high is not None and bool(dead)
    return {
        "problem": problem.name,
        "regret": problem.regret(params),
        "cost": played.cost,
        "clock": played.clock,
        "holds": low - 1e-9 <= problem.grid[best] <= high + 1e-9,
        "inside": regrets[(problem.grid >= low) & (problem.grid <= high)].tolist(),
        "width": high - low,
        "edge": math.log10(edge.low) <= dead[0] <= math.log10(edge.high) if known else None,  # type: ignore[arg-type]
    }


def summary(rows: Sequence[dict[str, Any]]) -> Table:
    """The figures that issue 3 asks for."""
    found = Table("answers of freeze-thaw when it ends by itself", "figure")
    regrets, costs = np.array([r["regret"] for r in rows]), np.array([r["cost"] for r in rows])
    inside = np.concatenate([r["inside"] for r in rows])
    edges = [r["edge"] for r in rows if r.get("edge") is not None]
    clocks = np.array([r["clock"] for r in rows])
    found.add_row("answer within 1 % / 2 %", f"{np.mean(regrets <= GOOD):.1%} / {np.mean(regrets <= AS_GOOD):.1%}")
    found.add_row("time in trainings, median / p90", f"{np.median(clocks):.2f} / {np.quantile(clocks, 0.9):.2f}")
    found.add_row("cost, median / p90", f"{np.median(costs):.2f} / {np.quantile(costs, 0.9):.2f}")
    found.add_row("band holds the best learning rate", f"{np.mean([r['holds'] for r in rows]):.1%}")
    found.add_row("learning rates inside within 2 %", f"{np.mean(inside <= AS_GOOD):.1%}")
    found.add_row("width of the band in decades, median", f"{np.median([r['width'] for r in rows]):.2f}")
    found.add_row(f"edge interval holds ({len(edges)} runs saw one)", f"{np.mean(edges):.1%}" if edges else "-")
    return found
