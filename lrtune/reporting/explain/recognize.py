"""Which of lrtune's schedules gives these rates: the options of each family are fitted, and every rate is compared."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lrtune.errors import RecipeError
from lrtune.schedules import Schedule, with_warmup
from lrtune.schedules.cycles import CosineRestarts, Cyclical, OneCycle
from lrtune.schedules.decays import (
    Constant,
    Cosine,
    Exponential,
    InverseSqrt,
    Linear,
    MultiStep,
    Polynomial,
    Step,
    WarmupStableDecay,
)
from lrtune.schedules.sweep import Sweep

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from lrtune.schedules.base import Floats

__all__ = ["EXACT", "Match", "recognize"]

EXACT = 5e-6
"""Of the peak: what differs by less is the same schedule; a host that computes in float32 is off by up to 2e-6."""
FLAT = 1e-9  # of the peak: no change
FITTED = 400  # points that options are fitted to; all are compared afterwards
MOST_DROPS = 50
NEARLY = 1e-3
DIGITS = (2, 3, 4, 6, 9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A schedule with its peak and warmup, and the largest deviation from the rates, as a fraction of the peak."""

    lr: float
    warmup: float
    schedule: Schedule
    off: float
    worst: int


@np.errstate(all="ignore")  # what is not finite fits nothing
def recognize(
    rates: Floats, total: int, *, at: npt.NDArray[np.int64] | None = None, peak: float | None = None
) -> Match:
    """The first family whose every rate is within :data:`EXACT`, else the nearest.

    Parameters
    ----------
    rates
        Learning rates, shape (n,).
    total
        Updates of the run.
    at
        The updates that they are of, shape (n,); by default 0 to n - 1.
    peak
        What the peak is said to be; the largest rate is tried too.
    """
    steps = np.arange(len(rates)) if at is None else at
    best: Match | None = None
    frames = [frame for frame in _frames(rates, steps, total, peak) if (steps >= frame[1]).sum() > 1]
    for maker in (_plain, _dropping, _smooth, _cycling):
        for lr, warmup in frames:
            after = steps >= warmup
            p = np.asarray((steps[after] - warmup) / (total - warmup), dtype=np.float64)
            m = np.asarray(rates[after] / lr)
            for schedule, scale in _made(maker(p, m)):
                found = _compared(rates, steps, total, lr=lr * scale, warmup=warmup, schedule=schedule)
                if best is None or found.off < best.off:
                    best = found
                if best.off <= EXACT:
                    return _plainer(best, rates, steps, total)
    if best is None:
        best = _compared(rates, steps, total, lr=float(np.max(rates)) or 1.0, warmup=0.0, schedule=Constant())
    return _plainer(best, rates, steps, total)


def _frames(
    rates: Floats, steps: npt.NDArray[np.int64], total: int, peak: float | None
) -> Iterator[tuple[float, float]]:
    """Peaks and warmups in updates to try, without a warmup first."""
    highest = float(np.max(rates))
    if not highest > 0:
        return
    peaks = [highest] if peak is None or not peak > 0 or math.isclose(peak, highest, rel_tol=1e-7) else [peak, highest]
    first = steps > 0
    if not first.any() or rates[0] > FLAT * highest or (steps[0] > 0 and rates[0] >= highest):
        for lr in peaks:
            yield lr, 0.0
        if steps[0] == 0:
            return
    slope = float(rates[first][0] / steps[first][0])
    top = float(steps[int(np.argmax(rates >= highest * (1 - FLAT)))])
    if not slope > 0:
        yield from ((lr, top) for lr in peaks if 0 < top < total)
        return
    straight = np.abs(rates - slope * steps) <= 1e-6 * highest
    last = len(rates) if straight.all() else int(np.argmin(straight))
    whole = int(steps[last - 1]) if last else 0
    short = _within(np.nextafter(whole, 0.0) / total, (whole + 1) / total) * total  # where it ends between two updates
    for warmup in dict.fromkeys([*(lr / slope for lr in peaks), float(whole), short]):
        brief = float(f"{warmup / total:.3g}") * total
        exact = brief if math.isclose(brief, warmup, rel_tol=1e-5) else warmup
        if 0 < exact < total:
            yield from ((lr, exact) for lr in dict.fromkeys([*peaks, exact * slope]))
    yield from ((lr, top) for lr in peaks if 0 < top < total)


