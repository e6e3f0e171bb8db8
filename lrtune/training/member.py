"""One model in training: a recipe's steps, one after the other, with all that it takes to pause them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from lrtune.curve import Point
from lrtune.divergence import StepGuard
from lrtune.errors import InputError, RecipeError
from lrtune.outcome import Outcome
from lrtune.schedules import for_recipe
from lrtune.training import snapshot
from lrtune.training.base import Report
from lrtune.training.batches import TensorSource
from lrtune.training.calls import call_with
from lrtune.training.faults import first_line, is_out_of_memory
from lrtune.training.objectives import measure
from lrtune.training.optimizers import apply_lr, build, layer_groups
from lrtune.training.precision import autocast, free_memory
from lrtune.training.randomness import Stream, derived
from lrtune.training.stepper import NoMemoryError, Stepper
from lrtune.training.tensors import decoded, encoded, length

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from weakref import WeakSet

    from lrtune.recipe import Recipe
    from lrtune.training.base import State
    from lrtune.training.batches import Feed, Source
    from lrtune.training.objectives import Objective

__all__ = ["Member", "Settings"]

CHECK_EVERY = 64
"""Steps between two looks at gradients and weights; a run's pieces end with one, too."""

LOOK_EVERY = 16
"""Steps between two looks at the losses on a GPU, which each of them waits for; on the CPU each step is looked at."""

