"""Optimizers that find their own step size, as baselines of a comparison: one full training each.

Each is trained as its authors recommend, whatever the study's space says of learning rates, schedules and
warmups. The rest of the budget stays unused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lrtune.core.space import Space
from lrtune.errors import RecipeError
from lrtune.search.base import Action, Continue, Finish, Start, Wait

if TYPE_CHECKING:
    from lrtune.search.base import SearchContext

__all__ = ["WAYS", "TuningFree", "refusal"]

KEPT = ("batch_size", "weight_decay")
"""Settings of the task and not of the optimizer: the values that the space fixes are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningFree:
    """An optimizer that needs no tuning, as its authors recommend it, and the strategy that trains it once.

    Attributes
    ----------
    name
        Under which a comparison asks for it.
    optimizer, lr, schedule, warmup
        Of the recipe.
    source
        Where they are recommended.
    """

    name: str
    optimizer: str
    lr: float
    schedule: str
    warmup: float
    source: str

    def space(self, space: Space) -> Space:
        """The space in its place: a decade to both sides of the one learning rate, because a space needs a range."""
        kept = {name: value for name, value in space.fixed.items() if name in KEPT}
        return Space(
            lr=(self.lr / 10.0, self.lr * 10.0),
            optimizer=self.optimizer,
            schedule=self.schedule,
            warmup=self.warmup,
            layer_decay=1.0,
            **kept,
        )

    def next(self, context: SearchContext, /) -> Action:
        """One training to its end."""
        if not context.trials and context.left >= 1 - 1e-9:
            return Start(params={"lr": self.lr}, until=float(context.epochs), why="as its authors recommend")
        for trial in context.trials:
            if trial.open and context.affords(context.price(trial, context.epochs)):
                return Continue(number=trial.number, until=float(context.epochs), why="to its end")
            if trial.until is not None:
                return Wait()
        return Finish(why="there is nothing to tune")


WAYS = {
    way.name: way
    for way in (
        TuningFree(
            name="prodigy",
            optimizer="prodigy(use_bias_correction=True)",
            lr=1.0,
            schedule="cosine",
            warmup=0.0,
            source="https://github.com/konstmish/prodigy",
        ),
        TuningFree(
            name="schedule-free-adamw",
            optimizer="schedule-free-adamw",
            lr=0.0025,
            schedule="constant",
            warmup=0.05,
            source="https://github.com/facebookresearch/schedule_free",
        ),
    )
}
"""By the name under which a comparison asks for them."""


def refusal(way: TuningFree, trainer: Any, space: Space) -> str | None:
    """Why it cannot be compared on that study, one sentence; None if it can."""
    if not getattr(trainer, "names_optimizers", False):
        kind = type(trainer).__name__
        return f"{way.name} is an optimizer of PyTorch's, and this study's trainer is no TorchTrainer but a {kind}"
    recipe = way.space(space).recipe({"lr": way.lr})
    try:
        trainer.start([recipe]).close()
    except RecipeError as error:
        return f"{way.name} cannot train this study: {error}"
    return None
