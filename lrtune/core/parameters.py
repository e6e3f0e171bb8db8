"""The axes of a space: ranges and choices, and what each setting may be.

Whatever is not allowed is refused with one sentence that names the setting, what is allowed and what to write.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from lrtune.errors import InputError, SpaceError
from lrtune.schedules import Warmup, parse
from lrtune.schedules.base import shown

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "HIGHEST_LR",
    "LOWEST_LR",
    "RULES",
    "Choices",
    "Distribution",
    "Range",
    "axis_of",
    "lr_range",
    "number",
    "refusal",
    "shown",
    "unknown",
]

Distribution: TypeAlias = FloatDistribution | IntDistribution | CategoricalDistribution

LOWEST_LR, HIGHEST_LR = 1e-30, 1e12  # float32 arithmetic leaves nothing of a step outside
SMALLEST_NORMAL = float(np.finfo(np.float64).tiny)
MOST = 10**9
MOST_CHOICES = 1000  # of one setting: no search tries so many, and each costs every decision


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """All numbers from `low` to `high`, both included; whole numbers only if `whole`; `log` is the scale to search."""

    low: float
    high: float
    log: bool
    whole: bool = False

    def distribution(self) -> Distribution:
        """The range as Optuna knows it."""
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def holds(self, value: Any) -> bool:
        """Whether the value lies in it."""
        if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
            return False
        return bool(self.low <= value <= self.high) and (not self.whole or value == int(value))

    def spread(self, count: int) -> list[float]:
        """So many values of it, ends included, evenly on its scale; fewer where whole numbers are as close."""
        values = (np.geomspace if self.log else np.linspace)(self.low, self.high, count).clip(self.low, self.high)
        return list(dict.fromkeys(round(v) if self.whole else v for v in values.tolist()))

    @property
    def middle(self) -> float:
        """The middle on its scale."""
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        return round(middle) if self.whole else middle

    def at(self, share: float) -> float:
        """The value at a share of the range, 0 to 1, on its scale."""
        high = self.high + 1 if self.whole else self.high
        ratio = high / self.low if self.log else 1.0
        if not self.log:
            value = self.low + share * (high - self.low)
        else:  # the ratio is beyond the largest float where a range goes from 1e-307 to 1e6
            value = self.low * ratio**share if math.isfinite(ratio) else self.low ** (1 - share) * high**share
        return self.plain(min(max(math.floor(value) if self.whole else value, self.low), self.high))

    def plain(self, value: Any) -> float:
        """A value that it holds, of its own type: Python's int where numbers are whole, else float."""
        return int(value) if self.whole else float(value)

    def to_json(self) -> dict[str, float]:
        """The range as a study file writes it."""
        return {"low": self.low, "high": self.high}

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """One of at least two distinct values, in ascending order."""

    values: tuple[Any, ...]

    @property
    def numeric(self) -> bool:
        """Whether the values are numbers, so that neighbours are alike."""
        return not isinstance(self.values[0], str)

    def distribution(self) -> Distribution:
        """The choices as Optuna knows them."""
        return CategoricalDistribution(self.values)

    def holds(self, value: Any) -> bool:
        """Whether the value is one of them."""
        return not isinstance(value, bool) and value in self.values

    def spread(self, count: int) -> list[Any]:
        """All values: a number of choices is no scale to thin out."""
        del count
        return list(self.values)

    @property
    def middle(self) -> Any:
        """The middle one of numbers, the first of words."""
        return self.values[len(self.values) // 2 if self.numeric else 0]

    def at(self, share: float) -> Any:
        """The choice at a share of their number, 0 to 1 (excluded)."""
        return self.values[int(share * len(self.values))]

    def plain(self, value: Any) -> Any:
        """The choice that equals a value."""
        return self.values[self.values.index(value)]

    def to_json(self) -> list[Any]:
        """The choices as a study file writes them."""
        return list(self.values)

    def __str__(self) -> str:
        return f"one of {', '.join(f'{value:g}' if self.numeric else value for value in self.values)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    allowed: str
    example: str
    fits: Callable[[float], bool] | None = None  # None: a word
    whole: bool = False


RULES: dict[str, _Rule] = {
    "lr": _Rule(
        allowed=f"a number from {LOWEST_LR:g} to {HIGHEST_LR:g}",
        example="[1e-5, 10.0]",
        fits=lambda v: LOWEST_LR <= v <= HIGHEST_LR,
    ),
    "batch_size": _Rule(
        allowed=f"a whole number from 1 to {MOST}",
        example="[16, 64, 256]",
        fits=lambda v: 1 <= v <= MOST and v == int(v),
        whole=True,
    ),
    "schedule": _Rule(allowed="the name of a schedule", example='["constant", "cosine"]'),
    "warmup": _Rule(
        allowed="a fraction in [0, 1) or a whole number of steps from 1",
        example="[0.0, 0.1]",
        fits=lambda v: 0 <= v < 1 or (v <= MOST and v >= 1 and v == int(v)),
    ),
    "optimizer": _Rule(allowed="the name of an optimizer", example='["sgd", "adam"]'),
    "momentum": _Rule(allowed="a number in [0, 1)", example="[0.0, 0.9]", fits=lambda v: 0 <= v < 1),
    "weight_decay": _Rule(allowed="a number from 0 to 1e6", example="[0.0, 0.01]", fits=lambda v: 0 <= v <= 1e6),  # noqa: PLR2004 -- the bounds stand beside it
    "layer_decay": _Rule(allowed="a number in (0, 1]", example="[0.8, 1.0]", fits=lambda v: 0 < v <= 1),
    "batch_exponent": _Rule(allowed="a number from 0 to 2", example="0.5", fits=lambda v: 0 <= v <= 2),  # noqa: PLR2004 -- the bounds stand beside it
}
_ALIASES = {
    "learning_rate": "lr",
    "learningrate": "lr",
    "eta0": "lr",
    "step_size": "lr",
    "batch": "batch_size",
    "bs": "batch_size",
    "scheduler": "schedule",
    "lr_scheduler": "schedule",
    "warmup_steps": "warmup",
    "warmup_fraction": "warmup",
    "wd": "weight_decay",
}


def lr_range(value: Any) -> Range:
    """The range of the learning rate, also from a list of two."""
    pair = tuple(value) if isinstance(value, list) else value
    if not isinstance(pair, tuple | Mapping):
        hint = "a range (low, high), searched on a log scale"
        msg = f"space: lr must be {hint} (got {shown(value)}); write for example lr = [1e-5, 10.0]"
        raise SpaceError(msg)
    return _range("lr", pair)


def axis_of(name: str, value: Any) -> Any:
    """A range, choices, or a plain value."""
    if isinstance(value, tuple | Mapping):
        return _range(name, value)
    return _choices(name, value) if isinstance(value, list) else _one(name, value)


def _range(name: str, value: Any) -> Range:
    if RULES[name].fits is None:
        msg = f"space: {name} cannot be a range (got {shown(value)}); write choices, e.g. {_hint(name)}"
        raise SpaceError(msg)
    if isinstance(value, Mapping):
        if set(value) != {"low", "high"}:
            have = f"a range has low and high and nothing else (got {shown(sorted(map(str, value)))})"
            msg = f"space: {name}: {have}; write {{ low = ..., high = ... }}"
            raise SpaceError(msg)
        value = (value["low"], value["high"])
    if len(value) != 2:  # noqa: PLR2004 -- the bounds stand beside it
        msg = f"space: {name}: a range is two numbers (low, high) (got {len(value)}); write a list for choices"
        raise SpaceError(msg)
    low, high = (number(name, end) for end in value)
    if not low < high:
        advice = "give the smaller one first" if low > high else "a range needs two different numbers"
        msg = f"space: {name}: low must be < high (got {low:g} and {high:g}); {advice}"
        raise SpaceError(msg)
    if name == "warmup" and low < 1 <= high:
        msg = (
            f"space: warmup: a range is of fractions below 1 or of steps from 1 (got {low:g} and {high:g}); choose one"
        )
        raise SpaceError(msg)
    steps = name == "warmup" and low >= 1
    log = name in ("lr", "batch_size") or steps or (name == "weight_decay" and low > 0)
    return Range(low=low, high=high, log=log, whole=RULES[name].whole or steps)


def _choices(name: str, values: list[Any]) -> Any:
    """Choices; the plain value where there is only one."""
    if not values:
        msg = f"space: {name}: at least one choice is needed (got an empty list); write for example {_hint(name)}"
        raise SpaceError(msg)
    if len(values) > MOST_CHOICES:
        msg = f"space: {name}: at most {MOST_CHOICES} choices are searched (got {len(values)}); leave some of them out"
        raise SpaceError(msg)
    checked = [_one(name, value) for value in values]
    for position, value in enumerate(checked):
        if value in checked[:position]:
            msg = f"space: {name}: every choice must differ (got {value} twice); name each once"
            raise SpaceError(msg)
    return checked[0] if len(checked) == 1 else Choices(values=tuple(sorted(checked)))


def _one(name: str, value: Any) -> Any:
    return _word(name, value) if RULES[name].fits is None else number(name, value)


def number(name: str, value: Any) -> Any:
    """The value as a plain number; refused if it is not one, or not allowed under that name."""
    rule = RULES[name]
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool) or not isinstance(value, int | float) or rule.fits is None:
        raise SpaceError(refusal(name, value))
    try:
        number = float(value) + 0.0  # no negative zero
    except OverflowError:
        raise SpaceError(refusal(name, value)) from None
    if not math.isfinite(number) or 0 < abs(number) < SMALLEST_NORMAL or not rule.fits(number):
        raise SpaceError(refusal(name, value))
    return int(number) if rule.whole else number


