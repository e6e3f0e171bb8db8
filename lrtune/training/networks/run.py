"""One model in training: a recipe's steps, one after the other, with all that it takes to pause them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lrtune.core.curve import Point
from lrtune.core.divergence import StepGuard
from lrtune.core.outcome import Outcome
from lrtune.errors import InputError
from lrtune.training.base import Report
from lrtune.training.networks import state as snapshot
from lrtune.training.networks.amp import autocast, free_memory
from lrtune.training.networks.averaged_weights import at_judged, misled
from lrtune.training.networks.build import Live, NetworkSettings, built, described, setup_of_live
from lrtune.training.networks.evaluation import measure
from lrtune.training.networks.nested import length
from lrtune.training.networks.optimizer_state import move_optimizer
from lrtune.training.networks.optimizers import apply_lr
from lrtune.training.networks.rng import Stream
from lrtune.training.networks.step import NoMemoryError
from lrtune.training.out_of_memory import first_line, is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.training.base import Setup, State

__all__ = ["NetworkMember"]

CHECK_EVERY = 64
"""Steps between two looks at gradients and weights; a run's pieces end with one, too."""

LOOK_EVERY = 16
"""Steps between two looks at the losses on a GPU, which each of them waits for; on the CPU each step is looked at."""

HOST = torch.device("cpu")


class _RunStopped(Exception):  # noqa: N818 -- a message within this module, not an error
    """The member ends here; it never leaves this module."""

    def __init__(self, report: Report) -> None:
        self.report = report


@dataclass(slots=True)
class _EpochLosses:
    """Losses not yet looked at, with each one's samples and what tells whether any counted, and the epoch's sum."""

    total: float = 0.0
    count: int = 0
    losses: list[torch.Tensor] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    evidence: list[Any] = field(default_factory=list)

    @property
    def values(self) -> dict[str, float]:
        """The mean training loss since the last full epoch."""
        return {"train_loss": self.total / self.count} if self.count else {}


