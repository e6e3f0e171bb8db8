"""A tuning job over twelve weeks of data, of which one drifts: what each week costs, and what it finds.

In every week the data are drawn anew; from the seventh on the features have another scale, so that the best
learning rate is a decade higher or lower. The job is a real one (job file, state, storage, reports), only its
clock is ours. Afterwards a grid of full trainings on the drifted week's data says what should have been found.
A second table says how the drift test alone answers to smaller and larger drifts.

    python studies/benchmarks/job_weeks.py [--seeds N] [--task NAME] [--weeks-only]
"""

from __future__ import annotations

import argparse
import datetime as dt
import itertools
import math
import statistics
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrtune.jobs import read_job
from lrtune.jobs.drift_strategy import DriftStrategy, LastAnswer
from lrtune.jobs.request import JobRequest
from lrtune.jobs.runner import run
from lrtune.search.base import Finish
from lrtune.storage import open_storage
from lrtune.study.tuning import tune

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lrtune.core.recipe import Recipe

WEEKS, DRIFT_WEEK = 12, 6
EPOCHS, ROWS, BATCH = 27, 600, 20
FIRST = dt.datetime(2026, 1, 5, 3, 5, tzinfo=dt.UTC)
LOW, HIGH = 1e-5, 10.0
GRID = np.logspace(-5, 1, 25)
BINS = {"staying costs < 1 %": 0.01, "1 to 3 %": 0.03, "more": math.inf}  # normalised regret of last time's lr
DRIFTS = (-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0)  # decades of the best learning rate

STUDY = f"""\
[study]
epochs = {EPOCHS}
[train]
trainer = "train.py:train"
[space]
lr = [{LOW}, {HIGH}]
[search]
seed = {{seed}}
"""
TRAIN = """\
import json, pathlib, sys
sys.path.insert(0, {here!r})
from job_weeks import TASKS
def train(recipe):
    told = json.loads(pathlib.Path(__file__).with_name("week.json").read_text())
    return TASKS[told.pop("task")](recipe, **told)
"""
JOB = """\
[job]
name = "weeks"
study = "study.toml"
[schedule]
cron = "0 3 * * 1"
[keep]
reports = 1
"""

# -- the work: three small models, whose best learning rate goes with 1 / scale^2 ---------------------------------


def classes(recipe: Recipe, week: int, scale: float, seed: int) -> Iterator[dict[str, float]]:
    """Softmax regression on five clouds."""
    rng = np.random.default_rng([week, seed, 1])
    centres = 0.45 * np.random.default_rng([seed, 2]).normal(size=(5, 20))
    y = rng.integers(5, size=ROWS + 300)
    x = (centres[y] + rng.normal(size=(len(y), 20))) * scale
    w = np.zeros((21, 5))
    x = np.c_[x, np.full(len(x), scale)]

    def gradient(i: np.ndarray) -> np.ndarray:
        p = _softmax(x[i] @ w)
        p[np.arange(len(i)), y[i]] -= 1
        return x[i].T @ p / len(i)

    for _ in _epochs(recipe, w, gradient):
        p = _softmax(x[ROWS:] @ w)
        yield {"valid_loss": float(-np.log(np.maximum(p[np.arange(300), y[ROWS:]], 1e-300)).mean())}


def line(recipe: Recipe, week: int, scale: float, seed: int) -> Iterator[dict[str, float]]:
    """Least squares with noise and a few directions that count for little."""
    rng = np.random.default_rng([week, seed, 3])
    truth = np.random.default_rng([seed, 4]).normal(size=15)
    x = rng.normal(size=(ROWS + 300, 15)) * np.geomspace(1, 0.2, 15)
    y = x @ truth + 0.5 * rng.normal(size=len(x))
    x *= scale
    w = np.zeros(15)
    for _ in _epochs(recipe, w, lambda i: x[i].T @ (x[i] @ w - y[i]) / len(i)):
        with np.errstate(all="ignore"):
            loss = float(np.square(x[ROWS:] @ w - y[ROWS:]).mean())
        yield {"valid_loss": loss if loss < 1e12 else math.nan}


