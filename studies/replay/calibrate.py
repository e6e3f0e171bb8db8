"""How often what the answer claims is true: the probability of being as good as the optimum, and the band.

    python studies/replay/calibrate.py FOLDER... [--folds 8] [--picture docs/img/reliability.svg]

Each table is searched until the search ends by itself. The weights of the logistic regression
(:mod:`lrtune.search.freeze_thaw.confidence`) are fitted to the other families than the one that is shown; those that
are printed last are fitted to all, and belong into `lrtune/search/freeze_thaw/config.py`.
"""

from __future__ import annotations

import argparse
import math
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table
from simulate import context_of, play
from sklearn.linear_model import LogisticRegression
from tables import read_tables

from lrtune.search.freeze_thaw.answer import answer
from lrtune.search.freeze_thaw.beliefs import Beliefs
from lrtune.search.freeze_thaw.confidence import features, judging
from lrtune.search.freeze_thaw.config import CONFIG
from lrtune.search.freeze_thaw.strategy import FreezeThaw

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tables import Problem

SURE = 0.9


def claims(task: tuple[Problem, int]) -> dict[str, Any] | None:
    """One search: the features of the answer and of the learning rates around it, and what is true of them."""
    problem, seed = task
    played = play(FreezeThaw(), problem, seed=seed, budget=None, self_stopping=True)
    context = context_of(problem, played.trials, played.cost, seed=seed)
    found = answer(context)
    beliefs = Beliefs(context)
    best = next((run for run in beliefs.learning if run.number == found.best), None)
    if best is None:
        return None
    params = context.space.params(best.trial.recipe)
    places = best.lr_x + np.arange(-15, 16) * 0.1
    places = places[(places >= problem.grid[0]) & (places <= problem.grid[-1])]
    regrets = problem.regrets_under(params)
    known = [run.lr_x for run in judging(beliefs, best)]
    kind = problem.name.rsplit("/", 1)[-1] if problem.repeats or "stepback" in problem.family else "deepobs"
    return {
        "family": problem.family,
        "kind": f"{problem.family.split('-')[0]} {kind}" if "stepback" in problem.family else kind,
        "noise": problem.noise,
        "cost": played.cost,
        "regret": problem.regret(params),
        "middle": int(np.argmin(np.abs(places - best.lr_x))),
        "places": places,
        "judged": (places >= min(known) - 1e-9) & (places <= max(known) + 1e-9),
        "features": features(beliefs, best, places),
        "good": np.array([problem.regret(params | {"lr": float(10**x)}) for x in places]) <= CONFIG.as_good,
        "optimum": problem.grid[int(np.argmin(regrets))],
        "grid": problem.grid,
        "regrets": regrets,
    }


def fitted(rows: Sequence[dict[str, Any]]) -> Any:
    """The weights under which what is true is likeliest; an answer's own claim counts as much as all others."""
    x = np.vstack([row["features"] for row in rows])
    y = np.concatenate([row["good"] for row in rows])
    weight = np.concatenate([np.where(np.arange(len(r["good"])) == r["middle"], 3.0, 0.1) for r in rows])
    middle, spread = x.mean(0), x.std(0)
    spread[0], middle[0] = 1.0, 0.0  # the constant
    found = LogisticRegression(C=1.0, fit_intercept=False).fit((x - middle) / spread, y, weight).coef_[0] / spread
    found[0] -= found @ middle
    return found


def said(row: dict[str, Any], weights: Any) -> Any:
    """The probabilities at its places."""
    return 1 / (1 + np.exp(-row["features"] @ weights))


def band(row: dict[str, Any], weights: Any, least: float) -> tuple[float, float]:
    """The band at that probability, as :func:`lrtune.search.freeze_thaw.answer.answer` reads it."""
    bad = (said(row, weights) < least) | ~row["judged"]
    middle = row["middle"]
    low = int(np.max(np.flatnonzero(bad[:middle]), initial=-1)) + 1
    high = middle + int(np.min(np.flatnonzero(bad[middle + 1 :]), initial=len(bad) - middle - 1))
    return row["places"][low], row["places"][high]


