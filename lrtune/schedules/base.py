"""The contract of the family: a schedule is a pure function of progress, with checked options.

``schedule(progress)`` is the multiplier of the peak learning rate at progress 0 to 1 of the run, for a number or an
array of them. At step t of T (t = 0 .. T-1) it is ``schedule(t / T)``; progress 1 is the end of the run, after its
last step. A schedule moves the learning rate alone: the cycling of momentum that some pair with one-cycle is out.
"""

from __future__ import annotations

import abc
import dataclasses
import difflib
import math
import reprlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from lrtune.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Floats", "Schedule", "number", "numbers", "percent", "shown", "suggestion", "word", "written"]

Floats: TypeAlias = npt.NDArray[np.float64]

MOST_OPTIONS = 100  # numbers in one option


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule(abc.ABC):
    """Multiplier of the peak learning rate over a run; subclasses say how in :meth:`_multiplier`.

    Raises
    ------
    RecipeError
        If an option is not allowed.
    """

    name: ClassVar[str]

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if "allowed" in field.metadata:
                value = field.metadata["allowed"].checked(f"{self.name}({field.name})", getattr(self, field.name))
                object.__setattr__(self, field.name, value)

    @overload
    def __call__(self, progress: float) -> float: ...

    @overload
    def __call__(self, progress: Floats) -> Floats: ...

    def __call__(self, progress: float | Floats) -> float | Floats:
        """The multiplier at a progress, or at an array of them, of the same shape; clipped to 0 .. 1."""
        p = np.clip(np.asarray(progress, dtype=np.float64), 0.0, 1.0)
        with np.errstate(under="ignore"):  # 0.01 ** 200 is as good as zero, whatever numpy.seterr says
            multiplier = self._multiplier(p)
        return multiplier if p.ndim else float(multiplier)

    @abc.abstractmethod
    def _multiplier(self, p: Floats) -> Floats:
        """The multipliers at progress `p`, already within 0 .. 1, of the same shape."""

    @property
    def family(self) -> str:
        """The name without options: runs are compared within a family first."""
        return self.name

    @property
    def listens(self) -> bool:
        """Whether it has to be told the metric, by ``update``; then it is a state machine, and one run's own."""
        return False

    @property
    def hears_losses(self) -> bool:
        """Whether a smaller metric is the better one to a schedule that listens."""
        return True

    def update(self, metric: float, *, progress: float = 1.0) -> float:
        """Hear the metric at a progress of the run; the multiplier from now on."""
        del metric
        return self(progress)

    def state(self) -> dict[str, Any]:
        """What it takes to go on after a pause, as plain JSON; empty where a schedule does not listen."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        del state

    @abc.abstractmethod
    def describe(self) -> str:
        """One clause for people, to be read after "the learning rate"."""

    def __str__(self) -> str:
        options = [
            f"{field.name}={written(getattr(self, field.name))}"
            for field in dataclasses.fields(self)
            if "allowed" in field.metadata and getattr(self, field.name) != field.default
        ]
        return f"{self.name}({', '.join(options)})" if options else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class _Number:
    low: float
    high: float
    above: bool  # low itself is not allowed
    below: bool  # high itself is not allowed
    whole: bool

    def checked(self, what: str, value: Any) -> float:
        value = value.item() if isinstance(value, np.generic) else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not self._fits(value):
            msg = f"schedule: {what} must be {self} (got {shown(value)}); change it"
            raise RecipeError(msg)
        return int(value) if self.whole else float(value)

    def _fits(self, value: float) -> bool:
        if not self.low <= value <= self.high or not math.isfinite(value):
            return False
        ends = (self.above and value == self.low) or (self.below and value == self.high)
        return not ends and (not self.whole or value == int(value))

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        return f"{kind} in {'(' if self.above else '['}{self.low:g}, {self.high:g}{')' if self.below else ']'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Numbers:
    each: _Number

    def checked(self, what: str, value: Any) -> tuple[float, ...]:
        if not isinstance(value, list | tuple) or not 1 <= len(value) <= MOST_OPTIONS:
            msg = f"schedule: {what} must be a list of numbers (got {shown(value)}); write for example [0.5, 0.75]"
            raise RecipeError(msg)
        found = tuple(self.each.checked(what, one) for one in value)
        if list(found) != sorted(set(found)):
            msg = f"schedule: {what} must be in ascending order, each once (got {shown(value)}); sort it"
            raise RecipeError(msg)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Word:
    words: tuple[str, ...]

    def checked(self, what: str, value: Any) -> str:
        if not isinstance(value, str) or value not in self.words:
            allowed = ", ".join(self.words)
            msg = f"schedule: {what} must be one of {allowed} (got {shown(value)}){suggestion(value, self.words)}"
            raise RecipeError(msg)
        return value


def number(
    default: float, low: float, high: float, *, above: bool = False, below: bool = False, whole: bool = False
) -> Any:
    """An option that is a number between `low` and `high`."""
    allowed = _Number(low=low, high=high, above=above, below=below, whole=whole)
    return dataclasses.field(default=default, metadata={"allowed": allowed})


def numbers(default: tuple[float, ...], low: float, high: float) -> Any:
    """An option that is a list of ascending numbers strictly between `low` and `high`."""
    each = _Number(low=low, high=high, above=True, below=True, whole=False)
    return dataclasses.field(default=default, metadata={"allowed": _Numbers(each=each)})


def word(default: str, *others: str) -> Any:
    """An option that is one of a few words."""
    return dataclasses.field(default=default, metadata={"allowed": _Word(words=(default, *others))})


def suggestion(value: object, known: Iterable[str]) -> str:
    """``"; did you mean x?"`` where something known is near, else an end that asks to choose one."""
    near = difflib.get_close_matches(str(value)[:100], list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else "; choose one of them"


def shown(value: object) -> str:
    """A value as it may stand in a sentence: never long."""
    try:
        return reprlib.repr(value)
    except ValueError:  # a whole number of thousands of digits
        return "a number of too many digits"


def percent(fraction: float) -> str:
    """A fraction of the peak, for people."""
    return f"{100 * fraction:.3g} % of its peak" if fraction else "zero"


def written(value: Any) -> str:
    """An option as :func:`~lrtune.schedules.parse` reads it, exactly."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, str):
        return value
    short = f"{value:g}"
    return short if float(short) == value else repr(value)
