"""Every constant of the range test, each with its unit and its source: :data:`CONFIG`.

Sources: where a line names none, the value was set on recorded sweeps (the repository's
``studies/benchmarks/range_test.py``), together with the others; *definition*: it follows from what it is.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CONFIG", "RangeTestConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeTestConfig:
    """The constants of :func:`.range_test` and of the reading of its curves."""

    # -- lr_range.py: the sweeps and the interval
    fewest_steps: int = 20  # steps below which a sweep has no shape
    least_steps: int = 40  # steps of a sweep by default, at least
    most_steps: int = 150  # the same, at most: 19 steps a decade where eight are swept
    share: float = 0.24  # share of a full training that all sweeps together cost at most by default; definition
    # decades between the seeds' readings above which the test is unreliable; above half of it no longer good
    apart: float = 1.0
    # factor from the interval's low end to the middle of the fall: a sweep passes a learning rate in a step or two, a
    # training stays for thousands, and what falls slowly here arrives there
    below_middle: float = 20.0
    # factor from the edge to the interval's high end: warmup and decay carry further than a sweep
    above_edge: float = 2.0
    above_minimum: float = 5.0  # the same from the minimum; the lower of the two ends counts
    lost_steps: int = 6  # losses in a row far above the start after which a sweep is ended
    lost_digits: float = 1e-9  # share of a sum of losses below which its last term is rounding; definition (float64)

    # -- curve_reading.py: the reading of one sweep
    width: float = 0.2  # standard deviation of the smoothing kernel, decades
    fewest_losses: int = 8  # finite losses below which nothing is read
    fewest_near: int = 3  # losses within two kernel widths below which there is no level; definition
    start: float = 0.15  # share of the sweep's steps that are its start, where the learning rate is too small to matter
    ceiling: float = 2.0  # falls above the start at which losses are cut off, so as not to be smoothed backwards
    noise: float = 4.0  # standard errors that a fall must exceed: the lowest of thirty values lies 2.2 down by chance
    rise: float = 10.0  # standard deviations above the start at which a sweep that never falls counts as exploded
    begun: float = 0.1  # share of the whole fall at which it has begun; definition
    lost: float = 0.5  # share of the whole fall, given back, at which the edge lies; definition
    rounding: float = 1e-9  # relative size of what is rounding; definition (float64)


CONFIG = RangeTestConfig()
