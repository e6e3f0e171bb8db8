"""Members trained at once: in turn, or as one where a trainer can; and a run of members that belong to other runs."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Generic, TypeVar

from lrtune.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.training.base import Report, Setup, State
    from lrtune.training.member import Member

__all__ = ["JointRun", "SideBySide"]

M = TypeVar("M", bound="Member")


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
