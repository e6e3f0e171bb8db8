"""What somebody uses as a :class:`.source.Source`: objects of other libraries by what they have, none imported.

A scheduler that keeps a state is stepped as a copy that shares the parameters, and none of its optimizer's state.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lrtune.core.recipe import Recipe
from lrtune.errors import InputError
from lrtune.reporting.explain.configurations import mapping
from lrtune.reporting.explain.source import Source, one_by_one
from lrtune.schedules import for_recipe, multipliers, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrtune.schedules.base import Floats

__all__ = ["read"]

LENGTHS = ("total_steps", "T_max", "total_iters", "num_training_steps")
"""Attributes and keywords in which a scheduler of PyTorch's says how long it is."""


def read(used: Any, *, lr: float | None) -> Source:
    """What `used` is.

    Raises
    ------
    InputError
        If it is nothing that has a schedule.
    """
    for fits, reader in READERS:
        if fits(used):
            return reader(used, lr)
    msg = (
        f"schedule_of: a schedule is needed (got {type(used).__name__}); give a scheduler of PyTorch's or timm's, a "
        "schedule of Keras's or optax's, TrainingArguments, a DeepSpeed section, a recipe or a function of the step"
    )
    raise InputError(msg)


def _is(used: Any, name: str, package: str) -> bool:
    return any(base.__name__ == name and base.__module__.startswith(package) for base in type(used).__mro__)


def _spec(used: Any, lr: float | None) -> Source:
    return _recipe(Recipe(lr=1.0 if lr is None else lr, schedule=used), lr)


def _recipe(used: Recipe, lr: float | None) -> Source:
    recipe = used if lr is None else Recipe(**{**used.to_json(), "lr": lr})
    schedule = parse(recipe.schedule)
    note = ("it follows the metric: drawn here for a metric that always improves",) if schedule.metric_driven else ()
    fields = {key: value for key, value in recipe.to_json().items() if key not in {"lr", "schedule", "warmup"}}
    return Source(
        name=f"lrtune {schedule.name}",
        rates=lambda count: recipe.lr * multipliers(for_recipe(recipe, count), count),
        peak=recipe.lr,
        fields=fields,
        schedule={"lr": recipe.lr, "schedule": recipe.schedule, "warmup": recipe.warmup},
        notes=note,
    )


def _torch(used: Any, lr: float | None) -> Source:
    kind = type(used).__name__
    group = _copied(used).optimizer.param_groups[0]
    peak = group.get("max_lr", group.get("initial_lr", group["lr"])) if lr is None else lr
    notes = [*_places(used), *_cycled(used, group)]
    first = int(getattr(used, "last_epoch", 0))
    if first > 0:
        notes.append(f"it has been stepped {first} times already: update 0 here is the next one")
    return Source(
        name=f"torch {kind}",
        rates=lambda count: _stepping(used, lambda scheduler, _: scheduler.step(), count),
        length=_length(used, first),
        peak=float(peak),
        fields=_of_group(used.optimizer),
        notes=tuple(notes),
    )


def _plateau(used: Any, lr: float | None) -> Source:
    """It has rates only when it hears a metric."""
    peak = float(used.optimizer.param_groups[0]["lr"]) if lr is None else lr
    options = [f"factor={used.factor!r}", f"patience={used.patience}", f"threshold={used.threshold!r}"]
    options += [f"cooldown={used.cooldown}", f"floor={float(used.min_lrs[0]) / peak!r}", f"mode={used.mode}"]
    return Source(
        name="torch ReduceLROnPlateau",
        rates=lambda count: np.full(count, peak),
        peak=peak,
        fields=_of_group(used.optimizer),
        schedule={"lr": peak, "schedule": str(parse(f"plateau({', '.join(options)})")), "warmup": 0.0},
        notes=("it follows the metric: drawn here for a metric that always improves",),
    )