class NetworkMember:
    """One recipe of a run.

    Parameters
    ----------
    number
        Its number in the run.
    recipe
        What it is told.
    settings
        How to train.
    """

    def __init__(self, number: int, recipe: Recipe, settings: NetworkSettings) -> None:
        self.number, self.recipe, self._settings = number, recipe, settings
        self._per_epoch = settings.train.steps(recipe, settings.batch_size)
        self._total = recipe.epochs * self._per_epoch
        self._reset()
        self.done = False
        self._no_room = ""
        self._live: Live | None = None
        self._guarded(self._built)

    def _reset(self) -> None:
        self._step = self._samples = 0
        self._seen = _EpochLosses()
        self._guard = StepGuard()
        self._stream = Stream(self.recipe.seed, self._settings.device)
        self._eval_size = self._settings.eval_batch_size
        self._block: tuple[int, list[float]] = (-1, [])
        self._measured: tuple[int, dict[str, float]] = (-1, {})
        self._parked = False

    def _guarded(self, build: Callable[[], Live]) -> None:
        """Build, and remember for the first report where there is no room even for the weights."""
        try:
            self._live = build()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._no_room = first_line(error)
        if self._no_room:
            free_memory(self._settings.device)

    def _built(self) -> Live:
        with self._stream.active():
            return built(self._settings, self.recipe, self._total)

    def advance(self, steps: int, *, evaluate: bool) -> Report | None:
        """Train by up to `steps` steps; None where there was nothing to do.

        Raises
        ------
        Exception
            Whatever the user's own code raises; the member has then ended.
        """
        if self.done or steps < 1:
            return None
        try:
            report = self._advance(min(self._step + steps, self._total), evaluate=evaluate)
        except BaseException:
            self.end()
            raise
        if report.outcome is not None:
            self.end()
        return report

    def _advance(self, target: int, *, evaluate: bool) -> Report:
        why = self._no_room
        if self._live is not None:
            try:
                self._unpark(self._live)
                with self._stream.active(wide=self._live.wide):
                    return self._piece(self._live, target, evaluate=evaluate)
            except _RunStopped as stop:
                return stop.report
            except NoMemoryError as error:
                why = first_line(error)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                why = first_line(error)
        return self._report(self._seen.values, Outcome.OUT_OF_MEMORY, f"memory ran out at step {self._step + 1}: {why}")

    def _piece(self, live: Live, target: int, *, evaluate: bool) -> Report:
        while self._step < target:
            epoch, position = divmod(self._step, self._per_epoch)
            if position == 0:
                self._seen.total, self._seen.count = 0.0, 0
            self._stretch(live, epoch, position, min(self._per_epoch, position + target - self._step))
            if live.schedule.listens and self._step % self._per_epoch == 0:
                self._tell(live)
        self._check(live)
        values = {**self._seen.values, **(self._evaluate(live) if evaluate else {})}
        return self._report(values, Outcome.COMPLETED if self._step == self._total else None)

    def _stretch(self, live: Live, epoch: int, begin: int, end: int) -> None:
        """The steps of an epoch from one position to another."""
        at_once = self._settings.device.type == "cpu"
        optimizer, step, batch_at, seen = live.stepper.optimizer, live.stepper.step, live.feed.batch, self._seen
        rates = self._rates(live, epoch)
        for position in range(begin, end):
            apply_lr(optimizer, rates[position])
            batch = batch_at(epoch, position)
            loss = step(batch)
            size = length(batch)
            self._samples += size
            self._step += 1
            if at_once:
                value = loss.item()
                if value == value or live.stepper.counts(live.stepper.evidence(batch)):  # noqa: PLR0124 -- not NaN
                    self._judge(value)
            else:
                seen.losses.append(loss)
                seen.sizes.append(size)
                seen.evidence.append(live.stepper.evidence(batch))
                if self._step % LOOK_EVERY == 0:
                    self._look(live)
            if self._step % CHECK_EVERY == 0:
                self._check(live)
        self._look(live)

    def _rates(self, live: Live, epoch: int) -> list[float]:
        """The learning rates of an epoch's steps; computed epoch by epoch, so that they never depend on the pieces."""
        if self._block[0] != epoch:
            first = epoch * self._per_epoch
            progress = np.arange(first, first + self._per_epoch) / self._total
            multipliers = np.asarray(live.schedule(progress), dtype=np.float64)
            self._block = (epoch, (self.recipe.lr * multipliers).tolist())
        return self._block[1]

    def _look(self, live: Live) -> None:
        """Read the losses of the last steps and judge each of them that is one of anything."""
        seen = self._seen
        if not seen.losses:
            return
        values, sizes, evidence = torch.stack(seen.losses).tolist(), seen.sizes, seen.evidence
        seen.losses, seen.sizes, seen.evidence = [], [], []
        for later, loss, found in zip(range(len(values) - 1, -1, -1), values, evidence, strict=True):
            if not math.isnan(loss) or live.stepper.counts(found):
                self._judge(loss, later=sizes[len(sizes) - later :])

    def _judge(self, loss: float, *, later: Sequence[int] = ()) -> None:
        """Take the loss of a step into the epoch's mean; where the run has diverged, the steps `later` do not count."""
        outcome = self._guard.see(loss)
        if outcome is not None:
            self._step -= len(later)
            self._samples -= sum(later)
            raise _RunStopped(self._report({"train_loss": loss}, outcome, self._guard.why))
        self._seen.total += loss
        self._seen.count += 1

    def _check(self, live: Live) -> None:
        """Look at gradients and weights."""
        trouble = live.stepper.trouble()
        if trouble:
            self._look(live)
            why = f"{trouble} was NaN or infinite at step {self._step}"
            raise _RunStopped(self._report(self._seen.values, Outcome.NON_FINITE, why))

    def _tell(self, live: Live) -> None:
        """Let a schedule hear how the epoch went."""
        self._look(live)
        heard = {**self._seen.values, **self._evaluate(live)}
        live.schedule.update(heard[self._settings.heard_by(live.schedule)], progress=self._step / self._total)

    def setup(self) -> Setup:
        """How it was set up beyond its recipe; empty where there was no room for it."""
        return {} if self._live is None else setup_of_live(self._settings, self._live, self.recipe, self._total)

    def _evaluate(self, live: Live) -> dict[str, float]:
        """Loss and metrics of the held-out part, drawing from no stream that training draws from."""
        settings = self._settings
        if settings.valid is None or self._measured[0] == self._step:
            return self._measured[1]
        while True:
            batches = settings.valid.ordered(settings.eval_batch_size, settings.device)
            stream = live.evaluation.active(wide=live.wide, keep=False)
            try:
                with at_judged(live.stepper.optimizer), stream, autocast(settings.precision, settings.device):
                    values = measure(
                        live.forward,
                        settings.objective,
                        settings.metrics,
                        batches,
                        most=self._eval_size,
                        tell=settings.tell,
                    )
            except Exception as error:
                if not is_out_of_memory(error) or self._eval_size == 1:
                    raise
            else:
                self._measured = (self._step, values)
                return values
            free_memory(settings.device)
            self._eval_size //= 2
            if settings.objective.whole:
                settings.tell(
                    f"memory ran out in the evaluation, and held-out batches are cut to {self._eval_size} samples; "
                    f"give eval_batch_size={self._eval_size}, so that all runs are measured alike"
                )

    def untrained(self) -> dict[str, float]:
        """Loss and metrics before training."""
        if self._live is None:
            return {}
        return self._evaluate(self._live)

    @property
    def misled(self) -> bool:
        """Whether what it is judged by has running averages of another point than the one judged."""
        return self._live is not None and misled(self._live.model, self._live.stepper.optimizer)

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should be told of its optimizer."""
        return () if self._live is None else self._live.notices

    def describe(self) -> str:
        """The model's class and a hash of the names and shapes of its parameters."""
        if self._live is None:
            return "too large for the device"
        return described(self._live.model)

    def _report(self, values: dict[str, float], outcome: Outcome | None = None, why: str = "") -> Report:
        point = Point(
            step=self._step,
            epoch=self._step / self._per_epoch,
            samples=self._samples,
            values=values,
            lr=self._last_rate(),
        )
        return Report(member=self.number, point=point, outcome=outcome, why=why)

    def _last_rate(self) -> float | None:
        """The learning rate of the last step."""
        if self._step == 0 or self._live is None:
            return None
        epoch, position = divmod(self._step - 1, self._per_epoch)
        return self._rates(self._live, epoch)[position]

    def end(self) -> None:
        """Free everything; the member can be restored, but not go on."""
        self.done = True
        self._seen = _EpochLosses()
        if self._live is not None:
            self._live.feed.release()
            self._live = None
            free_memory(self._settings.device)

    def suspend(self) -> None:
        """Move to the host what lies on the device."""
        if self._live is None:
            return
        self._live.feed.release()
        self._live.stepper.suspend()
        if self._settings.device.type != "cpu" and not self._parked:
            self._live.model.to(HOST)
            move_optimizer(self._live.stepper.optimizer, HOST)
            self._parked = True
            free_memory(self._settings.device)

    def _unpark(self, live: Live) -> None:
        if self._parked:
            live.model.to(self._settings.device)
            move_optimizer(live.stepper.optimizer, self._settings.device)
            self._parked = False

    def state(self) -> State:
        """All that it takes to go on.

        Raises
        ------
        TypeError
            If the optimizer keeps something that cannot be saved, or could not go on from what is saved.
        """
        head: State = {"recipe": self.recipe.to_json(), "done": self.done}
        live = self._live
        if live is None:
            return head
        if not live.restores:
            msg = "the optimizer would not go on as it was"
            raise TypeError(msg)
        return {
            **head,
            **snapshot.save_live(live),
            "step": self._step,
            "samples": self._samples,
            "total": self._seen.total,
            "count": self._seen.count,
            "guard": dict(self._guard.state()),
            "stream": self._stream.state(),
            "eval_size": self._eval_size,
        }

    def restore(self, saved: State) -> None:
        """Go on from a state.

        Raises
        ------
        InputError
            If it is of another recipe or model, or damaged.
        """
        if saved["recipe"] != self.recipe.to_json():
            msg = f"the state is of another recipe ({saved['recipe']}) than {self.recipe.to_json()}"
            raise InputError(msg)
        if saved["done"]:
            self.end()
            return
        self._reset()
        if self._live is not None:
            self._live.feed.release()
        self._live, self.done, self._no_room = None, False, ""
        if "model" not in saved:  # there was no room for it then
            self._guarded(self._built)
            return
        self._step, self._samples = int(saved["step"]), int(saved["samples"])
        self._seen = _EpochLosses(total=saved["total"], count=saved["count"])
        self._eval_size = saved["eval_size"]
        self._guard.restore(saved["guard"])
        self._guarded(lambda: self._rebuilt(saved))
        self._stream.restore(saved["stream"])

    def _rebuilt(self, saved: State) -> Live:
        live = self._built()
        snapshot.load_live(live, saved)
        return live
