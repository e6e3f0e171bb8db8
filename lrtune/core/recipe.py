"""A recipe: the settings of one training run (learning rate, schedule, batch size, seed, ...)."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lrtune.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Recipe"]

MAX_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The settings of one training run. Frozen; converted to plain JSON and back.

    Attributes
    ----------
    lr
        The peak learning rate, positive and finite.
    epochs
        Length of the full run in epochs (yields of a generator), at least 1.
    batch_size
        Samples per optimizer step; None is the trainer's default.
    schedule
        Name of the schedule with its options, e.g. ``"cosine"`` or ``"cosine(floor=0.1)"``; see
        :mod:`lrtune.schedules`.
    warmup
        Linear warmup: a fraction of all steps in [0, 1), or a number of steps where it is 1 or more.
    optimizer
        Name of the optimizer; None is the trainer's default, as for `momentum`, `weight_decay` and
        `layer_decay`.
    seed
        Seed of the weights, the data order and whatever else the trainer draws.

    Raises
    ------
    RecipeError
        If a value is out of its range.
    """

    lr: float
    epochs: int = 1
    batch_size: int | None = None
    schedule: str = "constant"
    warmup: float = 0.0
    optimizer: str | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    layer_decay: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _check(math.isfinite(self.lr) and self.lr > 0, "lr", self.lr, "a positive, finite number")
        _check(self.epochs >= 1, "epochs", self.epochs, "a whole number of at least 1")
        _check(self.batch_size is None or self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        _check(math.isfinite(self.warmup) and self.warmup >= 0, "warmup", self.warmup, "zero or more")
        _check(0 <= self.seed <= MAX_SEED, "seed", self.seed, f"between 0 and {MAX_SEED}")
        for name in ("momentum", "weight_decay", "layer_decay"):
            value = getattr(self, name)
            _check(value is None or (math.isfinite(value) and value >= 0), name, value, "zero or more, and finite")

    def to_json(self) -> dict[str, Any]:
        """The recipe as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Recipe:
        """The recipe that :meth:`to_json` wrote; fields that this version does not know are ignored.

        Raises
        ------
        RecipeError
            If the learning rate is missing or a value is out of its range.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if "lr" not in data:
            msg = f"recipe: lr is missing (got the fields {sorted(data)}); give the learning rate"
            raise RecipeError(msg)
        return cls(**{name: value for name, value in data.items() if name in known})

    def with_seed(self, seed: int) -> Recipe:
        """The same recipe under another seed."""
        return dataclasses.replace(self, seed=seed)


def _check(condition: bool, name: str, value: object, allowed: str) -> None:  # noqa: FBT001 -- a predicate
    if not condition:
        msg = f"recipe: {name} must be {allowed} (got {value!r})"
        raise RecipeError(msg)
