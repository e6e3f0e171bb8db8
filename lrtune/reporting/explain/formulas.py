"""The schedules that transformers and DeepSpeed are configured with, as functions of the update.

Written from what the packages do (transformers 5.24 and DeepSpeed 0.19.8, which ``tests/hosts`` compares at every
update), so that a configuration is read without them. Multipliers of the peak, shape (n,).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lrtune.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lrtune.schedules.base import Floats

__all__ = ["DEEPSPEED", "TRANSFORMERS", "deepspeed", "transformers"]


def transformers(
    name: str, t: Floats, *, warmup: float, total: int | None, peak: float, options: Mapping[str, Any]
) -> Floats:
    """The multipliers of ``get_scheduler(name, ...)``.

    Raises
    ------
    InputError
        If there is no such schedule, or its options are not allowed.
    """
    if name not in TRANSFORMERS:
        msg = f"schedule_of: lr_scheduler_type is one of {', '.join(TRANSFORMERS)} (got {name!r}); choose one of them"
        raise InputError(msg)
    made = {"peak": peak, **options}
    if name == "constant":
        return np.ones_like(t)
    rest, after = max(1.0, (total or 1) - warmup), t - warmup
    if name == "cosine_warmup_with_min_lr":
        after, start = after + 1, options.get("warmup_lr_rate")
        rise = (t + 1) / max(1.0, warmup) if start is None else start + (1 - start) * t / max(1.0, warmup - 1)
    else:
        rise = t / max(1.0, warmup)
        if name == "warmup_stable_decay":
            rise = _floored(_bent(rise, str(options.get("warmup_type", "linear"))), options.get("min_lr_ratio", 0.0))
    with np.errstate(invalid="ignore", divide="ignore"):
        fall = TRANSFORMERS[name](np.maximum(after, 0.0), rest, warmup, made)
    return np.where(t < warmup, rise, fall)


def _floored(factor: Floats, floor: float) -> Floats:
    return np.maximum(0.0, floor + (1 - floor) * factor)


def _bent(x: Floats, shape: str) -> Floats:
    """A rise from 0 to 1."""
    if shape == "cosine":
        return np.asarray(0.5 * (1 - np.cos(np.pi * x)))
    return np.asarray(1 - np.sqrt(np.maximum(1 - x, 0.0))) if shape == "1-sqrt" else x


def _cosine(after: Floats, rest: float, _: float, options: Mapping[str, Any]) -> Floats:
    floor = options.get("min_lr_rate")
    if floor is None:
        floor = options.get("min_lr", 0.0) / options["peak"]
    turns = 2 * options.get("num_cycles", 0.5)
    return _floored(0.5 * (1 + np.cos(np.pi * turns * after / rest)), float(floor))


def _restarts(after: Floats, rest: float, _: float, options: Mapping[str, Any]) -> Floats:
    progress = after / rest
    return np.where(
        progress >= 1, 0.0, np.maximum(0.0, 0.5 * (1 + np.cos(np.pi * ((options.get("num_cycles", 1) * progress) % 1))))
    )


def _polynomial(after: Floats, rest: float, _: float, options: Mapping[str, Any]) -> Floats:
    end = options.get("lr_end", 1e-7) / options["peak"]
    left = np.maximum(1 - after / rest, 0.0)
    return np.asarray((1 - end) * left ** options.get("power", 1.0) + end)


def _inverse_sqrt(after: Floats, _: float, warmup: float, options: Mapping[str, Any]) -> Floats:
    scale = options.get("timescale") or warmup or 10_000
    return np.asarray(1 / np.sqrt((after + scale) / scale))


def _stable(after: Floats, rest: float, _: float, options: Mapping[str, Any]) -> Floats:
    if "num_decay_steps" not in options:
        msg = "schedule_of: warmup_stable_decay needs num_decay_steps in lr_scheduler_kwargs; give it"
        raise InputError(msg)
    decay, floor = options["num_decay_steps"], options.get("min_lr_ratio", 0.0)
    stable = options.get("num_stable_steps")
    stable = rest - decay if stable is None else stable
    x = np.clip((after - stable) / max(1, decay), 0.0, 1.0)
    shape = options.get("decay_type", "cosine")
    turns = 2 * options.get("num_cycles", 0.5)
    fallen = {"linear": 1 - x, "cosine": 0.5 * (1 + np.cos(np.pi * turns * x)), "1-sqrt": 1 - np.sqrt(x)}[shape]
    return np.where(after < stable, 1.0, np.where(after < stable + decay, _floored(fallen, floor), floor))


TRANSFORMERS: Mapping[str, Callable[[Floats, float, float, Mapping[str, Any]], Floats]] = {
    "linear": lambda after, rest, *_: np.maximum(0.0, 1 - after / rest),
    "cosine": lambda after, rest, warmup, options: _cosine(
        after, rest, warmup, {"num_cycles": options.get("num_cycles", 0.5), "min_lr_rate": 0.0}
    ),
    "cosine_with_restarts": _restarts,
    "polynomial": _polynomial,
    "constant": lambda after, *_: np.ones_like(after),
    "constant_with_warmup": lambda after, *_: np.ones_like(after),
    "inverse_sqrt": _inverse_sqrt,
    "cosine_with_min_lr": _cosine,
    "cosine_warmup_with_min_lr": _cosine,
    "warmup_stable_decay": _stable,
}
"""The fall of each ``lr_scheduler_type``, of the updates since the warmup, all of these, the warmup, the options."""


def deepspeed(kind: str, t: Floats, *, peak: float | None, options: Mapping[str, Any]) -> Floats:
    """The learning rates of a ``scheduler`` section; the optimizer's own is `peak`.

    The engine steps the scheduler after each update, and its count begins at -1: update 1 is its step 0.

    Raises
    ------
    InputError
        If there is no such scheduler, or a value is missing.
    """
    if kind not in DEEPSPEED:
        msg = f"schedule_of: DeepSpeed has the schedulers {', '.join(DEEPSPEED)} (got {kind!r}); choose one of them"
        raise InputError(msg)
    try:
        return DEEPSPEED[kind](t, peak, options)
    except KeyError as error:
        msg = f"schedule_of: {kind} needs {error.args[0]} in its params; give it"
        raise InputError(msg) from None


def _warm(step: Floats, options: Mapping[str, Any]) -> tuple[Floats, int]:
    warmup = max(2, int(options.get("warmup_num_steps", 1000)))
    if options.get("warmup_type", "log") == "linear":
        return step / warmup, warmup
    return np.log(np.maximum(step + 1, 1.0)) / math.log(warmup), warmup


def _warmup_lr(t: Floats, peak: float | None, options: Mapping[str, Any]) -> Floats:
    high = options.get("warmup_max_lr")
    high = _needed(peak, "lr of the optimizer") if high is None else high
    return _between(t, options, high, lambda step, _: np.ones_like(step))


def _warmup_decay(t: Floats, _: float | None, options: Mapping[str, Any]) -> Floats:
    total = options["total_num_steps"]

    def fall(step: Floats, warmup: int) -> Floats:
        return np.asarray(np.maximum(0.0, (total - step) / max(1.0, total - warmup)))

    return _between(t, options, options.get("warmup_max_lr", 0.001), fall)


def _between(t: Floats, options: Mapping[str, Any], high: float, fall: Callable[[Floats, int], Floats]) -> Floats:
    """From the lower rate to the upper one and down again; the first update is at the lower one."""
    low, step = options.get("warmup_min_lr", 0.0), t - 1
    rise, warmup = _warm(step, options)
    return np.asarray(np.where(step < 0, low, low + (high - low) * np.where(step < warmup, rise, fall(step, warmup))))


def _warmup_cosine(t: Floats, peak: float | None, options: Mapping[str, Any]) -> Floats:
    top, total, step = _needed(peak, "lr of the optimizer"), options["total_num_steps"], t - 1
    rise, warmup = _warm(step, options)
    low, floor = options.get("warmup_min_ratio", 0.0), options.get("cos_min_ratio", 0.0001)
    progress = np.minimum(1.0, (step - warmup + 1) / max(1, total - warmup))
    fall = np.maximum(0.0, floor + (1 - floor) * (1 + np.cos(np.pi * progress)) / 2)
    return np.where(step < 0, 0.0, top * np.where(step < warmup, low + rise * (1 - low), fall))


def _one_cycle(t: Floats, _: float | None, options: Mapping[str, Any]) -> Floats:
    low, high = options["cycle_min_lr"], options["cycle_max_lr"]
    first = float(options.get("cycle_first_step_size", 2000))
    second = options.get("cycle_second_step_size")
    second = first if second is None else float(second)
    if options.get("cycle_first_stair_count") or options.get("cycle_second_stair_count"):
        msg = "schedule_of: a OneCycle in stairs is not read; leave the stair counts out, or hand in the scheduler"
        raise InputError(msg)
    whole = first + second
    x = t / whole - np.floor(t / whole)
    height = np.where(x <= first / whole, x / (first / whole), (1 - x) / max(second / whole, 1e-300))
    over = np.maximum(t - whole, 0.0)
    size, rate = options.get("decay_step_size", 0), options.get("decay_lr_rate", 0.0)
    decayed = low / (1 + rate * over / size) if size and rate else np.full_like(t, low)
    return np.asarray(np.where(t - 1 < whole, low + (high - low) * height, decayed))


def _range_test(t: Floats, _: float | None, options: Mapping[str, Any]) -> Floats:
    part = t / options.get("lr_range_test_step_size", 2000)
    part = np.floor(part) if options.get("lr_range_test_staircase") else part
    low = options.get("lr_range_test_min_lr", 1e-3)
    return np.asarray(np.where(t < 1, low, low * (1 + options.get("lr_range_test_step_rate", 1.0) * part)))


def _needed(value: float | None, what: str) -> float:
    if value is None:
        msg = f"schedule_of: the {what} is missing; give it with lr"
        raise InputError(msg)
    return value


DEEPSPEED: Mapping[str, Callable[[Floats, float | None, Mapping[str, Any]], Floats]] = {
    "WarmupLR": _warmup_lr,
    "WarmupDecayLR": _warmup_decay,
    "WarmupCosineLR": _warmup_cosine,
    "OneCycle": _one_cycle,
    "LRRangeTest": _range_test,
}
"""The rates of each scheduler, of the update, the optimizer's learning rate and the ``params``."""
