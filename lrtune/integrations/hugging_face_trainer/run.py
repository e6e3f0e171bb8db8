"""One ``transformers.Trainer`` in training: its steps, the held-out loss, divergence, and what a pause writes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from lrtune.core.outcome import Outcome
from lrtune.errors import InputError
from lrtune.integrations.hugging_face_trainer.live import HuggingFaceSettings, LiveTrainer, build_live
from lrtune.training.member import MinibatchMember, TrainingStopped
from lrtune.training.networks.amp import free_memory
from lrtune.training.networks.nested import decoded, encoded
from lrtune.training.networks.optimizer_setup import optimizer_setup
from lrtune.training.networks.optimizer_state import load_optimizer, move_optimizer, save_optimizer
from lrtune.training.networks.weights import load_weights, save_weights
from lrtune.training.out_of_memory import first_line, is_out_of_memory
from lrtune.training.setups import reference

if TYPE_CHECKING:
    from lrtune.core.recipe import Recipe
    from lrtune.training.base import Setup, State

__all__ = ["HuggingFaceMember"]

CHECK_EVERY = 64
"""Steps between two checks that the weights are finite; each advance ends with one, too."""

HOST = torch.device("cpu")
SETTINGS = (
    *("per_device_train_batch_size", "gradient_accumulation_steps", "optim", "optim_args", "weight_decay"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "label_smoothing_factor", "bf16", "fp16"),
    *("neftune_noise_alpha", "dataloader_drop_last"),
)
"""Arguments that a snippet for transformers needs."""


class OutOfMemoryAtBuildError(Exception):
    """Memory ran out as the Trainer was made; it never leaves the run."""


class HuggingFaceMember(MinibatchMember):
    """One recipe of a run; `live` is None once it has ended, or where memory ran out as the Trainer was made."""

    live: LiveTrainer | None

    def __init__(self, number: int, recipe: Recipe, settings: HuggingFaceSettings) -> None:
        self.settings = settings
        live, why = _built(settings, recipe)
        super().__init__(number, recipe, settings.steps.get(recipe.batch_size, 1))
        self.live, self._out_of_memory = live, why

    def reset(self) -> None:
        """Back to step 0, without a Trainer."""
        super().reset()
        self.live = None
        self._evaluated: tuple[int, dict[str, float]] = (-1, {})
        self._on_host = False
        self._out_of_memory = ""

    def _running(self) -> LiveTrainer:
        if self.live is None:
            raise OutOfMemoryAtBuildError(self._out_of_memory)
        return self.live

    def watched(self) -> str:
        """What a metric-driven schedule is updated with: the held-out loss, or for `mode=max` the first other metric.

        Where there is none, as of several held-out parts, the training loss.
        """
        values = self._evaluated[1]
        if not self.schedule.minimizes:
            return next((name for name in values if not name.endswith("loss")), "train_loss")
        held_out = self._running().trainer.eval_dataset
        return "valid_loss" if "valid_loss" in values or not isinstance(held_out, dict | None) else "train_loss"

    def stopped(self, error: Exception) -> TrainingStopped | None:
        """Out of memory is an outcome."""
        if not isinstance(error, OutOfMemoryAtBuildError) and not is_out_of_memory(error):
            return None
        why = f"memory ran out at step {self.step + 1}: {first_line(error)}"
        return TrainingStopped(Outcome.OUT_OF_MEMORY, why, self.mean_loss)

    def train_to(self, target: int, *, evaluate: bool) -> dict[str, float]:
        """Train up to a step, on the device, with the member's own random numbers."""
        live = self._running()
        if self._on_host:
            self._move(live, live.trainer.args.device)
        with live.stream.active():
            return super().train_to(target, evaluate=evaluate)

    def train(self, epoch: int, begin: int, end: int) -> None:
        """Train on the steps of an epoch from position `begin` to `end`."""
        live, rates = self._running(), self.rates(epoch)
        if begin == 0:
            live.event("on_epoch_begin")
        for position in range(begin, end):
            loss, norm, samples = live.step(epoch, position, rates[position])
            self.step += 1
            self.samples += samples
            self.record(loss)
            if not math.isfinite(norm):
                why = f"a gradient was NaN or infinite at step {self.step}"
                raise TrainingStopped(Outcome.NON_FINITE, why, self.mean_loss)
            if live.stepped(self.step, self.step / self.per_epoch) and self.step < self.total_steps:
                raise self._stop_asked()
            if self.step % CHECK_EVERY == 0:
                self.check()
        if end == self.per_epoch:
            live.event("on_epoch_end")
        if self.step == self.total_steps:
            live.event("on_train_end")

    def _stop_asked(self) -> TrainingStopped:
        why = f"a callback stopped the training at step {self.step} of {self.total_steps}"
        self.settings.notify(f"{why}: such a run counts as trained to its end")
        self.check()
        return TrainingStopped(Outcome.COMPLETED, why, {**self.mean_loss, **self.evaluate()})

    def check(self) -> None:
        """Stop where a weight is not finite."""
        weights = [p.detach() for p in self._running().model.parameters() if p.requires_grad and p.numel()]
        largest = [torch.linalg.vector_norm(weight, math.inf).float() for weight in weights]
        if largest and not all(map(math.isfinite, torch.stack(largest).tolist())):
            why = f"a weight was NaN or infinite at step {self.step}"
            raise TrainingStopped(Outcome.NON_FINITE, why, self.mean_loss)

    def evaluate(self) -> dict[str, float]:
        """What ``Trainer.evaluate()`` measures, and its ``eval_loss`` as ``valid_loss``, too."""
        live = self._running()
        if live.trainer.eval_dataset is not None and self._evaluated[0] != self.step:
            values, asked = live.evaluate()
            self._evaluated = (self.step, values)
            if asked:
                self.settings.notify(
                    "a callback asked to stop at an evaluation, which is not done: lrtune decides which run goes on"
                )
        return self._evaluated[1]

    def setup(self) -> Setup:
        """How it was set up beyond its recipe; empty where memory ran out as it was made.

        What a PyTorch run has, with ``library`` as ``"transformers"``; as ``arguments``, the ``TrainingArguments``
        that a program needs to train the same beside the recipe; as ``trainer``, the class of the Trainer; and as
        ``own_optimizer`` whether it was given its optimizer.
        """
        if self.live is None:
            return {}
        args = self.live.trainer.args
        values = {name: getattr(args, name, None) for name in SETTINGS}
        return {
            "library": "transformers",
            "trainer": reference(type(self.live.trainer)),
            "own_optimizer": self.live.own_optimizer,
            "arguments": {name: getattr(value, "value", value) for name, value in values.items()},
            "optimizers": optimizer_setup(self.live.trainer.model, self.live.optimizer),
            "steps": self.total_steps,
            "batch_size": args.per_device_train_batch_size * args.gradient_accumulation_steps,
            "clip_norm": args.max_grad_norm or None,
            "accumulate": args.gradient_accumulation_steps,
            "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "float32",
            "device": args.device.type,
            "hears": self.watched(),
        }

    def end(self) -> None:
        """Free everything; the member can be restored, but not continue."""
        super().end()
        if self.live is not None:
            self.live.end()
            self.live = None
            free_memory(self.settings.device)

    def suspend(self) -> None:
        """Move to the host what lies on the device; end worker processes."""
        live = self.live
        if live is None:
            return
        live.feed.release()
        if live.trainer.args.device.type != "cpu" and not self._on_host:
            self._move(live, HOST)
            free_memory(self.settings.device)

    def _move(self, live: LiveTrainer, device: torch.device) -> None:
        live.model.to(device)
        move_optimizer(live.optimizer, device)
        self._on_host = device.type == "cpu"

    def state(self) -> State:
        """What :meth:`restore` takes; TypeError if the optimizer or a callback holds what cannot be saved."""
        head: State = {"recipe": self.recipe.to_json(), "done": self.done}
        live = self.live
        if live is None:
            return head
        scaler = live.trainer.accelerator.scaler
        return {
            **head,
            "schedule": encoded(dict(self.schedule.state())) if self.schedule.metric_driven else None,
            "scaler": None if scaler is None else encoded(scaler.state_dict()),
            "model": save_weights(live.trainer.model),
            "optimizer": save_optimizer(live.optimizer),
            "callbacks": [encoded(attributes) for attributes in live.callback_states()],
            "step": self.step,
            "samples": self.samples,
            "total": self.loss_sum,
            "count": self.loss_weight,
            "guard": dict(self.guard.state()),
            "stream": live.stream.state(),
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
        self.done = False
        live, self._out_of_memory = _built(self.settings, self.recipe)
        if "model" not in saved or live is None:  # memory ran out as it was made
            return
        self.live = live
        self.step, self.samples = int(saved["step"]), int(saved["samples"])
        self.loss_sum, self.loss_weight = saved["total"], saved["count"]
        self.guard.restore(saved["guard"])
        if saved["schedule"] is not None:
            self.schedule.restore(decoded(saved["schedule"]))
        load_weights(live.trainer.model, saved["model"])
        load_optimizer(live.optimizer, saved["optimizer"])
        if saved["scaler"] is not None and live.trainer.accelerator.scaler is not None:
            live.trainer.accelerator.scaler.load_state_dict(decoded(saved["scaler"]))
        live.set_callback_states([decoded(attributes) for attributes in saved["callbacks"]])
        live.trainer.state.global_step, live.trainer.state.epoch = self.step, self.step / self.per_epoch
        live.stream.restore(saved["stream"])


def _built(settings: HuggingFaceSettings, recipe: Recipe) -> tuple[LiveTrainer | None, str]:
    """A Trainer ready to train, or None and why memory ran out."""
    try:
        return build_live(settings, recipe), ""
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        why = first_line(error)
    free_memory(settings.device)  # not within the handler, whose traceback holds tensors
    return None, why
