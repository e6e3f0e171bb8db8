"""The one table of which call of which host gives a schedule of lrtune's step by step: :data:`CALLS`.

``tests/hosts`` runs every call in the real package; ``docs/hosts.md`` is what it measured.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lrtune.schedules.decays import MultiStep, Step

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrtune.core.recipe import Recipe
    from lrtune.schedules import Schedule

__all__ = ["CALLS", "NEAR", "Call", "call_of", "near"]

ROUNDING = 1e-9
MOST_PARTS = 50  # drops or cycles that are written one by one


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A host's own schedule.

    Attributes
    ----------
    plain, warm
        The call as source without and with a warmup; None where there is none. It names ``lr``, ``total_steps``,
        ``warmup_steps`` and ``optimizer``. In braces stand the schedule's options, ``{rest}``, the steps after the
        warmup, ``{end_lr}``, the learning rate at its end, and ``{milestones}``, the steps at which it drops.
    only
        Options that the schedule must have for it.
    whole
        Whether its warmup is of whole steps.
    shapes
        The host's words for the option `shape`; a shape that is not there has no call. Empty where there is none.
    """

    plain: str | None = None
    warm: str | None = None
    only: Mapping[str, Any] = field(default_factory=dict)
    whole: bool = False
    shapes: Mapping[str, str] = field(default_factory=dict)


def _both(text: str, **more: Any) -> Call:
    return Call(plain=text, warm=text, **more)


_NO_FLOOR = {"floor": 0.0}
_WSD = {"linear": "linear", "cosine": "cosine", "sqrt": "1-sqrt"}
_HF_WSD = (
    '"warmup_stable_decay", {{"num_decay_steps": {decay} * {rest}, "decay_type": "{shape}", "min_lr_ratio": {floor}}}'
)
_TIMM = "t_initial={rest}, t_in_epochs=False"
_TIMM_WARM = f"{_TIMM}, warmup_t=warmup_steps"
_MM = "by_epoch=False"
_MM_WARM = f'dict(type="LinearLR", start_factor=1e-12, {_MM}, begin=0, end=warmup_steps + 1)'
_JOIN = "optax.join_schedules([optax.linear_schedule(0.0, lr, warmup_steps), {after}], [warmup_steps])"
_PADDLE = "paddle.optimizer.lr"


def _joined(text: str, **more: Any) -> Call:
    return Call(plain=text, warm=_JOIN.replace("{after}", text), **more)


def _timm(kind: str, options: str, *, prefix: str = ", warmup_prefix=True", **more: Any) -> Call:
    """`prefix` is how the warmup is put before the schedule instead of over its start."""
    return Call(
        plain=f"{kind}(optimizer, {_TIMM}, {options})",
        warm=f"{kind}(optimizer, {_TIMM_WARM}{prefix}, {options})",
        **more,
    )


def _warmed(text: str, **more: Any) -> Call:
    """Of Paddle: its warmup goes around any schedule."""
    return Call(plain=text, warm=f"{_PADDLE}.LinearWarmup({text}, warmup_steps, 0.0, lr)", whole=True, **more)


def _mmengine(options: str, begin: str = "0", **more: Any) -> Call:
    """A list of parameter schedulers; the last step, ``end``, is one beyond the run."""
    own = f"dict({options}, {_MM}, begin={{begin}}, end=total_steps + 1)"
    after = "warmup_steps" if begin == "0" else begin
    return Call(
        plain=f"[{own.replace('{begin}', begin)}]",
        warm=f"[{_MM_WARM}, {own.replace('{begin}', after)}]",
        whole=True,
        **more,
    )


def _fastai(parts: str, schedules: str, **more: Any) -> Call:
    """Parts of the run and the schedule of each."""
    whole, rest = (parts.replace("{left}", left) for left in ("1.0", "(1 - warmup)"))
    warm = f"combine_scheds([warmup, {rest}], [SchedLin(0.0, {{first_lr}}), {schedules}])"
    return Call(plain=f"combine_scheds([{whole}], [{schedules}])", warm=warm, **more)


