"""Every constant of the sampling strategies, each with its unit and its source: :data:`CONFIG`."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CONFIG", "SamplersConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplersConfig:
    """The constants of :class:`.Sampled` and its rungs."""

    reduction: int = 3
    """One run in so many goes on from each rung: the eta of Li et al. 2020."""
    family_peers: int = 3
    """Runs of one schedule family, the judged one included, from which on they are compared alone; definition (eta)."""
    pooled_peers: int = 6
    """Runs of all families from which on they are compared together, and the better half goes on; twice the former."""
    startup: int = 5
    """Sobol points before a model is asked: half of Optuna's default, for searches this short."""
    attempts: int = 8
    """Times that a sampler is asked where it proposes what diverges, or was tried already; definition."""


CONFIG = SamplersConfig()
