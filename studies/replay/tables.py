"""Recorded curves as problems to search: reading the two formats of tables, interpolating, and normalised regret."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Problem", "read_tables"]

Floats = npt.NDArray[np.float64]
GROUP = ("batch_size", "schedule", "warmup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One table: curves over a grid of learning rates, for each combination of the other settings.

    Attributes
    ----------
    name
        For the progress bar.
    epochs
        Length of a full training.
    untrained
        The metric before training.
    grid
        log10 of the recorded learning rates, increasing, shape (n,).
    curves
        For each combination of the other settings (a tuple), the metric after each epoch, shape
        (n, epochs); smaller is better, non-finite from where a run diverged.
    choices
        The other settings that are searched, by name; empty where only the learning rate is.
    direction
        In which direction the search sees the metric; "maximize" shows it negated.
    """

    name: str
    epochs: int
    untrained: float
    grid: Floats
    curves: Mapping[tuple[Any, ...], Floats]
    choices: Mapping[str, list[Any]] = field(default_factory=dict)
    direction: str = "minimize"

    @property
    def lr_range(self) -> tuple[float, float]:
        """Ends of the recorded learning rates."""
        return float(10 ** self.grid[0]), float(10 ** self.grid[-1])

    @property
    def best(self) -> float:
        """Best final value of the table."""
        return float(min(np.nanmin(np.where(np.isfinite(c[:, -1]), c[:, -1], np.nan)) for c in self.curves.values()))

    def curve(self, params: Mapping[str, Any]) -> Floats:
        """The metric after each epoch, shape (epochs,), linear in log10 of the learning rate between grid points."""
        table = self.curves[tuple(params[name] for name in self.choices)]
        x = float(np.clip(math.log10(params["lr"]), self.grid[0], self.grid[-1]))
        right = int(np.clip(np.searchsorted(self.grid, x - 1e-9), 0, len(self.grid) - 1))
        if abs(self.grid[right] - x) < 1e-9:
            return table[right]
        left = right - 1
        weight = (x - self.grid[left]) / (self.grid[right] - self.grid[left])
        return (1 - weight) * table[left] + weight * table[right]

    def regret(self, params: Mapping[str, Any]) -> float:
        """Normalised regret of the recipe when fully trained; infinite where it diverges."""
        final = float(self.curve(params)[-1])
        return (final - self.best) / (self.untrained - self.best) if math.isfinite(final) else math.inf

    def regrets_under(self, params: Mapping[str, Any]) -> Floats:
        """Normalised regret on the grid under the other settings of `params`, shape (n,); infinite if it diverges."""
        finals = self.curves[tuple(params[name] for name in self.choices)][:, -1]
        regrets: Floats = np.where(np.isfinite(finals), (finals - self.best) / (self.untrained - self.best), np.inf)
        return regrets


def _cut(values: Floats) -> Floats:
    """Non-finite from the first non-finite value on."""
    bad = np.maximum.accumulate(~np.isfinite(values))
    return np.where(bad, np.nan, values)


def _deepobs(runs: pd.DataFrame, epochs: pd.DataFrame) -> list[Problem]:
    problems = []
    by_run = dict(tuple(epochs.groupby("run_id")))
    grid_seed = runs.groupby("seed").size().idxmax()
    for (problem, optimizer), group in runs[runs.seed == grid_seed].groupby(["problem", "optimizer"]):
        table = group.sort_values("learning_rate")
        length = int(table.num_epochs.iloc[0])
        rows, starts = [], []
        accuracy = any(by_run[run].test_accuracy.notna().any() for run in table.run_id)
        for run in table.run_id:
            curve = by_run[run].sort_values("epoch").set_index("epoch")
            target = (1 - curve.test_accuracy) if accuracy else curve.test_loss
            values = target.reindex(range(length + 1)).to_numpy(float)
            starts.append(values[0])
            rows.append(_cut(values[1:]))
        untrained = float(np.nanmedian(starts))
        problems.append(
            Problem(
                name=f"{problem}/{optimizer}",
                epochs=length,
                untrained=untrained,
                grid=np.log10(table.learning_rate.to_numpy(float)),
                curves={(): np.array(rows)},
            )
        )
    return problems


def _joint(runs: pd.DataFrame, epochs: pd.DataFrame, name: str) -> list[Problem]:
    values = epochs.pivot_table(index="run_id", columns="epoch", values="valid_loss", dropna=False)
    problems = []
    for seed, table in runs.groupby("seed"):
        curves = {}
        for (batch, schedule, warmup), group in table.groupby(list(GROUP)):
            rows = group.sort_values("learning_rate")
            curves[(int(batch), str(schedule), float(warmup))] = np.array(
                [_cut(v) for v in values.loc[rows.run_id].to_numpy(float)]
            )
        choices = {name: sorted({key[i] for key in curves}) for i, name in enumerate(GROUP)}
        for batch, schedule, warmup in itertools.product(*choices.values()):
            others = [key for key in curves if key[:2] == (batch, schedule)]
            curves.setdefault((batch, schedule, warmup), curves[others[0]])
        problems.append(
            Problem(
                name=f"{name}/{seed}",
                epochs=values.shape[1],
                untrained=float(table.untrained_loss.median()),
                grid=np.log10(np.sort(table.learning_rate.unique())),
                curves=curves,
                choices=choices,
            )
        )
    return problems


def read_tables(folder: Path) -> list[Problem]:
    """The problems in a folder of curves (`runs.csv`, `epochs.csv.gz`), in either format.

    Raises
    ------
    FileNotFoundError
        If the folder holds no such files.
    """
    runs = pd.read_csv(folder / "runs.csv")
    epochs = pd.read_csv(folder / "epochs.csv.gz")
    return _deepobs(runs, epochs) if "problem" in runs else _joint(runs, epochs, folder.name)
