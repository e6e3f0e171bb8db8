"""Every constant of the sampling strategies, each with its unit and its source: :data:`CONFIG`."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CONFIG", "SamplersConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplersConfig:
    """The constants of :class:`.Sampled` and its rungs."""

    reduction: int = 3  # one run in so many goes on from each rung: the eta of Li et al. 2020
    family_peers: int = 3  # runs of a schedule family, this one included, compared alone; definition (eta)
    pooled_peers: int = 6  # runs of all families compared together, of which the better half goes on; twice that
    startup: int = 5  # Sobol points before a model is asked: half of Optuna's default, for searches this short
    attempts: int = 8  # times that a sampler is asked where it proposes what diverges, or was tried already; definition


CONFIG = SamplersConfig()
