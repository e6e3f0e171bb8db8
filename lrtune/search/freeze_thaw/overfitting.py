"""Which run trains next where the one that was trained furthest overfits: one that ends where that one was best.

The curve model expects runs to become better, and gains nothing there. But what regularises gradient descent is the
learning rate summed over the training (:attr:`.Beliefs.overfit_from`), so the run that ends at that sum is known.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lrtune.search.freeze_thaw.config import CONFIG

if TYPE_CHECKING:
    from lrtune.search.base import Action
    from lrtune.search.freeze_thaw.beliefs import Beliefs
    from lrtune.search.freeze_thaw.budget import Budget

__all__ = ["end_before_overfitting"]


def end_before_overfitting(beliefs: Beliefs, budget: Budget) -> Action | None:
    """That run's next segment; None where nothing overfits, or one so close is complete, diverged or being trained."""
    place = beliefs.overfit_from
    if place is None:
        return None
    key = beliefs.by_progress[0].key
    near = [run for run in beliefs.observed.runs if run.key == key and abs(run.x - place) <= CONFIG.overfit_near]
    paused = [run for run in near if run.trial.open]
    if len(paused) < len(near):
        return None
    low, high = (math.log10(end) for end in beliefs.context.space.lr_range)
    lr_x = place + beliefs.shift(key)
    if paused:
        run = max(paused, key=lambda run: (run.trained, -abs(run.x - place)))
    elif low <= lr_x <= high and not beliefs.context.exhausted:
        run = beliefs.unstarted(lr_x, key)
    else:
        return None
    if not budget.affords(budget.remaining(run)):
        return None
    return budget.advance(run, budget.after(run.trained), "ends where the best one was before it overfitted")
