"""The data of the atlas: what scikit-learn and Python ship, and what short programs make. Nothing is downloaded."""

from __future__ import annotations

import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn import datasets

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DATA", "Data"]

HELD_OUT = 500  # samples at most
SYMBOLS, WINDOW = 64, 24


@dataclass(frozen=True, slots=True)
class Data:
    """Inputs and targets, to learn from and held out; `classes` is 0 for regression."""

    x: torch.Tensor
    y: torch.Tensor
    held_x: torch.Tensor
    held_y: torch.Tensor
    classes: int


def _split(x: Any, y: Any, classes: int, rng: np.random.Generator, *, samples: int, label_noise: float) -> Data:
    """Standardised, shuffled and split; of the labels (all of them) a share is drawn at random."""
    x, y = np.asarray(x), np.asarray(y)
    order = rng.permutation(len(x))
    held = min(HELD_OUT if y.ndim == 1 else HELD_OUT // 4, len(x) // 3)  # windows of symbols have many targets
    train = order[held : held + samples]
    if np.issubdtype(x.dtype, np.floating):
        x = (x - x[train].mean()) / x[train].std() if x.ndim > 2 else (x - x[train].mean(0)) / (x[train].std(0) + 1e-3)
    if not classes:
        y = (y - y[train].mean()) / y[train].std() + label_noise * rng.standard_normal(y.shape)
    elif label_noise:
        y = np.where(rng.random(y.shape) < label_noise, rng.integers(0, classes, y.shape), y)
    x = x.astype(np.float32 if np.issubdtype(x.dtype, np.floating) else np.int64)
    y = y.astype(np.int64 if classes else np.float32)
    parts = (torch.from_numpy(a[i]) for i in (train, order[:held]) for a in (x, y))
    return Data(*parts, classes)


# -- tables ---------------------------------------------------------------------------------------------------


def _bundled(name: str) -> Callable[..., tuple[Any, Any, int]]:
    def load(_rng: np.random.Generator) -> tuple[Any, Any, int]:
        x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
        return x, y, 0 if name == "diabetes" else int(y.max()) + 1

    return load


def _spirals(rng: np.random.Generator) -> tuple[Any, Any, int]:
    y = rng.integers(0, 3, 3000)
    radius = rng.uniform(0.1, 1, 3000)
    angle = 4 * radius + 2 * np.pi * y / 3 + 0.15 * rng.standard_normal(3000)
    x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    return np.concatenate([x, np.sin(3 * x), np.cos(3 * x)], 1), y, 3


def _teacher(rng: np.random.Generator) -> tuple[Any, Any, int]:
    x = rng.standard_normal((4000, 24))
    hidden = np.tanh(x @ rng.standard_normal((24, 12)) / 3)
    return x, np.argmax(hidden @ rng.standard_normal((12, 6)), 1), 6


def _teacher_regression(rng: np.random.Generator) -> tuple[Any, Any, int]:
    x = rng.standard_normal((4000, 16))
    return x, np.tanh(x @ rng.standard_normal((16, 10)) / 2) @ rng.standard_normal(10), 0


def _sparse(rng: np.random.Generator) -> tuple[Any, Any, int]:
    x = rng.standard_normal((3000, 80)) * 10 ** rng.uniform(-1, 1, 80)
    return x, x[:, :8] @ (rng.standard_normal(8) / x[:, :8].std(0)) + 0.3 * rng.standard_normal(3000), 0


def _friedman(rng: np.random.Generator) -> tuple[Any, Any, int]:
    x, y = datasets.make_friedman1(3000, 12, noise=1.0, random_state=int(rng.integers(1000)))
    return x, y, 0


def _mixture(rng: np.random.Generator) -> tuple[Any, Any, int]:
    centres = rng.standard_normal((30, 20)) * 1.3
    which = rng.integers(0, 30, 4000)
    return centres[which] + rng.standard_normal((4000, 20)), which % 10, 10


# -- images and signals ----------------------------------------------------------------------------------------


def _digit_images(_rng: np.random.Generator) -> tuple[Any, Any, int]:
    x, y = datasets.load_digits(return_X_y=True)
    return x.reshape(-1, 1, 8, 8), y, 10


def _textures(rng: np.random.Generator) -> tuple[Any, Any, int]:
    y = rng.integers(0, 8, 2500)
    across, down = np.meshgrid(np.arange(10), np.arange(10))
    angle, phase = np.pi * y / 8 + 0.1 * rng.standard_normal(2500), rng.uniform(0, 2 * np.pi, 2500)
    waves = np.sin(
        0.9 * (np.cos(angle)[:, None, None] * across + np.sin(angle)[:, None, None] * down) + phase[:, None, None]
    )
    return (waves + 0.8 * rng.standard_normal(waves.shape))[:, None], y, 8


def _chirps(rng: np.random.Generator) -> tuple[Any, Any, int]:
    y = rng.integers(0, 6, 2500)
    t = np.linspace(0, 1, 16)
    pitch, bend, phase = 2 + y % 3, np.where(y < 3, 3.0, -1.5), rng.uniform(0, 2 * np.pi, 2500)
    waves = np.sin(2 * np.pi * (pitch[:, None] * t + bend[:, None] * t**2) + phase[:, None])
    noisy = waves + 0.3 * rng.standard_normal(waves.shape)
    return np.stack([noisy, np.gradient(noisy, axis=1)], 2), y, 6


def _autoregression(rng: np.random.Generator) -> tuple[Any, Any, int]:
    series = np.zeros(9000)
    for i in range(2, len(series)):
        series[i] = 1.6 * np.sin(series[i - 1]) - 0.7 * series[i - 2] + 0.2 * rng.standard_normal()
    windows = np.lib.stride_tricks.sliding_window_view(series, 17)[::3]
    return windows[:, :16, None], windows[:, 16], 0


def _adding(rng: np.random.Generator) -> tuple[Any, Any, int]:
    values, marks = rng.uniform(-1, 1, (2500, 14)), np.zeros((2500, 14))
    places = np.argsort(rng.random((2500, 14)), 1)[:, :2]
    np.put_along_axis(marks, places, 1.0, 1)
    return np.stack([values, marks], 2), (values * marks).sum(1), 0


# -- symbols: the target is the next one, at every place ------------------------------------------------------------


def _windows(codes: Any) -> tuple[Any, Any, int]:
    cut = codes[: (len(codes) - 1) // WINDOW * WINDOW + 1]
    return cut[:-1].reshape(-1, WINDOW), cut[1:].reshape(-1, WINDOW), SYMBOLS


def _source(_rng: np.random.Generator) -> tuple[Any, Any, int]:
    folder = Path(sysconfig.get_path("stdlib"))
    text = "".join((folder / name).read_text("utf-8") for name in ("textwrap.py", "heapq.py", "argparse.py"))
    codes = np.frombuffer(text.lower().encode("ascii", "replace"), np.uint8).astype(np.int64)
    return _windows(np.where(codes == ord("\n"), 0, np.clip(codes - 31, 1, 95)) % SYMBOLS)


def _markov(rng: np.random.Generator) -> tuple[Any, Any, int]:
    following = rng.dirichlet(np.full(SYMBOLS, 0.05), SYMBOLS).cumsum(1)
    codes = np.zeros(60000, np.int64)
    for i, draw in enumerate(rng.random(len(codes) - 1)):
        codes[i + 1] = min(SYMBOLS - 1, int(np.searchsorted(following[codes[i]], draw)))
    return _windows(codes)


def _copying(rng: np.random.Generator) -> tuple[Any, Any, int]:
    half = rng.integers(1, 12, (3000, WINDOW // 2))
    whole = np.concatenate([half, half, half[:, :1]], 1)
    return whole[:, :-1], whole[:, 1:], SYMBOLS


# -- pairs of indices ------------------------------------------------------------------------------------------


def _ratings(rng: np.random.Generator) -> tuple[Any, Any, int]:
    users, items = rng.standard_normal((120, 4)), rng.standard_normal((80, 4))
    pairs = np.stack([rng.integers(0, 120, 6000), rng.integers(0, 80, 6000)], 1)
    return pairs, (users[pairs[:, 0]] * items[pairs[:, 1]]).sum(1) / 2 + 0.3 * rng.standard_normal(6000), 0


def _popular(rng: np.random.Generator) -> tuple[Any, Any, int]:
    bias, items = rng.standard_normal(150), rng.standard_normal((60, 3))
    users = rng.standard_normal((150, 3))
    often = (rng.pareto(1.0, (5000, 2)) * (10, 5)).astype(int) % (150, 60)
    return often, bias[often[:, 0]] + (users[often[:, 0]] * items[often[:, 1]]).sum(1), 0


DATA: dict[str, Callable[[np.random.Generator], tuple[Any, Any, int]]] = {
    "digits": _bundled("digits"),
    "breast_cancer": _bundled("breast_cancer"),
    "wine": _bundled("wine"),
    "diabetes": _bundled("diabetes"),
    "spirals": _spirals,
    "teacher": _teacher,
    "teacher_regression": _teacher_regression,
    "sparse": _sparse,
    "friedman": _friedman,
    "mixture": _mixture,
    "digit_images": _digit_images,
    "textures": _textures,
    "chirps": _chirps,
    "autoregression": _autoregression,
    "adding": _adding,
    "source": _source,
    "markov": _markov,
    "copying": _copying,
    "ratings": _ratings,
    "popular": _popular,
}


def load(name: str, seed: int, *, samples: int, label_noise: float) -> Data:
    """A data set by its name, the same for the same seed; `label_noise` is a share of labels, or of the deviation."""
    rng = np.random.default_rng([seed, 7])
    x, y, classes = DATA[name](rng)
    return _split(x, y, classes, rng, samples=samples, label_noise=label_noise)
