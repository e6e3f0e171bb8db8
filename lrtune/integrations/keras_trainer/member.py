"""A Keras model in training: made when it is first needed, trained step by step, evaluated, saved and restored."""

from __future__ import annotations

import contextlib
import gc
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lrtune.core.outcome import Outcome
from lrtune.errors import InputError
from lrtune.integrations.keras_trainer.stepper import KerasStepper, stepper_for
from lrtune.training.member import MinibatchMember, TrainingStopped
from lrtune.training.networks.rng import RngStream, derived_seed
from lrtune.training.out_of_memory import first_line, is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lrtune.core.recipe import Recipe
    from lrtune.integrations.keras_trainer.data import Batch, Source
    from lrtune.training.base import Setup, State

__all__ = ["KerasMember", "KerasTask"]

EVALUATION = 0xE7A1  # separates the random stream of evaluations from the others of a seed


@dataclass(frozen=True, slots=True, kw_only=True)
class KerasTask:
    """What is trained, on what: the same for all runs of a trainer.

    `compiled` makes the compiled model of a recipe, `names` are what the values of an evaluation are called.
    """

    compiled: Callable[[Recipe], Any]
    train: Source
    valid: Source | None
    batch_size: int
    eval_batch_size: int
    on_device: bool
    setup: Callable[[Any, Recipe], Setup]
    names: list[str] = field(default_factory=list)

    def steps(self, recipe: Recipe) -> int:
        """Steps of one epoch."""
        return self.train.steps(recipe, self.batch_size)

    def called(self, values: dict[str, float], own: dict[str, str]) -> dict[str, float]:
        """Values under the names that the first model's have: Keras numbers the names of later ones."""
        renamed = {own.get(name, name): value for name, value in values.items()}
        if not self.names:
            self.names.extend(renamed)
        if len(self.names) == len(renamed):
            renamed = dict(zip(self.names, renamed.values(), strict=True))
        return {"valid_loss" if name == "loss" else name: value for name, value in renamed.items()}


