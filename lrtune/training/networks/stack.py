"""Several models in training as one, with a leading dimension: one forward, one backward, one optimizer step for all.

It is a transient way to advance members: each stays what it was, with its own counters, learning rates, guard against
divergence and random numbers, and can go on alone at any time, since its tensors are views of the common ones
(:mod:`lrtune.training.networks.stack_tensors`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from lrtune.training.member import TrainingStopped
from lrtune.training.networks.accuracy import Accuracy
from lrtune.training.networks.data import TensorSource
from lrtune.training.networks.evaluation import measure_each
from lrtune.training.networks.nested import length
from lrtune.training.networks.run import CHECK_EVERY, READ_EVERY
from lrtune.training.networks.stack_tensors import StackedTensors
from lrtune.training.networks.stackable import UnstackableError, attributes, difference, hooked, key_of
from lrtune.training.networks.stacked_functions import StackedFunctions, refusal
from lrtune.training.out_of_memory import first_line, is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from lrtune.training.networks.program import Program
    from lrtune.training.networks.run import NetworkMember
    from lrtune.training.networks.stacked_functions import TrainingProgram

    Batch: TypeAlias = tuple[torch.Tensor, ...]

__all__ = ["Stack", "reason_of"]


class Stack:
    """Members trained as one.

    UnstackableError where their models do not do the same.
    """

    def __init__(self, members: Sequence[NetworkMember]) -> None:
        self.members = tuple(members)
        self.settings = members[0].settings
        for member in members:
            member.to_device()
        if len({key_of(member) for member in members}) > 1:
            msg = "their models, optimizers or batches have different shapes"
            raise UnstackableError(msg)
        self._lives = [member.running() for member in members]
        model = self._lives[0].model
        if hooked(model):
            msg = "the model has hooks"
            raise UnstackableError(msg)
        first = attributes(model)
        for live in self._lives[1:]:
            odd = difference(first, attributes(live.model))
            if odd:
                msg = f"their models differ in {odd}"
                raise UnstackableError(msg)
        self.tensors = StackedTensors(self._lives)
        trained = dict(zip(self.tensors.names, self.tensors.parts, strict=True))
        self._functions = StackedFunctions(model, self.settings.objective, trained, self.tensors.held)
        self._inputs = [*self.tensors.parts, *self.tensors.held.values()]
        self._training: dict[Hashable, TrainingProgram] = {}
        self._evaluation: dict[Hashable, Program] = {}
        self._evaluates = True
        self._samples = self.settings.train.batch_size(members[0].recipe, self.settings.batch_size)

    def holds(self, members: Sequence[NetworkMember]) -> bool:
        """Whether it is of these members, and what they train is still here."""
        return len(members) == len(self.members) and all(
            one is two and one.live is live and not one.on_host and self.tensors.has(row)
            for row, (one, two, live) in enumerate(zip(members, self.members, self._lives, strict=True))
        )

    def release(self, members: Sequence[NetworkMember]) -> None:
        """Give members storage of their own."""
        for row, (member, live) in enumerate(zip(self.members, self._lives, strict=True)):
            if member in members and member.live is live:
                self.tensors.release(row)

    def train(self, steps: int, targets: Mapping[NetworkMember, int]) -> dict[NetworkMember, TrainingStopped]:
        """Train all by so many steps within an epoch; the outcome of those that have ended, whose steps end there.

        Those that reach their target are looked at for numbers that are not finite. UnstackableError where a step
        cannot be taken, or memory ran out: the members stand at the step before it and can go on one by one.
        """
        members = self.members
        places = [divmod(member.step, member.per_epoch) for member in members]
        due = {(-member.step - 1) % CHECK_EVERY for member in members}
        table = [m.rates(epoch)[at : at + steps] for m, (epoch, at) in zip(members, places, strict=True)]
        rates = torch.tensor(table, dtype=self.tensors.weights.dtype).T.contiguous().unsqueeze(-1)
        rates = rates.to(self.tensors.weights.device)
        generators: list[torch.Generator] = []
        segment = _Segment(self)
        self.tensors.optimizer.begin()
        taken = 0
        try:
            for offset in range(steps):
                batch, shared = self._batch(places, offset)
                with torch.no_grad():
                    losses = self._step(batch, rates[offset], generators, shared=shared)
                taken += 1
                segment.add(losses, batch, shared=shared)
                check, last = offset % CHECK_EVERY in due, offset == steps - 1
                if check or last or len(segment.unread) == READ_EVERY:
                    segment.read()
                    if check or last:
                        segment.check(targets)
                    if not segment.going:
                        break
        except Exception as error:
            segment.read()
            raise reason_of(error) from error
        finally:
            self.tensors.after(taken, table)
            for member, generator in zip(members, generators, strict=False):  # none where nothing is drawn
                member.stream.advance(generator)
        return segment.stopped

    def _batch(self, places: Sequence[tuple[int, int]], offset: int) -> tuple[Batch, bool]:
        """The members' batches, and whether it is one for all; else each tensor is of shape (members, samples, ...).

        Each member's is so many steps after its place, an epoch and a position in it.
        """
        found: dict[tuple[int, int, int], Any] = {}
        keys = [(m.recipe.seed, epoch, at + offset) for m, (epoch, at) in zip(self.members, places, strict=True)]
        for live, key in zip(self._lives, keys, strict=True):
            if key not in found:
                found[key] = live.feed.batch(*key[1:])
        if len(found) == 1:
            return tuple(found[keys[0]]), True
        return tuple(torch.stack(parts) for parts in zip(*(found[key] for key in keys), strict=True)), False

    def _step(
        self, batch: Batch, rates: torch.Tensor, generators: list[torch.Generator], *, shared: bool
    ) -> torch.Tensor:
        """Take a step; the losses before it, of shape (members,)."""
        key = (shared, *(tensor.shape for tensor in batch))
        if key not in self._training:
            self._training[key] = self._functions.training(batch, shared=shared)
        found, tensors = self._training[key], self.tensors
        if found.dropped and not generators:
            generators += [member.stream.generator() for member in self.members]
        losses, *gradients = found.program(*self._inputs, *batch, *found.masks(generators))
        torch._foreach_copy_(tensors.gradient_parts, gradients)
        if self.settings.clip_norm is not None:
            norms = torch.linalg.vector_norm(tensors.gradients, dim=1, keepdim=True)
            tensors.gradients.mul_((self.settings.clip_norm / (norms + 1e-6)).clamp(max=1.0))  # as clip_grad_norm_
        tensors.optimizer.step(rates)
        return losses

    def evaluate(self) -> None:
        """Measure the held-out part for all members at once, where they have not been; each then knows its values.

        Where it cannot be stacked (metrics of the user's own, say) nothing is done: each member does it alone.
        """
        metrics = self.settings.metrics
        counted = {name: metric for name, metric in metrics.items() if isinstance(metric, Accuracy)}
        sizes = {member.eval_size for member in self.members} | {self.settings.eval_batch_size}
        loss = self.settings.objective.torch_loss
        if self.settings.valid is None or loss is None or not self._evaluates:
            return
        if len(counted) < len(metrics) or len(sizes) > 1 or not isinstance(self.settings.valid, TensorSource):
            return
        if all(member.is_evaluated for member in self.members):
            return
        model = self._lives[0].model
        modes = [(module, module.training) for module in model.modules()]
        model.eval()

        def results(batch: Batch) -> Sequence[torch.Tensor]:
            key = tuple((tensor.shape, tensor.dtype) for tensor in batch)
            if key not in self._evaluation:
                self._evaluation[key] = self._functions.evaluation(batch, list(counted.values()))
            return self._evaluation[key](*self._inputs, *batch)

        # A batch for each has no more samples than one has alone, or than they are trained on.
        size = max(self._samples, self.settings.eval_batch_size // len(self.members))
        batches = self.settings.valid.ordered(size, self.settings.device)
        try:
            with torch.no_grad():
                found = measure_each(results, loss, counted, batches)
        except Exception:  # noqa: BLE001 -- what is wrong is said by the member's own evaluation
            self._evaluates = False
            return
        finally:
            for module, mode in modes:
                module.training = mode
        for member, values in zip(self.members, found, strict=True):
            member.keep_evaluated(values)


class _Segment:
    """The steps of a stack since the last reading: losses are read several at once, then the members hear of them."""

    def __init__(self, stack: Stack) -> None:
        self._tensors = stack.tensors
        self.going = dict(enumerate(stack.members))
        self.stopped: dict[NetworkMember, TrainingStopped] = {}
        self.unread: list[tuple[torch.Tensor, Batch, bool, int]] = []

    def add(self, losses: torch.Tensor, batch: Batch, *, shared: bool) -> None:
        """A step that was taken."""
        size = length(batch) if shared else int(batch[0].shape[1])
        for member in self.going.values():
            member.samples += size
            member.step += 1
        self.unread.append((losses, batch, shared, size))

    def read(self) -> None:
        """Give each member its losses; where one has diverged, its steps after that do not count."""
        unread, self.unread = self.unread, []
        if not unread:
            return
        values = torch.stack([losses for losses, *_ in unread], 1).tolist()
        for row, member in list(self.going.items()):
            for place, value in enumerate(values[row]):
                if value != value and not _counts(member, *unread[place][1:3], row):  # noqa: PLR0124 -- NaN
                    continue
                try:
                    member.record(value)
                except TrainingStopped as stop:
                    member.step -= len(unread) - place - 1
                    member.samples -= sum(size for *_, size in unread[place + 1 :])
                    self._stop(row, stop)
                    break

    def check(self, targets: Mapping[NetworkMember, int]) -> None:
        """Stop the members whose weights or gradients are not finite, at the steps at which one alone would look."""
        found = self._tensors.non_finite()
        for row, member in list(self.going.items()):
            if found[row] and (member.step % CHECK_EVERY == 0 or member.step == targets[member]):
                self._stop(row, member.not_finite(found[row]))

    def _stop(self, row: int, stop: TrainingStopped) -> None:
        self.stopped[self.going.pop(row)] = stop


def _counts(member: NetworkMember, batch: Batch, shared: bool, row: int) -> bool:  # noqa: FBT001 -- as it was noted
    return member.running().stepper.has_loss(batch[-1] if shared else batch[-1][row])


def reason_of(error: Exception) -> UnstackableError:
    """Why runs are not stacked, where an error came of it."""
    if is_out_of_memory(error):
        return UnstackableError(f"memory ran out for several at once ({first_line(error)})")
    return refusal(error)