CALLS: Mapping[str, Mapping[str, tuple[Call, ...]]] = {
    "transformers": {  # the name of the schedule, and its lr_scheduler_kwargs
        "constant": (Call(plain='"constant", {{}}', warm='"constant_with_warmup", {{}}'),),
        "linear": (
            _both('"linear", {{}}', only=_NO_FLOOR),
            _both('"polynomial", {{"power": 1.0, "lr_end": {end_lr}}}'),
        ),
        "polynomial": (_both('"polynomial", {{"power": {power}, "lr_end": {end_lr}}}'),),
        "cosine": (
            _both('"cosine", {{}}', only=_NO_FLOOR),
            _both('"cosine_with_min_lr", {{"min_lr_rate": {floor}}}'),
        ),
        "cosine_restarts": (
            _both('"cosine_with_restarts", {{"num_cycles": {cycles}}}', only={**_NO_FLOOR, "growth": 1.0}),
        ),
        "inverse_sqrt": (_both('"inverse_sqrt", {{"timescale": {timescale} * {rest}}}'),),
        "wsd": (
            _both(_HF_WSD, shapes=_WSD, only=_NO_FLOOR),
            Call(plain=_HF_WSD, shapes=_WSD),  # its warmup starts at the floor
        ),
    },
    "keras": {
        "constant": (Call(plain="lr"),),
        "linear": (Call(plain="schedules.PolynomialDecay(lr, total_steps, end_learning_rate={end_lr}, power=1.0)"),),
        "polynomial": (
            Call(plain="schedules.PolynomialDecay(lr, total_steps, end_learning_rate={end_lr}, power={power})"),
        ),
        "cosine": (
            Call(
                plain="schedules.CosineDecay(lr, total_steps, alpha={floor})",
                warm="schedules.CosineDecay(0.0, {rest}, alpha={floor}, warmup_target=lr, warmup_steps=warmup_steps)",
            ),
        ),
        "exponential": (Call(plain="schedules.ExponentialDecay(lr, total_steps, {end})"),),
        "step": (Call(plain="schedules.PiecewiseConstantDecay([at - 1 for at in {milestones}], {values})"),),
        "multistep": (Call(plain="schedules.PiecewiseConstantDecay([at - 1 for at in {milestones}], {values})"),),
    },
    "optax": {
        "constant": (
            Call(plain="optax.constant_schedule(lr)", warm="optax.warmup_constant_schedule(0.0, lr, warmup_steps)"),
        ),
        "linear": (_joined("optax.linear_schedule(lr, {end_lr}, {rest})"),),
        "polynomial": (_joined("optax.polynomial_schedule(lr, {end_lr}, {power}, {rest})"),),
        "cosine": (
            Call(
                plain="optax.cosine_decay_schedule(lr, total_steps, alpha={floor})",
                warm="optax.warmup_cosine_decay_schedule(0.0, lr, warmup_steps, total_steps, end_value={end_lr})",
            ),
        ),
        "exponential": (_joined("optax.exponential_decay(lr, {rest}, {end})"),),
        "step": (Call(plain="optax.piecewise_constant_schedule(lr, {{at: {factor} for at in {milestones}}})"),),
        "multistep": (Call(plain="optax.piecewise_constant_schedule(lr, {{at: {factor} for at in {milestones}}})"),),
        "inverse_sqrt": (_joined("lambda count: lr / (1 + count / ({timescale} * {rest})) ** 0.5"),),
        "wsd": (
            _joined(
                "optax.join_schedules([optax.constant_schedule(lr), "
                "optax.linear_schedule(lr, {end_lr}, {decay} * {rest})], [(1 - {decay}) * {rest}])",
                shapes={"linear": "linear"},
            ),
        ),
    },
    "timm": {
        "linear": (_timm("PolyLRScheduler", "power=1.0, lr_min={end_lr}"),),
        "polynomial": (_timm("PolyLRScheduler", "power={power}, lr_min={end_lr}"),),
        "cosine": (_timm("CosineLRScheduler", "lr_min={end_lr}"),),
        "inverse_sqrt": (
            _timm(
                "WSDLRScheduler", 'decay_t=1e-9, stable_fn="rsqrt", stable_timescale={timescale} * {rest}', prefix=""
            ),
        ),
        "wsd": (
            _timm(
                "WSDLRScheduler",
                'decay_t={decay} * {rest}, decay_fn="{shape}", lr_min={end_lr}',
                prefix="",
                shapes=_WSD,
            ),
        ),
        "step": (
            Call(
                plain="MultiStepLRScheduler(optimizer, decay_t=[at + 1 for at in {milestones}], "
                "decay_rate={factor}, t_in_epochs=False)"
            ),
        ),
        "multistep": (
            Call(
                plain="MultiStepLRScheduler(optimizer, decay_t=[at + 1 for at in {milestones}], "
                "decay_rate={factor}, t_in_epochs=False)"
            ),
        ),
    },
    "ignite": {
        "constant": (
            Call(
                warm='PiecewiseLinear(optimizer, "lr", [(0, 0.0), (warmup_steps, lr), (total_steps, lr)])', whole=True
            ),
        ),
        "linear": (
            Call(
                plain='PiecewiseLinear(optimizer, "lr", [(0, lr), (total_steps, {end_lr})])',
                warm='PiecewiseLinear(optimizer, "lr", [(0, 0.0), (warmup_steps, lr), (total_steps, {end_lr})])',
                whole=True,
            ),
        ),
        "cosine": (
            Call(
                plain='CosineAnnealingScheduler(optimizer, "lr", lr, {end_lr}, total_steps)',
                warm='create_lr_scheduler_with_warmup(CosineAnnealingScheduler(optimizer, "lr", lr, {end_lr}, {rest}), '
                "0.0, warmup_duration=warmup_steps + 1)",
                whole=True,
            ),
        ),
    },
    "fastai": {
        "constant": (_fastai("{left}", "SchedNo(lr, lr)"),),
        "linear": (_fastai("{left}", "SchedLin(lr, {end_lr})"),),
        "cosine": (_fastai("{left}", "SchedCos(lr, {end_lr})"),),
        "exponential": (_fastai("{left}", "SchedExp(lr, {end} * lr)"),),
        "onecycle": (
            _fastai(
                "{up} * {left}, {down} * {left}",
                "{shape}({start} * lr, lr), {shape}(lr, {end} * lr)",
                shapes={"cosine": "SchedCos", "linear": "SchedLin"},
            ),
        ),
        "wsd": (
            _fastai(
                "{stable} * {left}, {decay} * {left}",
                "SchedNo(lr, lr), {shape}(lr, {end_lr})",
                shapes={"linear": "SchedLin", "cosine": "SchedCos"},
            ),
        ),
    },
    "paddle": {
        "constant": (_warmed("lr"),),
        "linear": (_warmed(f"{_PADDLE}.PolynomialDecay(lr, {{rest}}, end_lr={{end_lr}}, power=1.0)"),),
        "polynomial": (_warmed(f"{_PADDLE}.PolynomialDecay(lr, {{rest}}, end_lr={{end_lr}}, power={{power}})"),),
        "cosine": (_warmed(f"{_PADDLE}.CosineAnnealingDecay(lr, {{rest}}, eta_min={{end_lr}})"),),
        "exponential": (_warmed(f"{_PADDLE}.ExponentialDecay(lr, {{end}} ** (1 / {{rest}}))"),),
        "step": (_warmed(f"{_PADDLE}.MultiStepDecay(lr, {{milestones}}, {{factor}})"),),
        "multistep": (_warmed(f"{_PADDLE}.MultiStepDecay(lr, {{milestones}}, {{factor}})"),),
    },
    "mmengine": {
        "constant": (Call(plain="[]", warm=f"[{_MM_WARM}]", whole=True),),
        "linear": (_mmengine('type="LinearLR", start_factor=1.0, end_factor={floor}'),),
        "cosine": (_mmengine('type="CosineAnnealingLR", T_max={rest}, eta_min={end_lr}'),),
        "step": (Call(plain=f'[dict(type="MultiStepLR", milestones={{milestones}}, gamma={{factor}}, {_MM})]'),),
        "multistep": (Call(plain=f'[dict(type="MultiStepLR", milestones={{milestones}}, gamma={{factor}}, {_MM})]'),),
        "onecycle": (
            Call(
                plain='[dict(type="OneCycleLR", eta_max=lr, total_steps=total_steps + 1, '
                "pct_start=({up} * total_steps + 1) / (total_steps + 1), div_factor={div}, final_div_factor={final}, "
                f'anneal_strategy="{{shape}}", {_MM}, begin=0, end=total_steps + 1)]',
                shapes={"cosine": "cos", "linear": "linear"},
            ),
        ),
    },
    "deepspeed": {"constant": (Call(plain="None"),)},
}
"""For each host, and each schedule by name, the calls to try in order. What has none gets the exact function instead:
so have all schedules of the hosts that are not here (PyTorch, Lightning, accelerate), whose scheduler takes any."""


