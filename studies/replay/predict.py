"""How well the end of training is predicted from its beginning, without any search around it.

    python studies/replay/predict.py FOLDER... [--seeds 1]

Runs are trained to growing fractions of the training, the better ones further, and at each stage three predictors name
the best learning rate within a decade of the leader: the leader itself, the leader moved left by 0.1 decades for each
factor of ten that is still to come, and the model of freeze-thaw. Printed is how often the one that was named ends
within 1 % and 2 % of the best of the table, and how far the model's distribution of the difference to the leader is
from the truth (the continuous ranked probability score; Gneiting and Raftery 2007, eq. 20; smaller is better).
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table
from simulate import advanced, context_of, started
from tables import read_tables

from lrtune.search.freeze_thaw.beliefs import Beliefs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tables import Problem

    from lrtune.search.base import SearchContext, TrialView

STAGES = ((0.02, 99), (0.05, 5), (0.1, 4), (0.2, 3), (0.4, 2), (1.0, 1))  # fraction of the training, runs kept
REACH, BETWEEN, LEFT = 1.0, 0.1, 0.1  # decades
CAP = 0.1  # regret beyond which it does not matter how bad


def stages(problem: Problem, seed: int) -> Iterator[tuple[float, SearchContext]]:
    """The fraction that was reached, and what a strategy would see then."""
    rng = np.random.default_rng([seed, len(problem.name), problem.epochs])
    low, high = problem.grid[0], problem.grid[-1]
    spacing = rng.choice([0.5, 1.0])
    trials: list[TrialView] = []
    for fraction, kept in STAGES:
        upto = max(1, round(fraction * problem.epochs))
        alive = sorted((t for t in trials if t.outcome is None), key=lambda t: t.values[-1])
        new = [float(x) for x in np.arange(low + spacing * rng.uniform(), high, spacing)]
        if trials:
            if not alive:
                return
            x = math.log10(alive[0].recipe.lr)
            sides = x + spacing / 2 * np.array([-1, 1])
            taken = np.array([math.log10(t.recipe.lr) for t in trials])
            new = [s for s in sides if low <= s <= high and np.min(np.abs(taken - s)) > BETWEEN]
        for one in alive[:kept]:
            trials[one.number] = advanced(problem, one, upto)
        for place in new:
            trials.append(advanced(problem, started(problem, len(trials), 10**place), upto))
        yield fraction, context_of(problem, trials, 0.0)


def measured(task: tuple[Problem, int]) -> list[tuple[float, list[float], float]]:
    """At each stage the regret of what each predictor names, and the model's score."""
    problem, seed = task
    found = []
    for fraction, context in stages(problem, seed):
        beliefs = Beliefs(context)
        if beliefs.observed.best is None:
            continue
        leader = beliefs.best.x
        xs = leader + np.arange(-REACH, REACH + BETWEEN / 2, BETWEEN)
        xs = xs[(xs >= problem.grid[0]) & (xs <= problem.grid[-1])]
        ends = beliefs.draws([beliefs.unstarted(float(x), beliefs.best.key) for x in xs])
        at = int(np.argmin(np.abs(xs - leader)))
        trained = beliefs.best.trained / beliefs.length
        named = [
            leader,
            leader + LEFT * math.log10(trained),
            float(xs[int(np.argmin(np.minimum(ends, 1).mean(axis=0)))]),
        ]
        truth = np.array([problem.regret({"lr": float(10**x)}) for x in xs])
        scale = (beliefs.observed.high - beliefs.observed.low) / (problem.untrained - problem.best)
        draws = np.clip(scale * (ends - ends[:, [at]]), -CAP, CAP)
        score = crps(draws, np.clip(np.minimum(truth, 1) - min(truth[at], 1), -CAP, CAP))
        found.append((fraction, [problem.regret({"lr": 10**x}) for x in named], float(score.mean())))
    return found


def crps(draws: Any, truth: Any) -> Any:
    """The score of draws of shape (n, m) against what is true, shape (m,)."""
    n = len(draws)
    weight = (2 * np.arange(1, n + 1) - n - 1)[:, None]
    return np.abs(draws - truth).mean(axis=0) - (weight * np.sort(draws, axis=0)).sum(axis=0) / n**2


def main() -> None:
    """Predict, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curves", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    problems = [p for folder in options.curves for p in read_tables(folder) if not p.choices]
    rows = defaultdict(list)
    with ProcessPoolExecutor(options.processes) as pool:
        for found in pool.map(measured, [(p, s) for p in problems for s in range(options.seeds)], chunksize=4):
            for fraction, regrets, score in found:
                rows[fraction].append([*regrets, score])
    table = Table("trained to", "n", "leader 1 % / 2 %", "moved left", "model", "score of the model")
    for fraction, values in sorted(rows.items()):
        found = np.array(values)
        shares = [f"{np.mean(found[:, i] <= 0.01):.0%} / {np.mean(found[:, i] <= 0.02):.0%}" for i in range(3)]
        table.add_row(f"{fraction:.0%}", str(len(found)), *shares, f"{found[:, 3].mean():.4f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
