"""The drift test: is last time's learning rate still right on today's data? A pure function of short trainings.

The learning rate of last time and its two neighbours, a factor of about three below and above, train a
small fraction of a run under one seed. How they stand to each other then is no measure of which is best in
the end: short runs favour other learning rates than long ones (Wu et al. 2018, "Understanding Short-Horizon
Bias in Stochastic Meta-Optimization"). But the bias is the same every week. So what is compared is how they
stand today with how they stood when the learning rate was found: *by how much has a neighbour gained on it?*
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Drift", "DriftCheck", "DriftVerdict", "Profile", "judge"]

SAME = 0.08  # of the way from untrained to the best: a neighbour that gained less has gained nothing
GONE = 0.25  # one that gained so much, and leads, is better; the first look alone is too noisy to say so
LEVEL = 3.0  # early on, that a loss is so much larger or smaller says that the scale of the data has changed
STRANGE = 0.5  # one that lost so much shows that the landscape is another one
NEAR = 1.3  # fractions of a training within this factor are compared
FALLEN = 1.0  # what a diverged run is worth: as much as the untrained model


class DriftVerdict(Enum):
    """What the test says."""

    UNCHANGED = "unchanged"
    MOVED = "moved"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftCheck:
    """What three runs showed at one fraction of a training; smaller is better.

    Attributes
    ----------
    fraction
        Of a full training, above 0 and at most 1.
    low, mid, high
        The values of the learning rate below, last time's and the one above; infinite where it diverged, None
        where there is no such run, because it lies outside of the range or failed.
    """

    fraction: float
    low: float | None
    mid: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How a learning rate and its neighbours train, on the data of one day.

    Attributes
    ----------
    looks
        By increasing fraction.
    untrained
        The value before training, where it is known.
    end
        Of the learning rate itself after a full training, where it is known.
    """

    looks: tuple[DriftCheck, ...] = ()
    untrained: float | None = None
    end: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; ``"diverged"`` stands for an infinite one."""
        rows = [{name: _shown(value) for name, value in asdict(look).items()} for look in self.looks]
        return {"looks": rows, "untrained": self.untrained, "end": self.end}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Profile:
        """What :meth:`to_json` wrote."""
        looks = tuple(
            DriftCheck(
                fraction=float(row["fraction"]),
                low=_meant(row["low"]),
                mid=_meant(row["mid"]),
                high=_meant(row["high"]),
            )
            for row in data["looks"]
        )
        return cls(looks=looks, untrained=data["untrained"], end=data["end"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """A verdict, and one sentence with its numbers."""

    verdict: DriftVerdict
    why: str


def judge(today: Profile, before: Profile | None = None, *, last: bool = False) -> Drift:
    """Whether the learning rate is still right, by the longest look of today.

    Parameters
    ----------
    today
        Its looks so far, one at least.
    before
        The profile of the day on which the learning rate was found; None where there is none, and then only a
        clear bracket or a clear loss says anything.
    last
        Whether no longer look will follow.
    """
    look = today.looks[-1]
    if look.mid is None:
        return Drift(verdict=DriftVerdict.CANNOT_TELL, why="last time's learning rate could not be trained")
    if math.isinf(look.mid):
        return Drift(verdict=DriftVerdict.MOVED, why="last time's learning rate diverges on today's data")
    scale = _scale(today, look)
    if scale is None:
        return Drift(verdict=DriftVerdict.CANNOT_TELL, why="nothing has begun to learn yet")
    then = _matching(before, look.fraction)
    now = _excess(look, look.mid, scale)
    if before is None or then is None or then.mid is None or math.isinf(then.mid):
        return _alone(now)
    return _other_scale(look.mid, then.mid) or _beside(now, then, then.mid, before, today, last=last)


def _other_scale(now: float, then: float) -> Drift | None:
    """Whether the data have another scale, as far as a positive loss shows it."""
    level = now / then if now > 0 < then else 1.0
    if 1 / LEVEL <= level <= LEVEL:
        return None
    return Drift(verdict=DriftVerdict.CANNOT_TELL, why=f"it shows {level:.2g} times what it showed when it was found")


def _beside(
    now: Sequence[float | None], then: DriftCheck, mid: float, before: Profile, today: Profile, *, last: bool
) -> Drift:
    scale = _scale(before, then)
    if scale is None:
        return _alone(now)
    return _compared(now, _excess(then, mid, scale), first=len(today.looks) == 1, last=last)


def _compared(now: Sequence[float | None], then: Sequence[float | None], *, first: bool, last: bool) -> Drift:
    known = [
        (then_ - now_, now_, name)
        for name, now_, then_ in zip(("lower", "higher"), now, then, strict=True)
        if now_ is not None and then_ is not None
    ]
    if not known:
        return Drift(verdict=DriftVerdict.CANNOT_TELL, why="it has no neighbours to be compared with")
    gain, lead, name = max(known)
    said = f"the {name} learning rate gained {gain:+.2f} on it since it was found"
    if gain >= GONE and lead < 0 and (last or not first):
        return Drift(verdict=DriftVerdict.MOVED, why=f"{said}, and leads")
    lost, _, other = min(known)
    if lost < -STRANGE:  # one that fell far behind: the edge has come closer, or the scale of things has changed
        return Drift(
            verdict=DriftVerdict.CANNOT_TELL, why=f"the {other} learning rate lost {-lost:.2f} on it: all is different"
        )
    if gain <= SAME or (last and all(now_ > SAME for _, now_, _ in known)):
        return Drift(verdict=DriftVerdict.UNCHANGED, why=said)
    return Drift(verdict=DriftVerdict.CANNOT_TELL, why=said)


def _alone(now: Sequence[float | None]) -> Drift:
    """Without a profile of before: a clear bracket, or a neighbour that is far better."""
    known = [value for value in now if value is not None]
    if len(known) == len(now) and all(value > SAME for value in known):
        return Drift(verdict=DriftVerdict.UNCHANGED, why="both neighbours are worse")
    if known and min(known) < -GONE:
        return Drift(verdict=DriftVerdict.MOVED, why=f"a neighbour is better by {-min(known):.2f}")
    return Drift(
        verdict=DriftVerdict.CANNOT_TELL, why="its neighbours are about as good, and there is nothing to compare with"
    )


def _excess(look: DriftCheck, mid: float, scale: float) -> tuple[float | None, float | None]:
    """By how much each neighbour is worse, in shares of the way learned; None where it is not known."""
    return _worse(look.low, mid, scale), _worse(look.high, mid, scale)


def _worse(value: float | None, mid: float, scale: float) -> float | None:
    if value is None:
        return None
    return min(FALLEN, (value - mid) / scale)


def _scale(profile: Profile, look: DriftCheck) -> float | None:
    """What counts as all: the way from the untrained model to the best of the three, else what is seen to differ."""
    values = [value for value in (look.low, look.mid, look.high) if value is not None and math.isfinite(value)]
    best = min(values)
    if profile.untrained is not None:
        learned = profile.untrained - best
        return learned if learned > 0.02 * abs(profile.untrained) else None
    left = 0.0 if profile.end is None or look.mid is None else look.mid - profile.end
    return max(left, max(values) - best, 0.1 * abs(best)) or None


def _matching(profile: Profile | None, fraction: float) -> DriftCheck | None:
    looks = () if profile is None else profile.looks
    near = [look for look in looks if 1 / NEAR <= look.fraction / fraction <= NEAR]
    return min(near, key=lambda look: abs(math.log(look.fraction / fraction)), default=None)


def _shown(value: float | None) -> float | str | None:
    return "diverged" if value is not None and math.isinf(value) else value


def _meant(value: float | str | None) -> float | None:
    return math.inf if value == "diverged" else None if value is None else float(value)