@dataclass(frozen=True, slots=True)
class Near:
    """The host's own schedule that comes nearest, where none is exact.

    Attributes
    ----------
    name
        What it is called there.
    config
        It as the host is given it, over ``lr``, ``total_steps`` and ``warmup_steps``.
    off
        The largest deviation, as a fraction of the peak, in runs of 97 and of 1,000 steps with a warmup of 0.1.
    """

    name: str
    config: str
    off: tuple[float, float]


NEAR: Mapping[str, Mapping[str, Near]] = {
    "deepspeed": {
        "constant": Near(
            "WarmupLR",
            '{"type": "WarmupLR", "params": {"warmup_min_lr": 0.0, "warmup_max_lr": lr, '
            '"warmup_num_steps": round(warmup_steps), "warmup_type": "linear"}}',
            (0.1, 0.01),
        ),
        "linear": Near(
            "WarmupDecayLR",
            '{"type": "WarmupDecayLR", "params": {"total_num_steps": total_steps, "warmup_min_lr": 0.0, '
            '"warmup_max_lr": lr, "warmup_num_steps": round(warmup_steps), "warmup_type": "linear"}}',
            (0.1, 0.01),
        ),
        "cosine": Near(
            "WarmupCosineLR",
            '{"type": "WarmupCosineLR", "params": {"total_num_steps": total_steps, "warmup_min_ratio": 0.0, '
            '"warmup_num_steps": round(warmup_steps), "cos_min_ratio": 0.0, "warmup_type": "linear"}}',
            (0.1, 0.01),
        ),
    },
}
"""For hosts whose configuration cannot hold a function; measured by ``tests/hosts``."""


