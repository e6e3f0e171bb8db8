"""Recorded curves as problems to search: reading the formats of tables, interpolating, and normalised regret.

A *family* is what is left out together where something is chosen on tables: the kind of model in the atlas, the data
set (or the problem) in tables recorded by others.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["Problem", "read_tables"]

Floats = npt.NDArray[np.float64]
GROUP = ("batch_size", "schedule", "warmup")
LARGEST_NOISE = 0.05  # normalised regret: where seeds differ by more, a single training says nothing


@dataclass(frozen=True, kw_only=True)
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
    family
        What is left out together with it.
    repeats
        The same curves under the next seeds; empty where one was recorded.
    """

    name: str
    epochs: int
    untrained: float
    grid: Floats
    curves: Mapping[tuple[Any, ...], Floats]
    choices: Mapping[str, list[Any]] = field(default_factory=dict)
    direction: str = "minimize"
    family: str = ""
    repeats: Sequence[Mapping[tuple[Any, ...], Floats]] = ()

    @functools.cached_property
    def finals(self) -> Mapping[tuple[Any, ...], Floats]:
        """The value at the end by which a learning rate is judged, shape (n,).

        The mean over all recorded seeds, non-finite where any diverged; where there are several, neighbours that
        differ by no more than seeds do are averaged, so that the best is not the luckiest of thirty.
        """
        means = {
            key: np.mean([table[key][:, -1] for table in (self.curves, *self.repeats)], axis=0) for key in self.curves
        }
        if not self.repeats:
            return means
        key = min(means, key=lambda key: np.nanmin(_finite(means[key])))
        noise = self._spread(means[key], key) / math.sqrt(1 + len(self.repeats))
        return {key: _smoothed(values, noise) for key, values in means.items()}

    def _spread(self, means: Floats, key: tuple[Any, ...]) -> float:
        """Standard deviation of one training's value between seeds, near the best."""
        near = np.argsort(_finite(means))[:5]
        values = [table[key][near, -1] for table in (self.curves, *self.repeats)]
        return float(np.sqrt(np.nanmean(np.square(np.std(values, axis=0, ddof=1)))))

    @functools.cached_property
    def noise(self) -> float:
        """The same as normalised regret; 0 where nothing was repeated."""
        if not self.repeats:
            return 0.0
        key = min(self.finals, key=lambda key: np.nanmin(_finite(self.finals[key])))
        return self._spread(self.finals[key], key) / (self.untrained - self.best)

    @property
    def lr_range(self) -> tuple[float, float]:
        """Ends of the recorded learning rates."""
        return float(10 ** self.grid[0]), float(10 ** self.grid[-1])

    @functools.cached_property
    def best(self) -> float:
        """Best final value of the table."""
        return float(min(np.nanmin(_finite(finals)) for finals in self.finals.values()))

    def curve(self, params: Mapping[str, Any], seed: int = 0) -> Floats:
        """The metric after each epoch, shape (epochs,), linear in log10 of the learning rate between grid points."""
        tables = (self.curves, *self.repeats)
        return self._between(tables[seed % len(tables)][tuple(params[name] for name in self.choices)], params)

    def _between(self, table: Floats, params: Mapping[str, Any]) -> Floats:
        x = float(np.clip(math.log10(params["lr"]), self.grid[0], self.grid[-1]))
        right = int(np.clip(np.searchsorted(self.grid, x - 1e-9), 0, len(self.grid) - 1))
        if abs(self.grid[right] - x) < 1e-9:
            return np.asarray(table[right])
        left = right - 1
        weight = (x - self.grid[left]) / (self.grid[right] - self.grid[left])
        return np.asarray((1 - weight) * table[left] + weight * table[right])

    def regret(self, params: Mapping[str, Any]) -> float:
        """Normalised regret of the recipe when fully trained; infinite where it diverges."""
        final = self.final(**params)
        return (final - self.best) / (self.untrained - self.best) if math.isfinite(final) else math.inf

    def final(self, lr: float, **others: Any) -> float:
        """The value that a full training ends at, by which it is judged."""
        return float(self._between(self.finals[tuple(others[name] for name in self.choices)], {"lr": lr}))

    def regrets_under(self, params: Mapping[str, Any]) -> Floats:
        """Normalised regret on the grid under the other settings of `params`, shape (n,); infinite if it diverges."""
        finals = self.finals[tuple(params[name] for name in self.choices)]
        regrets: Floats = np.where(np.isfinite(finals), (finals - self.best) / (self.untrained - self.best), np.inf)
        return regrets


def _finite(values: Floats) -> Floats:
    return np.where(np.isfinite(values), values, np.nan)