def factors(recipe: Recipe, week: int, scale: float, seed: int) -> Iterator[dict[str, float]]:
    """A two-layer tanh network under momentum, whose loss is given in other units when the data drift."""
    rng = np.random.default_rng([week, seed, 5])
    truth = np.random.default_rng([seed, 6]).normal(size=(8, 1))
    x = rng.normal(size=(ROWS + 300, 8))
    y = np.tanh(x @ truth) + 0.3 * rng.normal(size=(len(x), 1))
    start = np.random.default_rng(recipe.seed)
    w = np.concatenate([start.normal(size=8 * 16) / 3, start.normal(size=16) / 4])
    unit = scale**2

    def gradient(i: np.ndarray) -> np.ndarray:
        a, b = w[:128].reshape(8, 16), w[128:, None]
        h = np.tanh(x[i] @ a)
        d = 2 * unit * (h @ b - y[i]) / len(i)
        return np.concatenate([(x[i].T @ ((d @ b.T) * (1 - h**2))).ravel(), (h.T @ d)[:, 0]])

    for _ in _epochs(recipe, w, gradient, momentum=0.9):
        with np.errstate(all="ignore"):
            h = np.tanh(x[ROWS:] @ w[:128].reshape(8, 16)) @ w[128:, None]
            loss = float(np.square(h - y[ROWS:]).mean()) * unit
        yield {"valid_loss": loss if loss < 1e12 else math.nan}


TASKS: dict[str, Callable[..., Iterator[dict[str, float]]]] = {"classes": classes, "line": line, "factors": factors}


def _softmax(z: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)


def _epochs(
    recipe: Recipe, w: np.ndarray, gradient: Callable[[np.ndarray], np.ndarray], momentum: float = 0.0
) -> Iterator[int]:
    rng = np.random.default_rng([recipe.seed, 7])
    velocity = np.zeros_like(w)
    for epoch in range(recipe.epochs):
        for i in np.array_split(rng.permutation(ROWS), ROWS // BATCH):
            with np.errstate(all="ignore"):
                velocity *= momentum
                velocity += gradient(i)
                w -= recipe.lr * velocity
        yield epoch


# -- twelve weeks --------------------------------------------------------------------------------------------------


def weeks(task: str, decades: float, seed: int, confirm: int) -> list[Any]:
    """The rows of the job's history."""
    import json

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "study.toml").write_text(STUDY.format(seed=seed))
        (folder / "train.py").write_text(TRAIN.format(here=str(Path(__file__).parent.resolve())))
        (folder / "job.toml").write_text(JOB.replace('study.toml"', f'study.toml"\nconfirm = {confirm}'))
        job, storage = read_job(folder / "job.toml"), open_storage(None)
        rows = []
        for week in range(WEEKS):
            told = {"task": task, "week": week, "scale": scale(decades if week >= DRIFT_WEEK else 0.0), "seed": seed}
            (folder / "week.json").write_text(json.dumps(told))
            now = FIRST + dt.timedelta(weeks=week)
            rows.append(run(job, lambda: storage, JobRequest(now=lambda now=now: now)).row)
        return rows


def scale(decades: float) -> float:
    """Of the features, so that the best learning rate moves by so many decades."""
    return float(10 ** (-decades / 2))


def regret(task: str, decades: float, seed: int, lr: float, week: int = DRIFT_WEEK) -> float:
    """Of a learning rate on a week's data: 0 is the best of a grid, 1 what does not learn; under the study's seed."""
    ends = [_end(task, decades, seed, float(x), week) for x in GRID]
    best, worst = min(ends), _end(task, decades, seed, 1e-9, week)
    return min(1.0, (_end(task, decades, seed, lr, week) - best) / (worst - best))


def _end(task: str, decades: float, seed: int, lr: float, week: int) -> float:
    from lrtune.core.recipe import Recipe

    recipe = Recipe(lr=lr, epochs=EPOCHS, seed=seed)
    *_, last = TASKS[task](recipe, week=week, scale=scale(decades), seed=seed)
    return last["valid_loss"] if math.isfinite(last["valid_loss"]) else math.inf


def show_weeks(tasks: list[str], seeds: int) -> None:
    titles = ("task", "drift", "first week", "quiet weeks", "drift week", "its verdict", "quiet after")
    titles += ("quiet / full search", "false alarms", "lr before -> after", "regret after")
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for task in tasks:
        for decades in (-1.0, 1.0):
            for seed in range(seeds):
                print(_line(task, decades, seed), flush=True)


