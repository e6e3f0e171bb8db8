"""Chooses constants of the search on some families of tables and measures them on the others.

    python studies/replay/choose.py FOLDER... [--fields worth,apart] [--folds 3] [--trials 100]

For each fold, Optuna's TPE chooses the constants on all other families; what is printed last is chosen on all, and
belongs into `lrtune/search/freeze_thaw/config.py`. The loss of a search is the regret of its best complete run at
several costs, capped, in units of 2 % and of what seeds differ by; so one number holds how good and how dear it is.
"""

from __future__ import annotations

import argparse
import functools
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import optuna
from simulate import play
from tables import read_tables

from lrtune.search.freeze_thaw.config import CONFIG
from lrtune.search.freeze_thaw.strategy import FreezeThaw

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tables import Problem

COSTS = (1.3, 1.6, 2.0, 2.5, 3.2)
CAP, UNIT = 0.1, 0.02
FIELDS = (
    "apart",
    "edge_sd",
    "spacing",
    "first_training",
    "tolerance",
    "misfit_sd",
    "misfit_length",
    "drift_sd",
    "drift_length",
    "run_sd",
    "report_sd",
    "early_sd",
    "misfit_share",
    "scale_shape",
    "least_scale",
)
STOP = ("worth", "least_spent")
FACTOR = 2.5  # by which a constant may differ from its present value


def put(values: Mapping[str, float]) -> None:
    """Set constants in this process: they are frozen for everybody else."""
    for name, value in values.items():
        object.__setattr__(CONFIG, name, value)


def searched(task: tuple[Problem, int], values: Mapping[str, float], *, stops: bool) -> tuple[str, float]:
    """The loss of one search, and the family of its table."""
    problem, seed = task
    put(values if stops else dict(values) | {"worth": 0.0})
    played = play(
        FreezeThaw(), problem, seed=seed, budget=None, self_stopping=True, most=np.inf if stops else COSTS[-1]
    )
    unit = UNIT + 2 * problem.noise
    found, best = [], np.inf
    ends = iter([*played.finished, (np.inf, 0.0)])
    cost, regret = next(ends)
    shown = np.inf
    for upto in [played.cost + 1e-9] if stops else COSTS:
        while cost <= upto:
            value = played.values.pop(0)
            if value < shown:
                shown, best = value, regret
            cost, regret = next(ends)
        found.append(min(best, CAP) / unit)
    return problem.family, float(np.mean(found)) + (PRICE * max(0.0, played.cost - DEAR) if stops else 0.0)


PRICE, DEAR = 0.6, 1.0  # of a training in the loss of a search that ends by itself, and from where on


def loss(
    pool: ProcessPoolExecutor, tasks: Sequence[tuple[Problem, int]], values: Mapping[str, float], *, stops: bool
) -> float:
    """The mean loss over tables."""
    rows = pool.map(functools.partial(searched, values=values, stops=stops), tasks, chunksize=4)
    return float(np.mean([value for _, value in rows]))


def chosen(
    pool: ProcessPoolExecutor, tasks: Sequence[tuple[Problem, int]], fields: Sequence[str], trials: int, *, stops: bool
) -> dict[str, float]:
    """The best of so many values of the constants, the present ones included."""
    now = present(fields)

    def objective(trial: optuna.Trial) -> float:
        values = {name: trial.suggest_float(name, at / FACTOR, at * FACTOR, log=True) for name, at in now.items()}
        try:
            return loss(pool, tasks, values, stops=stops)
        except np.linalg.LinAlgError:
            return np.inf

    def progress(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if trial.number % 10 == 0:
            print(f"{trial.number}: {study.best_value:.4f} {short(study.best_params)}", flush=True)

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, multivariate=True))
    study.enqueue_trial(now)
    study.optimize(objective, n_trials=trials, callbacks=[progress])
    return study.best_params


def present(fields: Sequence[str]) -> dict[str, float]:
    """The constants as they are; asked for in this process, in which nothing is put."""
    return {name: getattr(CONFIG, name) for name in fields}


def short(values: Mapping[str, float]) -> str:
    """Three digits of each."""
    return json.dumps({name: float(f"{value:.3g}") for name, value in values.items()})


def main() -> None:
    """Choose, fold by fold, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curves", nargs="+", type=Path)
    parser.add_argument("--fields", default="search", help="names of constants, or search, or stop")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--every", type=int, default=1, help="only every so many tables")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    problems = [p for folder in options.curves for p in read_tables(folder) if not p.choices]
    problems = [p for p in problems if not (p.family.startswith("stepback") and p.name.endswith("loss"))]
    families = sorted({p.family for p in problems})
    stops = options.fields == "stop"
    fields = {"search": FIELDS, "stop": STOP}.get(options.fields) or options.fields.split(",")
    tasks = [(p, 0) for p in problems[:: options.every]]
    now = present(fields)
    with ProcessPoolExecutor(options.processes) as pool:
        before = loss(pool, tasks, now, stops=stops)
        print(f"{len(tasks)} tables of {len(families)} families; now: {before:.4f}", flush=True)
        gaps = []
        for fold in range(options.folds):
            left_out = set(families[fold :: options.folds])
            inner = [task for task in tasks if task[0].family not in left_out]
            outer = [task for task in tasks if task[0].family in left_out]
            best = chosen(pool, inner, fields, options.trials, stops=stops)
            before = loss(pool, outer, now, stops=stops)
            gaps.append([loss(pool, part, best, stops=stops) for part in (inner, outer)])
            print(f"without {', '.join(sorted(left_out))}: {short(best)}")
            print(f"{gaps[-1][0]:.4f} where chosen, {gaps[-1][1]:.4f} left out (now {before:.4f})", flush=True)
        if gaps:
            here, there = np.mean(gaps, axis=0)
            print(f"mean of the folds: {here:.4f} where chosen, {there:.4f} left out, a gap of {there - here:.4f}")
        print(short(chosen(pool, tasks, fields, options.trials, stops=stops)))


if __name__ == "__main__":
    main()
