"""The contract of trainers: a :class:`Trainer` starts a :class:`Run`, which advances, saves and restores.

All members of both protocols are needed: what lacks one of a Trainer's is taken for a generator function.

A run has one *member* for each recipe it was started with, numbered from 0; the contract is the same for one and many.
A trainer that trains minibatch by minibatch gets most of it from :mod:`lrtune.training.member`. A trainer of the user's
own needs no registration; one that ships has a name in ``lrtune/__init__.py`` and a writer of its code to paste in
:data:`lrtune.reporting.snippets.KINDS`.

::

    run = trainer.start([recipe])
    while run.alive:
        for report in run.advance(steps):      # evaluates after them
            ...
    run.close()
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from lrtune.core.divergence import Baseline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from lrtune.core.curve import Point
    from lrtune.core.outcome import Outcome
    from lrtune.core.recipe import Recipe

__all__ = ["Baseline", "Report", "Run", "Setup", "State", "Trainer", "beside_others", "stack_speedup", "together"]

State: TypeAlias = dict[str, Any]
"""What a checkpoint holds: dicts with string keys, lists, str, int, float, bool, None, bytes and numpy
arrays of numbers, nested at will. Never a pickle, never an object."""

Setup: TypeAlias = dict[str, Any]
"""How a run was set up beyond its recipe, as plain JSON. ``library`` is ``"torch"``, ``"sklearn"``, ``"generator"``,
``"transformers"``, ``"keras"`` or ``"lightning"``, a key of :data:`lrtune.reporting.snippets.KINDS`; the rest is read
by the code that writes snippets for that library."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one member reported.

    Attributes
    ----------
    member
        Its number in the run.
    point
        Its step and what was measured there. With an outcome that is not COMPLETED the values are
        those at the step of the fault, as far as there are any, e.g. ``{"train_loss": nan}``.
    outcome
        None while it can continue; COMPLETED when it has reached its recipe's last epoch (or the user's
        generator has returned); else what ended it: the member is no longer alive.
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

    It may have a method ``setup()``: how its first member was set up beyond its recipe, a :data:`Setup`. And one called
    ``model()``: it hands over the first member's trained model, just before the run is closed.
    """

    @property
    def recipes(self) -> Sequence[Recipe]:
        """The recipe of each member."""

    @property
    def alive(self) -> tuple[int, ...]:
        """Numbers of the members that can continue."""

    def advance(self, steps: int, /, *, evaluate: bool = True) -> list[Report]:
        """Train every member alive by up to `steps` steps of its own; evaluate at the end if asked.

        A step is a minibatch, or a yield of a generator; never beyond a recipe's last step. Reports are in the order
        of members and steps: one for each yield of a generator, else one for each member. The curve does not depend
        on how many steps a call has: ``train_loss`` is the mean over the minibatches since the last full epoch.

        Raises
        ------
        Exception
            Whatever the user's own code raises; divergence and out-of-memory never raise.
        """

    def drop(self, members: Iterable[int], /) -> None:
        """End members: their memory is freed, the others' curves are unchanged."""

    def state(self) -> State | None:
        """All that it takes to continue bit for bit: weights, optimizer, random states, data order.

        A snapshot: training on does not change it. None where the trainer cannot save (a generator).
        """

    def restore(self, state: State, /) -> None:
        """Continue from a state of the same recipes.

        Raises
        ------
        lrtune.errors.InputError
            If the state belongs to something else, or is damaged.
        """

    def suspend(self) -> None:
        """Free what is scarce while the run is paused: GPU memory is moved to the host."""

    def close(self) -> None:
        """Free everything; may be called twice, and on a run that failed."""


@runtime_checkable
class Trainer(Protocol):
    """Starts runs of recipes.

    It may have an attribute ``optimizer``: a name, from which follows how the learning rate scales with the batch size.

    It may also train runs side by side, for less than one after the other, with two methods:

    ``together(runs: Sequence[Run], /) -> Run | None``
        A run whose members are those of the given runs, in order, numbered from 0. To advance it advances them, with
        curves that are equal to those of training alone within rounding, and its reports carry its own numbers. Each
        of the given runs stays what it was: between two advances it can be suspended, saved, restored, advanced and
        closed on its own, and then has what the joint run has trained. A member that diverges or completes ends as
        usual, in both. To drop one takes it out of the joint run only, and to close that takes all of them out: no
        member ends, and none is freed. The joint run has no state of its own. None where these runs cannot be trained
        side by side, or where that does not pay: the caller advances them one by one. Where some may be trained one by
        one all the same, its ``sizes`` tell how many the last advance trained as one with each other member.
    ``stack_speedup(recipe: Recipe, members: int, /) -> float``
        How many times faster so many runs like that one train side by side than one by one, in steps of a member a
        second; measured once on a few steps of models that are thrown away. 1.0 where they are not trained so.
    ``stacks_in_step``
        An attribute: true where that holds of runs at the same step alone.

    And a method ``refit(recipe, ...)``: a model trained anew under a recipe, with nothing held out.
    """

    @property
    def saves(self) -> bool:
        """Whether its runs can save and restore their state."""

    @property
    def notices(self) -> Sequence[str]:
        """Notices for the user, e.g. of a setting without effect that was replaced; one sentence each."""

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
        """The metric of a model that has learned nothing: untrained, and the best constant prediction."""

    def fingerprint(self) -> Mapping[str, str]:
        """What identifies data, model and loss: equal for the same, readable, no secrets.

        E.g. ``{"data": "1797 x 64, sha256 3f2a...", "estimator": "SGDClassifier"}``. Empty where the
        trainer cannot say (a generator).
        """


def together(trainer: Trainer, runs: Sequence[Run]) -> Run | None:
    """A run that trains several runs side by side, see :class:`Trainer`; None where this trainer cannot.

    Also None where the training code raises: the same happens when a run is trained alone, and is dealt with there.
    """
    method: Callable[[Sequence[Run]], Run | None] | None = getattr(trainer, "together", None)
    try:
        return None if method is None else method(runs)
    except Exception:  # noqa: BLE001 -- user code may raise anything
        return None


def beside_others(run: Run, members: Sequence[int]) -> Mapping[int, int]:
    """Of each member that the last advance trained as one with others, how many they were, see :class:`Trainer`.

    A run that does not say has trained all of `members` so.
    """
    sizes: Mapping[int, int] | None = getattr(run, "sizes", None)
    return dict.fromkeys(members, len(members)) if sizes is None else sizes


def stack_speedup(trainer: Trainer, recipe: Recipe, members: int) -> float:
    """How many times faster so many runs train side by side, see :class:`Trainer`; 1 where none is trained so.

    Also 1 where the training code raises: the same happens when a run is trained alone, and is dealt with there.
    """
    method: Callable[[Recipe, int], float] | None = getattr(trainer, "stack_speedup", None)
    try:
        return 1.0 if method is None else max(1.0, method(recipe, members))
    except Exception:  # noqa: BLE001 -- user code may raise anything
        return 1.0
