"""How probable it is that a learning rate is as good as the best there is.

The model's own probability is too sure of itself where a run overfits, where reports are rough and far from what was
trained. So it is one of a few features of a logistic regression, whose weights were fitted to recorded trainings by
``studies/replay/calibrate.py``: of the answers called 90 % sure, nine in ten hold on families of tables that were left
out of the fit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from lrtune.search.freeze_thaw.config import CONFIG

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.search.freeze_thaw.beliefs import Beliefs
    from lrtune.search.freeze_thaw.observations import Observation

__all__ = ["FEATURES", "features", "judging", "probabilities"]

Floats: TypeAlias = npt.NDArray[np.float64]

FEATURES = (
    "one",
    "said",
    "left",
    "right",
    "unjudged",
    "trained",
    "behind",
    "rough",
    "overfit",
    "to_edge",
    "overfits_right",
)
"""
``one`` is 1; ``said`` the logit of the model's probability; ``left`` and ``right`` the decades from the best; what
follows is of the nearest run that can judge: ``unjudged`` the decades to it, ``trained`` log10 of its share of a full
training, ``behind`` the loss by which it (interpolated between two) is behind the best; ``rough`` is log10 of the best
run's roughness, ``overfit`` 1 where the run trained furthest overfits, ``to_edge`` the decades to the edge, at most 2;
``overfits_right`` is ``right`` where the best or a run right of it overfits, else 0.
"""


def judging(beliefs: Beliefs, best: Observation) -> list[Observation]:
    """Runs under the best one's settings that learn and were trained long enough to judge, by learning rate."""
    least = CONFIG.judging_from * beliefs.length
    found = [run for run in beliefs.learning if run.key == best.key and (run.completed or run.trained >= least)]
    return sorted(found, key=lambda run: (run.x, run.number))


def probabilities(beliefs: Beliefs, best: Observation, places: Floats) -> Floats:
    """Of a full training at each place (log10 of the learning rate): that it ends within `as_good` of the optimum."""
    odds = features(beliefs, best, places) @ np.array(CONFIG.confidence)
    found: Floats = 1 / (1 + np.exp(-odds))
    return found


def features(beliefs: Beliefs, best: Observation, places: Floats) -> Floats:
    """The features at places of shape (n,), shape (n, features), in the order of :data:`FEATURES`."""
    said = np.clip(_said(beliefs, best, places), 0.005, 0.995)
    x = places - beliefs.shift(best.key)
    runs = judging(beliefs, best)
    known = np.array([run.x for run in runs])
    near = np.argmin(np.abs(x[:, None] - known[None, :]), axis=1)
    behind = [_behind(beliefs, run, best) for run in runs]
    trained = np.array([run.trained / beliefs.length for run in runs])
    rough, overfit = beliefs.observed.roughness(best), beliefs.overfit_from is not None
    turned = [run for run in beliefs.learning if run.x >= best.x and beliefs.observed.overfit_from(run) is not None]
    columns: Sequence[Floats | float] = (
        1.0,
        np.log(said / (1 - said)),
        np.maximum(best.x - x, 0),
        np.maximum(x - best.x, 0),
        np.abs(known[near] - x),
        np.log10(trained[near]),
        np.interp(x, known, np.clip(behind, *CONFIG.behind_range)),
        math.log10(rough + CONFIG.least_roughness),
        float(overfit),
        np.clip(beliefs.edge - x, 0, 2),
        np.maximum(x - best.x, 0) * bool(turned),
    )
    return np.stack([np.broadcast_to(column, x.shape) for column in columns], axis=1)


def _behind(beliefs: Beliefs, run: Observation, best: Observation) -> float:
    return beliefs.result(run) - beliefs.result(best) if run.completed else beliefs.behind(run, best)


def _said(beliefs: Beliefs, best: Observation, places: Floats) -> Floats:
    """The model's own probability."""
    steps = np.arange(-100, 101) * CONFIG.optimum_step
    low, high = (math.log10(end) for end in beliefs.context.space.lr_range)
    wide = best.lr_x + steps[np.abs(steps) <= CONFIG.band_reach]
    wide = wide[(wide >= low) & (wide <= high)]
    others = list(dict.fromkeys(run.key for run in beliefs.by_progress if run.key != best.key))[: CONFIG.most_untried]
    under = [beliefs.unstarted(best.x + beliefs.shift(key), key) for key in others]
    asked = [beliefs.unstarted(float(x), best.key) for x in [*places, *wide]]
    ends = beliefs.draws([*asked, *under])
    above = ends[:, : len(places)] - ends.min(axis=1, keepdims=True)
    said: Floats = (above <= CONFIG.as_good).mean(axis=0)
    return said
