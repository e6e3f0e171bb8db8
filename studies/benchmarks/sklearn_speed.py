"""What a training costs through ``SklearnTrainer`` against the estimator's own ``fit`` over as many epochs.

    python studies/benchmarks/sklearn_speed.py [--rounds 5] [--epochs 20] [--members 16]
    python studies/benchmarks/sklearn_speed.py --shapes

Both sides in one run, in seconds of CPU of one thread, median of the rounds. Ours holds a report, with its held-out
loss, at the end of each epoch, as a search asks for; ``fit`` trains the same training part, shuffles it, and evaluates
nothing. Last come the same models with many learning rates at once, against one of them. With ``--shapes``: how many
times faster models of several shapes are at once than one by one, beside the rule that decides which go at once.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import patch

import numpy as np
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import Perceptron, SGDClassifier, SGDRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from threadpoolctl import threadpool_limits

from lrtune.core.recipe import Recipe
from lrtune.training.estimators import linear_stack
from lrtune.training.estimators.trainer import SklearnTrainer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WORDS, CLASSES, DOCUMENTS = 20_000, 12, 3_000


class Case(NamedTuple):
    """An estimator on a table; what is timed for `fit` is the estimator without early stopping."""

    name: str
    most: float
    estimator: Any
    table: tuple[Any, Any]
    recipe: dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--only", default="", help="cases with this in their name")
    parser.add_argument("--shapes", action="store_true")
    options = parser.parse_args(arguments)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if options.shapes:
            for columns, features in SHAPES:
                print(f"{columns} columns, {features} features: {'; '.join(compared(columns, features))}", flush=True)
            return
        for case in cases():
            if options.only in case.name:
                single(case, options.rounds, options.epochs)
        for case in cases():
            if options.only in case.name and case.name in TOGETHER:
                together(case, options.rounds, options.epochs, options.members)


def cases() -> list[Case]:
    digits, diabetes, text = load_digits(return_X_y=True), load_diabetes(return_X_y=True), documents()
    digits = digits[0] / 16, digits[1]
    diabetes = diabetes[0] / diabetes[0].std(), (diabetes[1] - diabetes[1].mean()) / diabetes[1].std()
    moving = {"lr": 0.01, "schedule": "cosine", "warmup": 0.1}
    log = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.01)
    passive = SGDClassifier(loss="hinge", penalty=None, learning_rate="pa1", eta0=0.01)
    network = {"batch_size": 32, "learning_rate_init": 1e-3}
    regressor = MLPRegressor(hidden_layer_sizes=(100,), **network)
    return [
        Case("SGDClassifier, digits, 10 classes, constant", 2, log, digits, {"lr": 0.01}),
        Case("SGDClassifier, digits, cosine with warmup", 3, log, digits, moving),
        Case("SGDClassifier, 12 classes, sparse text", 2, log, text, {"lr": 0.01}),
        Case("SGDRegressor, diabetes", 4, SGDRegressor(learning_rate="constant"), diabetes, {"lr": 0.01}),
        Case("MLPClassifier, digits, batch 32", 1.5, MLPClassifier((100,), **network), digits, {"lr": 1e-3}),
        Case("MLPRegressor, diabetes, batch 32", 3, regressor, diabetes, {"lr": 1e-3}),
        Case("Perceptron, digits", 3, Perceptron(), digits, {"lr": 0.01}),
        Case("SGDClassifier, passive-aggressive, digits", 3, passive, digits, {"lr": 0.01}),
    ]


TOGETHER = ("SGDClassifier, digits, 10 classes, constant", "SGDRegressor, diabetes")


def documents() -> tuple[Any, Any]:
    """Counts of words by Zipf's law, each class with favourite words of its own; rows of length 1."""
    rng = np.random.default_rng(0)
    rank = np.arange(1, WORDS + 1)
    codes = rng.integers(CLASSES, size=DOCUMENTS)
    counts = []
    for _ in range(CLASSES):
        share = 1.0 / rank * np.where(rng.random(WORDS) < 0.05, 10.0, 1.0)
        counts.append(share / share.sum())
    rows = [np.bincount(rng.choice(WORDS, size=200, p=counts[code]), minlength=WORDS) for code in codes]
    table = sparse.csr_matrix(np.array(rows, dtype=np.float64))
    return sparse.csr_matrix(table.multiply(1.0 / np.sqrt(table.multiply(table).sum(axis=1)))), codes


