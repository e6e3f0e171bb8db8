"""Simulated curves whose cause is known, with every parameter of the simulation drawn at random."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lrtune.core.curve import Curve, Direction, Point
from lrtune.reporting.diagnosis import VerdictKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

__all__ = ["MAKERS", "Labelled", "labelled", "make_curve"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    kind: VerdictKind
    curve: Curve
    cause: str
    metric: str = "valid_loss"
    direction: Direction = "minimize"
    untrained: float | None = None
    lr: float | None = None
    context: dict[str, Any] = field(default_factory=dict)


def make_curve(steps_each: int = 10, **series: Floats) -> Curve:
    length = max(len(values) for values in series.values())
    return Curve(
        Point(
            step=(i + 1) * steps_each,
            epoch=float(i + 1),
            samples=(i + 1) * steps_each * 32,
            values={name: float(values[i]) for name, values in series.items() if i < len(values)},
        )
        for i in range(length)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bowl:
    """Gradient descent with noise on a quadratic whose largest curvature is `sharpest`."""

    curvatures: Floats
    start: Floats
    floor: float

    @classmethod
    def random(cls, rng: np.random.Generator, spread: float = 3.0) -> Bowl:
        sharpest = 10 ** rng.uniform(-1, 2)
        size = int(rng.integers(5, 60))
        curvatures = np.sort(sharpest * np.exp(-rng.uniform(0, math.log(spread), size)))
        curvatures[-1] = sharpest
        start = rng.normal(size=size) / np.sqrt(curvatures)
        return cls(curvatures=curvatures, start=start, floor=float(rng.uniform(0.05, 2.0)))

    @property
    def edge(self) -> float:
        return 2.0 / float(self.curvatures[-1])

    def loss(self, x: Floats) -> float:
        return float(0.5 * (self.curvatures * x**2).sum()) + self.floor

    def descend(self, lr: float, reports: int, each: int, rng: np.random.Generator, noise: float = 0.0) -> Floats:
        x, losses = self.start.copy(), []
        with np.errstate(over="ignore", invalid="ignore"):
            for _ in range(reports):
                for _ in range(each):
                    kick = noise * np.sqrt(self.curvatures) * rng.normal(size=len(x)) if noise else 0.0
                    x = x - lr * (self.curvatures * x + kick)
                losses.append(self.loss(x))
                if not math.isfinite(losses[-1]):
                    break
        return np.array(losses)


def _reports(rng: np.random.Generator) -> int:
    return round(math.exp(rng.uniform(math.log(14), math.log(200))))


def _fall(rng: np.random.Generator, reports: int, constants: float, noise: float) -> tuple[Floats, float]:
    """An exponential fall over so many time constants, with its untrained level."""
    size, floor = 10 ** rng.uniform(-1, 1), 10 ** rng.uniform(-2, 0.5)
    t = np.arange(1, reports + 1) / reports
    learned = size * (1 - math.exp(-constants))
    clean = floor + size * np.exp(-constants * t)
    return clean + noise * learned * rng.normal(size=reports), floor + size


def _pair(rng: np.random.Generator, constants: float, noise: float) -> tuple[Floats, Floats, float]:
    reports = _reports(rng)
    state = int(rng.integers(2**31))
    valid, untrained = _fall(np.random.default_rng(state), reports, constants, noise)
    train, _ = _fall(np.random.default_rng(state), reports, constants, 0.0)
    span = float(np.ptp(train)) or 1.0
    train = train * rng.uniform(0.7, 1.0) + noise * span * rng.normal(size=reports)
    return train, valid, untrained


def _as_metric(
    rng: np.random.Generator, kind: VerdictKind, cause: str, curves: tuple[Floats, Floats, float]
) -> Labelled:
    """Half of the time as a score that is maximised; the untrained level known half of the time."""
    train, valid, start = curves
    known = bool(rng.random() < 0.5)
    if rng.random() < 0.3:
        top = start * rng.uniform(1.0, 2.0)
        curve = make_curve(int(rng.integers(1, 50)), train_loss=train, score=top - valid)
        return Labelled(
            kind=kind, curve=curve, cause=cause, metric="score", direction="maximize",
            untrained=top - start if known else None,
        )  # fmt: skip
    curve = make_curve(int(rng.integers(1, 50)), train_loss=train, valid_loss=valid)
    return Labelled(kind=kind, curve=curve, cause=cause, untrained=start if known else None)


def still_falling(rng: np.random.Generator) -> Labelled:
    if rng.random() < 0.5:
        train, valid, start = _pair(rng, rng.uniform(0.2, 1.8), rng.uniform(0, 0.015))
        return _as_metric(rng, VerdictKind.STILL_FALLING, "time constant above half of the run", (train, valid, start))
    bowl, reports, each = Bowl.random(rng), _reports(rng), int(rng.integers(1, 5))
    lr = rng.uniform(0.1, 0.7) / (2 * float(bowl.curvatures.mean()) * reports * each)
    values = bowl.descend(lr, reports, each, rng)
    curve = make_curve(each, train_loss=values, valid_loss=values * rng.uniform(1, 1.1))
    return Labelled(
        kind=VerdictKind.STILL_FALLING, curve=curve, cause="quadratic, learning rate far below the edge", lr=lr
    )


def healthy(rng: np.random.Generator) -> Labelled:
    train, valid, start = _pair(rng, rng.uniform(3.8, 6.5), rng.uniform(0, 0.004))
    return _as_metric(rng, VerdictKind.HEALTHY, "time constant of a fifth of the run", (train, valid, start))


def plateaued(rng: np.random.Generator) -> Labelled:
    train, valid, start = _pair(rng, rng.uniform(14, 40), rng.uniform(0, 0.015))
    cause = "time constant below a fourteenth of the run"
    labelled = _as_metric(rng, VerdictKind.PLATEAUED, cause, (train, valid, start))
    # Where all was learned before the first report, only the untrained level can say that it was.
    untrained = start if labelled.direction == "minimize" else labelled.untrained
    return Labelled(**{**_fields(labelled), "untrained": untrained})


def _fields(item: Labelled) -> dict[str, Any]:
    return {name: getattr(item, name) for name in Labelled.__slots__}


def noisy(rng: np.random.Generator) -> Labelled:
    train, valid, start = _pair(rng, rng.uniform(1.5, 12), rng.uniform(0.12, 0.4))
    curve = make_curve(10, train_loss=train, valid_loss=valid)
    return Labelled(kind=VerdictKind.NOISY, curve=curve, cause="white noise of known size", untrained=start)


def unstable_validation(rng: np.random.Generator) -> Labelled:
    train, valid, start = _pair(rng, rng.uniform(1.5, 12), rng.uniform(0, 0.008))
    valid = valid + rng.uniform(0.12, 0.4) * (start - valid.min()) * rng.normal(size=len(valid))
    curve = make_curve(10, train_loss=train, valid_loss=valid)
    return Labelled(
        kind=VerdictKind.UNSTABLE_VALIDATION,
        curve=curve,
        cause="white noise on the held-out part only",
        untrained=start,
    )


def spiked(rng: np.random.Generator) -> Labelled:
    train, valid, start = _pair(rng, rng.uniform(1.5, 12), rng.uniform(0, 0.01))
    n, height = len(valid), rng.uniform(0.4, 3.0) * (start - valid.min())
    at = int(rng.integers(n // 4, max(n // 4 + 1, 3 * n // 4)))
    for back in range(int(rng.integers(1, max(2, min(4, n // 8))))):
        valid[at + back] += height * 0.6**back
        train[at + back] += height * 0.5**back
    return _as_metric(rng, VerdictKind.SPIKED, "one burst of known height", (train, valid, start))


def edge(rng: np.random.Generator) -> Labelled:
    reports = max(_reports(rng), 30)
    return _hovering(rng) if rng.random() < 0.5 else _two_cycle(rng, reports)


def _hovering(rng: np.random.Generator) -> Labelled:
    """Self-stabilisation at the edge (Damian, Nichani and Lee 2023, section 3): sharpness hovers at 2 / lr.

    The sharpness grows steadily, the oscillation along its direction grows with it and pushes it back.
    """
    x, y, path = 0.05, 0.0, []
    grow, wanted = rng.uniform(0.05, 0.12), int(rng.integers(5, 12))
    while _peaks(path) < wanted:
        x, y = -(1 + y) * x + 0.02 * rng.normal(), max(y + grow - x * x * rng.uniform(0.8, 1.2), -0.9)
        path.append(x * x)
    burst, n = np.array(path), len(path)
    slow = 1.0 + 2.0 * np.exp(-rng.uniform(1.5, 6) * np.arange(1, n + 1) / n)
    values = slow + rng.uniform(0.5, 1.5) * burst / burst.max() + rng.uniform(0, 0.004) * rng.normal(size=n)
    curve = make_curve(1, train_loss=values, valid_loss=values * rng.uniform(1.0, 1.1))
    return Labelled(kind=VerdictKind.EDGE, curve=curve, cause="sharpness hovering at 2 / lr", untrained=3.0)


def _peaks(path: list[float]) -> int:
    high = np.array(path) > 0.25 * max(path, default=1.0)
    return int((np.diff(high.astype(int)) == -1).sum())


def _two_cycle(rng: np.random.Generator, reports: int) -> Labelled:
    """A bowl that is quadratic near its bottom and linear far from it, lr between 2 and 2.8 over its curvature."""
    rate, shift = rng.uniform(2.05, 2.8), rng.uniform(0.2, 0.8)
    x, path = 1.0, []
    for _ in range(reports):
        x = x - rate * math.tanh(x)
        path.append(math.log(math.cosh(x - shift)))
    slow = 1.0 + rng.uniform(0.5, 3) * np.exp(-rng.uniform(1.5, 6) * np.arange(1, reports + 1) / reports)
    values = slow + np.array(path) + rng.uniform(0, 0.01) * rng.normal(size=reports)
    train = slow + 0.1 + rng.uniform(0, 0.01) * rng.normal(size=reports)
    curve = make_curve(1, train_loss=train, valid_loss=values)
    return Labelled(kind=VerdictKind.EDGE, curve=curve, cause="lr * curvature above 2 in a bowl with linear walls")


def exploded(rng: np.random.Generator) -> Labelled:
    bowl, each = Bowl.random(rng), int(rng.integers(1, 6))
    lr = bowl.edge * rng.uniform(1.1, 2.5)
    factor = abs(1 - lr * float(bowl.curvatures[-1])) ** (2 * each)
    enough = math.log(
        100
        * (
            bowl.loss(bowl.start)
            / max(bowl.loss(bowl.start * (bowl.curvatures == bowl.curvatures[-1])) - bowl.floor, 1e-12)
        )
    ) / math.log(factor)
    reports = max(12, math.ceil(enough) + int(rng.integers(3, 10)))
    values = bowl.descend(lr, reports, each, rng)
    values = values[: next((i for i, v in enumerate(values) if v > 1e100), len(values))]
    curve = make_curve(each, train_loss=values, valid_loss=values)
    return Labelled(kind=VerdictKind.EXPLODED, curve=curve, cause="quadratic, learning rate above its edge", lr=lr)


def non_finite(rng: np.random.Generator) -> Labelled:
    train, valid, start = _pair(rng, rng.uniform(1, 10), rng.uniform(0, 0.2))
    at = int(rng.integers(0, len(valid)))
    bad = [math.nan, math.inf, -math.inf][int(rng.integers(3))]
    train, valid = train[: at + 1], valid[: at + 1]
    (train if rng.random() < 0.5 else valid)[at] = bad
    return _as_metric(rng, VerdictKind.NON_FINITE, "a number that is none", (train, valid, start))


def stuck(rng: np.random.Generator) -> Labelled:
    reports, level, sigma = _reports(rng), 10 ** rng.uniform(-0.5, 1), rng.uniform(0, 0.01)
    values = level * (1 + rng.uniform(0, 0.03) + sigma * rng.normal(size=reports))
    if rng.random() < 0.5:
        lost = int(rng.integers(3, max(4, reports // 2)))
        values[:lost] = level * np.linspace(0.95, rng.uniform(0.2, 0.6), lost)
        cause = "learned first, then fell back to a constant prediction"
    else:
        cause = "a constant prediction throughout"
    curve = make_curve(10, train_loss=values, valid_loss=values)
    return Labelled(kind=VerdictKind.STUCK, curve=curve, cause=cause, untrained=level)


def overfitting(rng: np.random.Generator) -> Labelled:
    train, valid, start = _pair(rng, rng.uniform(4, 10), rng.uniform(0, 0.008))
    n, learned = len(valid), start - float(valid.min())
    turn = rng.uniform(0.25, 0.6)
    t = np.arange(1, n + 1) / n
    valid = valid + np.maximum(t - turn, 0) / (1 - turn) * rng.uniform(0.15, 0.6) * learned
    train = train - 0.15 * learned * t
    return _as_metric(rng, VerdictKind.OVERFITTING, "held-out loss turns at a known step", (train, valid, start))


MAKERS: dict[VerdictKind, Callable[[np.random.Generator], Labelled]] = {
    VerdictKind.STILL_FALLING: still_falling,
    VerdictKind.HEALTHY: healthy,
    VerdictKind.PLATEAUED: plateaued,
    VerdictKind.NOISY: noisy,
    VerdictKind.SPIKED: spiked,
    VerdictKind.EDGE: edge,
    VerdictKind.NON_FINITE: non_finite,
    VerdictKind.EXPLODED: exploded,
    VerdictKind.STUCK: stuck,
    VerdictKind.OVERFITTING: overfitting,
    VerdictKind.UNSTABLE_VALIDATION: unstable_validation,
}


def labelled(each: int, seed: int) -> Iterator[Labelled]:
    """So many curves of every kind."""
    for index, maker in enumerate(MAKERS.values()):
        for number in range(each):
            yield maker(np.random.default_rng([seed, index, number]))
