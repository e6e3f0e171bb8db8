"""Runs whose members are trained as one where that is possible and pays, else one by one."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, Any

from lrtune.errors import InputError
from lrtune.training.member import MemberRun
from lrtune.training.networks.run import NetworkMember
from lrtune.training.networks.stack import Stack
from lrtune.training.networks.stackable import UnstackableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.training.base import Report, Setup, State
    from lrtune.training.member import TrainingStopped
    from lrtune.training.networks.stacking import Stacking

__all__ = ["JointRun", "StackedRun"]


class SideBySide:
    """Advances members together, and keeps their stacks from one advance to the next."""

    def __init__(self, stacking: Stacking) -> None:
        self._stacking = stacking
        self._stacks: list[Stack] = []
        self.sizes: dict[NetworkMember, int] = {}
        """Of each member that the last advance trained as one with others, how many they were."""

    def advance(self, members: Sequence[NetworkMember], steps: int, *, evaluate: bool) -> Sequence[Sequence[Report]]:
        """The reports of each member, after up to `steps` steps of its own."""
        groups = self._stacking.groups(members)
        targets = {member: min(member.step + steps, member.total_steps) for member in members}
        stopped: dict[NetworkMember, TrainingStopped] = {}
        kept: list[Stack] = []
        self.sizes = {}
        for group in groups:
            try:
                stacks = self._train(group, targets, stopped)
                kept += stacks
                self.sizes |= dict.fromkeys(group, len(group)) if stacks else {}
            except BaseException:
                for member in group:
                    member.interrupted = True
                    member.end()
                raise
        self._stacks = kept
        for stack in kept if evaluate else ():
            stack.evaluate()
        together = {member for group in groups for member in group}
        return [
            self._report(member, targets[member] - member.step, stopped, evaluate=evaluate)
            if member in together
            else member.advance_or_end(steps, evaluate=evaluate)
            for member in members
        ]

    def _report(
        self, member: NetworkMember, left: int, stopped: dict[NetworkMember, TrainingStopped], *, evaluate: bool
    ) -> Sequence[Report]:
        """Of a member that was stacked; it is trained on alone where its target was not reached."""
        if member in stopped:
            found = member.reported(partial(_raise, stopped[member]))
        elif left:
            return member.advance_or_end(left, evaluate=evaluate)
        else:
            found = member.reported(partial(member.measured, evaluate=evaluate))
        member.conclude(found[-1].outcome)
        return found

    def _train(
        self,
        group: Sequence[NetworkMember],
        targets: dict[NetworkMember, int],
        stopped: dict[NetworkMember, TrainingStopped],
    ) -> list[Stack]:
        """Train as far as it can be done together; the stack that is left, if there is one."""
        stack: Stack | None = None
        while True:
            going = [member for member in group if member not in stopped and member.step < targets[member]]
            if not self._stacking.pays(going):
                break
            try:
                stack = self._stack(going, stack)
                positions = [member.begin_epoch()[1] for member in going]
                steps = min(
                    min(m.per_epoch, at + targets[m] - m.step) - at for m, at in zip(going, positions, strict=True)
                )
                stopped.update(stack.train(steps, targets))
            except UnstackableError as refusal:
                self._stacking.refuse(going, str(refusal))
                return []
            if any(member.schedule.metric_driven for member in going):
                stack.evaluate()
            for member in going:
                if member not in stopped:
                    member.end_epoch()
        return [] if stack is None else [stack]

    def _stack(self, members: Sequence[NetworkMember], last: Stack | None) -> Stack:
        known = [stack for stack in (last, *self._stacks) if stack is not None and stack.holds(members)]
        return known[0] if known else Stack(members)

    def release(self, members: Iterable[NetworkMember]) -> None:
        """Give members storage of their own."""
        left = list(members)
        for stack in self._stacks:
            stack.release(left)


class StackedRun(MemberRun[NetworkMember]):
    """A run of several recipes, trained together as far as possible."""

    def __init__(self, members: Sequence[NetworkMember], identity: State, stacking: Stacking) -> None:
        super().__init__(members, identity)
        self._together = SideBySide(stacking)

    def _advanced(self, members: Sequence[NetworkMember], steps: int, *, evaluate: bool) -> Sequence[Sequence[Report]]:
        return self._together.advance(members, steps, evaluate=evaluate)


class JointRun:
    """Members of other runs, trained together; see :meth:`lrtune.training.networks.trainer.TorchTrainer.together`.

    Each stays a member of its own run, which can be paused, saved, restored and closed between two advances. What is
    dropped here only leaves this run.
    """

    def __init__(self, members: Sequence[NetworkMember], stacking: Stacking) -> None:
        self._members = tuple(members)
        self._left: set[int] = set()
        self._together = SideBySide(stacking)

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
        known = self._together.sizes
        return {number: known[member] for number, member in enumerate(self._members) if member in known}

    def advance(self, steps: int, /, *, evaluate: bool = True) -> list[Report]:
        """Train every member alive by up to `steps` steps."""
        numbers = self.alive if steps > 0 else ()
        found = self._together.advance([self._members[n] for n in numbers], steps, evaluate=evaluate)
        pairs = zip(numbers, found, strict=True)
        return [dataclasses.replace(report, member=number) for number, reports in pairs for report in reports]

    def setup(self) -> Setup:
        """How the first member was set up beyond its recipe."""
        return self._members[0].setup()

    def drop(self, members: Iterable[int], /) -> None:
        """Take members out of this run; their own runs go on."""
        leaving = set(members)
        self._left |= leaving
        self._together.release(self._members[number] for number in leaving)

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


def _raise(stop: TrainingStopped) -> Any:
    raise stop