class KerasMember(MinibatchMember):
    """One recipe of a run."""

    def __init__(self, number: int, recipe: Recipe, task: KerasTask) -> None:
        self.task = task
        super().__init__(number, recipe, task.steps(recipe))

    def reset(self) -> None:
        """Back to step 0, without a model."""
        super().reset()
        self.live: KerasStepper | None = None
        self._saved: State | None = None
        self._stream = RngStream(self.recipe.seed)
        self._feed = self.task.train.feed(self.recipe, self.task.batch_size)
        self._valid: list[Batch] | None = None
        self._evaluated: tuple[int, dict[str, float]] = (-1, {})

    def _running(self) -> KerasStepper:
        """The model, made now where it is not there; called with the member's random numbers."""
        if self.live is None:
            live = stepper_for(self.task.compiled(self.recipe))
            with RngStream(0).active():  # a model without an input shape is called once
                live.build(self._feed.batch(0, 0))
            if self._saved is not None:
                live.restore(self._saved)
            self.live, self._saved = live, None
        return self.live

    @contextlib.contextmanager
    def active(self) -> Iterator[KerasStepper]:
        """With the member's model and random numbers; one made anew for a saved state takes none of them."""
        if self.live is None and self._saved is not None:
            with RngStream(self.recipe.seed).active():
                self._running()
        with self._stream.active():
            yield self._running()

    def setup(self) -> Setup:
        """How it was set up beyond its recipe; the model is made, if it was not yet, and waits for its first step."""
        live = self.live
        if live is None and not self.done:
            try:
                with self.active() as live:
                    pass
            except Exception as error:
                if self.stopped(error) is None:
                    raise
        return self.task.setup(None if live is None else live.model, self.recipe)

    def watched(self) -> str:
        """Name of the value by which a metric-driven schedule is updated."""
        if self.task.valid is None:
            return "train_loss"
        others = [name for name in self.task.names if name != "loss"]
        return "valid_loss" if self.schedule.minimizes or not others else others[0]

    def stopped(self, error: Exception) -> TrainingStopped | None:
        """Out of memory is an outcome."""
        if not is_out_of_memory(error) and type(error).__name__ != "ResourceExhaustedError":  # TensorFlow's
            return None
        why = f"memory ran out at step {self.step + 1}: {first_line(error)}"
        return TrainingStopped(Outcome.OUT_OF_MEMORY, why, self.mean_loss)

    def train_to(self, target: int, *, evaluate: bool) -> dict[str, float]:
        """Train up to a step with the member's own random numbers; its losses must be finite."""
        with self.active():
            values = super().train_to(target, evaluate=evaluate)
        for name, value in values.items():
            if "loss" in name and not math.isfinite(value):
                raise TrainingStopped(Outcome.NON_FINITE, f"{name} was {value} at step {self.step}", values)
        return values

    def train(self, epoch: int, begin: int, end: int) -> None:
        """Train on the batches of an epoch from position `begin` to `end`."""
        live, rates, batch_at = self._running(), self.rates(epoch), self._feed.batch
        for position in range(begin, end):
            batch = batch_at(epoch, position)
            loss = live.step(batch, rates[position])
            self.samples += samples_of(batch)
            self.step += 1
            self.record(loss)
        live.sync()

    def evaluate(self) -> dict[str, float]:
        """Loss and metrics of the held-out part, with random numbers of their own."""
        task = self.task
        if task.valid is None:
            return {}
        if self._evaluated[0] != self.step:
            live = self._running()
            with RngStream(derived_seed(self.recipe.seed, EVALUATION)).active():
                values = live.evaluate(task.valid.ordered(self.recipe, task.eval_batch_size))
            self._evaluated = (self.step, task.called(values, metric_names(live.model)))
        return self._evaluated[1]

    def end(self) -> None:
        """Free everything; the member can be restored, but not continue."""
        super().end()
        self._feed.release()
        self._saved = None
        if self.live is not None:
            self.live = None
            gc.collect()  # a Keras model refers to itself

    def suspend(self) -> None:
        """Free the order of the batches; on an accelerator the model waits as arrays on the host."""
        self._feed.release()
        if self.task.on_device and self.live is not None:
            self._saved, self.live = self.live.state(), None
            gc.collect()

    def state(self) -> State:
        """What :meth:`restore` takes: all variables, seeds included, counters and random numbers."""
        head: State = {"recipe": self.recipe.to_json(), "done": self.done}
        if self.done:
            return head
        return {
            **head,
            "variables": self._saved if self.live is None else self.live.state(),
            "schedule": dict(self.schedule.state()),
            "step": self.step,
            "samples": self.samples,
            "total": self.loss_sum,
            "count": self.loss_weight,
            "guard": dict(self.guard.state()),
            "stream": self._stream.state(),
        }

    def restore(self, saved: State) -> None:
        """Continue from a state; InputError if it is of another recipe or model."""
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
        self._saved = saved["variables"]
        self.done = False
        if self._saved is not None:
            with self.active():  # a state of another model is refused now
                pass


def samples_of(batch: Batch) -> int:
    """Samples of a batch: the first dimension of its first array."""
    from keras import tree

    first = batch[0] if hasattr(batch[0], "shape") else tree.flatten(batch[0])[0]
    return int(first.shape[0]) if len(first.shape) else 0


def metric_names(model: Any) -> dict[str, str]:
    """Names of metrics that Keras has numbered, such as ``auc_3``, and what they are called in a first model."""
    import re

    found: dict[str, str] = {}
    counts: dict[str, int] = {}
    for metric in model.metrics:
        for one in getattr(metric, "metrics", None) or [metric]:
            base = re.sub(r"_\d+$", "", one.name)
            if base != re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(one).__name__).lower():
                continue
            number = counts[base] = counts.get(base, -1) + 1
            found[one.name] = f"{base}_{number}" if number else base
    return found
