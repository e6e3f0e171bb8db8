"""Any trainer, each of its runs in a process of its own: memory, handles and crashes stay there.

The process is forked, because a trainer holds data and functions that cannot be sent. It lives as long as its
run; whoever closes the run ends it, and with it all that the training code has leaked or left behind. What is
asked of the trainer itself (its fingerprint, the steps of an epoch, the baseline) runs user code too, and is
asked in the process that the next run will have: the parent never trains.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from lrtune.errors import InputError, SearchError, UserCodeError
from lrtune.training.subprocess.child import Child
from lrtune.training.subprocess.fork import check_forks
from lrtune.workers.pool import WorkerContext
from lrtune.workers.process import DiedError, RemoteError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.training.base import Baseline, Report, Setup, State, Trainer
    from lrtune.training.subprocess.messages import Reply

__all__ = ["Isolated", "IsolatedRun", "isolating"]

MOST_KNOWN = 1000


class Isolated:
    """Wraps a trainer: every run has a process of its own.

    Parameters
    ----------
    trainer
        Who trains there.
    stall_timeout
        Seconds without an answer after which a run's process is ended; None for none.
    place
        Where this process stands among workers.

    Raises
    ------
    InputError
        If this machine, or this process as it is now, cannot fork.
    """

    def __init__(
        self, trainer: Trainer, *, stall_timeout: float | None = None, place: WorkerContext | None = None
    ) -> None:
        check_forks()
        self._trainer = trainer
        self._stall = stall_timeout
        self._place = place or WorkerContext()
        self._next: Child | None = None
        self._children: WeakSet[Child] = WeakSet()
        self._notices: dict[str, None] = {}
        self._print: dict[str, str] | None = None
        self._steps: dict[Recipe, int] = {}

    @property
    def saves(self) -> bool:
        """Whether the wrapped trainer's runs can save and restore their state."""
        return self._trainer.saves

    @property
    def notices(self) -> Sequence[str]:
        """The wrapped trainer's, wherever they came up."""
        return tuple(dict.fromkeys([*self._trainer.notices, *self._notices]))

    def start(self, recipes: Sequence[Recipe], /) -> IsolatedRun:
        """Start a run in a process of its own.

        Raises
        ------
        RecipeError
            If a recipe asks for something that the trainer cannot do.
        DiedError
            If the process ends on the way.
        """
        child = self._asked()
        self._next = None
        try:
            answer = child.ask("start", tuple(recipes))
            self.hear(answer)
            setup = answer.given()
        except BaseException:
            child.end()
            raise
        return IsolatedRun(self, child, recipes, answer.alive, setup)

    def steps_per_epoch(self, recipe: Recipe, /) -> int:
        """Steps of one epoch under that recipe."""
        if recipe not in self._steps:
            if len(self._steps) >= MOST_KNOWN:
                self._steps.clear()
            self._steps[recipe] = int(self._ask("steps_per_epoch", recipe))
        return self._steps[recipe]

    def baseline(self, recipe: Recipe, metric: str, /) -> Baseline:
        """What knowing nothing is worth for a metric."""
        found: Baseline = self._ask("baseline", recipe, metric)
        return found

    def fingerprint(self) -> Mapping[str, str]:
        """What identifies the work: the wrapped trainer's, so that a study goes on with and without."""
        if self._print is None:
            self._print = dict(self._ask("fingerprint"))
        return dict(self._print)

    def hear(self, answer: Reply) -> None:
        """Take over what a process has to tell the user."""
        self._notices |= dict.fromkeys(answer.notices)

    def close(self) -> None:
        """End every process of its runs, and the one that waits for the next; may be called twice."""
        self._next = None
        for child in list(self._children):
            child.end()

    def _ask(self, what: str, *given: Any) -> Any:
        answer = self._asked().ask(what, *given)
        self.hear(answer)
        return answer.given()

    def _asked(self) -> Child:
        """The process of the next run."""
        if self._next is None or not self._next.lives:
            self._next = Child(self._trainer, place=self._place, stall_timeout=self._stall)
            self._children.add(self._next)
        return self._next


class IsolatedRun:
    """A run in another process; see :class:`lrtune.training.base.Run` for what each method promises.

    Whatever it is asked, its process may die: then it raises a DiedError, and nobody is alive any more.
    """

    def __init__(
        self, trainer: Isolated, child: Child, recipes: Sequence[Recipe], alive: tuple[int, ...], setup: Setup
    ) -> None:
        self._trainer = trainer
        self._setup = setup
        self._child = child
        self._recipes = tuple(recipes)
        self._alive = alive

    @property
    def recipes(self) -> Sequence[Recipe]:
        """What each member was told."""
        return self._recipes

    @property
    def alive(self) -> tuple[int, ...]:
        """The members that can go on; nobody once the process is gone."""
        return self._alive if self._child.lives else ()

    def setup(self) -> Setup:
        """How the wrapped run's first member was set up beyond its recipe."""
        return self._setup

    def advance(self, steps: int, /, *, evaluate: bool = True) -> list[Report]:
        """Train every member alive by up to `steps` steps."""
        reports: list[Report] | None = self._ask("advance", steps, evaluate=evaluate)
        return reports or []

    def drop(self, members: Iterable[int], /) -> None:
        """Give members up."""
        self._ask("drop", tuple(members))

    def state(self) -> State | None:
        """All that it takes to go on, as numbers; None where that cannot be said, or the process is gone."""
        state: State | None = self._ask("state")
        return state

    def restore(self, state: State, /) -> None:
        """Go on from a state of the same recipes.

        Raises
        ------
        InputError
            If the state belongs to something else, or is damaged, or the run was closed.
        """
        if not self._child.lives:
            msg = "the run's process has ended; start the run again"
            raise InputError(msg)
        self._ask("restore", state)

    def suspend(self) -> None:
        """Let go of what is scarce."""
        self._ask("suspend")

    def close(self) -> None:
        """Have the training code clean up, then end its process and all that it left behind."""
        try:
            with contextlib.suppress(DiedError):
                self._ask("close")
        finally:
            self._child.end()

    def _ask(self, what: str, *given: Any, **named: Any) -> Any:
        """The answer's value; None where there is nobody left to ask."""
        if not self._child.lives:
            return None
        answer = self._child.ask(what, *given, **named)
        self._alive = answer.alive
        self._trainer.hear(answer)
        return answer.given()


@contextlib.contextmanager
def isolating(
    trainer: Trainer, *, wanted: bool, stall_timeout: float | None = None, place: WorkerContext | None = None
) -> Iterator[Trainer]:
    """The trainer, isolated where that is wanted; no process of its outlives the block."""
    if not wanted or isinstance(trainer, Isolated):
        yield trainer
        return
    made = Isolated(trainer, stall_timeout=stall_timeout, place=place)
    try:
        yield made
    except RemoteError as error:  # no trial was to blame
        msg = f"the training code failed outside of any trial ({error}); mend it and run it again"
        raise UserCodeError(msg, user_traceback=error.user_traceback) from None
    except DiedError as error:
        msg = f"the training code's process ended outside of any trial ({error}); mend it and run it again"
        raise SearchError(msg) from None
    finally:
        made.close()
