"""The winner's model: as it stood where its run ended in the search, or trained anew on everything.

The state in which the best run ended is its trial's checkpoint (:mod:`lrtune.study.engine.run_cache`): beside the
storage, or where the study was in memory with the result, since such a study's folder goes when the search ends.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lrtune.errors import CheckpointError, InputError
from lrtune.study.engine.run_cache import checkpoint_path
from lrtune.training import checkpoint
from lrtune.training.final import handed_over

if TYPE_CHECKING:
    from lrtune.core.recipe import Recipe
    from lrtune.training.base import State, Trainer

__all__ = ["Winner", "refit"]

ANEW = "train it anew: result.refit(...)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Winner:
    """What trained the answer, and its run's last state.

    Attributes
    ----------
    trainer, recipe
        What trained it, and the recipe.
    study
        The study's identity, which the checkpoint must have.
    kept
        The checkpoint's file, or its content.
    """

    trainer: Trainer
    recipe: Recipe
    study: str | None
    kept: Path | State

    @classmethod
    def of(cls, trainer: Trainer, recipe: Recipe, number: int, *, study: str | None, folder: Path) -> Self:
        """The winner whose trial has that number, its checkpoint in that folder."""
        return cls(trainer=trainer, recipe=recipe, study=study, kept=checkpoint_path(folder, number, study))

    def loaded(self) -> Self:
        """With the state in memory, where there is one: the file is about to go."""
        state: Path | State = self.kept
        with contextlib.suppress(CheckpointError):
            state = self._state()
        return type(self)(trainer=self.trainer, recipe=self.recipe, study=self.study, kept=state)

    def model(self) -> Any:
        """The trained model, rebuilt from the state in which the run ended.

        Raises
        ------
        InputError
            If the trainer cannot hand over a model, or the state is not there; says what to do instead.
        """
        if not self.trainer.saves:
            raise InputError(_unsaved(self.trainer))
        try:
            state = self._state()
        except CheckpointError as error:
            msg = f"the trained model was not kept, or is gone: {error}; {ANEW}"
            raise InputError(msg) from error
        if self.study is not None and (state.get("study"), state.get("recipe")) != (self.study, self.recipe.to_json()):
            msg = f"{self.kept} is of another study or recipe; {ANEW}"
            raise InputError(msg)
        run = self.trainer.start([self.recipe])
        try:
            run.restore(state.get("run") or {})
            return handed_over(run)
        finally:
            run.close()

    def _state(self) -> State:
        return checkpoint.load(self.kept) if isinstance(self.kept, Path) else self.kept


def refit(trainer: Trainer, recipe: Recipe, *data: Any, **options: Any) -> Any:
    """The model of a training under a recipe with nothing held out; see the trainer's ``refit``.

    Raises
    ------
    InputError
        If the trainer has none, as one of a generator function.
    """
    train_anew = getattr(trainer, "refit", None)
    if train_anew is None:
        name = type(trainer).__name__
        msg = f"{name} has no refit, and so no model to give; call your training code with result.best_recipe"
        raise InputError(msg)
    return train_anew(recipe, *data, **options)


def _unsaved(trainer: Trainer) -> str:
    """Why there is no trained model of a trainer whose runs cannot be saved, and what to do."""
    if hasattr(trainer, "refit"):
        return f"runs of {type(trainer).__name__} on this estimator cannot be saved, so its model is gone; {ANEW}"
    return "the training code keeps its model to itself; save it there, or call it with result.best_recipe"
