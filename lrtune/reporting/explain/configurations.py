"""Configurations: TrainingArguments, a DeepSpeed section, a recipe, the log of a Trainer, as JSON holds them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lrtune.core.recipe import Recipe
from lrtune.errors import InputError
from lrtune.reporting.explain import formulas
from lrtune.reporting.explain.source import Source
from lrtune.schedules import for_recipe, multipliers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrtune.schedules.base import Floats

__all__ = ["mapping"]

PLATEAU = "reduce_lr_on_plateau"


def mapping(used: Mapping[str, Any], lr: float | None) -> Source:
    """What a mapping is, told by its keys.

    Raises
    ------
    InputError
        If it is none of these.
    """
    for key, reader in KEYS.items():
        if key in used:
            try:
                return reader(used, lr)
            except InputError:
                raise
            except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
                msg = f"schedule_of: {key!r} cannot be read ({type(error).__name__}: {error}); mend the configuration"
                raise InputError(msg) from error
    msg = (
        f"schedule_of: a configuration with one of {', '.join(KEYS)} is needed (got {sorted(map(str, used))[:8]}); "
        "give TrainingArguments, a DeepSpeed configuration, trainer_state.json or lrtune's result.json"
    )
    raise InputError(msg)


def _arguments(used: Mapping[str, Any], lr: float | None) -> Source:
    """TrainingArguments, of transformers 4 and 5; the Trainer counts updates whatever the accumulation."""
    name = used.get("lr_scheduler_type", "linear")
    name = str(getattr(name, "value", name))
    peak = float(used.get("learning_rate", 5e-5) if lr is None else lr)
    options = used.get("lr_scheduler_kwargs") or {}
    given, ratio = float(used.get("warmup_steps") or 0), float(used.get("warmup_ratio") or 0)
    length = int(used.get("max_steps") or -1)
    if name == PLATEAU:
        msg = f"schedule_of: {PLATEAU} follows the metric, and has no rates before; hand in the scheduler itself"
        raise InputError(msg)

    def rates(count: int) -> Floats:
        total = length if length > 0 else count
        warmup = int(given) if given >= 1 else math.ceil(total * (given or ratio))
        at = np.arange(count, dtype=np.float64)
        return peak * formulas.transformers(name, at, warmup=warmup, total=total, peak=peak, options=options)

    notes = (
        ["an end rate of 1e-7 is added, for lr_end is not given"]
        if name == "polynomial" and "lr_end" not in options
        else []
    )
    if given == 1:
        notes.append("warmup_steps=1.0 is one step, not the whole run")
    if 0 < given < 1 or (ratio and not given):
        notes.append("the fraction of warmup is rounded up to whole steps")
    return Source(
        name=f"transformers {name}",
        rates=rates,
        length=length if length > 0 else None,
        peak=peak,
        counts_updates=True,
        fields=_trained(used),
        notes=tuple(notes),
    )


def _trained(used: Mapping[str, Any]) -> dict[str, Any]:
    """What TrainingArguments say of a recipe beyond the schedule."""
    fields: dict[str, Any] = {}
    if used.get("per_device_train_batch_size"):
        micro = int(used.get("gradient_accumulation_steps") or 1)
        fields["batch_size"] = int(used["per_device_train_batch_size"]) * micro
    if float(used.get("num_train_epochs") or 0) >= 1:
        fields["epochs"] = int(float(used["num_train_epochs"]))
    if used.get("weight_decay") is not None:
        fields["weight_decay"] = float(used["weight_decay"])
    if str(getattr(used.get("optim"), "value", used.get("optim", "adamw"))).startswith("adamw"):
        fields |= {"optimizer": "adamw", "momentum": float(used.get("adam_beta1", 0.9))}
    if isinstance(used.get("seed"), int):
        fields["seed"] = used["seed"]
    return fields


def _deepspeed(used: Mapping[str, Any], lr: float | None) -> Source:
    """A configuration, or its ``scheduler`` section alone."""
    section = used.get("scheduler") or (used if "params" in used else {})
    optimizer = used.get("optimizer") or {}
    settings = optimizer.get("params") or {}
    peak = lr if lr is not None else _number(settings.get("lr"))
    fields: dict[str, Any] = {}
    if isinstance(used.get("train_batch_size"), int):
        fields["batch_size"] = used["train_batch_size"]
    if str(optimizer.get("type", "")).isidentifier():
        fields["optimizer"] = str(optimizer["type"]).lower()
    if _number(settings.get("weight_decay")) is not None:
        fields["weight_decay"] = _number(settings["weight_decay"])
    if not section:
        if peak is None:
            msg = "schedule_of: neither a scheduler nor the optimizer's lr is in the configuration; give lr"
            raise InputError(msg)
        return Source(
            name="DeepSpeed without a scheduler",
            rates=lambda count: np.full(count, float(peak)),
            peak=peak,
            counts_updates=True,
            fields=fields,
        )
    kind, options = str(section["type"]), {key: _plain(value) for key, value in (section.get("params") or {}).items()}
    given = options.get("warmup_max_lr", options.get("cycle_max_lr", 0.001 if kind == "WarmupDecayLR" else peak))
    length = options.get("total_num_steps")

    def rates(count: int) -> Floats:
        return formulas.deepspeed(
            kind, np.arange(count, dtype=np.float64), peak=peak, options={**_auto(options), **_total(options, count)}
        )

    notes = []
    if kind.startswith("Warmup") and options.get("warmup_type", "log") == "log":
        notes.append("the warmup is logarithmic, DeepSpeed's default: warmup_type linear makes it straight")
    if kind in {"WarmupLR", "WarmupDecayLR"} and peak is not None and given != peak:
        notes.append(f"the optimizer's lr, {peak:g}, is not used: warmup_max_lr is {given:g}")
    return Source(
        name=f"DeepSpeed {kind}",
        rates=rates,
        length=int(length) if isinstance(length, int | float) else None,
        peak=_number(given),
        counts_updates=True,
        fields=fields,
        notes=tuple(notes),
    )


def _plain(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value


def _auto(options: Mapping[str, Any]) -> dict[str, Any]:
    """Without what the Trainer fills in."""
    return {key: value for key, value in options.items() if value != "auto"}


def _total(options: Mapping[str, Any], count: int) -> dict[str, Any]:
    return {"total_num_steps": count} if options.get("total_num_steps") == "auto" else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _state(used: Mapping[str, Any], lr: float | None) -> Source:
    """The log of a transformers Trainer: the rates that were logged, each that of the update before."""
    logged = {
        int(line["step"]) - 1: float(line["learning_rate"]) for line in used["log_history"] if "learning_rate" in line
    }
    if not logged:
        msg = "schedule_of: log_history holds no learning rate; train with logging_steps, or give the arguments"
        raise InputError(msg)
    at = np.array(sorted(logged), dtype=np.int64)
    rates = np.array([logged[int(step)] for step in at])
    total = int(used.get("max_steps") or used.get("global_step") or at[-1] + 1)
    return Source(
        name="the log of a transformers Trainer",
        rates=lambda _: rates,
        length=total,
        peak=lr,
        counts_updates=True,
        at=at,
        fields={"epochs": max(int(float(used.get("num_train_epochs") or 1)), 1)},
        notes=(f"{len(at)} of {total} updates are in the log; the rates between are not known",)
        if len(at) < total
        else (),
    )


def _answer(used: Mapping[str, Any], lr: float | None) -> Source:
    """``result.json``, or a recipe by its fields."""
    found = used.get("best", used)
    if not isinstance(found, dict):
        msg = "schedule_of: this result has no best recipe, for no trial completed; give another"
        raise InputError(msg)
    recipe = Recipe.from_json({**found, **({} if lr is None else {"lr": lr})})
    return Source(
        name=f"lrtune {recipe.schedule}",
        rates=lambda count: recipe.lr * multipliers(for_recipe(recipe, count), count),
        peak=recipe.lr,
        fields={key: value for key, value in recipe.to_json().items() if key not in {"lr", "schedule", "warmup"}},
        schedule={"lr": recipe.lr, "schedule": recipe.schedule, "warmup": recipe.warmup},
    )


KEYS = {
    "log_history": _state,
    "best": _answer,
    "lr": _answer,
    "lr_scheduler_type": _arguments,
    "learning_rate": _arguments,
    "scheduler": _deepspeed,
    "params": _deepspeed,
    "optimizer": _deepspeed,
}
"""What a mapping with this key is, in the order of asking."""
