"""An earlier study's answer, and how far a search goes by it.

It is averaged with what the runs say, and ignored where the two disagree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lrtune.search.freeze_thaw.config import CONFIG
from lrtune.search.freeze_thaw.observations import SETTINGS, Key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrtune.core.space import Space

__all__ = ["Prior", "ScaledPrior"]


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


class ScaledPrior:
    """A prior in the coordinates of a search.

    Attributes
    ----------
    x
        log10 of its best learning rate, batch-scaled where this search is, and its batch size is known.
    sd
        Its standard deviation in decades: a quarter of its band's width, and not too small.
    """

    def __init__(self, prior: Prior, space: Space) -> None:
        self._prior = prior
        self._names = space.names
        point = {"lr": prior.best, **prior.others}
        known = "batch_size" not in space.names or point.get("batch_size") is not None
        self.x = math.log10(space.scaled_lr(point) if known else prior.best)
        self.sd = max(CONFIG.prior_sd, abs(math.log10(prior.high / prior.low)) / 4)

    def shares(self, key: Key) -> bool:
        """Whether these are the other settings of its best, as far as they are searched and it had them."""
        searched = [(name, value) for name, value in zip(SETTINGS, key, strict=True) if name in self._names]
        return all(self._prior.others.get(name) in {None, value} for name, value in searched)

    def recommends(self, key: Key) -> bool:
        """Whether these are its settings; of one that knows none, no settings are."""
        return bool(self._prior.others) and self.shares(key)

    def confirmed_by(self, x: float, key: Key) -> bool:
        """Whether the best complete run lies in its band, or about so close, under its settings."""
        low, high = (math.log10(end / self._prior.best) for end in (self._prior.low, self._prior.high))
        near = CONFIG.prior_confirmed
        return min(low, -near) <= x - self.x <= max(high, near) and self.shares(key)

    def averaged(self, place: float, spread: float, *, least: float) -> tuple[float, float]:
        """The optimum expected by the runs (x, standard deviation in decades) averaged with its own, by precision.

        What the runs say alone where the two disagree; the standard deviation is never below `least`.
        """
        if abs(place - self.x) > CONFIG.sigmas * math.hypot(spread, self.sd):
            return place, spread
        weight = spread**2 / (spread**2 + self.sd**2)
        return (1 - weight) * place + weight * self.x, max(spread * self.sd / math.hypot(spread, self.sd), least)
