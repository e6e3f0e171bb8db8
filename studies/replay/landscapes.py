"""Made-up landscapes to search: progress, noise floor, cliff and run-to-run noise, with curves that cross.

The shape follows the law of Tissue, Wang and Wang (2024, arXiv:2408.11029): loss falls as a power of the
summed learning rate, on top of a floor that rises with the current one; beyond the cliff runs diverge.
They are a hold-out: the search is not tuned to them, and every draw is another problem.
"""

from __future__ import annotations

import itertools

import numpy as np
from tables import Problem

__all__ = ["landscapes"]

LEARNABLE = 0.6  # of the untrained value
SCHEDULES = {
    "constant": np.ones_like,
    "cosine": lambda p: 0.5 * (1 + np.cos(np.pi * p)),
    "linear": lambda p: 1 - p,
    "step": lambda p: 0.1 ** np.floor(3 * p),
}


def _landscape(rng: np.random.Generator, index: int, *, joint: bool) -> Problem:
    epochs = int(rng.choice([20, 27, 50, 100, 160]))
    grid = np.arange(-5, 2 + 1e-9, 0.2) if not joint else np.arange(-5, 1 + 1e-9, 0.25)
    cliff = rng.uniform(-2.5, 1.2) if not joint else rng.uniform(-2.0, 0.4)
    speed = rng.uniform(0.5, 4.0)  # decades of progress over a run at the cliff
    power = rng.uniform(0.35, 1.5)
    floor = 10 ** rng.uniform(-2.5, -0.5)  # height of the noise floor at the cliff
    rise = rng.uniform(0.7, 2.0)
    noise = 10 ** rng.uniform(-3.3, -2.0)
    asymptote = rng.uniform(0.02, 0.4)
    late = rng.random() < 0.4  # divergence comes late just below the cliff
    silent = rng.random() < 0.3  # a diverged run sits at the level of a constant prediction
    spent = np.arange(1, epochs + 1) / epochs
    combos = [(b, s) for b in (16, 64, 256) for s in SCHEDULES] if joint else [("", "constant")]
    curves = {}
    for batch, schedule in combos:
        shift = 0.0 if not joint else rng.uniform(0.3, 1.0) * np.log10(batch / 64)
        updates = 0.0 if not joint else np.log10(64 / batch)
        multiplier = SCHEDULES[schedule](spent - 0.5 / epochs)
        area = np.cumsum(multiplier) / epochs
        rows = []
        bump = 0.0 if not joint else noise * rng.normal()
        for x in grid:
            rel = x - cliff - shift
            progress = 10 ** (rel + shift + updates + speed + power)
            falls = (1 + progress * area) ** (-power)
            high = floor * 10 ** (rise * rel) * multiplier
            values = asymptote + (1 - asymptote) * np.minimum(1, falls + high * (1 - falls)) + bump
            values = values + noise * rng.normal() * (1 - falls) + noise * (0.3 + multiplier) * rng.normal(size=epochs)
            start = 0 if rel > 0.3 or not late else int(epochs * rng.uniform(0.05, 0.7))
            if rel > 0 and (late or rel > 0.15 or rng.random() < 0.5):
                values[start:] = (1.0 + 0.02 * abs(rng.normal())) if silent else np.nan
            rows.append(values)
        curves[(batch, schedule) if joint else ()] = np.array(rows)
    choices = {"batch_size": [16, 64, 256], "schedule": list(SCHEDULES)} if joint else {}
    return Problem(
        name=f"made-up-{'joint-' if joint else ''}{index}",
        epochs=epochs,
        untrained=1.0,
        grid=grid,
        curves=curves,
        choices=choices,
    )


def landscapes(count: int, *, seed: int = 0, joint: bool = False) -> list[Problem]:
    """That many made-up problems, each of which can be learned at all."""
    drawn = (_landscape(np.random.default_rng([seed, i, joint]), i, joint=joint) for i in itertools.count())
    return list(itertools.islice((problem for problem in drawn if problem.best < LEARNABLE), count))
