"""One model in training: its steps, the held-out loss, out of memory, and what is written when it is paused."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch

from lrtune.core.outcome import Outcome
from lrtune.errors import InputError
from lrtune.training.member import MinibatchMember, TrainingStopped
from lrtune.training.networks.amp import autocast, free_memory
from lrtune.training.networks.averaged_weights import at_averaged_weights, has_averaged_weights
from lrtune.training.networks.build import LiveModel, NetworkSettings, build_live, setup_of_live
from lrtune.training.networks.evaluation import measure
from lrtune.training.networks.nested import decoded, encoded, length
from lrtune.training.networks.optimizer_state import load_optimizer, move_optimizer, save_optimizer
from lrtune.training.networks.optimizers import apply_lr
from lrtune.training.networks.rng import RngStream
from lrtune.training.networks.step import NoMemoryError
from lrtune.training.networks.weights import load_weights, save_weights
from lrtune.training.out_of_memory import first_line, is_out_of_memory

if TYPE_CHECKING:
    from torch import nn

    from lrtune.core.recipe import Recipe
    from lrtune.training.base import Setup, State

__all__ = ["CHECK_EVERY", "READ_EVERY", "NetworkMember"]

CHECK_EVERY = 64
"""Steps between two checks that gradients and weights are finite; each advance ends with one, too."""

READ_EVERY = 16
"""Steps between two reads of the losses on a GPU, which wait for it; on the CPU each step is read."""

HOST = torch.device("cpu")


class NetworkMember(MinibatchMember):
    """One recipe of a run.

    Attributes
    ----------
    live
        The model in training; None once it has ended, or where memory ran out as the model was made.
    stream
        Its random numbers.
    on_host
        Whether it is suspended: its tensors are on the host, and belong on a GPU.
    eval_size
        Samples evaluated at once, halved when memory runs out.
    """

    def __init__(self, number: int, recipe: Recipe, settings: NetworkSettings) -> None:
        self.settings = settings
        super().__init__(number, recipe, settings.train.steps(recipe, settings.batch_size))
        self._build()

    def reset(self) -> None:
        """Back to step 0, without a model."""
        super().reset()
        self.live: LiveModel | None = None
        self._unread: list[tuple[torch.Tensor, int, Any]] = []  # losses, their samples and targets (or weights)
        self.stream = RngStream(self.recipe.seed, self.settings.device)
        self.eval_size = self.settings.eval_batch_size
        self._evaluated: tuple[int, dict[str, float]] = (-1, {})
        self.on_host = False
        self._out_of_memory = ""

    def _build(self, saved: State | None = None) -> None:
        """Make the model, and give it a saved state; where memory runs out the next advance reports it."""
        try:
            with self.stream.active():
                live = build_live(self.settings, self.recipe)
            if saved is not None:
                _load(live, saved)
            self.live = live
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._out_of_memory = first_line(error)
        if self._out_of_memory:  # not within the handler, whose traceback holds tensors
            free_memory(self.settings.device)

    def running(self) -> LiveModel:
        """The model in training; NoMemoryError where memory ran out as it was made."""
        if self.live is None:
            raise NoMemoryError(self._out_of_memory)
        return self.live

    def setup(self) -> Setup:
        """How it was set up beyond its recipe; empty where memory ran out as it was made."""
        if self.live is None:
            return {}
        return setup_of_live(self.settings, self.live, self.recipe, self.total_steps, self.watched())

    def watched(self) -> str:
        """Name of the value by which a metric-driven schedule is updated."""
        return self.settings.watched(self.schedule)

    def stopped(self, error: Exception) -> TrainingStopped | None:
        """Out of memory is an outcome."""
        if not isinstance(error, NoMemoryError) and not is_out_of_memory(error):
            return None
        why = f"memory ran out at step {self.step + 1}: {first_line(error)}"
        return TrainingStopped(Outcome.OUT_OF_MEMORY, why, self.mean_loss)

    def train_to(self, target: int, *, evaluate: bool) -> dict[str, float]:
        """Train up to a step, on the device, with the member's own random numbers."""
        live = self.running()
        self.to_device()
        with self.stream.active(all_libraries=live.user_code):
            return super().train_to(target, evaluate=evaluate)

    def to_device(self) -> None:
        """Move back what was suspended."""
        if self.on_host and self.live is not None:
            self.live.model.to(self.settings.device)
            move_optimizer(self.live.stepper.optimizer, self.settings.device)
            self.on_host = False

    def train(self, epoch: int, begin: int, end: int) -> None:
        """Train on the minibatches of an epoch from position `begin` to `end`."""
        live = self.running()
        on_cpu = self.settings.device.type == "cpu"
        stepper, batch_at, rates = live.stepper, live.feed.batch, self.rates(epoch)
        optimizer, step = stepper.optimizer, stepper.step
        for position in range(begin, end):
            apply_lr(optimizer, rates[position])
            batch = batch_at(epoch, position)
            loss = step(batch)
            size = length(batch)
            self.samples += size
            self.step += 1
            if on_cpu:
                value = loss.item()
                if value == value or stepper.has_loss(stepper.loss_weight(batch)):  # noqa: PLR0124 -- not NaN
                    self.record(value)
            else:
                self._unread.append((loss, size, stepper.loss_weight(batch)))
                if self.step % READ_EVERY == 0:
                    self._read()
            if self.step % CHECK_EVERY == 0:
                self.check()
        self._read()

    def _read(self) -> None:
        """Read the last losses from the GPU; where one has diverged, the steps after it do not count."""
        if not self._unread:
            return
        unread, self._unread = self._unread, []
        values = torch.stack([loss for loss, _, _ in unread]).tolist()
        for place, (value, (_, _, weight)) in enumerate(zip(values, unread, strict=True)):
            if math.isnan(value) and not self.running().stepper.has_loss(weight):
                continue
            try:
                self.record(value)
            except TrainingStopped:
                later = unread[place + 1 :]
                self.step -= len(later)
                self.samples -= sum(size for _, size, _ in later)
                raise

    def check(self) -> None:
        """Stop where a gradient or weight is not finite."""
        found = self.running().stepper.non_finite()
        if found:
            self._read()
            raise self.not_finite(found)

    def not_finite(self, found: str) -> TrainingStopped:
        """The outcome that a gradient or weight means which is not finite."""
        why = f"{found} was NaN or infinite at step {self.step}"
        return TrainingStopped(Outcome.NON_FINITE, why, self.mean_loss)

    def evaluate(self) -> dict[str, float]:
        """Loss and metrics of the held-out part, with random numbers of their own; in smaller batches out of memory."""
        settings, live = self.settings, self.running()
        if settings.valid is None or self.is_evaluated:
            return self._evaluated[1]
        while True:
            batches = settings.valid.ordered(settings.eval_batch_size, settings.device)
            stream = live.eval_stream.active(all_libraries=live.user_code, keep=False)
            precision = autocast(settings.precision, settings.device)
            try:
                with at_averaged_weights(live.stepper.optimizer), stream, precision:
                    values = measure(
                        live.forward,
                        settings.objective,
                        settings.metrics,
                        batches,
                        most=self.eval_size,
                        notify=settings.notify,
                    )
            except Exception as error:
                if not is_out_of_memory(error) or self.eval_size == 1:
                    raise
            else:
                self.keep_evaluated(values)
                return values
            free_memory(settings.device)
            self.eval_size //= 2
            if settings.objective.custom_forward:
                settings.notify(
                    f"memory ran out in the evaluation, and held-out batches are cut to {self.eval_size} samples; "
                    f"give eval_batch_size={self.eval_size}, so that all runs are measured alike"
                )

    @property
    def is_evaluated(self) -> bool:
        """Whether it has been measured at this step."""
        return self._evaluated[0] == self.step

    def keep_evaluated(self, values: dict[str, float]) -> None:
        """Note what was measured at this step."""
        self._evaluated = (self.step, values)

    def end(self) -> None:
        """Free everything; the member can be restored, but not continue."""
        super().end()
        self._unread = []
        if self.live is not None:
            self.live.feed.release()
            self.live = None
            free_memory(self.settings.device)

    def finish(self) -> None:
        """The model stays until the run is closed; worker processes end."""
        super().finish()
        if self.live is not None:
            self.live.feed.release()

    def model(self) -> nn.Module:
        """The module on the CPU in eval mode, at the averaged weights where the optimizer has such."""
        live = self.running()
        if has_averaged_weights(live.stepper.optimizer):
            cast("Any", live.stepper.optimizer).eval()
        live.stepper.zero_grad()
        return live.model.to(HOST).eval()

    def suspend(self) -> None:
        """Move to the host what lies on the device; end worker processes."""
        live = self.live
        if live is None:
            return
        live.feed.release()
        live.stepper.zero_grad()
        if self.settings.device.type != "cpu" and not self.on_host:
            live.model.to(HOST)
            move_optimizer(live.stepper.optimizer, HOST)
            self.on_host = True
            free_memory(self.settings.device)

    def state(self) -> State:
        """What :meth:`restore` takes: weights, optimizer, schedule, counters, random numbers.

        TypeError if the optimizer holds what cannot be saved, or would not continue bit for bit from what is
        saved.
        """
        head: State = {"recipe": self.recipe.to_json(), "done": self.done}
        live = self.live
        if live is None:
            return head
        if not live.restorable:
            msg = "the optimizer would not continue as it was"
            raise TypeError(msg)
        scaler = live.stepper.scaler
        return {
            **head,
            "micro": live.stepper.micro_batch,
            "whole_only": live.stepper.never_split,
            "schedule": encoded(dict(self.schedule.state())) if self.schedule.metric_driven else None,
            "scaler": None if scaler is None else encoded(scaler.state_dict()),
            "model": save_weights(live.model),
            "optimizer": save_optimizer(live.stepper.optimizer),
            "step": self.step,
            "samples": self.samples,
            "total": self.loss_sum,
            "count": self.loss_weight,
            "guard": dict(self.guard.state()),
            "stream": self.stream.state(),
            "eval_size": self.eval_size,
        }

    def restore(self, saved: State) -> None:
        """Continue from a state; InputError if it is of another recipe or model."""
        if saved["recipe"] != self.recipe.to_json():
            msg = f"the state is of another recipe ({saved['recipe']}) than {self.recipe.to_json()}"
            raise InputError(msg)
        self.end()
        if "model" not in saved:
            if saved["done"]:
                return
            self.reset()
            self.done = False
            self._build()  # memory ran out as it was made
            return
        self.reset()
        self.done = bool(saved["done"])
        self.step, self.samples = int(saved["step"]), int(saved["samples"])
        self.loss_sum, self.loss_weight = saved["total"], saved["count"]
        self.eval_size = saved["eval_size"]
        self.guard.restore(saved["guard"])
        if saved["schedule"] is not None:
            self.schedule.restore(decoded(saved["schedule"]))
        self._build(saved)
        self.stream.restore(saved["stream"])


def _load(live: LiveModel, saved: State) -> None:
    """Give a model just made the weights and the optimizer's state of a saved one."""
    load_weights(live.model, saved["model"])
    stepper = live.stepper
    load_optimizer(stepper.optimizer, saved["optimizer"])
    stepper.never_split = bool(saved.get("whole_only"))  # early states have none
    stepper.micro_batch, stepper.begun = saved["micro"], saved["step"] > 0
    if stepper.scaler is not None and saved["scaler"] is not None:
        stepper.scaler.load_state_dict(decoded(saved["scaler"]))
