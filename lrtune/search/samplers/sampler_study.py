"""A shadow of the study in which Optuna's samplers search well.

Optuna's samplers learn from what an Optuna study holds, and that is not quite what they should learn
from: pruned trials are invisible to some and ranked by their last step by others, diverged ones must
be *infeasible* and not failed, and the learning rate is entangled with the batch size. So a sampler is
asked in a study of its own, in memory, made anew from the real one at each question: in decoupled
coordinates (:meth:`lrtune.core.space.Space.decoupled`), every ended trial told as
:func:`lrtune.core.divergence.sampler_feedback` decides, every running one as running. The real study keeps what truly
happened. And because the sampler is seeded from the search's seed and the number of trials, neither a
second worker nor a resumed search ever repeats a point.
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
from lrtune.search.samplers.rungs import family, value_at

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from optuna.distributions import BaseDistribution

    from lrtune.search.base import SearchContext, TrialView

__all__ = ["expected_end", "propose", "seed_of"]

SCALED = frozenset({"lr", "batch_size"})
"""What the scaled learning rate speaks for."""

ATTEMPTS = 8
"""How often a sampler is asked again where its proposal lies beyond the edge of divergence, or was tried already."""


def seed_of(*parts: object) -> int:
    """A seed of 32 bits from anything that prints the same each time."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


def propose(context: SearchContext, sampler: Callable[[int], optuna.samplers.BaseSampler]) -> dict[str, Any]:
    """The next point of the space, as a sampler made for this very question proposes it.

    Parameters
    ----------
    situation
        The study so far.
    sampler
        Makes a sampler from a seed.
    """
    known = _known(context)
    axes = _axes(context)
    params: dict[str, Any] = {}
    tried = [context.space.params(seen.recipe) for seen in context.trials]
    for attempt in range(ATTEMPTS):
        seed = seed_of(context.seed, len(context.trials), *([attempt] if attempt else []))
        with quiet():
            shadow = optuna.create_study(direction=context.direction, sampler=sampler(seed))
            for seen in context.trials:
                _copy(shadow, seen, context, known, axes)
            trial = shadow.ask(axes)
        params = context.space.from_decoupled(trial.params)
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
    """The scaled learning rate from which a point can only diverge: one did there, and none lives beyond.

    Compared at the same other settings: a run that diverged tells much about everything to its right,
    and little about other schedules or optimizers. Infinite while nothing has diverged.
    """
    space = context.space
    alike = [seen for seen in context.trials if _alike(space.params(seen.recipe), params)]
    lrs = {seen.number: space.scaled_lr(space.params(seen.recipe)) for seen in alike}
    bad = {seen.number for seen in alike if seen.outcome is not None and seen.outcome.diverged}
    reach = max((lrs[seen.number] for seen in alike if seen.number not in bad and len(seen.values)), default=0.0)
    return min((lrs[number] for number in bad if lrs[number] > reach), default=math.inf)


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one.get(name) == value for name, value in other.items() if name not in SCALED)


def expected_end(seen: TrialView, context: SearchContext) -> float | None:
    """What a run would reach at its end if it went on as its completed peers did from where it stands.

    Its own last value plus the median of what they gained from there; peers of its schedule family
    where there are any.
    """
    if not len(seen.values):
        return None
    ends = [peer for peer in context.trials if peer.outcome is Outcome.COMPLETED and len(peer.values)]
    near = [peer for peer in ends if family(peer.recipe) == family(seen.recipe)] or ends
    gains = [float(peer.values[-1]) - then for peer in near if (then := value_at(peer, seen.trained)) is not None]
    last = float(seen.values[-1])
    return last + float(np.median(gains)) if gains else last


def _known(context: SearchContext) -> list[float]:
    return [
        float(seen.result) for seen in context.trials if seen.outcome is Outcome.COMPLETED and seen.result is not None
    ]


def _copy(
    shadow: optuna.Study,
    seen: TrialView,
    context: SearchContext,
    known: Sequence[float],
    axes: dict[str, BaseDistribution],
) -> None:
    """Add one trial to the shadow, as the sampler should see it."""
    params = context.space.params(seen.recipe)
    if seen.outcome in {Outcome.FAILED, Outcome.INTERRUPTED, Outcome.STALLED} or not context.space.contains(params):
        return
    point = context.space.to_decoupled(params)
    whole, lr = context.space.decoupled()["lr"], axes["lr"]
    if isinstance(lr, FloatDistribution) and isinstance(whole, FloatDistribution):
        point["lr"] = min(max(point["lr"], whole.low), whole.high)  # scaling may round it out of the range
        if not lr.low <= point["lr"] <= lr.high:
            return  # beyond the edge
    frozen = optuna.trial.create_trial(
        state=TrialState.RUNNING,
        params=point,
        distributions=axes,
    )
    shadow.add_trial(frozen)
    if seen.outcome is None:
        return
    copy = shadow.get_trials(deepcopy=False)[-1]
    last = float(seen.values[-1]) if len(seen.values) else None
    verdict = sampler_feedback(
        seen.outcome,
        seen.result if seen.outcome is Outcome.COMPLETED else last,
        trained=seen.trained / context.epochs,
        known=known,
        direction=context.direction,
        expected=expected_end(seen, context),
    )
    # Every trial carries the constraint, the feasible ones below zero: the GP sampler wants it of all or of none.
    trial = optuna.trial.Trial(shadow, copy._trial_id)  # noqa: SLF001 -- Trial is public, a trial's id is not
    trial.set_constraint("diverged", verdict.violation or -1.0)
    if verdict.value is None and verdict.violation <= 0:
        shadow.tell(copy.number, state=TrialState.FAIL)
        return
    shadow.tell(copy.number, 0.0 if verdict.value is None else verdict.value)
