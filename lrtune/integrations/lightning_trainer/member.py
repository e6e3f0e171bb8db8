"""A Lightning module in training: its fit, made when it is first needed, and what is written when it is paused."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lrtune.core.outcome import Outcome
from lrtune.errors import InputError
from lrtune.integrations.lightning_trainer.live import NEVER, LiveFit, callback_of, quiet
from lrtune.training.member import MinibatchMember, TrainingStopped
from lrtune.training.networks.nested import length
from lrtune.training.networks.rng import RngStream, derived_seed
from lrtune.training.out_of_memory import first_line, is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from lrtune.core.recipe import Recipe
    from lrtune.training.base import Setup, State

__all__ = ["LightningMember", "LightningTask", "RunData"]

EVALUATION = 0xE7A1  # separates the random stream of evaluations from the others of a seed
QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "devices": 1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunData:
    """The data of a recipe: a feed of batches by (epoch, position), their number in an epoch, the held-out part."""

    feed: Any
    per_epoch: int
    valid: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class LightningTask:
    """What is trained, on what: the same for all runs of a trainer."""

    module: Callable[[Recipe], Any]
    data: Callable[[Recipe], RunData]
    options: Mapping[str, Any]
    loss: str
    setup: Callable[[LiveFit, Recipe], Setup]
    notices: dict[str, None] = field(default_factory=dict)

    @property
    def accumulate(self) -> int:
        """Batches of a step."""
        return int(self.options.get("accumulate_grad_batches", 1))

    def steps(self, recipe: Recipe) -> int:
        """Steps of one epoch."""
        return -(-self.data(recipe).per_epoch // self.accumulate)


class LightningMember(MinibatchMember):
    """One recipe of a run."""

    def __init__(self, number: int, recipe: Recipe, task: LightningTask) -> None:
        self.task = task
        super().__init__(number, recipe, task.steps(recipe))

    def reset(self) -> None:
        """Back to step 0, without a module."""
        super().reset()
        self.live: LiveFit | None = None
        self._saved: State | None = None
        self._data = self.task.data(self.recipe)
        self._stream = RngStream(self.recipe.seed)
        self._losses: list[float] = []
        self._evaluated: tuple[int, dict[str, float]] = (-1, {})

    def running(self) -> LiveFit:
        """The fit, begun now where it is not there; called with random numbers of the member's."""
        if self.live is None:
            from lightning.pytorch import Trainer

            task, data = self.task, self._data
            known: list[LiveFit] = []
            options = {**QUIET, **task.options, "max_epochs": self.recipe.epochs}
            options |= {"num_sanity_val_steps": 0, "check_val_every_n_epoch": NEVER}
            own = copy.deepcopy(options.pop("callbacks", None) or [])
            callbacks = [*(own if isinstance(own, list) else [own]), callback_of(known, task.accumulate)]
            live = LiveFit(
                task.module(self.recipe),
                Trainer(**options, callbacks=callbacks),
                data.valid,
                batch_at=self._batch_at,
                per_epoch=data.per_epoch,
                total=data.per_epoch * self.recipe.epochs,
                stepped=self._stepped,
                rate=self._rate,
            )
            known.append(live)
            live.begin(self._saved)
            self.live, self._saved = live, None
            for name in live.replaced:
                task.notices[f"the scheduler of the module ({name}) has been replaced by lrtune's"] = None
        return self.live

    def _batch_at(self, epoch: int, position: int) -> Any:
        batch = self._data.feed.batch(epoch, position)
        self.samples += length(batch)
        return list(batch) if isinstance(batch, tuple) and type(batch) is tuple else batch

    def _rate(self) -> float:
        epoch, position = divmod(self.step, self.per_epoch)
        return self.rates(epoch)[position]

    def _stepped(self, loss: float) -> None:
        """The loss of a batch, of which a step may have several."""
        self._losses.append(loss)
        position = self.step % self.per_epoch
        left = self._data.per_epoch - position * self.task.accumulate
        if len(self._losses) < min(self.task.accumulate, left):
            return
        losses, self._losses = self._losses, []
        self.step += 1
        self.record(sum(losses) / len(losses))

    def setup(self) -> Setup:
        """How it was set up beyond its recipe; the fit begins, if it had not yet, and waits for its first step."""
        if self.live is None and not self.done:
            try:
                with self._begun(), quiet():
                    self.running()
            except Exception as error:
                if self.stopped(error) is None:
                    raise
        return {} if self.live is None else self.task.setup(self.live, self.recipe)

    def _begun(self) -> AbstractContextManager[object]:
        """The random numbers with which a fit begins: its own, or where it goes on none of those that were saved."""
        return (self._stream if self._saved is None else RngStream(self.recipe.seed)).active()

    def watched(self) -> str:
        """Name of the value by which a metric-driven schedule is updated."""
        values = self._evaluated[1]
        others = [name for name in values if name != "valid_loss"]
        return "valid_loss" if self.schedule.minimizes or not others else others[0]

    def stopped(self, error: Exception) -> TrainingStopped | None:
        """Out of memory is an outcome."""
        if not is_out_of_memory(error):
            return None
        why = f"memory ran out at step {self.step + 1}: {first_line(error)}"
        return TrainingStopped(Outcome.OUT_OF_MEMORY, why, self.mean_loss)

    def train_to(self, target: int, *, evaluate: bool) -> dict[str, float]:
        """Train up to a step with the member's own random numbers; its losses must be finite."""
        if self.live is None and self._saved is not None:
            with self._begun(), quiet():
                self.running()
        with self._stream.active(), quiet():
            values = super().train_to(target, evaluate=evaluate)
        for name, value in values.items():
            if "loss" in name and not math.isfinite(value):
                raise TrainingStopped(Outcome.NON_FINITE, f"{name} was {value} at step {self.step}", values)
        return values

    def train(self, epoch: int, begin: int, end: int) -> None:
        """Train on the minibatches of an epoch from position `begin` to `end`."""
        del begin
        per_epoch = self._data.per_epoch
        self.running().train_to(epoch * per_epoch + min(end * self.task.accumulate, per_epoch))

    def evaluate(self) -> dict[str, float]:
        """What the module logs of the held-out part, with random numbers of their own."""
        if self._data.valid is None or self._evaluated[0] == self.step:
            return self._evaluated[1]
        live = self.running()
        with RngStream(derived_seed(self.recipe.seed, EVALUATION)).active():
            values = live.ask(live.evaluate)
        if self.task.loss not in values:
            msg = (
                f"validation_step must log the held-out loss as {self.task.loss!r} "
                f"(got {', '.join(values) or 'nothing'}); name it: LightningTrainer(..., loss=...)"
            )
            raise InputError(msg)
        named = {"valid_loss" if name == self.task.loss else name: value for name, value in values.items()}
        self._evaluated = (self.step, named)
        return named

    def end(self) -> None:
        """Free everything; the member can be restored, but not continue."""
        super().end()
        self._saved = None
        live, self.live = self.live, None
        if live is not None:
            with quiet():
                live.end()
        self._data.feed.release()

    def suspend(self) -> None:
        """End worker processes; on a GPU the run waits as arrays on the host."""
        self._data.feed.release()
        if self.live is not None and self.live.module.device.type != "cpu":
            saved = self.live.ask(self.live.state)
            with quiet():
                self.live.end()
            self.live, self._saved = None, saved

    def state(self) -> State:
        """What :meth:`restore` takes: weights, optimizer, loops, callbacks, counters and random numbers."""
        head: State = {"recipe": self.recipe.to_json(), "done": self.done}
        if self.done:
            return head
        return {
            **head,
            "fit": self._saved if self.live is None else self.live.ask(self.live.state),
            "schedule": dict(self.schedule.state()),
            "step": self.step,
            "samples": self.samples,
            "total": self.loss_sum,
            "count": self.loss_weight,
            "guard": dict(self.guard.state()),
            "stream": self._stream.state(),
        }

    def restore(self, saved: State) -> None:
        """Continue from a state; InputError if it is of another recipe or module."""
        if saved["recipe"] != self.recipe.to_json():
            msg = f"the state is of another recipe ({saved['recipe']}) than {self.recipe.to_json()}"
            raise InputError(msg)
        self.end()
        if saved["done"]:
            return
        self.reset()
        self.step, self.samples = int(saved["step"]), int(saved["samples"])
        self.loss_sum, self.loss_weight = float(saved["total"]), float(saved["count"])
        self.guard.restore(saved["guard"])
        self.schedule.restore(saved["schedule"])
        self._stream.restore(saved["stream"])
        self._saved = saved["fit"]
        self.done = False
        if self._saved is not None:
            with RngStream(self.recipe.seed).active(), quiet():
                self.running()  # a state of another module is refused now
