"""The space: what is searched, the learning rate always and on a log scale, the rest optionally.

Three kinds of settings: a *range* (a tuple ``(low, high)``, in a study file ``{ low = ..., high = ... }``), *choices*
(a list) and a *fixed* value (a scalar). What cannot be searched is refused with one sentence.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

from optuna.distributions import FloatDistribution, IntDistribution

from lrtune.core.parameters import (
    HIGHEST_LR,
    LOWEST_LR,
    RULES,
    Choices,
    Distribution,
    Range,
    axis_of,
    lr_range,
    number,
    refusal,
    shown,
    unknown,
)
from lrtune.core.recipe import Recipe
from lrtune.errors import SpaceError

if TYPE_CHECKING:
    from typing import Never

    from optuna.trial import BaseTrial

__all__ = ["Space", "suggest"]

UNUSUAL_LR = 1e3
ROUNDING = 1e-9  # decades: no rounding of a logarithm is as large, and no two learning rates that matter as close
SGD_LIKE = ("sgd", "asgd", "momentum", "nesterov", "lars")


class Space:
    """What is searched.

    Parameters
    ----------
    lr
        Range of the peak learning rate, on a log scale, e.g. ``(1e-5, 10.0)``.
    batch_size
        Whole numbers of samples; a range is on a log scale. Searched together with it, the learning rate is
        searched as lr / batch^p (see :meth:`decoupled`).
    schedule
        Schedules by name, see :mod:`lrtune.schedules`; no range.
    warmup
        Fractions of all steps in [0, 1), or whole numbers of steps.
    optimizer
        Optimizers by name; which there are depends on the trainer. No range.
    momentum, weight_decay, layer_decay
        Numbers; a range of the weight decay is on a log scale where its low end is above zero.
    batch_exponent
        The p of lr / batch^p; by default it follows the optimizer, see :meth:`exponent`.

    Attributes
    ----------
    warnings
        What is allowed, but looks like a mistake; one sentence each.
    batch_exponent
        As given, or None.
    names
        Names of all that is searched; the learning rate first.

    Raises
    ------
    SpaceError
        If it cannot be searched.
    """

    __slots__ = ("_axes", "_fixed", "_searched", "batch_exponent", "names", "warnings")

    batch_exponent: float | None
    names: tuple[str, ...]
    warnings: tuple[str, ...]

    def __init__(
        self,
        *,
        lr: tuple[float, float] | list[float] | Mapping[str, float],
        batch_size: Any = None,
        schedule: Any = None,
        warmup: Any = None,
        optimizer: Any = None,
        momentum: Any = None,
        weight_decay: Any = None,
        layer_decay: Any = None,
        batch_exponent: float | None = None,
        **others: Never,
    ) -> None:
        for name in others:
            raise SpaceError(unknown(name))
        given = {
            "batch_size": batch_size,
            "schedule": schedule,
            "warmup": warmup,
            "optimizer": optimizer,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "layer_decay": layer_decay,
        }
        span = lr_range(lr)
        self._axes: dict[str, Any] = {"lr": span} | {
            name: axis_of(name, value) for name, value in given.items() if value is not None
        }
        self._searched = {name: axis for name, axis in self._axes.items() if isinstance(axis, Range | Choices)}
        self._fixed = {name: axis for name, axis in self._axes.items() if name not in self._searched}
        self.names = tuple(self._searched)
        self.batch_exponent = None if batch_exponent is None else number("batch_exponent", batch_exponent)
        unusual = f"space: lr reaches up to {span.high:g}; learning rates above {UNUSUAL_LR:g} hardly ever train"
        self.warnings = (unusual,) if span.high > UNUSUAL_LR else ()

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Space:
        """The space of a study file: an array is a set of choices, but ``lr = [low, high]`` is its range.

        Raises
        ------
        SpaceError
            If it cannot be searched, or holds a name that is not known.
        """
        plain: object = mapping
        if not isinstance(plain, Mapping):
            msg = f"space: a table of settings is needed (got {shown(mapping)}); e.g. lr = [1e-5, 10.0]"
            raise SpaceError(msg)
        for name, value in mapping.items():
            if name not in RULES:
                raise SpaceError(unknown(name))
            if value is None:
                raise SpaceError(refusal(name, value))
        if "lr" not in mapping:
            msg = "space: lr is missing; give the range of the learning rate, e.g. lr = [1e-5, 10.0]"
            raise SpaceError(msg)
        return cls(**mapping)

    from_json = from_mapping

    def to_json(self) -> dict[str, Any]:
        """The space as plain JSON values, as :meth:`from_json` reads them."""
        plain = {n: a.to_json() if isinstance(a, Range | Choices) else a for n, a in self._axes.items()}
        return plain if self.batch_exponent is None else {**plain, "batch_exponent": self.batch_exponent}

    @property
    def axes(self) -> dict[str, Range | Choices]:
        """What is searched, by name; the learning rate first."""
        return dict(self._searched)

    @property
    def fixed(self) -> dict[str, Any]:
        """The settings that are the same for every recipe."""
        return dict(self._fixed)

    @property
    def lr_range(self) -> tuple[float, float]:
        """Lowest and highest learning rate."""
        lr: Range = self._axes["lr"]
        return lr.low, lr.high

    def distributions(self) -> dict[str, Distribution]:
        """The space as the Optuna study holds it."""
        return {name: axis.distribution() for name, axis in self.axes.items()}

    def recipe(self, params: Mapping[str, Any], *, epochs: int = 1, seed: int = 0) -> Recipe:
        """The recipe of a point.

        Raises
        ------
        SpaceError
            If the point does not name exactly what is searched.
        """
        if params.keys() != self._searched.keys():
            msg = f"space: a point must name {', '.join(self.names)} (got {', '.join(map(str, params)) or 'nothing'})"
            raise SpaceError(msg)
        return Recipe(**self._fixed, **params, epochs=epochs, seed=seed)

    def params(self, recipe: Recipe) -> dict[str, Any]:
        """The point of a recipe."""
        return {name: getattr(recipe, name) for name in self.names}

    def contains(self, params: Mapping[str, Any]) -> bool:
        """Whether a point names exactly what is searched and lies within it."""
        return params.keys() == self._searched.keys() and all(
            axis.holds(params[name]) for name, axis in self._searched.items()
        )

    def plain(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """A point that it holds, each value of the type that its setting has."""
        return {name: axis.plain(params[name]) for name, axis in self._searched.items()}

    def misfit(self, params: Mapping[str, Any]) -> str:
        """Why no point of the space has these values, in one sentence; empty where one does.

        Settings that are not named may have any value, and names that no recipe has are not looked at.
        """
        axes, fixed = self.axes, self.fixed
        for name, value in params.items():
            if name in axes and not axes[name].holds(value):
                span = f"from {axes[name]}" if isinstance(axes[name], Range) else str(axes[name])
                return f"{name} must be {span} (got {shown(value)}); enqueue another point, or search a wider space"
            if name in fixed and value != fixed[name]:
                return f"{name} is {fixed[name]} throughout this study (got {shown(value)}); leave it out"
        return ""

    def exponent(self, optimizer: str | None = None) -> float:
        """The p in lr / batch^p: 1 for SGD-like optimizers and where none is named, 1/2 for Adam-like ones.

        Goyal et al. 2017 (arXiv:1706.02677, section 2.1); Malladi et al. 2022 (arXiv:2205.10287, section 4).
        """
        if self.batch_exponent is not None:
            return self.batch_exponent
        return 1.0 if optimizer is None or optimizer.lower().startswith(SGD_LIKE) else 0.5

    def for_optimizer(self, optimizer: str | None) -> Space:
        """The space for a trainer whose own optimizer this is, where no point names another.

        It differs from this one only where batch sizes are searched, by the exponent that this one leaves open.
        """
        settled = self.batch_exponent is not None or "optimizer" in self._axes or "batch_size" not in self._searched
        if settled or self.exponent(optimizer) == self.exponent():
            return self
        return Space.from_json({**self.to_json(), "batch_exponent": self.exponent(optimizer)})

    def scaled_lr(self, params: Mapping[str, Any]) -> float:
        """The learning rate as if the batch size were the middle one; the learning rate if none is searched."""
        return float(params["lr"]) / self._factor(params)

    def unscaled_lr(self, scaled: float, params: Mapping[str, Any]) -> float:
        """The learning rate of a scaled one at the point's batch size; may lie outside the space."""
        return float(scaled) * self._factor(params)

    def decoupled(self) -> dict[str, Distribution]:
        """In what samplers should search: the same names, in coordinates in which the settings are not entangled.

        ``lr`` is the scaled learning rate, its range wide enough for every batch size; choices among numbers
        are the index into them, ascending.
        """
        (low, high), factors = self.lr_range, self._factors()
        lr = FloatDistribution(low / max(factors), high / min(factors), log=True)
        return {"lr": lr} | {
            name: IntDistribution(0, len(axis.values) - 1) if _indexed(axis) else axis.distribution()
            for name, axis in self.axes.items()
            if name != "lr"
        }

    def to_decoupled(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """A point in the coordinates of :meth:`decoupled`."""
        axes = self._searched.items()
        point = {name: axis.values.index(params[name]) if _indexed(axis) else params[name] for name, axis in axes}
        return point | {"lr": self.scaled_lr(params)}

    def from_decoupled(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The point of such coordinates; a learning rate beyond its range becomes the end of the range."""
        axes = self._searched.items()
        params = {name: axis.values[int(values[name])] if _indexed(axis) else values[name] for name, axis in axes}
        low, high = self.lr_range
        return {**params, "lr": min(max(self.unscaled_lr(params["lr"], params), low), high)}

    def lr_at(self, x: float) -> float:
        """The learning rate whose log10 is `x`, as a point to train at.

        An `x` that is an end of the range but for rounding gives that end itself, and none gives a learning rate
        that is not allowed at all: whether a point lies in the range is decided by its learning rate alone.
        """
        end = min(self.lr_range, key=lambda lr: abs(x - math.log10(lr)))
        if abs(x - math.log10(end)) <= ROUNDING:
            return end
        lr: float = 10.0 ** min(x, math.log10(HIGHEST_LR))
        return min(max(lr, LOWEST_LR), HIGHEST_LR)

    def reaching(self, lr: float) -> Space:
        """The same space, its range of learning rates widened so that it ends exactly at this one where it lies beyond.

        Raises
        ------
        SpaceError
            If no learning rate may be that low or that high.
        """
        low, high = self.lr_range
        return Space.from_json({**self.to_json(), "lr": {"low": min(low, lr), "high": max(high, lr)}})

    def difference(self, other: Space) -> list[str]:
        """What differs, one readable line each: ``"lr: 1e-05 to 1 -> 1e-05 to 10"``; empty if they are equal."""
        mine, others = self._described(), other._described()
        plain = {**self.to_json(), **other.to_json()}
        return [
            f"{name}: {mine.get(name, 'not set')} -> {others.get(name, 'not set')}"
            for name in RULES
            if name in plain and self.to_json().get(name) != other.to_json().get(name)
        ]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Space) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(str(self.to_json()))

    def __repr__(self) -> str:
        return f"Space({'; '.join(f'{name}: {text}' for name, text in self._described().items())})"

    def _described(self) -> dict[str, str]:
        exponent = {} if self.batch_exponent is None else {"batch_exponent": self.batch_exponent}
        axes = {**self._axes, **exponent}
        return {name: f"{axis:g}" if isinstance(axis, float) else str(axis) for name, axis in axes.items()}

    def _factor(self, params: Mapping[str, Any], batch: float | None = None) -> float:
        axis = self._axes.get("batch_size")
        if not isinstance(axis, Range | Choices):
            return 1.0
        batch = float(params["batch_size"]) if batch is None else batch
        optimizer = params.get("optimizer", self._fixed.get("optimizer"))
        return float((batch / _middle(axis)) ** self.exponent(optimizer))

    def _factors(self) -> list[float]:
        """Every extreme of the factor between the scaled learning rate and the learning rate."""
        axis, optimizers = self._axes.get("batch_size"), self._axes.get("optimizer")
        if not isinstance(axis, Range | Choices):
            return [1.0]
        names = optimizers.values if isinstance(optimizers, Choices) else [optimizers]
        return [self._factor({"optimizer": name}, batch) for name in names for batch in _ends(axis)]


def suggest(trial: BaseTrial, space: Space, *, epochs: int = 1, seed: int = 0) -> Recipe:
    """A recipe for an Optuna objective of your own: what `trial` suggests within `space`.

    ::

        def objective(trial):
            recipe = lrtune.suggest(trial, space, epochs=10)
            return train(lr=recipe.lr, batch_size=recipe.batch_size)
    """
    params = {name: _suggested(trial, name, distribution) for name, distribution in space.distributions().items()}
    return space.recipe(params, epochs=epochs, seed=seed)


def _suggested(trial: BaseTrial, name: str, distribution: Distribution) -> Any:
    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, distribution.low, distribution.high, log=distribution.log)
    return trial.suggest_categorical(name, distribution.choices)


def _ends(axis: Range | Choices) -> tuple[float, float]:
    return (axis.low, axis.high) if isinstance(axis, Range) else (axis.values[0], axis.values[-1])


@functools.lru_cache(maxsize=64)
def _middle(axis: Range | Choices) -> float:
    """The geometric mean of what is searched."""
    values = _ends(axis) if isinstance(axis, Range) else axis.values
    return math.exp(sum(math.log(value) for value in values) / len(values))


def _indexed(axis: Range | Choices) -> TypeGuard[Choices]:
    """Whether samplers search it by its index: choices among numbers."""
    return isinstance(axis, Choices) and axis.numeric
