"""Runs whose members are trained as one where that is possible and pays, else one by one."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from lrtune.training.member_run import SideBySide
from lrtune.training.networks.run import NetworkMember
from lrtune.training.networks.stack import Stack
from lrtune.training.networks.stackable import UnstackableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lrtune.training.base import Report
    from lrtune.training.member import TrainingStopped
    from lrtune.training.networks.stacking import Stacking

__all__ = ["Stacks"]


class Stacks(SideBySide[NetworkMember]):
    """Advances members together, and keeps their stacks from one advance to the next."""

    def __init__(self, stacking: Stacking) -> None:
        super().__init__()
        self._stacking = stacking
        self._stacks: list[Stack] = []

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


def _raise(stop: TrainingStopped) -> Any:
    raise stop