def call_of(host: str, recipe: Recipe, schedule: Schedule, total_steps: int | None) -> tuple[Call, str] | None:
    """The host's own call for a recipe, and its source; None where the exact function is needed."""
    for call in CALLS.get(host, {}).get(schedule.name, ()):
        text = call.warm if recipe.warmup else call.plain
        options = {field.name: getattr(schedule, field.name) for field in dataclasses.fields(schedule) if field.init}
        fits = all(options[name] == value for name, value in call.only.items())
        fits = fits and (not call.shapes or options["shape"] in call.shapes)
        if text is not None and fits and (not call.whole or _whole(recipe.warmup, total_steps)):
            values = _values(recipe, schedule, options)
            if values is None:
                continue
            if call.shapes:
                values["shape"] = call.shapes[options["shape"]]
            return call, text.format(**values)
    return None


def near(host: str, schedule: Schedule) -> Near | None:
    """The nearest of the host's own, for a schedule with its default options."""
    return NEAR.get(host, {}).get(schedule.name) if str(schedule) == schedule.name else None


def _whole(warmup: float, total_steps: int | None) -> bool:
    """Whether a warmup is of whole steps; it is rounded where the length is not known yet."""
    if warmup >= 1 or total_steps is None:
        return warmup < 1 or warmup == int(warmup)
    return abs(warmup * total_steps - round(warmup * total_steps)) <= ROUNDING * total_steps


def _values(recipe: Recipe, schedule: Schedule, options: Mapping[str, Any]) -> dict[str, str] | None:
    """What stands in braces; None where it would be a list too long to read."""
    rest = "(total_steps - warmup_steps)" if recipe.warmup else "total_steps"
    floor = options.get("floor", 0.0)
    values = {name: repr(value) for name, value in options.items()} | {
        "rest": rest,
        "end_lr": f"{floor!r} * lr" if floor else "0.0",
        "first_lr": "lr" if schedule(0.0) == 1 else f"{schedule(0.0)!r} * lr",
    }
    if isinstance(schedule, Step | MultiStep):
        if isinstance(schedule, Step):
            drops = math.ceil(1 / schedule.every - ROUNDING) - 1
            at, values["milestones"] = f"{schedule.every!r} * drop", f"for drop in range(1, {drops + 1})"
        else:
            drops = len(schedule.at)
            at, values["milestones"] = "at", f"for at in {list(schedule.at)!r}"
        if drops > MOST_PARTS:
            return None
        values["milestones"] = f"[math.ceil({at} * {rest} - 1e-6) {values['milestones']}]"
        values["values"] = f"[lr * {schedule.factor!r} ** drops for drops in range({drops + 1})]"
    if "decay" in options:
        values["stable"] = repr(1 - options["decay"])
    if "up" in options and "start" in options:
        values |= {
            "down": repr(1 - options["up"]),
            "div": repr(1 / options["start"]),
            "final": repr(options["start"] / options["end"]) if options["end"] else "math.inf",
        }
    return values
