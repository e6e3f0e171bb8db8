"""The base class of schedules: a pure function of progress, with checked options.

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
    from collections.abc import Callable, Iterable, Mapping

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
            if "check" in field.metadata:
                value = field.metadata["check"](f"{self.name}({field.name})", getattr(self, field.name))
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
    def metric_driven(self) -> bool:
        """Whether it is metric-driven: it needs the metric, by ``update``, has a state, and belongs to one run."""
        return False

    @property
    def minimizes(self) -> bool:
        """Whether a smaller metric is the better one to a metric-driven schedule."""
        return True

    def update(self, metric: float, *, progress: float = 1.0) -> float:
        """Take the metric at a progress of the run; returns the multiplier from now on."""
        del metric
        return self(progress)

    def state(self) -> dict[str, Any]:
        """What :meth:`restore` needs to go on after a pause, as plain JSON; empty unless metric-driven."""
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
            if "check" in field.metadata and getattr(self, field.name) != field.default
        ]
        return f"{self.name}({', '.join(options)})" if options else self.name


def number(
    default: float, low: float, high: float, *, above: bool = False, below: bool = False, whole: bool = False
) -> Any:
    """An option that is a number from `low` to `high`, without these themselves where `above` and `below` are true."""
    return dataclasses.field(default=default, metadata={"check": _number(low, high, above, below, whole)})


def numbers(default: tuple[float, ...], low: float, high: float) -> Any:
    """An option that is a list of ascending numbers strictly between `low` and `high`."""
    each = _number(low, high, above=True, below=True, whole=False)

    def check(what: str, value: Any) -> tuple[float, ...]:
        if not isinstance(value, list | tuple) or not 1 <= len(value) <= MOST_OPTIONS:
            msg = f"schedule: {what} must be a list of numbers (got {shown(value)}); write for example [0.5, 0.75]"
            raise RecipeError(msg)
        found = tuple(each(what, one) for one in value)
        if list(found) != sorted(set(found)):
            msg = f"schedule: {what} must be in ascending order, each once (got {shown(value)}); sort it"
            raise RecipeError(msg)
        return found

    return dataclasses.field(default=default, metadata={"check": check})


def word(default: str, *others: str) -> Any:
    """An option that is one of a few words."""
    words = (default, *others)

    def check(what: str, value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            msg = f"schedule: {what} must be one of {', '.join(words)} (got {shown(value)}){suggestion(value, words)}"
            raise RecipeError(msg)
        return value

    return dataclasses.field(default=default, metadata={"check": check})


def _number(low: float, high: float, above: bool, below: bool, whole: bool) -> Callable[[str, Any], float]:  # noqa: FBT001 -- as `number` passes them
    """A function that returns a valid option's value, or raises RecipeError with its name and what is allowed."""
    kind = "a whole number" if whole else "a number"
    allowed = f"{kind} in {'(' if above else '['}{low:g}, {high:g}{')' if below else ']'}"

    def check(what: str, value: Any) -> float:
        value = value.item() if isinstance(value, np.generic) else value
        fits = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        fits = fits and math.isfinite(value) and not (above and value == low) and not (below and value == high)
        if not fits or (whole and value != int(value)):
            msg = f"schedule: {what} must be {allowed} (got {shown(value)}); change it"
            raise RecipeError(msg)
        return int(value) if whole else float(value)

    return check


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
