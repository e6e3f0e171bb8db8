"""How a trial and a search ended: enums whose values are sentences that a user can read."""

from __future__ import annotations

import enum
from typing import Self

__all__ = ["Ending", "Outcome"]


class _Keyed(enum.Enum):
    """An enum whose values are sentences for people and whose keys are words for files and tables."""

    @property
    def key(self) -> str:
        """The member as one lower-case word, e.g. ``"non_finite"``."""
        return self.name.lower()

    @classmethod
    def from_key(cls, key: str) -> Self:
        """The member of that key.

        Raises
        ------
        KeyError
            If there is none.
        """
        return cls[key.upper()]


class Outcome(_Keyed):
    """How a trial ended.

    Beside the key, ``.group`` is the word under which the trials of a result are counted.
    """

    COMPLETED = "trained to its end"
    PRUNED = "stopped early, because others looked better"
    NON_FINITE = "diverged: the loss, a gradient or a weight became NaN or infinite"
    EXPLODED = "diverged: the loss rose far above that of the untrained model"
    STUCK = "diverged: it stayed no better than a constant prediction"
    OUT_OF_MEMORY = "ran out of memory"
    STALLED = "stopped, because it made no progress for too long"
    INTERRUPTED = "interrupted before its end"
    FAILED = "the training code failed"

    @property
    def diverged(self) -> bool:
        """Whether the learning rate was too high for this run."""
        return self in (Outcome.NON_FINITE, Outcome.EXPLODED, Outcome.STUCK)

    @property
    def group(self) -> str:
        """The word under which the trial is counted in a result."""
        if self.diverged:
            return "diverged"
        return "failed" if self is Outcome.STALLED else self.key


class Ending(_Keyed):
    """Why a search ended."""

    LIMIT = "a limit was reached, or nothing could be trained any more"
    SETTLED = "what another training could still gain is below the noise"
    NO_EFFECT = "the learning rate changed nothing"
    INTERRUPTED = "stopped from outside"
