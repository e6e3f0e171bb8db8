"""Whether a loss of the user's own averages over samples: only then is it, part by part, the loss of a whole batch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from lrtune.training.networks.nested import detached, joined
from lrtune.training.out_of_memory import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrtune.training.networks.loss import Evaluated

__all__ = ["CURE", "Averages"]

CURE = "let it return (loss, weight), the weight being the number that it divides by"


class _LossPart(NamedTuple):
    output: Any
    target: Any
    loss: torch.Tensor
    samples: int


class Averages:
    """Looks at a loss part by part: that of two neighbours together must be the mean of theirs by samples.

    A mean over targets that are not masked, or over weights, is told by the first two parts that differ in them.
    It takes the memory of the outputs of two parts, and the loss once more; no forward pass.

    Parameters
    ----------
    function
        ``(output, target)``.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._before: _LossPart | None = None

    def hold(self, found: Evaluated, samples: int) -> bool:
        """Whether it does, as far as the next part tells; each is compared with the one before it."""
        part = _LossPart(detached(found.output), found.target, found.loss.detach(), samples)
        before, self._before = self._before, part
        return before is None or self._together(before, part)

    def _together(self, one: _LossPart, two: _LossPart) -> bool:
        try:
            with torch.no_grad():
                whole = self._function(joined([one.output, two.output]), joined([one.target, two.target]))
                whole = float(whole[0] if isinstance(whole, tuple) else whole)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return False  # the parts have different shapes, say, or it counts on its batch size
        first, second = float(one.loss), float(two.loss)
        mean = (first * one.samples + second * two.samples) / (one.samples + two.samples)
        if not math.isfinite(mean):
            return not math.isfinite(whole)
        # Rounding alone: each sample's loss is the same number both times, only their sum is put together anew.
        tolerance: float = torch.finfo(one.loss.dtype).eps ** 0.6
        return abs(whole - mean) <= tolerance * max(abs(first), abs(second), abs(whole))
