"""A pruner for Optuna objectives of your own: :func:`lrtune.core.divergence.judge`, wrapped around any other pruner."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import optuna

from lrtune.core.curve import Curve, Direction, Point
from lrtune.core.directions import contradiction
from lrtune.core.divergence import Baseline, judge

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = ["DivergencePruner"]


class DivergencePruner(optuna.pruners.BasePruner):
    """Prunes a trial as soon as what it reported has diverged; else asks the wrapped pruner.

    The wrapped pruner alone may let a diverged trial live: most never compare NaN (``nan > threshold``
    is false), and a median pruner looks at the best value so far, so that one early dip protects a run
    that has exploded. A trial pruned here is also marked infeasible (a constraint named ``diverged``),
    so that TPE keeps away from it::

        study = optuna.create_study(pruner=lrtune.DivergencePruner(optuna.pruners.MedianPruner()))

    Parameters
    ----------
    pruner
        The pruner to ask about trials that have not diverged; None prunes no others.
    untrained
        The metric of the untrained model, in its own sign; None takes each trial's first report.
    chance
        The metric of the best constant prediction, where it is known.
    n_steps
        Number of reports of a full trial, where it is known: no trial is stuck in the first tenth.
    """

    def __init__(
        self,
        pruner: optuna.pruners.BasePruner | None = None,
        *,
        untrained: float | None = None,
        chance: float | None = None,
        n_steps: int | None = None,
    ) -> None:
        self._pruner = pruner or optuna.pruners.NopPruner()
        self._baseline = Baseline(untrained=untrained, chance=chance)
        self._n_steps = n_steps
        self._checked = False

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether to prune; a trial that diverged is marked as infeasible too."""
        if study.directions and len(study.directions) > 1:
            return self._pruner.prune(study, trial)
        direction: Direction = "minimize" if study.direction is optuna.study.StudyDirection.MINIMIZE else "maximize"
        for metric in () if self._checked else study.metric_names or ():
            for said in contradiction(metric, direction):  # Optuna minimises unless asked otherwise
                warnings.warn(said, stacklevel=2)
        self._checked = True
        reports = sorted(trial.intermediate_values.items())
        offset = 1 - reports[0][0] if reports else 0
        curve = Curve(Point(step=step + offset, epoch=step + offset, values={"value": v}) for step, v in reports)
        verdict = judge(curve, "value", direction, epochs=float(self._n_steps or 1), baseline=self._baseline)
        if verdict is None:
            return self._pruner.prune(study, trial)
        if "diverged" not in trial.constraints:
            share = min(len(reports) / self._n_steps, 1.0) if self._n_steps else 0.0
            optuna.trial.Trial(study, trial._trial_id).set_constraint("diverged", 2.0 - share)  # noqa: SLF001 -- as TPE reads it
        return True