def _word(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise SpaceError(refusal(name, value))
    if name != "schedule":
        return value
    try:
        schedule = parse(value)
    except InputError as error:
        msg = f"space: {error}"
        raise SpaceError(msg) from None
    if isinstance(schedule, Warmup):
        msg = (
            f"space: schedule: the warmup is a setting of its own (got {shown(value)}); write for example warmup = 0.1"
        )
        raise SpaceError(msg)
    return str(schedule)


def refusal(name: str, value: Any) -> str:
    """The sentence that refuses a value."""
    message = f"space: {name} must be {RULES[name].allowed} (got {shown(value)})"
    if isinstance(value, str) and RULES[name].fits is not None:
        return f"{message}; write numbers without quotes, e.g. {_hint(name)}"
    return f"{message}; write for example {_hint(name)}"


def _hint(name: str) -> str:
    return f"{name} = {RULES[name].example}"


def unknown(name: object) -> str:
    """The sentence that refuses a name that is not known, with what may have been meant."""
    plain = str(name).lower().replace("-", "_")
    near = difflib.get_close_matches(plain, [*RULES, *_ALIASES], n=1, cutoff=0.6)
    known = _ALIASES.get(near[0], near[0]) if near else None
    advice = f"did you mean {known}?" if known else f"known are {', '.join(RULES)}"
    return f"space: {shown(name)} is not a setting that can be searched; {advice}"
