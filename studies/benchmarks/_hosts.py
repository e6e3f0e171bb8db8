"""What a host's trainer costs beside the host's own uninterrupted fit, measured in turns within one process."""

from __future__ import annotations

import argparse
import time
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from lrtune.core.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["EPOCHS", "RECIPE", "ROWS", "compare", "looked", "table"]

EPOCHS, ROWS, SIZE, FEATURES, CLASSES = 100, 1280, 64, 64, 10
RECIPE = Recipe(lr=1e-3, epochs=EPOCHS, batch_size=SIZE, seed=0)


def table(rows: int = ROWS, seed: int = 0) -> tuple[Any, Any]:
    """A table of float32 features, shape (rows, 64), and its classes, shape (rows,)."""
    numbers = np.random.default_rng(seed)
    x = numbers.normal(size=(rows, FEATURES)).astype("float32")
    return x, x[:, :CLASSES].argmax(1)


def looked(trainer: Any, *, evaluate: bool) -> None:
    """Train through lrtune, a look at each hundredth of the training, which is an epoch here."""
    run = trainer.start([RECIPE])
    while run.alive:
        run.advance(trainer.steps_per_epoch(RECIPE), evaluate=evaluate)
    run.close()


def compare(name: str, fit: Callable[[bool], None], trainer: Any) -> None:
    """Print the ratio of both, with the held-out part evaluated after each epoch on both sides, and on neither."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    ways: dict[str, Callable[[bool], None]] = {
        "fit": fit,
        "lrtune": lambda evaluate: looked(trainer, evaluate=evaluate),
    }
    for evaluate in (True, False):
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(rounds + 1):  # the first one warms up
            for way, run in ways.items():
                begun = time.process_time()
                run(evaluate)
                if turn:
                    seconds[way].append(time.process_time() - begun)
        ratios = [ours / theirs for ours, theirs in zip(seconds["lrtune"], seconds["fit"], strict=True)]
        what = "100 evaluations each" if evaluate else "no evaluation"
        spent = ", ".join(f"{way} {median(taken):.2f} s" for way, taken in seconds.items())
        print(f"{name}, {what}: {spent} of CPU; lrtune / fit {median(ratios):.3f} (lowest {min(ratios):.3f})")