def shown(rows: Sequence[dict[str, Any]], fits: dict[str, Any], least: float) -> list[str]:
    """A line of the table: how often bands hold the best, and so on."""
    ends = [band(r, fits[r["family"]], least) for r in rows]
    holds = np.mean([low - 0.051 <= r["optimum"] <= high + 0.051 for r, (low, high) in zip(rows, ends, strict=True)])
    inside = [
        r["regrets"][(r["grid"] >= low - 1e-9) & (r["grid"] <= high + 1e-9)] <= CONFIG.as_good
        for r, (low, high) in zip(rows, ends, strict=True)
    ]
    regrets = np.array([r["regret"] for r in rows])
    claimed = np.array([said(r, fits[r["family"]])[r["middle"]] for r in rows])
    sure = claimed >= SURE
    return [
        str(len(rows)),
        f"{np.mean(regrets <= 0.01):.0%} / {np.mean(regrets <= 0.02):.0%}",
        f"{np.median([r['cost'] for r in rows]):.2f}",
        f"{holds:.0%}",
        f"{np.mean(np.concatenate(inside)):.0%}",
        f"{np.median([high - low for low, high in ends]):.2f}",
        f"{np.mean(claimed):.0%}",
        f"{np.mean(regrets[sure] <= CONFIG.as_good):.0%} of {np.sum(sure)}" if sure.any() else "-",
    ]


def main() -> None:
    """Search, correct, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curves", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--folds", type=int, default=8)
    parser.add_argument("--picture", type=Path, help="where to draw what was said against what was true")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    problems = [p for folder in options.curves for p in read_tables(folder)]
    with ProcessPoolExecutor(options.processes) as pool:
        found = pool.map(claims, [(p, s) for p in problems for s in range(options.seeds)], chunksize=4)
        rows = [row for row in found if row is not None]
    families = sorted({row["family"] for row in rows})
    fits = {}
    for fold in range(options.folds):
        out = set(families[fold :: options.folds])
        fits |= dict.fromkeys(out, fitted([row for row in rows if row["family"] not in out]))
    titles = ("n", "1 % / 2 %", "cost", "band holds", "inside", "width", "said", f"said {SURE:.0%}: true")
    table = Table("families left out", "probability", *titles)
    for kind in [*sorted({row["kind"] for row in rows}), "all"]:
        mine = [row for row in rows if kind in {"all", row["kind"]}]
        for least in (0.3, 0.4, 0.5, 0.6, 0.7) if kind == "all" else (CONFIG.band_probability,):
            table.add_row(kind, f"{least:g}", *shown(mine, fits, least))
    Console(width=140).print(table)
    claimed = np.array([said(row, fits[row["family"]])[row["middle"]] for row in rows])
    true = np.array([row["regret"] <= CONFIG.as_good for row in rows])
    bins = []
    for low in np.arange(0, 1, 0.1):
        held = (claimed >= low) & (claimed < low + 0.1 + 1e-9)
        if held.any():
            bins.append((float(np.mean(claimed[held])), float(np.mean(true[held])), int(np.sum(held))))
            print(f"said {low:.0%} to {low + 0.1:.0%}: {np.sum(held)} answers, {np.mean(true[held]):.0%} true")
    print("confidence:", ", ".join(f"{w:.3g}" for w in fitted(rows)))
    if options.picture:
        options.picture.write_text(reliability(bins), "utf-8")


def reliability(bins: Sequence[tuple[float, float, int]]) -> str:
    """Said against true as SVG; the area of a point is the number of answers."""
    size, edge = 360, 46
    inner = size - 2 * edge
    most = max(count for _, _, count in bins)

    def at(said_: float, true: float) -> tuple[float, float]:
        return edge + inner * said_, size - edge - inner * true

    (x0, y0), (x1, y1) = at(0, 0), at(1, 1)
    parts = [
        f'<rect width="{size}" height="{size}" fill="white"/>',
        f'<path d="M{x0} {y1}V{y0}H{x1}" fill="none" stroke="#9aa5b1"/>',
        f'<line x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}" stroke="#9aa5b1" stroke-dasharray="4 4"/>',
        f'<text x="{size / 2}" y="{size - 10}" text-anchor="middle">probability that was said</text>',
        f'<text text-anchor="middle" transform="translate(14 {size / 2}) rotate(-90)">share that held</text>',
    ]
    for value in (0, 0.5, 1):
        (x, _), (_, y) = at(value, 0), at(0, value)
        parts.append(f'<text x="{x:.0f}" y="{y0 + 16:.0f}" text-anchor="middle">{value:g}</text>')
        parts.append(f'<text x="{x0 - 6:.0f}" y="{y + 4:.0f}" text-anchor="end">{value:g}</text>')
    for claimed, true, count in bins:
        x, y = at(claimed, true)
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{3 + 9 * math.sqrt(count / most):.1f}" fill="#0b7a75" '
            f'fill-opacity="0.6"><title>{count} answers</title></circle>'
            f'<text x="{x + 12:.0f}" y="{y + 4:.0f}" fill="#52606d" font-size="10">{count}</text>'
        )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}" font-family="sans-serif" font-size="12">'
    )
    return "\n".join([head, *parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    main()