EVALUATION = 0xE7A1  # tells the stream of evaluations from the others of a seed
HOST = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to train: what the trainer was given, checked, the same for all its runs."""

    model: Callable[..., Any]
    train: Source
    valid: Source | None
    objective: Objective
    metrics: Mapping[str, Callable[[Any, Any], Any]]
    optimizer: str | Callable[..., torch.optim.Optimizer]
    options: Mapping[str, Any]
    groups: Callable[..., Any] | None
    device: torch.device
    precision: str
    batch_size: int
    eval_batch_size: int
    layer_decay: float | None
    clip_norm: float | None
    accumulate: int
    compiled: Mapping[str, Any] | None
    made: WeakSet[nn.Module]


class _Stop(Exception):  # noqa: N818 -- a message within this module, not an error
    """The member ends here; it never leaves this module."""

    def __init__(self, report: Report) -> None:
        self.report = report


@dataclass(slots=True)
class _Live:
    """What takes memory: gone as soon as the member has ended."""

    model: nn.Module
    forward: nn.Module
    stepper: Stepper
    feed: Feed
    schedule: Any
    wide: bool
    evaluation: Stream


@dataclass(slots=True)
class _Seen:
    """Losses not yet looked at, and the sum over the epoch of those that were."""

    total: float = 0.0
    count: int = 0
    losses: list[torch.Tensor] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    @property
    def values(self) -> dict[str, float]:
        """The mean training loss since the last full epoch."""
        return {"train_loss": self.total / self.count} if self.count else {}


class Member:
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

    def __init__(self, number: int, recipe: Recipe, settings: Settings) -> None:
        self.number, self.recipe, self._settings = number, recipe, settings
        self._per_epoch = settings.train.steps(recipe, settings.batch_size)
        self._total = recipe.epochs * self._per_epoch
        self._reset()
        self.done = False
        self._no_room = ""
        self._live: _Live | None = None
        self._guarded(self._build)

    def _reset(self) -> None:
        self._step = self._samples = 0
        self._seen = _Seen()
        self._guard = StepGuard()
        self._stream = Stream(self.recipe.seed, self._settings.device)
        self._eval_size = self._settings.eval_batch_size
        self._block: tuple[int, list[float]] = (-1, [])
        self._measured: tuple[int, dict[str, float]] = (-1, {})
        self._parked = False

    def _guarded(self, build: Callable[[], _Live]) -> None:
        """Build, and remember for the first report where there is no room even for the weights."""
        try:
            self._live = build()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._no_room = first_line(error)
        if self._no_room:
            free_memory(self._settings.device)

    def _build(self) -> _Live:
        settings, recipe = self._settings, self.recipe
        schedule = for_recipe(recipe, self._total)
        with self._stream.active():
            model = _fresh(settings, recipe)
            groups = self._groups(model)
            sparse = any(getattr(module, "sparse", False) for module in model.modules())
            optimizer = build(settings.optimizer, settings.options, groups, recipe, fuse=not sparse)
            compiled = settings.compiled
            forward = model if compiled is None else cast(nn.Module, torch.compile(model, **compiled))
        stepper = Stepper(
            forward,
            optimizer,
            settings.objective,
            device=settings.device,
            precision=settings.precision,
            clip_norm=settings.clip_norm,
            accumulate=settings.accumulate,
        )
        feed = settings.train.feed(recipe, settings.batch_size, settings.device)
        return _Live(
            model=model,
            forward=forward,
            stepper=stepper,
            feed=feed,
            schedule=schedule,
            wide=_runs_code(settings, model, optimizer),
            evaluation=Stream(derived(recipe.seed, EVALUATION), settings.device),
        )

    def _groups(self, model: nn.Module) -> list[dict[str, Any]]:
        if self._settings.groups is None:
            decay = self._settings.layer_decay if self.recipe.layer_decay is None else self.recipe.layer_decay
            groups = layer_groups(model, decay)
        else:
            made = call_with(self._settings.groups, model=model, recipe=self.recipe)
            groups = [{**group, "params": list(group["params"])} for group in made]
        if not any(group["params"] for group in groups):
            msg = "the model has no parameters to train; check requires_grad and param_groups"
            raise RecipeError(msg)
        return groups

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
            except _Stop as stop:
                return stop.report
            except NoMemoryError as error:
                why = first_line(error)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                why = first_line(error)
        return self._report(self._seen.values, Outcome.OUT_OF_MEMORY, f"memory ran out at step {self._step + 1}: {why}")

    def _piece(self, live: _Live, target: int, *, evaluate: bool) -> Report:
        every = 1 if self._settings.device.type == "cpu" else LOOK_EVERY
        while self._step < target:
            epoch, position = divmod(self._step, self._per_epoch)
            if position == 0:
                self._look()
                self._seen.total, self._seen.count = 0.0, 0
            apply_lr(live.stepper.optimizer, self._lr(live, epoch, position))
            batch = live.feed.batch(epoch, position)
            self._seen.losses.append(live.stepper.step(batch))
            self._seen.sizes.append(length(batch))
            self._samples += self._seen.sizes[-1]
            self._step += 1
            if self._step % every == 0:
                self._look()
            if self._step % CHECK_EVERY == 0:
                self._check(live)
            if live.schedule.listens and position + 1 == self._per_epoch:
                self._tell(live)
        self._look()
        self._check(live)
        values = {**self._seen.values, **(self._evaluate(live) if evaluate else {})}
        return self._report(values, Outcome.COMPLETED if self._step == self._total else None)

    def _lr(self, live: _Live, epoch: int, position: int) -> float:
        """The learning rate of a step; computed epoch by epoch, so that it never depends on the pieces."""
        if self._block[0] != epoch:
            first = epoch * self._per_epoch
            progress = np.arange(first, first + self._per_epoch) / self._total
            self._block = (epoch, np.asarray(live.schedule(progress), dtype=np.float64).tolist())
        return self.recipe.lr * self._block[1][position]

    def _look(self) -> None:
        """Read the losses of the last steps and judge each of them."""
        seen = self._seen
        if not seen.losses:
            return
        values = torch.stack(seen.losses).tolist() if len(seen.losses) > 1 else [float(seen.losses[0])]
        sizes, first = seen.sizes, self._step - len(values) + 1
        seen.losses, seen.sizes = [], []
        for place, loss in enumerate(values):
            outcome = self._guard.see(loss)
            if outcome is not None:
                self._step = first + place
                self._samples -= sum(sizes[place + 1 :])
                raise _Stop(self._report({"train_loss": loss}, outcome, self._guard.why))
            seen.total += loss
            seen.count += 1

    def _check(self, live: _Live) -> None:
        """Look at gradients and weights."""
        trouble = live.stepper.trouble()
        if trouble:
            self._look()
            why = f"{trouble} was NaN or infinite at step {self._step}"
            raise _Stop(self._report(self._seen.values, Outcome.NON_FINITE, why))

    def _tell(self, live: _Live) -> None:
        """Let a schedule hear how the epoch went: the held-out loss, or for `mode=max` the first metric."""
        self._look()
        heard = {**self._seen.values, **self._evaluate(live)}
        name = "valid_loss" if "valid_loss" in heard else "train_loss"
        if getattr(getattr(live.schedule, "after", live.schedule), "mode", "min") == "max":
            name = next(iter(self._settings.metrics), name)
        live.schedule.update(heard[name], progress=self._step / self._total)

    def _evaluate(self, live: _Live) -> dict[str, float]:
        """Loss and metrics of the held-out part, drawing from no stream that training draws from."""
        settings = self._settings
        if settings.valid is None or self._measured[0] == self._step:
            return self._measured[1]
        while True:
            batches = settings.valid.ordered(self._eval_size, settings.device)
            stream = live.evaluation.active(wide=live.wide, keep=False)
            try:
                with stream, autocast(settings.precision, settings.device):
                    values = measure(live.forward, settings.objective, settings.metrics, batches)
            except Exception as error:
                if not is_out_of_memory(error) or self._eval_size == 1:
                    raise
            else:
                self._measured = (self._step, values)
                return values
            free_memory(settings.device)
            self._eval_size //= 2

    def untrained(self) -> dict[str, float]:
        """Loss and metrics before training."""
        if self._live is None:
            return {}
        return self._evaluate(self._live)

    def describe(self) -> str:
        """The model's class and a hash of the names and shapes of its parameters."""
        if self._live is None:
            return "too large for the device"
        model = self._live.model
        shapes = [f"{name} {tuple(p.shape)} {p.dtype}" for name, p in model.named_parameters()]
        count = sum(parameter.numel() for parameter in model.parameters())
        digest = hashlib.sha256("\n".join(shapes).encode()).hexdigest()[:16]
        return f"{type(model).__name__}, {count} parameters in {len(shapes)} tensors, sha256 of shapes {digest}"

    def _report(self, values: dict[str, float], outcome: Outcome | None = None, why: str = "") -> Report:
        last = None
        if self._step > 0 and self._live is not None:
            last = self._lr(self._live, *divmod(self._step - 1, self._per_epoch))
        epoch = self._step / self._per_epoch
        point = Point(step=self._step, epoch=epoch, samples=self._samples, values=values, lr=last)
        return Report(member=self.number, point=point, outcome=outcome, why=why)

    def end(self) -> None:
        """Free everything; the member can be restored, but not go on."""
        self.done = True
        self._seen = _Seen()
        if self._live is not None:
            self._live.feed.release()
            self._live = None
            free_memory(self._settings.device)

    def park(self) -> None:
        """Move to the host what lies on the device."""
        if self._live is None:
            return
        self._live.feed.release()
        self._live.stepper.park()
        if self._settings.device.type != "cpu" and not self._parked:
            self._live.model.to(HOST)
            snapshot.move_optimizer(self._live.stepper.optimizer, HOST)
            self._parked = True
            free_memory(self._settings.device)

    def _unpark(self, live: _Live) -> None:
        if self._parked:
            live.model.to(self._settings.device)
            snapshot.move_optimizer(live.stepper.optimizer, self._settings.device)
            self._parked = False

    def state(self) -> State:
        """All that it takes to go on.

        Raises
        ------
        TypeError
            If the optimizer keeps something that cannot be saved.
        """
        head: State = {"recipe": self.recipe.to_json(), "done": self.done}
        live = self._live
        if live is None:
            return head
        scaler = live.stepper.scaler
        return head | {
            "step": self._step,
            "samples": self._samples,
            "total": self._seen.total,
            "count": self._seen.count,
            "guard": dict(self._guard.state()),
            "stream": self._stream.state(),
            "micro": live.stepper.micro,
            "eval_size": self._eval_size,
            "schedule": encoded(dict(live.schedule.state())) if live.schedule.listens else None,
            "scaler": None if scaler is None else encoded(scaler.state_dict()),
            "model": snapshot.save_model(live.model),
            "optimizer": snapshot.save_optimizer(live.stepper.optimizer),
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
        self._live, self.done = None, False
        live = self._build()
        snapshot.load_model(live.model, saved["model"])
        snapshot.load_optimizer(live.stepper.optimizer, saved["optimizer"])
        live.stepper.micro, self._eval_size = saved["micro"], saved["eval_size"]
        if live.stepper.scaler is not None and saved["scaler"] is not None:
            live.stepper.scaler.load_state_dict(decoded(saved["scaler"]))
        if saved["schedule"] is not None:
            live.schedule.restore(decoded(saved["schedule"]))
        self._step, self._samples = saved["step"], saved["samples"]
        self._seen = _Seen(total=saved["total"], count=saved["count"])
        self._guard.restore(saved["guard"])
        self._stream.restore(saved["stream"])
        self._live = live


def _runs_code(settings: Settings, model: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
    """Whether training runs code that is not PyTorch's, and so may draw from other generators than its own."""
    sources = [source for source in (settings.train, settings.valid) if source is not None]
    functions = [settings.objective.function, *settings.metrics.values()]
    parts = [*model.modules(), optimizer]
    homes = [str(getattr(function, "__module__", "")) for function in functions]
    homes += [type(part).__module__ for part in parts]
    known = all(isinstance(source, TensorSource) for source in sources)
    return not known or not all(home.startswith(("torch.", "lrtune.")) for home in homes)


def _fresh(settings: Settings, recipe: Recipe) -> nn.Module:
    """A model that nobody has trained yet, on the device."""
    model = call_with(settings.model, recipe=recipe)
    if not isinstance(model, nn.Module):
        msg = f"model must return a torch.nn.Module (got {type(model).__name__})"
        raise InputError(msg)
    if model in settings.made:
        msg = "model must make a fresh module each time it is called (it returned the same one again)"
        raise InputError(msg)
    settings.made.add(model)
    return model.to(settings.device)
