"""What an earlier study on similar work found, and how far a search goes by it.

It is averaged with what the runs say, and left out where the two disagree: an earlier study saves looks
where it is right and costs little where it is not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lrtune.search.freeze_thaw.observations import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrtune.core.space import Space

__all__ = ["Earlier", "Prior"]

CLOSEST = 0.3  # decades: an earlier study is not trusted to be closer than this
CONFIRMED = 0.2  # decades from its answer, within which a best complete run confirms it as one in its band does
DISAGREEMENT = 2.0  # standard deviations at which it is no longer believed


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """What an earlier study on similar work found.

    Attributes
    ----------
    best, low, high
        Its best learning rate, and its band.
    others
        The other settings of its best recipe, by name, as far as they are known.
    """

    best: float
    low: float
    high: float
    others: Mapping[str, Any] = field(default_factory=dict)

    @property
    def spread(self) -> float:
        """Its uncertainty in decades."""
        return max(CLOSEST, abs(math.log10(self.high / self.low)) / 4)


class Earlier:
    """An earlier study's answer in the coordinates of this search.

    Attributes
    ----------
    x
        log10 of its best learning rate, scaled by its batch size where this search scales by it, and it is known.
    """

    def __init__(self, prior: Prior, space: Space) -> None:
        self._prior = prior
        self._names = space.names
        point = {"lr": prior.best, **prior.others}
        known = "batch_size" not in space.names or point.get("batch_size") is not None
        self.x = math.log10(space.scaled_lr(point) if known else prior.best)

    def shares(self, key: tuple[Any, ...]) -> bool:
        """Whether these are the other settings of its best, as far as they are searched and it had them."""
        asked = [(name, value) for name, value in zip(SETTINGS, key, strict=True) if name in self._names]
        return all(self._prior.others.get(name) in {None, value} for name, value in asked)

    def recommends(self, key: tuple[Any, ...]) -> bool:
        """Whether it speaks for these settings; one that knows none speaks for none."""
        return bool(self._prior.others) and self.shares(key)

    def confirmed_by(self, x: float, key: tuple[Any, ...]) -> bool:
        """Whether the best complete run lies where it said that it would."""
        low, high = (math.log10(end / self._prior.best) for end in (self._prior.low, self._prior.high))
        return min(low, -CONFIRMED) <= x - self.x <= max(high, CONFIRMED) and self.shares(key)

    def averaged(self, place: float, spread: float, *, least: float) -> tuple[float, float]:
        """Where the best is expected (x) by the runs and by it, weighted by precision, and the standard deviation.

        What the runs say alone where the two disagree; never surer than `least`.
        """
        trust = self._prior.spread
        if abs(place - self.x) > DISAGREEMENT * math.hypot(spread, trust):
            return place, spread
        weight = spread**2 / (spread**2 + trust**2)
        return (1 - weight) * place + weight * self.x, max(spread * trust / math.hypot(spread, trust), least)
