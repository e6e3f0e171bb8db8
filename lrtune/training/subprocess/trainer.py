"""``isolate``: any trainer, each of its runs in a process of its own, so that memory, handles and crashes stay there.

The process is forked, because a trainer holds data and functions that cannot be pickled. It lives as long as its
run; closing the run ends it, and with it all that the training code has leaked or left behind. The methods of the
trainer itself (its fingerprint, the steps of an epoch, the baseline) run user code too, and are called in the process
that the next run will have: the parent never trains.
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
        Seconds without an reply after which a run's process is ended; None for none.
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
        self._context = place or WorkerContext()
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
        """The wrapped trainer's, here and in every child."""
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
        child = self._waiting_child()
        self._next = None
        try:
            reply = child.call("start", tuple(recipes))
            self.add_notices(reply)
            setup = reply.result()
        except BaseException:
            child.end()
            raise
        return IsolatedRun(self, child, recipes, reply.alive, setup)

    def steps_per_epoch(self, recipe: Recipe, /) -> int:
        """Steps of one epoch under that recipe."""
        if recipe not in self._steps:
            if len(self._steps) >= MOST_KNOWN:
                self._steps.clear()
            self._steps[recipe] = int(self._call("steps_per_epoch", recipe))
        return self._steps[recipe]

    def baseline(self, recipe: Recipe, metric: str, /) -> Baseline:
        """The wrapped trainer's baseline for a metric."""
        found: Baseline = self._call("baseline", recipe, metric)
        return found

    def fingerprint(self) -> Mapping[str, str]:
        """The wrapped trainer's, so that a study resumes with and without `isolate`."""
        if self._print is None:
            self._print = dict(self._call("fingerprint"))
        return dict(self._print)

    def add_notices(self, reply: Reply) -> None:
        """Keep the notices of a child's trainer."""
        self._notices |= dict.fromkeys(reply.notices)

    def close(self) -> None:
        """End every child; may be called twice."""
        self._next = None
        for child in list(self._children):
            child.end()

    def _call(self, what: str, *given: Any) -> Any:
        reply = self._waiting_child().call(what, *given)
        self.add_notices(reply)
        return reply.result()

    def _waiting_child(self) -> Child:
        """The child that the next run will have."""
        if self._next is None or not self._next.alive:
            self._next = Child(self._trainer, context=self._context, stall_timeout=self._stall)
            self._children.add(self._next)
        return self._next


class IsolatedRun:
    """A run in a child process; see :class:`lrtune.training.base.Run` for what each method promises.

    In any call the child may die: then it raises a DiedError, and no member is alive any more.
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
        """Each member's recipe."""
        return self._recipes

    @property
    def alive(self) -> tuple[int, ...]:
        """The members that can go on; none once the child is gone."""
        return self._alive if self._child.alive else ()

    def setup(self) -> Setup:
        """How the wrapped run's first member was set up beyond its recipe."""
        return self._setup

    def advance(self, steps: int, /, *, evaluate: bool = True) -> list[Report]:
        """Train every member alive by up to `steps` steps."""
        reports: list[Report] | None = self._call("advance", steps, evaluate=evaluate)
        return reports or []

    def drop(self, members: Iterable[int], /) -> None:
        """Stop training these members."""
        self._call("drop", tuple(members))

    def state(self) -> State | None:
        """All that it takes to resume; None where the run cannot be saved, or the child is gone."""
        state: State | None = self._call("state")
        return state

    def restore(self, state: State, /) -> None:
        """Go on from a state of the same recipes.

        Raises
        ------
        InputError
            If the state belongs to something else, or is damaged, or the run was closed.
        """
        if not self._child.alive:
            msg = "the run's process has ended; start the run again"
            raise InputError(msg)
        self._call("restore", state)

    def suspend(self) -> None:
        """Release GPU memory and the like."""
        self._call("suspend")

    def close(self) -> None:
        """Let the training code clean up, then end its process and all that it left behind."""
        try:
            with contextlib.suppress(DiedError):
                self._call("close")
        finally:
            self._child.end()

    def _call(self, what: str, *given: Any, **named: Any) -> Any:
        """What the call returned; None where the process is gone."""
        if not self._child.alive:
            return None
        reply = self._child.call(what, *given, **named)
        self._alive = reply.alive
        self._trainer.add_notices(reply)
        return reply.result()


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