def _timm(used: Any, lr: float | None) -> Source:
    peak = float(used.base_values[0]) if lr is None else lr
    name = "step" if used.t_in_epochs else "step_update"
    epochs = ("it counts epochs: update 0 here is epoch 0",) if used.t_in_epochs else ()
    length = getattr(used, "t_initial", None)
    before = getattr(used, "warmup_t", 0) if getattr(used, "warmup_prefix", False) else 0
    return Source(
        name=f"timm {type(used).__name__}",
        rates=lambda count: _stepping(used, lambda scheduler, update: getattr(scheduler, name)(update), count),
        length=None if length is None else math.ceil(length + before - 1e-9),
        peak=peak,
        fields=_of_group(used.optimizer),
        notes=epochs,
    )


def _optimizer(used: Any, lr: float | None) -> Source:
    peak = float(used.param_groups[0]["lr"]) if lr is None else lr
    return Source(
        name=f"torch {type(used).__name__} without a scheduler",
        rates=lambda count: np.full(count, peak),
        peak=peak,
        fields=_of_group(used),
    )


def _lightning(used: Mapping[str, Any], lr: float | None) -> Source:
    """What ``configure_optimizers`` returns, or its ``lr_scheduler``."""
    inner = used.get("lr_scheduler", used)
    inner = inner if isinstance(inner, Mapping) else {"scheduler": inner}
    found = read(inner["scheduler"], lr=lr)
    note = "Lightning steps it once an epoch: say how many updates that is with every"
    epochs = inner.get("interval", "epoch") == "epoch"
    notes = (*found.notes, *((note,) if epochs else ()))
    return dataclasses.replace(found, every=int(inner.get("frequency", 1)), notes=notes)


def _keras(used: Any, lr: float | None) -> Source:
    """A schedule; Keras asks it for every micro-batch."""
    config = used.get_config()
    length = config.get("decay_steps", config.get("first_decay_steps"))
    if length is not None and config.get("warmup_target") is not None:
        length += config.get("warmup_steps", 0)
    peak = config.get("warmup_target") or config.get("initial_learning_rate") if lr is None else lr
    return Source(
        name=f"Keras {type(used).__name__}",
        rates=one_by_one(used, f"Keras's {type(used).__name__}"),
        length=None if length is None else math.ceil(length),
        peak=None if peak is None else float(peak),
    )


def _keras_optimizer(used: Any, lr: float | None) -> Source:
    inner = used._learning_rate  # noqa: SLF001 -- the property gives the current number
    accumulate = getattr(used, "gradient_accumulation_steps", None) or 1
    if not _is(inner, "LearningRateSchedule", "keras"):
        value = float(used.learning_rate) if lr is None else lr
        return Source(name="Keras, a fixed learning rate", rates=lambda count: np.full(count, value), peak=value)
    return dataclasses.replace(_keras(inner, lr), accumulate=accumulate)


def _function(used: Any, lr: float | None) -> Source:
    name = getattr(used, "__qualname__", type(used).__name__)
    module = str(getattr(used, "__module__", "")).partition(".")[0]
    called = f"optax {name.partition('.')[0]}" if module == "optax" else f"the function {name}"
    return Source(name=called, rates=one_by_one(used, called), peak=lr)


def _scheduler_inside(used: Any, lr: float | None) -> Source:
    return read(used.scheduler, lr=lr)


def _copied(scheduler: Any) -> Any:
    """A copy to step: its optimizer is another one with the same parameters, and keeps no state of theirs."""
    optimizer = scheduler.optimizer
    shared = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    try:
        return copy.deepcopy(scheduler, {**shared, id(optimizer.state): {}})
    except Exception as error:
        msg = f"schedule_of: {type(scheduler).__name__} cannot be copied ({type(error).__name__}: {error}); "
        raise InputError(msg + "give it without what cannot be copied, as a function of the step") from error