def cpu(work: Callable[[], object]) -> float:
    """Seconds of CPU that it takes."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def trained(trainer: SklearnTrainer, recipes: Sequence[Recipe]) -> None:
    """From start to end, with a report at the end of each epoch."""
    run = trainer.start(recipes)
    while run.alive:
        run.advance(trainer.steps_per_epoch(recipes[0]))
    run.close()


def single(case: Case, rounds: int, epochs: int) -> None:
    trainer = SklearnTrainer(case.estimator, *case.table)
    part = trainer.task.train
    own = {"eta0": case.recipe["lr"]} if hasattr(case.estimator, "eta0") else {}
    network = {"n_iter_no_change": epochs} if hasattr(case.estimator, "solver") else {"tol": None}
    estimator = clone(case.estimator).set_params(max_iter=epochs, random_state=0, **own, **network)
    recipe = Recipe(epochs=epochs, **case.recipe)
    ratios = []
    for _ in range(rounds):
        fit = cpu(lambda: clone(estimator).fit(part.X, part.y))
        ours = cpu(lambda: trained(trainer, [recipe]))
        ratios.append((ours / fit, ours, fit))
    ratio, ours, fit = (median(column) for column in zip(*ratios, strict=True))
    verdict = "" if ratio <= case.most else ", MISSED"
    print(
        f"{case.name}: {ratio:.2f} times fit (at most {case.most:g}{verdict}); "
        f"lrtune {1e3 * ours:.1f} ms, fit {1e3 * fit:.1f} ms",
        flush=True,
    )


def together(case: Case, rounds: int, epochs: int, members: int) -> None:
    trainer = SklearnTrainer(case.estimator, *case.table)
    recipes = [Recipe(epochs=epochs, **case.recipe | {"lr": float(lr)}) for lr in np.geomspace(1e-4, 1e-1, members)]
    ratios = []
    for _ in range(rounds):
        one = median(cpu(lambda recipe=recipe: trained(trainer, [recipe])) for recipe in recipes[:: members // 3])
        ratios.append((cpu(lambda: trained(trainer, recipes)) / one, one))
    ratio, one = (median(column) for column in zip(*ratios, strict=True))
    print(f"{case.name}: {members} learning rates at once cost {ratio:.1f} trainings of one ({1e3 * one:.1f} ms)")


SHAPES = ((1, 10), (1, 64), (1, 500), (3, 30), (10, 64), (10, 300), (10, 784), (30, 30))


def compared(columns: int, features: int) -> list[str]:
    """For 2 to 32 members, the measured speedup and that of the rule."""
    rng = np.random.default_rng(0)
    table, classes = rng.normal(size=(800, features)) / np.sqrt(features), rng.integers(max(2, columns), size=800)
    trainer = SklearnTrainer(SGDClassifier(loss="log_loss", learning_rate="constant", eta0=1.0), table, classes)
    found = []
    for members in (2, 4, 8, 16, 32):
        recipes = [Recipe(lr=float(lr), epochs=2) for lr in np.geomspace(1e-3, 1e-2, members)]
        times = []
        for least in (0.0, math.inf):  # all at once, one by one
            with patch.object(linear_stack, "PAYS", least):
                times.append(min(cpu(lambda: trained(trainer, recipes)) for _ in range(3)))  # noqa: B023 -- called here
        rule = linear_stack.speedup(members, columns, features)
        found.append(f"{members} members {times[1] / times[0]:.2f} (rule {rule:.2f})")
    return found


if __name__ == "__main__":
    main()
