"""Where a sampler of Optuna's proposes the next trial: in a study in memory, copied from the real one at each question.

Optuna's samplers learn from what a study holds, and that is not quite what they should learn from: pruned trials are
invisible to some and ranked by their last step by others, diverged ones must be *infeasible* and not failed, and the
learning rate depends on the batch size. So the copy is in decoupled coordinates (:meth:`.Space.decoupled`), and each
trial that ended has the value that :func:`lrtune.core.divergence.sampler_feedback` gives it. The sampler is seeded
from the search's seed and the number of trials, so that neither a second worker nor a resumed search repeats a point.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from lrtune.core.divergence import sampler_feedback
from lrtune.core.optuna_logging import quiet
from lrtune.core.outcome import Outcome
from lrtune.search.samplers.config import CONFIG
from lrtune.search.samplers.rungs import family, value_at

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from optuna.distributions import BaseDistribution

    from lrtune.search.base import SearchContext, TrialView

__all__ = ["expected_end", "propose", "seed_of"]

SCALED = frozenset({"lr", "batch_size"})
"""What the batch-scaled learning rate stands for."""

NO_RESULT = frozenset({Outcome.FAILED, Outcome.INTERRUPTED, Outcome.STALLED})


def seed_of(*parts: object) -> int:
    """A seed of 32 bits from anything that prints the same each time."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


def propose(context: SearchContext, sampler: Callable[..., optuna.samplers.BaseSampler]) -> dict[str, Any]:
    """The next point of the space, as proposed by a sampler that is made from a seed for this question."""
    axes = _axes(context)
    params: dict[str, Any] = {}
    tried = [context.space.params(trial.recipe) for trial in context.trials]
    for attempt in range(CONFIG.attempts):
        seed = seed_of(context.seed, len(context.trials), *([attempt] if attempt else []))
        with quiet():
            study = optuna.create_study(direction=context.direction, sampler=sampler(seed=seed))
            for trial in context.trials:
                _copy(study, trial, context, axes)
            proposed = study.ask(axes).params
        params = context.space.from_decoupled(proposed)
        if context.space.scaled_lr(params) < _edge(params, context) and params not in tried:
            break
    return params


def _axes(context: SearchContext) -> dict[str, BaseDistribution]:
    """The decoupled space; where nothing but the learning rate (and the batch) is searched, up to the edge."""
    axes: dict[str, BaseDistribution] = dict(context.space.decoupled())
    lr = axes["lr"]
    if set(axes) <= SCALED and isinstance(lr, FloatDistribution):
        edge = _edge({}, context)
        axes["lr"] = FloatDistribution(lr.low, min(lr.high, edge), log=True) if edge > lr.low else lr
    return axes


def _edge(params: Mapping[str, Any], context: SearchContext) -> float:
    """The scaled learning rate from which on runs diverge: the lowest that did, above all that did not.

    Compared under the same other settings: a run that diverged tells much about everything to its right,
    and little about other schedules or optimizers. Infinite while nothing has diverged.
    """
    space = context.space
    alike = [trial for trial in context.trials if _alike(space.params(trial.recipe), params)]
    lrs = {trial.number: space.scaled_lr(space.params(trial.recipe)) for trial in alike}
    bad = {trial.number for trial in alike if trial.outcome is not None and trial.outcome.diverged}
    reach = max((lrs[trial.number] for trial in alike if trial.number not in bad and len(trial.values)), default=0.0)
    return min((lrs[number] for number in bad if lrs[number] > reach), default=math.inf)


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one.get(name) == value for name, value in other.items() if name not in SCALED)


def expected_end(trial: TrialView, context: SearchContext) -> float | None:
    """What a run would reach at its end if it went on as complete runs did from there; None before its first report.

    Its own last value plus the median of what they gained; those of its schedule family where there are any.
    """
    if not len(trial.values):
        return None
    ends = [peer for peer in context.trials if peer.outcome is Outcome.COMPLETED and len(peer.values)]
    near = [peer for peer in ends if family(peer.recipe) == family(trial.recipe)] or ends
    gains = [float(peer.values[-1]) - then for peer in near if (then := value_at(peer, trial.trained)) is not None]
    last = float(trial.values[-1])
    return last + float(np.median(gains)) if gains else last


def _copy(study: optuna.Study, trial: TrialView, context: SearchContext, axes: dict[str, BaseDistribution]) -> None:
    """Add one trial to the copied study, as the sampler should see it."""
    params = context.space.params(trial.recipe)
    if trial.outcome in NO_RESULT or not context.space.contains(params):
        return
    point = context.space.to_decoupled(params)
    whole, lr = context.space.decoupled()["lr"], axes["lr"]
    if isinstance(lr, FloatDistribution) and isinstance(whole, FloatDistribution):
        point["lr"] = min(max(point["lr"], whole.low), whole.high)  # scaling may round it out of the range
        if not lr.low <= point["lr"] <= lr.high:
            return  # beyond the edge
    study.add_trial(optuna.trial.create_trial(state=TrialState.RUNNING, params=point, distributions=axes))
    if trial.outcome is None:
        return
    copy = study.get_trials(deepcopy=False)[-1]
    completed = [peer for peer in context.trials if peer.outcome is Outcome.COMPLETED]
    last = float(trial.values[-1]) if len(trial.values) else None
    feedback = sampler_feedback(
        trial.outcome,
        trial.result if trial.outcome is Outcome.COMPLETED else last,
        trained=trial.trained / context.epochs,
        known=[float(peer.result) for peer in completed if peer.result is not None],
        direction=context.direction,
        expected=expected_end(trial, context),
    )
    # Every trial carries the constraint, the feasible ones below zero: the GP sampler wants it of all or of none.
    live = optuna.trial.Trial(study, copy._trial_id)  # noqa: SLF001 -- Trial is public, a trial's id is not
    live.set_constraint("diverged", feedback.violation or -1.0)
    if feedback.value is None and feedback.violation <= 0:
        study.tell(copy.number, state=TrialState.FAIL)
    else:
        study.tell(copy.number, 0.0 if feedback.value is None else feedback.value)
