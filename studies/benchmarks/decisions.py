"""How long freeze-thaw takes to decide what trains next, by the number of runs so far.

    OMP_NUM_THREADS=1 python studies/benchmarks/decisions.py [--repeats 7] [--seeds 3] [--profile SIZE]

A situation holds so many runs on a made-up landscape, as far as a search would have trained them: most after a look
or a few, some half-way, some complete, and those beyond a cliff diverged. Learning rates are searched alone, and
with 18 combinations of batch size, schedule and warmup. Each decision is made anew from what the study holds; printed
are the medians over seeds and repeats, in CPU of this process and by the clock, and the power of the number of runs
with which the CPU has grown since the size before.
"""

from __future__ import annotations

import argparse
import cProfile
import dataclasses
import math
import pstats
import time
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from lrtune.core.outcome import Outcome
from lrtune.core.space import Space
from lrtune.search.base import SearchContext, Start, TrialView
from lrtune.search.freeze_thaw.strategy import FreezeThaw

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lrtune.core.recipe import Recipe

SIZES = (10, 30, 100, 300, 1000, 2000)
EPOCHS = 100
TARGET = 0.05  # seconds, with 100 runs so far
BEST, CLIFF = -2.0, 0.8  # log10 of the best scaled learning rate; decades above it from which runs diverge
SPREAD = 0.8  # decades: the standard deviation of runs around the best
NEAR = 0.7  # of the runs are there, the others anywhere in the range
LENGTHS, SHARES = (1, 2, 4, 8, 16, 32, 64), (0.3, 0.22, 0.16, 0.12, 0.09, 0.07, 0.04)  # epochs of runs that pause
COMPLETE = 0.15  # of the runs near the best
NOISE = 0.003
SPACES = {
    "lr alone": Space(lr=(1e-5, 10.0)),
    "18 combinations": Space(
        lr=(1e-5, 10.0), batch_size=[16, 64, 256], schedule=["constant", "cosine", "linear"], warmup=[0.0, 0.1]
    ),
}


def curve(recipe: Recipe, x: float, rng: np.random.Generator) -> np.ndarray:
    """A loss after each epoch that falls with the summed learning rate, on a floor that rises with it."""
    share = np.arange(1, EPOCHS + 1) / EPOCHS
    falls = (1 + 300 * 10 ** (x - BEST) * share) ** -0.6
    worse = 0.02 if recipe.schedule == "constant" else 0.0
    values = 0.1 + falls + 0.02 * 10 ** (1.2 * (x - BEST)) + worse + NOISE * rng.standard_normal(EPOCHS)
    if x > BEST + CLIFF:
        values[rng.integers(1, EPOCHS // 4) :] = math.nan
    return values


def view_of(number: int, space: Space, params: Mapping[str, Any], trained: int, rng: np.random.Generator) -> TrialView:
    """A run that was trained so far, or until it diverged."""
    recipe = space.recipe(params, epochs=EPOCHS)
    values = curve(recipe, math.log10(space.scaled_lr(params)), rng)[:trained]
    bad = np.flatnonzero(np.isnan(values))
    outcome = Outcome.COMPLETED if trained == EPOCHS else None
    if len(bad):
        values, outcome = values[: bad[0] + 1], Outcome.NON_FINITE
    result = float(values[-1]) if outcome is Outcome.COMPLETED else None
    epochs = np.arange(1.0, len(values) + 1)
    return TrialView(number=number, recipe=recipe, epochs=epochs, values=values, outcome=outcome, result=result)


def context(space: Space, size: int, seed: int) -> SearchContext:
    """The first looks that the search itself asks for, then runs around the best and everywhere else in the range."""
    rng = np.random.default_rng([seed, size])
    shown = SearchContext(space=space, epochs=EPOCHS, budget=10.0, untrained=1.1)
    while len(shown.trials) < size:
        action = FreezeThaw().next(shown)
        if not isinstance(action, Start) or action.params is None:
            break
        shown = with_run(shown, action.params, round(action.until), rng)
    low, high = (math.log10(end) for end in space.lr_range)
    while len(shown.trials) < size:
        x = rng.normal(BEST, SPREAD) if rng.random() < NEAR else rng.uniform(low, high)
        others = {n: axis.values[rng.integers(len(axis.values))] for n, axis in space.axes.items() if n != "lr"}
        lr = float(np.clip(space.unscaled_lr(10**x, others), *space.lr_range))
        close = abs(x - BEST) < SPREAD / 2
        trained = EPOCHS if close and rng.random() < COMPLETE else int(rng.choice(LENGTHS, p=SHARES))
        shown = with_run(shown, {"lr": lr, **others}, trained, rng)
    return shown


def with_run(shown: SearchContext, params: Mapping[str, Any], trained: int, rng: np.random.Generator) -> SearchContext:
    """The same with one more run, paid for out of a budget that grew with it."""
    run = view_of(len(shown.trials), shown.space, params, trained, rng)
    spent = shown.spent + run.trained / EPOCHS
    return dataclasses.replace(shown, trials=[*shown.trials, run], spent=spent, budget=spent + 10)


def decided(shown: SearchContext) -> tuple[float, float]:
    """Seconds of CPU and by the clock of one decision, from trials that nothing has been remembered of."""
    fresh = dataclasses.replace(shown, trials=[dataclasses.replace(trial) for trial in shown.trials])
    cpu, clock = time.process_time(), time.perf_counter()
    FreezeThaw().next(fresh)
    return time.process_time() - cpu, time.perf_counter() - clock


def measured(space: Space, size: int, seeds: int, repeats: int) -> tuple[float, float]:
    """Median seconds of CPU and by the clock."""
    times = []
    for seed in range(seeds):
        shown = context(space, size, seed)
        decided(shown)  # what is loaded or worked out once a search
        times += [decided(shown) for _ in range(repeats)]
    cpu, clock = (median(column) for column in zip(*times, strict=True))
    return cpu, clock


def report(name: str, space: Space, sizes: Sequence[int], seeds: int, repeats: int) -> None:
    """One line a size."""
    before: tuple[int, float] | None = None
    for size in sizes:
        cpu, clock = measured(space, size, seeds, repeats)
        states = [trial.outcome for trial in context(space, size, 0).trials]
        counts = f"{states.count(Outcome.COMPLETED)} complete, {states.count(Outcome.NON_FINITE)} diverged"
        grown = "" if before is None else f", grows as n^{math.log(cpu / before[1]) / math.log(size / before[0]):.2f}"
        print(f"{name}, {size} runs ({counts}): {1e3 * cpu:.1f} ms CPU, {1e3 * clock:.1f} ms by the clock{grown}")
        if size == 100:
            print(f"{name}: 100 runs {'within' if cpu < TARGET else 'BEYOND'} {1e3 * TARGET:.0f} ms of CPU")
        before = size, cpu


def profiled(space: Space, size: int) -> None:
    """Where one decision spends its time."""
    shown = context(space, size, 0)
    decided(shown)
    with cProfile.Profile() as profile:
        decided(shown)
    pstats.Stats(profile).sort_stats("cumulative").print_stats(25)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--profile", type=int, metavar="SIZE", help="instead: where a decision spends its time")
    options: Any = parser.parse_args(arguments)
    for name, space in SPACES.items():
        if options.profile:
            profiled(space, options.profile)
        else:
            report(name, space, options.sizes, options.seeds, options.repeats)


if __name__ == "__main__":
    main()
