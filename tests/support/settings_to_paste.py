"""Schedules and warmups whose code to paste is executed."""

from __future__ import annotations

__all__ = []


NEVER_BETTER = "plateau(patience=0, factor=0.5, threshold=0.9, floor=0.2)"


SCHEDULES = [
    "constant",
    "step(every=0.2, factor=0.6)",
    "multistep(at=[0.25, 0.9], factor=0.3)",
    "exponential",
    "polynomial(floor=0.05)",
    "linear",
    "cosine",
    "cosine_restarts(cycles=2, growth=2)",
    "cyclical(mode=triangular2)",
    "onecycle",
    "inverse_sqrt",
    "wsd(shape=sqrt)",
    "sweep(ratio=100)",
    NEVER_BETTER,
    "plateau(patience=1, factor=0.5, threshold=0.9, cooldown=1)",
    "plateau(patience=0, factor=0.5, threshold=0.9, mode=max)",
]


WARMUPS = [0.0, 0.25, 5]