def _smoothed(values: Floats, noise: float) -> Floats:
    """A bilateral filter over two neighbours on each side (Tomasi and Manduchi 1998): no cliff is smoothed."""
    found = values.copy()
    for i in np.flatnonzero(np.isfinite(values)):
        near = np.arange(max(0, i - 2), min(len(values), i + 3))
        alike = np.exp(-0.5 * ((values[near] - values[i]) / (2.5 * noise + 1e-12)) ** 2)
        weight = np.where(np.isfinite(alike), alike, 0.0) * np.exp(-0.5 * ((near - i) / 1.5) ** 2)
        found[i] = np.sum(weight * np.where(weight > 0, values[near], 0.0)) / np.sum(weight)
    return found


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
                family=f"deepobs-{problem.split('_')[0]}",
            )
        )
    return problems


def _stepback(runs: pd.DataFrame, epochs: pd.DataFrame) -> list[Problem]:
    """One problem by loss and one by error for each; recorded at equal distances, and never before training."""
    problems = []
    by_run = dict(tuple(epochs.groupby("run_id")))
    for (name, optimizer, decay), group in runs.groupby(["problem", "optimizer", "weight_decay"]):
        table = group.sort_values("learning_rate")
        for metric in ("loss", "error"):
            curves = [by_run[run].sort_values("epoch") for run in table.run_id]
            rows = [np.asarray(c.valid_loss if metric == "loss" else 1 - c.valid_accuracy, float) for c in curves]
            length = max(len(row) for row in rows)
            rows = [_cut(np.pad(row, (0, length - len(row)), constant_values=np.nan)) for row in rows]
            classes = 10 if name.startswith("cifar10_") else 1000
            problems.append(
                Problem(
                    name=f"{name}/{optimizer}/{decay:g}/{metric}",
                    epochs=length,
                    untrained=math.log(classes) if metric == "loss" else 1 - 1 / classes,
                    grid=np.log10(table.learning_rate.to_numpy(float)),
                    curves={(): np.array(rows)},
                    family=f"stepback-{name.split('_')[0]}",
                )
            )
    return problems


def _atlas(file: Path) -> list[Problem]:
    """The tables of one family; those are left out in which nothing was learned beyond what seeds differ by.

    A table of several settings is stored under names such as ``joint-03@16,cosine``, one for each combination.
    """
    tables: dict[tuple[str, str], dict[tuple[Any, ...], Floats]] = defaultdict(dict)
    with np.load(file) as stored:
        specs = json.loads(str(stored["specs"]))
        for key in stored.files:
            name, _, metric = key.partition("/")
            if metric:
                table, _, combination = name.partition("@")
                batch, _, schedule = combination.partition(",")
                others = (int(batch), schedule) if combination else ()
                tables[f"{table}/{metric}", name][others] = stored[key].astype(float)
    by_name: dict[str, dict[tuple[Any, ...], Floats]] = defaultdict(dict)
    lr: dict[str, Any] = {}
    for (table, name), values in tables.items():
        by_name[table] |= values
        lr[table] = specs[name]["lr"]
    alive = {name: values for name, values in sorted(by_name.items()) if _learned(values)}
    problems = [_recorded(name, values, lr[name], file.stem) for name, values in alive.items()]
    return [one for one in problems if one.best < one.untrained and one.noise < LARGEST_NOISE]


def _learned(values: Mapping[tuple[Any, ...], Floats]) -> bool:
    """Whether under each combination a learning rate lived to the end, under all seeds, from a finite beginning."""
    return all(np.isfinite(v[:, :, -1]).all(axis=0).any() and np.isfinite(v[:, :, 0]).any() for v in values.values())


def _recorded(name: str, values: dict[tuple[Any, ...], Floats], lr: tuple[float, float], family: str) -> Problem:
    """One problem; `values` has for each combination of other settings the curves, shape (seeds, n, 1 + epochs)."""
    first = next(iter(values.values()))
    seeds = [
        {key: np.array([_cut(row) for row in v[i, :, 1:]]) for key, v in values.items()} for i in range(len(first))
    ]
    keys = [key for key in values if key]
    return Problem(
        name=name,
        epochs=first.shape[2] - 1,
        untrained=float(np.nanmean(first[:, :, 0])),
        grid=np.linspace(*lr, first.shape[1]),
        curves=seeds[0],
        repeats=seeds[1:],
        choices={n: sorted({key[i] for key in keys}) for i, n in enumerate(GROUP[:2])} if keys else {},
        family=family,
    )


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
                family=name,
            )
        )
    return problems


def read_tables(folder: Path) -> list[Problem]:
    """The problems in a folder of curves (`runs.csv` and `epochs.csv.gz`, in three formats), or of the atlas.

    Raises
    ------
    FileNotFoundError
        If the folder holds no such files.
    """
    if files := sorted(folder.glob("*.npz")):
        return [problem for file in files for problem in _atlas(file)]
    runs = pd.read_csv(folder / "runs.csv")
    epochs = pd.read_csv(folder / "epochs.csv.gz")
    if "points" in runs:
        return _stepback(runs, epochs)
    return _deepobs(runs, epochs) if "problem" in runs else _joint(runs, epochs, folder.name)
