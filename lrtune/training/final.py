"""A whole training in one go, for its model: what ``refit`` of a trainer returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrtune.core.outcome import Outcome
from lrtune.errors import InputError, SearchError

if TYPE_CHECKING:
    from lrtune.core.recipe import Recipe
    from lrtune.training.base import Run, Trainer

__all__ = ["handed_over", "trained_model"]


def trained_model(trainer: Trainer, recipe: Recipe) -> Any:
    """The model of one run, trained to its recipe's end without evaluations between.

    Raises
    ------
    SearchError
        If training ended before its end, as where it diverged.
    """
    run = trainer.start([recipe])
    try:
        while run.alive:
            for report in run.advance(recipe.epochs * trainer.steps_per_epoch(recipe), evaluate=False):
                if report.outcome not in {None, Outcome.COMPLETED}:
                    msg = f"trained anew, the recipe did not reach its end: {report.why}; take a smaller learning rate"
                    raise SearchError(msg)
        return handed_over(run)
    finally:
        run.close()


def handed_over(run: Run) -> Any:
    """The trained model of a run.

    Raises
    ------
    InputError
        If it has none to give.
    """
    model = getattr(run, "model", None)
    if model is None:
        msg = f"a run of {type(run).__name__} hands over no model: it needs a method model()"
        raise InputError(msg)
    return model()
