"""A light stand-in for the study loop: one worker or several, no storage, no training; cost in epochs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lrtune.core.outcome import Outcome
from lrtune.core.space import Space
from lrtune.search.base import Finish, SearchContext, Start, Stop, TrialView, Wait

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tables import Problem

    from lrtune.search.base import Strategy

__all__ = ["Play", "advanced", "context_of", "play", "started"]


@dataclass(slots=True)
class Play:
    """What one search did.

    ``finished`` holds (cost so far, regret) of each fully trained recipe, in order, ``values`` what each ended at;
    ``clock`` is the time that all took, in full trainings of one run alone.
    """

    finished: list[tuple[float, float]] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    cost: float = 0.0
    clock: float = 0.0
    why: str = "budget"
    trials: list[TrialView] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def cost_to(self, regret: float) -> float:
        """Cost until a fully trained recipe was within that regret; infinite if none was."""
        return min((cost for cost, view in self.finished if view <= regret), default=math.inf)


@dataclass(slots=True)
class _Job:
    number: int
    until: float
    ends: float
    price: float = 0.0


def context_of(problem: Problem, trials: Iterable[TrialView], spent: float, **limits: Any) -> SearchContext:
    """What a strategy, or who reads the answer, is shown."""
    return SearchContext(
        space=Space(lr=problem.lr_range, **problem.choices),
        epochs=problem.epochs,
        direction=problem.direction,
        trials=sorted(trials, key=lambda view: view.number),
        spent=spent,
        **limits,
    )


def started(problem: Problem, number: int, lr: float, *, seed: int = 0, **others: Any) -> TrialView:
    """A trial before its first epoch."""
    space = Space(lr=problem.lr_range, **problem.choices)
    recipe = space.recipe({"lr": lr, **others}, epochs=problem.epochs, seed=seed)
    return TrialView(number=number, recipe=recipe, epochs=np.array([]), values=np.array([]))


def advanced(problem: Problem, view: TrialView, until: float, params: dict[str, Any] | None = None) -> TrialView:
    """A trial after it was trained up to an epoch; `params` only where more than the learning rate is searched."""
    curve = problem.curve(params or {"lr": view.recipe.lr}, view.recipe.seed)
    sign = 1 if problem.direction == "minimize" else -1
    upto = min(problem.epochs, round(until))
    bad = np.flatnonzero(
        ~np.isfinite(curve[:upto]) | (np.nan_to_num(curve[:upto]) > 2 * abs(problem.untrained) + problem.untrained)
    )
    outcome = None
    if len(bad):
        upto = int(bad[0]) + 1
        outcome = Outcome.NON_FINITE
    elif upto >= problem.epochs:
        outcome = Outcome.COMPLETED
    return TrialView(
        number=view.number,
        recipe=view.recipe,
        epochs=np.arange(1, upto + 1, dtype=float),
        values=sign * curve[:upto],
        outcome=outcome,
    )


def play(  # noqa: C901, PLR0912, PLR0915 -- one loop: the search, step by step
    strategy: Strategy,
    problem: Problem,
    *,
    seed: int,
    budget: float | None = 25.0,
    workers: int = 1,
    self_stopping: bool = False,
    untrained: bool = False,
    stop_at: float | None = None,
    most: float = math.inf,
    stack: int = 1,
    beside_price: float = 1.0,
) -> Play:
    """Let a strategy search a problem; the measurement ends once a regret (`stop_at`) or a cost (`most`) is reached.

    With `stack` above 1 one worker trains so many runs side by side, each further one for `beside_price` of the time.
    """
    import time

    trials: dict[int, TrialView] = {}
    params: dict[int, dict[str, Any]] = {}
    jobs: list[_Job] = []
    result = Play()
    spent, clock = 0.0, 0.0
    stale = 0
    while True:
        done = False
        while len(jobs) < max(workers, stack) and not done:
            context = context_of(
                problem,
                trials.values(),
                spent,
                seed=seed,
                budget=budget,
                self_stopping=self_stopping,
                untrained=problem.untrained if untrained else None,
                beside=tuple(job.number for job in jobs) if stack > 1 else (),
                beside_price=beside_price,
            )
            begun = time.perf_counter()
            action = strategy.next(context)
            result.seconds.append(time.perf_counter() - begun)
            stale += 1
            if stale > 2000:
                msg = f"{strategy.name} makes no progress on {problem.name}: {action}"
                raise RuntimeError(msg)
            if isinstance(action, Finish):
                result.why, done = action.why, True
            elif isinstance(action, Wait):
                if not jobs:
                    result.why, done = "waits for nobody", True
                break
            elif isinstance(action, Stop):
                old = trials[action.number]
                trials[action.number] = TrialView(
                    number=old.number, recipe=old.recipe, epochs=old.epochs, values=old.values, outcome=action.outcome
                )
            else:
                if isinstance(action, Start):
                    number = len(trials)
                    params[number] = dict(action.params or {})
                    trials[number] = started(problem, number, seed=action.seed, **params[number])
                else:
                    number = action.number
                    if trials[number].outcome is not None or trials[number].until is not None:
                        msg = f"{strategy.name} continues trial {number}, which is not paused"
                        raise RuntimeError(msg)
                old = trials[number]
                until = min(float(math.ceil(action.until - 1e-9)), problem.epochs)
                price = (until - old.trained) / problem.epochs
                if price <= 0 or (budget is not None and spent + price > budget + 1e-9):
                    if budget is not None and spent + price > budget + 1e-9:
                        result.why, done = f"asked beyond the budget ({spent:.3f}+{price:.3f})", True
                        break
                    msg = f"{strategy.name} asks for nothing: {action}"
                    raise RuntimeError(msg)
                spent += price
                trials[number] = TrialView(
                    number=number, recipe=old.recipe, epochs=old.epochs, values=old.values, until=until
                )
                jobs.append(_Job(number, until, clock + price, price))
                result.log.append(
                    f"{spent:6.3f} {type(action).__name__:8s} {number:3d} {params[number]} -> {until:g} {action.why}"
                )
        if done and not jobs:
            break
        jobs.sort(key=lambda job: job.ends)
        ending, jobs = (jobs, []) if stack > 1 else (jobs[:1], jobs[1:])
        if stack > 1:
            clock += _side_by_side([job.price for job in ending], beside_price)
        else:
            clock = ending[0].ends
        stale = 0
        reached = False
        for job in ending:
            before = trials[job.number].trained
            view = trials[job.number] = advanced(problem, trials[job.number], job.until, params[job.number])
            spent -= (job.until - view.trained) / problem.epochs
            if view.outcome is Outcome.COMPLETED and before < problem.epochs:
                result.finished.append((spent, problem.regret(params[job.number])))
                result.values.append(float(view.values[-1]) * (1 if problem.direction == "minimize" else -1))
                reached = reached or (stop_at is not None and result.finished[-1][1] <= stop_at and not done)
        if reached or (done and not jobs) or spent >= most:
            break
    result.clock = clock
    result.cost = spent
    result.trials = [trials[k] for k in sorted(trials)]
    return result


def _side_by_side(prices: Iterable[float], beside_price: float) -> float:
    """The time of runs trained side by side: the longest one's, and a share of each other's."""
    longest, *others = sorted(prices, reverse=True)
    return longest + beside_price * sum(others)
