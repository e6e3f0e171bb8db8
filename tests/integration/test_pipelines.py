"""Inside other programs: threads, processes, pytest; nothing of theirs is touched."""

from __future__ import annotations

import concurrent.futures
import json
import logging
import math
import multiprocessing
import os
import random
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pytest

import lrtune
from lrtune.core.recipe import Recipe
from lrtune.study.tuning import tune

if TYPE_CHECKING:
    from collections.abc import Iterator

SPACE = lrtune.Space(lr=(1e-4, 10.0))


def bowl(recipe: Recipe) -> Iterator[float]:
    for epoch in range(recipe.epochs):
        random.random()  # user code draws from the global generators
        np.random.rand()  # noqa: NPY002 -- what users write
        yield 0.3 * (math.log10(recipe.lr) + 1) ** 2 + 0.1 + 2 * math.exp(-epoch / 4)


def search(seed: int, storage: str | None = None) -> tuple[float, float]:
    """A whole search, for a pool."""
    result = tune(
        bowl, SPACE, epochs=9, strategy="freeze-thaw", budget=3.0, seed=seed, storage=storage, name=f"s{seed}"
    )
    assert result.best_recipe is not None
    return result.best_recipe.lr, float(result.best_value or math.nan)


def loggers() -> dict[str, tuple[Any, ...]]:
    root = logging.getLogger()
    found = {"": (root.level, tuple(root.handlers), logging.root.manager.disable)}
    for name in ("optuna", "lrtune", "sqlalchemy", "torch"):
        one = logging.getLogger(name)
        found[name] = one.level, tuple(one.handlers), one.propagate, one.disabled
    return found


def surroundings() -> dict[str, Any]:
    """All of a process that is not lrtune's to change."""
    import torch

    return {
        "signals": {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)},
        "logging": loggers(),
        "optuna's verbosity": optuna.logging.get_verbosity(),
        "torch's threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "torch's modes": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
        ),
        "torch's random state": torch.get_rng_state().numpy().tobytes(),
        "folder": Path.cwd(),
        "environment": dict(os.environ),
        "warnings": list(warnings.filters),
        "hooks": (sys.excepthook, threading.excepthook, sys.path[:], sys.stdout, sys.stderr),
        "numpy's errors": np.geterr(),
        "threads": {thread.name for thread in threading.enumerate()},
        "mask": os.umask(os.umask(0o077)),
    }


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """What differs; a thread of another test's that has ended meanwhile is no change."""
    new = {key for key in before if before[key] != after[key]}
    return new - {"threads"} if after["threads"] <= before["threads"] else new


def silent(recipe: Recipe) -> Iterator[float]:
    for epoch in range(recipe.epochs):
        yield 0.3 * (math.log10(recipe.lr) + 1) ** 2 + 0.1 + 2 * math.exp(-epoch / 4)


@pytest.mark.parametrize("strategy", ["freeze-thaw", "tpe", "gp", "qmc", "random", "grid"])
def test_nothing_around_a_search_is_changed(tmp_path: Path, strategy: str) -> None:
    first = tune(silent, SPACE, epochs=9, strategy=strategy, budget=3.0)
    first.report(tmp_path / "first.html")  # what a first import sets up is not the search's
    first.trials()
    before = surroundings()
    drawn = random.getstate(), np.random.get_state()[1].tobytes()  # type: ignore[union-attr]  # noqa: NPY002 -- the global generator is what is looked at
    result = tune(silent, SPACE, epochs=9, strategy=strategy, budget=4.0, storage=tmp_path / "s.db")
    result.report(tmp_path / "report.html")
    result.trials()
    after = surroundings()
    assert changed(before, after) == set()
    assert drawn == (random.getstate(), np.random.get_state()[1].tobytes())  # type: ignore[union-attr]  # noqa: NPY002 -- the global generator is what is looked at


def test_nothing_around_a_search_with_torch_is_changed() -> None:
    from networks import make

    trainer = make()
    space = lrtune.Space(lr=(1e-3, 1.0))
    tune(trainer, space, epochs=2, strategy="random", trials=1)
    before = surroundings()
    drawn = random.getstate(), np.random.get_state()[1].tobytes()  # type: ignore[union-attr]  # noqa: NPY002 -- the global generator is what is looked at
    tune(trainer, space, epochs=2, strategy="random", trials=2, seed=5)
    after = surroundings()
    assert changed(before, after) == set()
    assert drawn == (random.getstate(), np.random.get_state()[1].tobytes())  # type: ignore[union-attr]  # noqa: NPY002 -- the global generator is what is looked at


def test_nothing_around_a_search_that_fails_is_changed(tmp_path: Path) -> None:
    def broken(recipe: Recipe) -> Iterator[float]:
        yield recipe.lr
        msg = "a mistake"
        raise RuntimeError(msg)

    before = surroundings()
    with pytest.raises(lrtune.SearchError):
        tune(broken, SPACE, epochs=3, strategy="random", trials=2, storage=tmp_path / "s.db")
    after = surroundings()
    assert changed(before, after) == set()


def test_several_threads_search_at_once(tmp_path: Path) -> None:
    alone = [search(seed) for seed in range(3)]
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        memory = list(pool.map(search, range(3)))
        shared = list(pool.map(search, range(3), [str(tmp_path / "s.db")] * 3))
    assert alone == memory == shared


def test_threads_share_one_study(tmp_path: Path) -> None:
    storage = str(tmp_path / "s.db")

    def work(_: int) -> float:
        result = tune(silent, SPACE, epochs=4, strategy="random", trials=9, storage=storage)
        return float(result.best_value or math.nan)

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        values = list(pool.map(work, range(3)))
    study = optuna.load_study(study_name="lrtune", storage=f"sqlite:///{storage}")
    assert len(study.trials) == 9
    assert all(trial.state is optuna.trial.TrialState.COMPLETE for trial in study.trials)
    assert len({trial.params["lr"] for trial in study.trials}) == 9
    assert set(values) == {study.best_value}


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_in_the_worker_of_a_process_pool(method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on forking with threads
        context = multiprocessing.get_context(method)
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
            assert list(pool.map(search, range(2))) == [search(seed) for seed in range(2)]


def test_results_and_recipes_are_plain_json_and_back() -> None:
    result = tune(bowl, SPACE, epochs=9, strategy="random", trials=3)
    assert result.best_recipe is not None
    told = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert told == result.to_json()
    assert Recipe.from_json(json.loads(json.dumps(result.best_recipe.to_json()))) == result.best_recipe