def _made(makers: Iterator[Any]) -> Iterator[tuple[Schedule, float]]:
    """Those that can be made, each with what its peak is to be multiplied by."""
    for make in makers:
        try:
            made = make()
        except (RecipeError, ValueError, ZeroDivisionError, FloatingPointError, OverflowError):
            continue
        yield made if isinstance(made, tuple) else (made, 1.0)


def _plain(p: Floats, m: Floats) -> Iterator[Any]:
    """One option at most, which the last rate tells."""
    end, left = float(m[-1]), float(p[-1])
    yield Constant
    yield lambda: Linear(floor=_fraction(1 - (1 - end) / left))
    yield lambda: Cosine(floor=_fraction(1 - (1 - end) / ((1 - math.cos(math.pi * left)) / 2)))
    yield lambda: Exponential(end=end ** (1 / left))
    yield lambda: InverseSqrt(timescale=left / (1 / end**2 - 1))
    ratio = (end / float(m[0])) ** (1 / (left - float(p[0]))) if min(end, float(m[0])) > 0 else 0.0
    yield lambda: (Sweep(ratio=ratio), end * ratio ** (1 - left))


def _fraction(value: float) -> float:
    """Within 0 to 1, where it is so but for rounding."""
    return min(max(value, 0.0), 1.0) if -NEARLY < value < 1 + NEARLY else value


def _dropping(p: Floats, m: Floats) -> Iterator[Any]:
    """Falls by one factor, and stays between."""
    drops = np.flatnonzero(np.abs(np.diff(m)) > FLAT * np.max(m)) + 1
    if not 0 < len(drops) <= MOST_DROPS:
        return
    factors = m[drops] / m[drops - 1]
    if not np.allclose(factors, factors[0], rtol=1e-5):
        return
    factor = float(factors[0])
    low, high = p[drops - 1], p[drops]
    for every in [1 / (len(drops) + 1), *(float(f"{(high[0]):.{digits}g}") for digits in DIGITS), float(high[0])]:
        at = every * np.arange(1, len(drops) + 1)
        if np.all(at > low) and np.all(at <= high + 1e-9):
            yield lambda every=every: Step(every=every, factor=factor)
    yield lambda: MultiStep(at=tuple(map(_within, low, high)), factor=factor)


def _within(low: float, high: float) -> float:
    """The shortest number in (low, high]."""
    for digits in (1, *DIGITS):
        for value in (float(f"{high:.{digits}g}"), float(f"{(low + high) / 2:.{digits}g}")):
            if low < value <= high:
                return value
    return float(high)


def _smooth(p: Floats, m: Floats) -> Iterator[Any]:
    """Two options and more, by least squares."""
    end, top = max(float(np.min(m)), 0.0), int(np.argmax(m))
    falls = np.flatnonzero(m < np.max(m) * (1 - 1e-7))
    first_fall = float(p[falls[0]]) if len(falls) else 1.0
    for shape in ("linear", "cosine", "sqrt"):
        start = {"decay": min(max(1 - first_fall + 1e-6, 1e-3), 1.0), "floor": min(end, 0.999)}
        if shape == "linear" and len(falls) > 1:
            slope = float((m[-1] - m[-2]) / (p[-1] - p[-2])) or -1.0
            knee = float(p[-1] - (m[-1] - 1) / slope)
            start = {"decay": 1 - knee, "floor": max(float(m[-1] + slope * (1 - p[-1])), 0.0)}
            yield lambda start=start: WarmupStableDecay(**start)
        if first_fall > 0:
            yield from _fitted(WarmupStableDecay, {"shape": shape}, start, p, m)
    for power in (2.0, 0.5, 1.0, 4.0):
        yield from _fitted(Polynomial, {}, {"power": power, "floor": min(end, 0.5)}, p, m)
    if 0 < top < len(m) - 1 and 0 < p[top] < 1:
        for shape in ("cosine", "linear"):
            start = {"up": float(p[top]), "start": min(max(float(m[0]), 1e-6), 1.0), "end": min(end, 1.0)}
            yield from _fitted(OneCycle, {"shape": shape}, start, p, m, scaled=True)