def _stepping(used: Any, step: Callable[[Any, int], object], count: int) -> Floats:
    """The first group's rate before each of `count` updates."""
    scheduler, rates = _copied(used), np.empty(count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is stepped without its optimizer
        for update in range(count):
            rates[update] = float(scheduler.optimizer.param_groups[0]["lr"])
            if update + 1 < count:
                try:
                    step(scheduler, update + 1)
                except Exception as error:
                    msg = (
                        f"schedule_of: {type(used).__name__} ends after {update + 1} updates "
                        f"({type(error).__name__}: {' '.join(str(error).split())}); give fewer steps"
                    )
                    raise InputError(msg) from error
    return rates


def _length(scheduler: Any, first: int) -> int | None:
    """Updates until its end, where it says so."""
    parts = getattr(scheduler, "_schedulers", None)
    if parts:
        inner = _length(parts[-1], 0)
        before = list(getattr(scheduler, "_milestones", []))
        return None if inner is None else inner + int(before[-1] if before else 0) - first
    places: list[Mapping[str, Any]] = [vars(scheduler)]
    places += [getattr(one, "keywords", {}) for one in getattr(scheduler, "lr_lambdas", ())]
    for place in places:
        for name in LENGTHS:
            if place.get(name):
                return int(np.ceil(place[name] - 1e-9)) - first
    return None


def _places(scheduler: Any) -> list[str]:
    groups = {float(group["lr"]) for group in scheduler.optimizer.param_groups}
    return (
        [f"its optimizer has {len(groups)} learning rates; drawn is that of the first group"] if len(groups) > 1 else []
    )


def _cycled(scheduler: Any, group: Mapping[str, Any]) -> list[str]:
    """Momentum that moves too: lrtune's schedules leave it alone."""
    parts = (scheduler, *getattr(scheduler, "_schedulers", ()))
    if not any(getattr(part, "cycle_momentum", False) for part in parts):
        return []
    name = "beta1" if "betas" in group else "momentum"
    return [f"it moves the {name} too, which lrtune's schedules leave alone: cycle_momentum=False switches that off"]


def _of_group(optimizer: Any) -> dict[str, Any]:
    """The recipe's fields that a group of PyTorch's says."""
    group, kind = optimizer.param_groups[0], type(optimizer).__name__.lower()
    fields: dict[str, Any] = {"optimizer": kind if kind.isidentifier() else None}
    if isinstance(group.get("weight_decay"), int | float):
        fields["weight_decay"] = float(group["weight_decay"])
    made = optimizer.defaults  # OneCycleLR and CyclicLR move those of the group
    if isinstance(made.get("momentum"), int | float):
        fields["momentum"] = float(made["momentum"])
    elif "betas" in made:
        fields["momentum"] = float(made["betas"][0])
    return fields


def _is_lightning(used: Any) -> bool:
    return isinstance(used, Mapping) and (
        hasattr(used.get("scheduler"), "step")
        or (not isinstance(used.get("lr_scheduler", ""), str) and "optimizer" in used)
    )


READERS: tuple[tuple[Callable[[Any], bool], Callable[[Any, float | None], Source]], ...] = (
    (lambda used: isinstance(used, str), _spec),
    (lambda used: isinstance(used, Recipe), _recipe),
    (_is_lightning, _lightning),
    (lambda used: isinstance(used, Mapping), mapping),
    (
        lambda used: hasattr(used, "lr_scheduler_type") and hasattr(used, "learning_rate"),
        lambda u, lr: mapping(vars(u), lr),
    ),
    (lambda used: hasattr(used, "step_update") and hasattr(used, "base_values"), _timm),
    (lambda used: _is(used, "ReduceLROnPlateau", "torch"), _plateau),
    (lambda used: hasattr(used, "optimizer") and hasattr(used, "get_last_lr") and hasattr(used, "step"), _torch),
    (lambda used: hasattr(used, "scheduler") and hasattr(used, "step_with_optimizer"), _scheduler_inside),
    (lambda used: hasattr(used, "param_groups"), _optimizer),
    (lambda used: _is(used, "LearningRateSchedule", "keras"), _keras),
    (lambda used: hasattr(used, "_learning_rate") and hasattr(used, "apply_gradients"), _keras_optimizer),
    (callable, _function),
)
"""What is tried in order: whether an object is of a kind, and the function that reads it."""
