"""A curve: what a run reported, by step, epoch and samples; and which of its numbers is its result."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from lrtune.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = ["Curve", "Direction", "Point", "ValueRule"]

Direction: TypeAlias = Literal["minimize", "maximize"]
Floats: TypeAlias = npt.NDArray[np.float64]

DIGITS = 7  # significant digits of a stored value: float32 holds no more


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Where a run stood, and what it measured there.

    Attributes
    ----------
    step
        Optimizer steps taken; for a generator, yields.
    epoch
        Epochs trained, may be fractional.
    samples
        Training samples seen, 0 where the trainer does not count them.
    values
        What was measured, by name, e.g. ``{"train_loss": 0.41, "valid_loss": 0.36}``.
    lr
        Learning rate of the last step taken, None where the trainer does not say.
    """

    step: int
    epoch: float
    samples: int = 0
    values: Mapping[str, float] = field(default_factory=dict)
    lr: float | None = None


class Curve:
    """What a run reported, in the order of its steps."""

    __slots__ = ("_points",)

    def __init__(self, points: Iterable[Point] = ()) -> None:
        self._points: list[Point] = []
        for point in points:
            self.append(point)

    def append(self, point: Point) -> None:
        """Add a point.

        Raises
        ------
        ValueError
            If it does not lie beyond the last one.
        """
        if self._points and point.step <= self._points[-1].step:
            msg = f"curve: step {point.step} does not lie beyond step {self._points[-1].step}"
            raise ValueError(msg)
        self._points.append(point)

    def __len__(self) -> int:
        return len(self._points)

    def __iter__(self) -> Iterator[Point]:
        return iter(self._points)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Curve) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"Curve({len(self)} points, {self.trained:g} epochs, {', '.join(self.names)})"

    @property
    def names(self) -> list[str]:
        """Names of all that was measured, in the order of their first appearance."""
        return list(dict.fromkeys(name for point in self._points for name in point.values))

    @property
    def last(self) -> Point | None:
        """The last point."""
        return self._points[-1] if self._points else None

    @property
    def trained(self) -> float:
        """Epochs trained."""
        return self._points[-1].epoch if self._points else 0.0

    @property
    def steps(self) -> npt.NDArray[np.int64]:
        """Steps, shape (n,)."""
        return np.array([point.step for point in self._points], dtype=np.int64)

    @property
    def epochs(self) -> Floats:
        """Epochs, shape (n,)."""
        return np.array([point.epoch for point in self._points], dtype=np.float64)

    @property
    def samples(self) -> npt.NDArray[np.int64]:
        """Samples seen, shape (n,)."""
        return np.array([point.samples for point in self._points], dtype=np.int64)

    @property
    def lrs(self) -> Floats:
        """Learning rates as applied, shape (n,); NaN where unknown."""
        return np.array([math.nan if p.lr is None else p.lr for p in self._points], dtype=np.float64)

    def values(self, name: str) -> Floats:
        """What was measured under a name, shape (n,); NaN also where it was not measured.

        :meth:`of` leaves those points out.
        """
        return np.array([point.values.get(name, math.nan) for point in self._points], dtype=np.float64)

    def of(self, name: str) -> tuple[Floats, Floats]:
        """Epochs and values of the points at which `name` was measured, each of shape (m,)."""
        held = [point for point in self._points if name in point.values]
        return (
            np.array([point.epoch for point in held], dtype=np.float64),
            np.array([point.values[name] for point in held], dtype=np.float64),
        )

    def thinned(self, most: int) -> Curve:
        """At most about `most` points: first, last and the extremes of every name are kept."""
        if len(self) <= most:
            return self
        keep = set(np.linspace(0, len(self) - 1, most).round().astype(int).tolist())
        for name in self.names:
            column = self.values(name)
            if np.isfinite(column).any():
                keep |= {int(np.nanargmin(column)), int(np.nanargmax(column))}
        return Curve(self._points[index] for index in sorted(keep))

    def to_json(self) -> dict[str, Any]:
        """The curve as one compact record of columns; non-finite values become strings."""
        return {
            "step": [point.step for point in self._points],
            "epoch": [_rounded(point.epoch) for point in self._points],
            "samples": [point.samples for point in self._points],
            "lr": [None if point.lr is None else _rounded(point.lr) for point in self._points],
            "values": {
                name: [_rounded(p.values[name]) if name in p.values else None for p in self._points]
                for name in self.names
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Curve:
        """The curve that :meth:`to_json` wrote."""
        columns: Mapping[str, Sequence[Any]] = data["values"]
        rows = zip(data["step"], data["epoch"], data["samples"], data["lr"], strict=True)
        return cls(
            Point(
                step=int(step),
                epoch=float(epoch),
                samples=int(samples),
                lr=None if lr is None else float(lr),
                values={name: float(col[i]) for name, col in columns.items() if col[i] is not None},
            )
            for i, (step, epoch, samples, lr) in enumerate(rows)
        )


def _rounded(value: float) -> float | str:
    value = float(value)
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else str(value)


@dataclass(frozen=True, slots=True)
class ValueRule:
    """Which number of a curve is its result: the last, the best, or the mean of the last k.

    ``ValueRule.parse("last")``, ``"best"`` or ``"tail:3"``.
    """

    kind: Literal["last", "best", "tail"] = "last"
    k: int = 1

    @classmethod
    def parse(cls, text: str) -> ValueRule:
        """The rule of that name.

        Raises
        ------
        InputError
            If there is no such rule.
        """
        if text in {"last", "best"}:
            return cls("last" if text == "last" else "best")
        match = re.fullmatch(r"tail:([1-9]\d{0,5})", text)
        if match is None:
            msg = f'value must be "last", "best" or "tail:K" with K of at least 1, such as "tail:3" (got {text!r})'
            raise InputError(msg)
        return cls("tail", int(match[1]))

    def __str__(self) -> str:
        return f"tail:{self.k}" if self.kind == "tail" else self.kind

    def of(self, values: Floats, direction: Direction) -> float | None:
        """The result of a metric's values (shape (n,)): finite, or None where there is none.

        A non-finite value at the end leaves no result, whatever came before it.
        """
        if len(values) == 0 or not math.isfinite(values[-1]):
            return None
        if self.kind == "last":
            return float(values[-1])
        if self.kind == "tail":
            tail = values[-self.k :]
            return float(tail.mean()) if np.isfinite(tail).all() else None
        finite = values[np.isfinite(values)]
        return float(finite.min() if direction == "minimize" else finite.max())