def _cycling(p: Floats, m: Floats) -> Iterator[Any]:
    """Several falls, or several rises and falls; as many as there are."""
    low = min(max(float(np.min(m)), 0.0), 0.99)
    jumps = np.flatnonzero(np.diff(m) > 0.3 * (np.max(m) - np.min(m))) + 1
    if 0 < len(jumps) <= MOST_DROPS:
        growth = (
            float((p[jumps[1]] - p[jumps[0]]) / p[jumps[0]])
            if len(jumps) > 1
            else float((1 - p[jumps[0]]) / p[jumps[0]])
        )
        for start in (max(growth, 1.0), round(max(growth, 1.0)), 1.0):
            fixed = {"cycles": len(jumps) + 1}
            yield lambda start=start, fixed=fixed: CosineRestarts(**fixed, growth=float(start), floor=0.0)
            yield from _fitted(CosineRestarts, fixed, {"growth": float(start), "floor": low}, p, m)
    valleys = np.flatnonzero((m[1:-1] <= m[:-2]) & (m[1:-1] < m[2:])) + 1
    if len(valleys) <= MOST_DROPS and m[0] < np.max(m):
        rise = float(p[int(np.argmax(m))]) * (len(valleys) + 1)
        first = {"floor": low, "up": min(max(rise, 0.01), 0.99)}
        yield from _fitted(Cyclical, {"cycles": len(valleys) + 1}, first, p, m, scaled=True)


def _fitted(
    kind: type[Schedule], fixed: dict[str, Any], start: dict[str, float], p: Floats, m: Floats, *, scaled: bool = False
) -> Iterator[Any]:
    """The options that come nearest; `scaled` fits the peak too, which may lie between two updates."""
    from scipy.optimize import least_squares

    some = np.unique(np.linspace(0, len(p) - 1, min(FITTED, len(p))).astype(int))
    x, y = p[some], m[some]

    def made(values: Floats) -> tuple[Schedule, float]:
        options = dict(zip(start, map(float, values), strict=False))
        if "floor" in options:
            options["floor"] = max(options["floor"], 0.0)
        return kind(**fixed, **options), float(values[-1]) if scaled else 1.0

    def off(values: Floats) -> Floats:
        try:
            schedule, scale = made(values)
        except RecipeError:
            return np.full_like(y, 1e3)
        return np.asarray(scale * schedule(x) - y)

    first = [*start.values(), *([1.0] if scaled else [])]
    try:
        found = least_squares(off, first, xtol=1e-14, ftol=1e-14, gtol=1e-14, max_nfev=100)
    except (ValueError, FloatingPointError):
        return
    yield lambda: made(found.x)


def _compared(
    rates: Floats, steps: npt.NDArray[np.int64], total: int, *, lr: float, warmup: float, schedule: Schedule
) -> Match:
    whole = with_warmup(schedule, warmup / total) if warmup else schedule
    off = np.abs(lr * whole(steps / total) - rates) / lr
    worst = int(np.argmax(off))
    return Match(lr=lr, warmup=warmup, schedule=schedule, off=float(off[worst]), worst=int(steps[worst]))


def _plainer(match: Match, rates: Floats, steps: npt.NDArray[np.int64], total: int) -> Match:
    """The same with the shortest numbers that lose nothing: defaults first, then fewer digits.

    What is not exact may get worse by a hundredth.
    """
    allowed = max(EXACT, 1.01 * match.off)
    for field in dataclasses.fields(match.schedule):
        value = getattr(match.schedule, field.name)
        if not field.init or not isinstance(value, float) or value == field.default:
            continue
        for short in (field.default, *(float(f"{value:.{digits}g}") for digits in DIGITS)):
            try:
                schedule = dataclasses.replace(match.schedule, **{field.name: short})
            except RecipeError:
                continue
            found = _compared(rates, steps, total, lr=match.lr, warmup=match.warmup, schedule=schedule)
            if found.off <= allowed:
                match = found
                break
    for digits in DIGITS:
        found = _compared(
            rates, steps, total, lr=float(f"{match.lr:.{digits}g}"), warmup=match.warmup, schedule=match.schedule
        )
        if found.off <= max(EXACT / 5, match.off):
            return found
    return match
