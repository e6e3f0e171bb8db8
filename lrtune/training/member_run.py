"""Runs of members, which are trained in turn, or as one where a trainer can, and may belong to other runs."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from lrtune.errors import InputError
from lrtune.training.member import Member

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.training.base import Report, Setup, State

__all__ = ["JointRun", "MemberRun", "SideBySide"]

M = TypeVar("M", bound=Member)


class SideBySide(Generic[M]):
    """How members are trained at once: here one after the other.

    Attributes
    ----------
    sizes
        Of each member that the last advance trained as one with others, how many they were.
    """

    def __init__(self) -> None:
        self.sizes: dict[M, int] = {}

    def advance(self, members: Sequence[M], steps: int, *, evaluate: bool) -> Sequence[Sequence[Report]]:
        """The reports of each of these members, after up to `steps` steps of its own."""
        return [member.advance_or_end(steps, evaluate=evaluate) for member in members]

    def release(self, members: Iterable[M]) -> None:
        """Give members that leave the others what is theirs alone."""


class MemberRun(Generic[M]):
    """Members of one run; see :class:`lrtune.training.base.Run` for what each method promises.

    Parameters
    ----------
    members
        In the order of their numbers.
    identity
        Part of the state that must be equal for it to be restored; None where the trainer cannot save.
    side_by_side
        How they are trained at once; None for in turn.
    """

    def __init__(
        self, members: Sequence[M], identity: State | None = None, side_by_side: SideBySide[M] | None = None
    ) -> None:
        self.members = tuple(members)
        self._identity = identity
        self._side_by_side: SideBySide[M] = side_by_side or SideBySide()

    @property
    def recipes(self) -> Sequence[Recipe]:
        """The recipe of each member."""
        return tuple(member.recipe for member in self.members)

    @property
    def alive(self) -> tuple[int, ...]:
        """Numbers of the members that can continue."""
        return tuple(member.number for member in self.members if not member.done)

    def advance(self, steps: int, /, *, evaluate: bool = True) -> list[Report]:
        """Train every member alive by up to `steps` steps; after an exception the run has no state to save."""
        alive = [self.members[number] for number in self.alive] if steps > 0 else []
        found = self._side_by_side.advance(alive, steps, evaluate=evaluate)
        return [report for reports in found for report in reports]

    def setup(self) -> Setup:
        """How the first member was set up beyond its recipe."""
        return self.members[0].setup()

    def model(self) -> Any:
        """The first member's model itself, as it was trained: a fitted estimator, or a module on the CPU in eval mode.

        It is handed over: the run is closed next. InputError where the trainer has none to hand over.
        """
        return self.members[0].model()

    def drop(self, members: Iterable[int], /) -> None:
        """End these members."""
        for number in members:
            self.members[number].end()

    def state(self) -> State | None:
        """A snapshot of every member; None where one cannot be saved, or was interrupted by an exception."""
        if self._identity is None or any(member.interrupted for member in self.members):
            return None
        try:
            return {**self._identity, "members": [member.state() for member in self.members]}
        except TypeError:
            return None

    def restore(self, state: State, /) -> None:
        """Continue from a state of the same recipes.

        InputError if the state belongs to something else, or is damaged, or runs of this trainer cannot be
        saved.
        """
        if self._identity is None:
            msg = "a run of this trainer cannot be restored from a state; the run starts again with the same recipe"
            raise InputError(msg)
        for name, value in self._identity.items():
            if state.get(name) != value:
                msg = f"the state belongs to another run (its {name} differs); start the run again"
                raise InputError(msg)
        if len(state.get("members", ())) != len(self.members):
            msg = f"the state is not one of {len(self.members)} models in training; start the run again"
            raise InputError(msg)
        try:
            for member, saved in zip(self.members, state["members"], strict=True):
                member.restore(saved)
                member.interrupted = False
        except InputError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            msg = f"the state is damaged ({type(error).__name__}: {error}); start the run again"
            raise InputError(msg) from error

    def suspend(self) -> None:
        """Move what lies on devices to the host."""
        for member in self.members:
            member.suspend()

    def close(self) -> None:
        """End all members."""
        for member in self.members:
            member.end()


class JointRun(Generic[M]):
    """Members of other runs, trained together; see ``together`` of :class:`lrtune.training.base.Trainer`.

    Each stays a member of its own run, which can be paused, saved, restored and closed between two advances. What is
    dropped here only leaves this run.
    """

    def __init__(self, members: Sequence[M], side_by_side: SideBySide[M]) -> None:
        self._members = tuple(members)
        self._left: set[int] = set()
        self._side_by_side = side_by_side

    @property
    def recipes(self) -> Sequence[Recipe]:
        """The recipe of each member."""
        return tuple(member.recipe for member in self._members)

    @property
    def alive(self) -> tuple[int, ...]:
        """Numbers of the members that can continue here."""
        return tuple(n for n, member in enumerate(self._members) if n not in self._left and not member.done)

    @property
    def sizes(self) -> dict[int, int]:
        """Of each member that the last advance trained as one with others, how many they were."""
        known = self._side_by_side.sizes
        return {number: known[member] for number, member in enumerate(self._members) if member in known}

    def advance(self, steps: int, /, *, evaluate: bool = True) -> list[Report]:
        """Train every member alive by up to `steps` steps."""
        numbers = self.alive if steps > 0 else ()
        found = self._side_by_side.advance([self._members[n] for n in numbers], steps, evaluate=evaluate)
        pairs = zip(numbers, found, strict=True)
        return [dataclasses.replace(report, member=number) for number, reports in pairs for report in reports]

    def setup(self) -> Setup:
        """How the first member was set up beyond its recipe."""
        return self._members[0].setup()

    def drop(self, members: Iterable[int], /) -> None:
        """Take members out of this run; their own runs go on."""
        leaving = set(members)
        self._left |= leaving
        self._side_by_side.release(self._members[number] for number in leaving)

    def state(self) -> State | None:
        """None: the members' own runs are saved."""
        return None

    def restore(self, state: State, /) -> None:
        """InputError: the members' own runs are restored."""
        del state
        msg = "a joint run cannot be restored from a state; restore the runs that it is made of"
        raise InputError(msg)

    def suspend(self) -> None:
        """Move what lies on devices to the host."""
        for number in self.alive:
            self._members[number].suspend()

    def close(self) -> None:
        """Take all members out."""
        self.drop(range(len(self._members)))