def _line(task: str, decades: float, seed: int) -> str:
    rows = weeks(task, decades, seed, confirm=4)
    quiet, after = rows[1:DRIFT_WEEK], rows[DRIFT_WEEK + 1 :]
    drift, before = rows[DRIFT_WEEK], rows[DRIFT_WEEK - 1]
    alarms = sum(row.verdict != "unchanged" for row in [*quiet, *after])
    cost_before, cost_after = (statistics.mean(row.cost for row in part) for part in (quiet, after))
    full = statistics.mean([rows[0].cost, drift.cost])
    share = statistics.mean(row.cost for row in [*quiet, *after]) / full
    costs = f"{rows[0].cost:.2f} | {cost_before:.2f} | {drift.cost:.2f} | {drift.verdict} | {cost_after:.2f}"
    found = f"{before.lr:.2g} -> {drift.lr:.2g} | {regret(task, decades, seed, drift.lr):.3f}"
    return f"| {task} {seed} | {decades:+g} | {costs} | {share:.0%} | {alarms} of {WEEKS - 2} | {found} |"


# -- the test alone ------------------------------------------------------------------------------------------------


class Nothing:
    """A strategy that ends at once: what is left is the test."""

    name = "nothing"

    def next(self, context: object, /) -> Finish:
        """The end."""
        del context
        return Finish(why="the test is over")


def show_power(tasks: list[str], seeds: int) -> None:
    columns = [*(f"drift {drift:+g}" for drift in DRIFTS), *BINS]
    said: dict[str, Counter[str]] = {column: Counter() for column in columns}
    costs = []
    for task in tasks:
        for seed in range(seeds):
            last = found(task, seed)
            for drift, week in itertools.product(DRIFTS, range(1, 4)):
                verdict, cost = tested(task, seed, last, week, drift)
                staying = regret(task, drift, seed, last.params["lr"], week)
                for column in (f"drift {drift:+g}", next(name for name, most in BINS.items() if staying <= most)):
                    said[column][verdict] += 1
                costs.append(cost)
    print(f"\n| the test says | {' | '.join(said)} |".replace("drift +0 ", "none "))
    print("|" + "---|" * (len(said) + 1))
    for verdict in ("unchanged", "cannot tell", "moved"):
        shares = (f"{counts[verdict] / max(1, counts.total()):.0%}" for counts in said.values())
        print(f"| {verdict} | {' | '.join(shares)} |")
    print(f"| tests | {' | '.join(str(counts.total()) for counts in said.values())} |")
    print(f"\nThe test costs {statistics.mean(costs):.2f} full trainings ({max(costs):.2f} at most).")


def found(task: str, seed: int) -> LastAnswer:
    """The answer of a full search in week 0."""
    from lrtune.search.registry import make

    strategy = DriftStrategy(inner=make("freeze-thaw"))
    result = tune(_trainer(task, 0, 0.0, seed), {"lr": (LOW, HIGH)}, epochs=EPOCHS, seed=seed, strategy=strategy)
    return LastAnswer(params={"lr": result.best_recipe.lr}, profile=strategy.profile)


def tested(task: str, seed: int, last: LastAnswer, week: int, drift: float) -> tuple[str, float]:
    """What the test says in a week, and what it costs."""
    from lrtune.errors import SearchError

    strategy = DriftStrategy(inner=Nothing(), last=last, confirm=False)
    trainer = _trainer(task, week, drift, seed)
    try:
        result = tune(trainer, {"lr": (LOW, HIGH)}, epochs=EPOCHS, seed=seed, strategy=strategy)
    except SearchError as error:
        result = error.result
    return strategy.drift.verdict.value, result.cost


def _trainer(task: str, week: int, drift: float, seed: int) -> Callable[[Recipe], Iterator[dict[str, float]]]:
    return lambda recipe: TASKS[task](recipe, week=week, scale=scale(drift), seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--task", choices=sorted(TASKS))
    parser.add_argument("--weeks-only", action="store_true")
    parser.add_argument("--test-only", action="store_true")
    told = parser.parse_args()
    tasks = [told.task] if told.task else list(TASKS)
    if not told.test_only:
        show_weeks(tasks, told.seeds)
    if not told.weeks_only:
        show_power(tasks, told.seeds)


if __name__ == "__main__":
    main()
