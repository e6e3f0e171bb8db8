"""The drift test: is the last learning rate still right on today's data? A pure function of a few short trainings.

:mod:`lrtune.jobs.drift_strategy` trains them and acts on the verdict; when a job is due is :mod:`lrtune.jobs.schedule`.

The last learning rate and its two neighbours, a factor of about three below and above, train a small fraction of a
run under one seed. Their losses then do not tell which is best in the end: short runs favour other learning rates
than long ones (Wu et al. 2018, "Understanding Short-Horizon Bias in Stochastic Meta-Optimization"). But that bias is
the same every week. So what is compared is the losses relative to each other today with those of the day on which
the learning rate was found: *by how much has a neighbour gained on it?*
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["CONFIG", "Drift", "DriftCheck", "DriftConfig", "DriftVerdict", "Profile", "judge"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftConfig:
    """The constants of the drift test.

    A *share* is one of the way from the untrained loss to the best one. Where a line names no source, the value was
    checked on jobs over weeks of changing data (the repository's ``studies/benchmarks/job_weeks.py``).
    """

    same: float = 0.08  # share: a neighbour that gained less has gained nothing
    gone: float = 0.25  # share: one that gained so much, and is ahead, is better; the first check alone is too noisy
    strange: float = 0.5  # share: a neighbour that lost so much shows that the losses are not comparable
    diverged: float = 1.0  # share by which a diverged run counts as worse; definition (that of the untrained model)
    level: float = 3.0  # factor: a loss so much larger or smaller than before has another scale
    near: float = 1.3  # factor within which fractions of a training are compared
    least_learned: float = 0.02  # of the untrained loss: below it nothing has been learned yet
    step: float = 10**0.48  # factor between a learning rate and its neighbours: about three, and the step of no grid
    fractions: tuple[float, ...] = (0.04, 0.08, 0.16)  # of a training: the checks, made until one decides
    reference: int = 2  # checks that are made of a new answer, for the comparison next time
    warmups: float = 1.5  # warmups after which the first check is made: before, runs differ by their warmup alone
    longest: float = 0.4  # of a training: longer checks cost as much as a search; definition


CONFIG = DriftConfig()


class DriftVerdict(Enum):
    """The verdict of the test."""

    UNCHANGED = "unchanged"
    MOVED = "moved"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftCheck:
    """The losses of three runs at one fraction of a training; smaller is better.

    Attributes
    ----------
    fraction
        Of a full training, above 0 and at most 1.
    low, mid, high
        Of the learning rate below, the last one and the one above; infinite where the run diverged, None where there
        is none, because it is outside the range or failed.
    """

    fraction: float
    low: float | None
    mid: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The losses of a learning rate and its neighbours on the data of one day.

    Attributes
    ----------
    looks
        By increasing fraction.
    untrained, end
        The loss before training, and that of the learning rate after a full training, where they are known.
    """

    looks: tuple[DriftCheck, ...] = ()
    untrained: float | None = None
    end: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; ``"diverged"`` for an infinite one."""
        rows = [{name: _plain(value) for name, value in asdict(look).items()} for look in self.looks]
        return {"looks": rows, "untrained": self.untrained, "end": self.end}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Profile:
        """What :meth:`to_json` wrote."""
        looks = [{name: _value(value) for name, value in row.items()} for row in data["looks"]]
        made = tuple(DriftCheck(**look) for look in looks)  # type: ignore[arg-type]  # a fraction is never None
        return cls(looks=made, untrained=data["untrained"], end=data["end"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """A verdict, and one sentence with its numbers."""

    verdict: DriftVerdict
    why: str

    @classmethod
    def undecided(cls, why: str) -> Drift:
        """The verdict that the test cannot tell."""
        return cls(verdict=DriftVerdict.CANNOT_TELL, why=why)


def judge(today: Profile, before: Profile | None = None, *, last: bool = False) -> Drift:
    """Whether the learning rate is still right, by the longest check of today.

    Parameters
    ----------
    today
        The checks so far, one at least.
    before
        The profile of the day on which the learning rate was found. Without it only two neighbours that are clearly
        worse, or one that is clearly better, decide.
    last
        Whether no longer check will follow.
    """
    look = today.looks[-1]
    if look.mid is None:
        return Drift.undecided("last time's learning rate could not be trained")
    if math.isinf(look.mid):
        return Drift(verdict=DriftVerdict.MOVED, why="last time's learning rate diverges on today's data")
    scale = _scale(today, look)
    if scale is None:
        return Drift.undecided("nothing has begun to learn yet")
    now = _excess(look, look.mid, scale)
    then = _matching(before, look.fraction)
    if before is not None and then is not None and then.mid is not None and math.isfinite(then.mid):
        level = look.mid / then.mid if look.mid > 0 < then.mid else 1.0
        if not 1 / CONFIG.level <= level <= CONFIG.level:
            return Drift.undecided(f"it shows {level:.2g} times what it showed when it was found")
        scale = _scale(before, then)
        if scale is not None:
            return _compared(now, _excess(then, then.mid, scale), first=len(today.looks) == 1, last=last)
    return _alone(now)


def _compared(now: Sequence[float | None], then: Sequence[float | None], *, first: bool, last: bool) -> Drift:
    """By what each neighbour gained or lost since then; how much worse it was and is, None where it is not known."""
    known = [
        (then_ - now_, now_, name)
        for name, now_, then_ in zip(("lower", "higher"), now, then, strict=True)
        if now_ is not None and then_ is not None
    ]
    if not known:
        return Drift.undecided("it has no neighbours to be compared with")
    gain, lead, name = max(known)
    why = f"the {name} learning rate gained {gain:+.2f} on it since it was found"
    if gain >= CONFIG.gone and lead < 0 and (last or not first):
        return Drift(verdict=DriftVerdict.MOVED, why=f"{why}, and leads")
    lost, _, other = min(known)
    if (
        lost < -CONFIG.strange
    ):  # the learning rate where runs diverge has come closer, or the scale of the data has changed
        return Drift.undecided(f"the {other} learning rate lost {-lost:.2f} on it: all is different")
    if gain <= CONFIG.same or (last and all(now_ > CONFIG.same for _, now_, _ in known)):
        return Drift(verdict=DriftVerdict.UNCHANGED, why=why)
    return Drift.undecided(why)


def _alone(now: Sequence[float | None]) -> Drift:
    """Without a profile of before: by how much worse the neighbours are today."""
    known = [value for value in now if value is not None]
    if len(known) == len(now) and all(value > CONFIG.same for value in known):
        return Drift(verdict=DriftVerdict.UNCHANGED, why="both neighbours are worse")
    if known and min(known) < -CONFIG.gone:
        return Drift(verdict=DriftVerdict.MOVED, why=f"a neighbour is better by {-min(known):.2f}")
    return Drift.undecided("its neighbours are about as good, and there is nothing to compare with")


def _excess(look: DriftCheck, mid: float, scale: float) -> list[float | None]:
    """By how much each neighbour is worse, as a share of `scale`; None where it is not known."""
    return [None if value is None else min(CONFIG.diverged, (value - mid) / scale) for value in (look.low, look.high)]


def _scale(profile: Profile, look: DriftCheck) -> float | None:
    """The loss learned so far: from the untrained model to the best of the three, else the largest known difference."""
    values = [value for value in (look.low, look.mid, look.high) if value is not None and math.isfinite(value)]
    best = min(values)
    if profile.untrained is not None:
        learned = profile.untrained - best
        return learned if learned > CONFIG.least_learned * abs(profile.untrained) else None
    left = 0.0 if profile.end is None or look.mid is None else look.mid - profile.end
    return max(left, max(values) - best, 0.1 * abs(best)) or None


def _matching(profile: Profile | None, fraction: float) -> DriftCheck | None:
    looks = () if profile is None else profile.looks
    near = [look for look in looks if 1 / CONFIG.near <= look.fraction / fraction <= CONFIG.near]
    return min(near, key=lambda look: abs(math.log(look.fraction / fraction)), default=None)


def _plain(value: float | None) -> float | str | None:
    return "diverged" if value is not None and math.isinf(value) else value


def _value(value: float | str | None) -> float | None:
    return math.inf if value == "diverged" else None if value is None else float(value)
