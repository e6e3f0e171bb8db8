"""The contract of the family: a Trainer starts a Run, a Run advances, drops members, saves and restores.

One interface serves one model and a hundred: a run holds one *member* for each recipe it was started
with, numbered from 0. Whoever drives it has never to ask which kind it is.

::

    run = trainer.start([recipe])
    while run.alive:
        for report in run.advance(steps):      # evaluates at the end of the piece
            ...
    run.close()
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from lrtune.core.divergence import Baseline

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lrtune.core.curve import Point
    from lrtune.core.outcome import Outcome
    from lrtune.core.recipe import Recipe

__all__ = ["Baseline", "Report", "Run", "Setup", "State", "Trainer"]

State: TypeAlias = dict[str, Any]
"""What a checkpoint holds: dicts with string keys, lists, str, int, float, bool, None, bytes and numpy
arrays of numbers, nested at will. Never a pickle, never an object."""

Setup: TypeAlias = dict[str, Any]
"""How a run was set up beyond its recipe, as plain JSON. ``library`` is ``"torch"``, ``"sklearn"`` or ``"generator"``,
a key of :data:`lrtune.reporting.snippets.KINDS`; the rest is what that library's writer of code reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one member reported.

    Attributes
    ----------
    member
        Its number in the run.
    point
        Where it stands and what it measured. With an outcome that is not COMPLETED the values are
        those at the step of the fault, as far as there are any, e.g. ``{"train_loss": nan}``.
    outcome
        None while it can go on; COMPLETED when it has reached its recipe's last epoch (or the user's
        generator has returned); else what ended it within the piece: the member is no longer alive.
    why
        One sentence with the numbers, where there is an outcome other than COMPLETED, e.g.
        ``"the training loss was nan at step 213"``.
    """

    member: int
    point: Point
    outcome: Outcome | None = None
    why: str = ""


@runtime_checkable
class Run(Protocol):
    """Training in progress, of one recipe or many.

    One that has a method ``setup()`` says with it, before its first step, how its first member was set up beyond its
    recipe: a :data:`Setup`.
    """

    @property
    def recipes(self) -> Sequence[Recipe]:
        """What each member was told."""

    @property
    def alive(self) -> tuple[int, ...]:
        """The members that can go on."""

    def advance(self, steps: int, /, *, evaluate: bool = True) -> list[Report]:
        """Train every member alive by up to `steps` steps of its own; evaluate at the end if asked.

        A step is a minibatch, or a yield of a generator. Never goes beyond a recipe's last step.
        Reports are in the order of their members and steps: the last one of each member is where it
        stands now; a generator gives one for each yield. The curve does not depend on how it was cut
        into pieces: ``train_loss`` is the mean over the minibatches since the last full epoch.

        Raises
        ------
        Exception
            Whatever the user's own code raises; divergence and out-of-memory never raise.
        """

    def drop(self, members: Iterable[int], /) -> None:
        """Give members up: their memory is freed, the others' curves are unchanged."""

    def state(self) -> State | None:
        """All that it takes to go on bit for bit: weights, optimizer, random states, data order.

        A snapshot: going on does not change it. None where the trainer cannot save (a generator).
        """

    def restore(self, state: State, /) -> None:
        """Go on from a state of the same recipes.

        Raises
        ------
        lrtune.errors.InputError
            If the state belongs to something else, or is damaged.
        """

    def suspend(self) -> None:
        """Let go of what is scarce while the run is paused (GPU memory moves to the host)."""

    def close(self) -> None:
        """Free everything; may be called twice, and on a run that failed."""


@runtime_checkable
class Trainer(Protocol):
    """Knows how to train: turns recipes into a run.

    One that has an attribute ``optimizer``, a name, says with it how the learning rate goes with the batch size.
    """

    @property
    def saves(self) -> bool:
        """Whether its runs can save and restore their state."""

    @property
    def notices(self) -> Sequence[str]:
        """What the user should be told, e.g. an inert setting that was replaced; one sentence each."""

    def start(self, recipes: Sequence[Recipe], /) -> Run:
        """Start a run of one recipe or many.

        Raises
        ------
        lrtune.errors.RecipeError
            If a recipe asks for something that this trainer cannot do.
        """

    def steps_per_epoch(self, recipe: Recipe, /) -> int:
        """Steps of one epoch under that recipe, at least 1; 1 for a generator."""

    def baseline(self, recipe: Recipe, metric: str, /) -> Baseline:
        """What knowing nothing is worth for a metric."""

    def fingerprint(self) -> Mapping[str, str]:
        """What identifies the work (data, model, loss): equal for the same, readable, no secrets.

        E.g. ``{"data": "1797 x 64, sha256 3f2a...", "estimator": "SGDClassifier"}``. Empty where the
        trainer cannot say (a generator).
        """
