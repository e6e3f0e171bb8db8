"""Every constant of the range test, each with its unit and its source: :data:`CONFIG`.

Sources: a paper or a library, named; *definition*; or *measured*: set on recorded sweeps, together with all others.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CONFIG", "RangeTestConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeTestConfig:
    """The constants of :func:`.range_test` and of the reading of its curves."""

    # -- lr_range.py: the sweeps and the interval
    fewest_steps: int = 20
    """Steps below which a sweep has no shape; measured."""
    least_steps: int = 40
    """Steps of a sweep by default, at least; measured."""
    most_steps: int = 150
    """The same, at most: 19 steps a decade where eight are swept; measured."""
    share: float = 0.24
    """Share of a full training that all sweeps together cost at most by default; definition."""
    apart: float = 1.0
    """Decades between the seeds' readings above which the test is unreliable; above half of it no longer good;
    measured."""
    below_middle: float = 20.0
    """Factor from the interval's low end to the middle of the fall: a sweep passes a learning rate in a step or two, a
    training stays for thousands, and what falls slowly here arrives there; measured."""
    above_edge: float = 2.0
    """Factor from the edge to the interval's high end: a sweep has neither warmup nor decay, which carry further;
    measured."""
    above_minimum: float = 5.0
    """The same from the minimum; the lower of the two ends counts; measured."""
    lost_steps: int = 6
    """Losses in a row far above the start after which a sweep is ended; measured."""
    lost_digits: float = 1e-9
    """Share of a sum of losses below which its last term is rounding; definition (float64)."""

    # -- curve_reading.py: the reading of one sweep
    width: float = 0.2
    """Standard deviation of the smoothing kernel, decades; measured."""
    fewest_losses: int = 8
    """Finite losses below which nothing is read; measured."""
    fewest_near: int = 3
    """Losses within two kernel widths below which there is no level; definition (a line, and one to disagree)."""
    start: float = 0.15
    """Share of the sweep's steps that are its start, where the learning rate is too small to matter; measured."""
    ceiling: float = 2.0
    """Falls above the start at which losses are cut off, so that an explosion is not smoothed backwards; measured."""
    noise: float = 4.0
    """Standard errors that a fall must exceed: the lowest of thirty values lies 2.2 down by chance; measured."""
    rise: float = 10.0
    """Standard deviations above the start at which a sweep that never falls counts as exploded; measured."""
    begun: float = 0.1
    """Share of the whole fall at which it has begun; definition."""
    lost: float = 0.5
    """Share of the whole fall, given back, at which the edge lies; definition."""
    rounding: float = 1e-9
    """Relative size of what is rounding; definition (float64)."""


CONFIG = RangeTestConfig()
