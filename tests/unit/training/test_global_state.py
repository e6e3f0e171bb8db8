"""Global random numbers are set aside between a generator's yields: a run alone and a run beside others are equal."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import SGDRegressor
from sklearn.utils import check_random_state

import lrtune
from lrtune.core.recipe import Recipe
from lrtune.training.estimators.trainer import SklearnTrainer
from lrtune.training.generator import GeneratorTrainer
from lrtune.training.global_state import GlobalState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EPOCHS = 6


def draws() -> dict[str, float]:
    """One number of each global generator; NumPy's normal ones come in pairs, and the second one is kept."""
    return {
        "python": random.random(),
        "gauss": random.gauss(0, 1),
        "numpy": float(np.random.rand()),  # noqa: NPY002 -- the global one is what is tested
        "normal": float(np.random.standard_normal()),  # noqa: NPY002 -- likewise
        "torch": float(torch.rand(())),
    }


def seeded(recipe: Recipe) -> Iterator[dict[str, float]]:
    random.seed(recipe.seed)
    np.random.seed(recipe.seed)  # noqa: NPY002 -- as users' code does
    torch.manual_seed(recipe.seed)
    for _ in range(recipe.epochs):
        yield draws()


def unseeded(recipe: Recipe) -> Iterator[dict[str, float]]:
    for _ in range(recipe.epochs):
        yield draws()


def delegating(recipe: Recipe) -> Iterator[dict[str, float]]:
    yield from unseeded(recipe)


def outer() -> tuple[Any, ...]:
    numpy = np.random.get_state()  # noqa: NPY002 -- the global one is what is tested
    return random.getstate(), numpy[1].tobytes(), *numpy[2:], torch.get_rng_state().tolist()


def values(run: Any, steps: int = 1) -> list[dict[str, float]]:
    return [dict(report.point.values) for report in run.advance(steps)]


@pytest.mark.parametrize("train", [seeded, unseeded, delegating])
@given(turns=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3)), max_size=12))
@settings(max_examples=25, deadline=None)
def test_runs_in_turn_are_what_they_are_alone(
    train: Callable[[Recipe], Iterator[Any]], turns: list[tuple[int, int]]
) -> None:
    recipes = [Recipe(lr=0.1, epochs=EPOCHS, seed=seed) for seed in (1, 2, 1)]
    alone = [values(GeneratorTrainer(train).start([recipe]), EPOCHS) for recipe in recipes]
    runs = [GeneratorTrainer(train).start([recipe]) for recipe in recipes]
    beside: list[list[dict[str, float]]] = [[], [], []]
    for which, steps in turns:
        beside[which] += values(runs[which], steps)
        draws()  # what the user's program draws meanwhile
    for which, run in enumerate(runs):
        beside[which] += values(run, EPOCHS)
    assert beside == alone
    assert alone[0] == alone[2] != alone[1]


def test_the_programs_own_random_numbers_are_left_alone() -> None:
    run = GeneratorTrainer(seeded).start([Recipe(lr=0.1, epochs=EPOCHS)])
    before = outer()
    run.advance(3)
    run.close()
    assert outer() == before


def ending(recipe: Recipe) -> Iterator[float]:
    try:
        yield random.random()
        if recipe.seed:
            msg = "the user's own"
            raise RuntimeError(msg)
        yield random.random()
    finally:
        ends.append((random.random(), float(torch.rand(()))))
        random.seed(7)
        torch.manual_seed(7)


ends: list[tuple[float, float]] = []


@pytest.mark.parametrize("seed", [0, 1])
def test_what_a_finally_draws_is_the_runs_own_too(seed: int) -> None:
    ends.clear()
    for _ in range(2):
        before = outer()
        run = GeneratorTrainer(ending).start([Recipe(lr=0.1, epochs=5, seed=seed)])
        run.advance(1)
        random.random()
        before = outer()
        if seed:
            with pytest.raises(RuntimeError):
                run.advance(1)
        else:
            run.close()
        assert outer() == before
    assert ends[0] == ends[1]


def searching(recipe: Recipe) -> Iterator[float]:
    """A run that itself searches: its random numbers are its own, too, and so are those of the runs within."""
    for _ in range(recipe.epochs):
        found = lrtune.tune(
            unseeded,
            lrtune.Space(lr=(0.1, 1.0)),
            epochs=2,
            metric="torch",
            direction="minimize",
            strategy="random",
            trials=2,
        )
        yield float(found.best_value or 0) + random.random()


def test_a_search_within_a_run_changes_nothing_for_either() -> None:
    recipe = Recipe(lr=0.1, epochs=3)
    alone = values(GeneratorTrainer(searching).start([recipe]), 3)
    run, other = (GeneratorTrainer(train).start([recipe]) for train in (searching, unseeded))
    found = []
    for _ in range(3):
        found += values(run)
        other.advance(1)
    assert found == alone


def evaluating(recipe: Recipe) -> Iterator[float]:
    with torch.no_grad(), np.errstate(divide="raise"):
        for _ in range(recipe.epochs):
            yield 1.0


def test_a_pause_within_a_with_leaks_no_mode() -> None:
    run = GeneratorTrainer(evaluating).start([Recipe(lr=0.1, epochs=3)])
    run.advance(1)
    assert torch.is_grad_enabled()
    assert np.geterr()["divide"] != "raise"
    run.close()
    assert torch.is_grad_enabled()


def test_an_error_within_puts_all_back() -> None:
    ambient, before = GlobalState(3), outer()
    with contextlib.suppress(KeyError), ambient.active():
        draws()
        raise KeyError
    assert outer() == before
    with ambient.active():
        later = draws()
    with GlobalState(3).active():
        assert draws() != later
        assert draws() == later


def test_another_bit_generator_of_numpys_is_put_aside_too() -> None:
    usual = np.random.get_bit_generator()
    try:
        np.random.set_bit_generator(np.random.PCG64(3))
        before = str(np.random.get_state(legacy=False))  # noqa: NPY002 -- the global one is what is tested
        run = GeneratorTrainer(drawing).start([Recipe(lr=0.1, epochs=3)])
        run.advance(2)
        assert str(np.random.get_state(legacy=False)) == before  # noqa: NPY002 -- likewise
    finally:
        np.random.set_bit_generator(usual)


def drawing(recipe: Recipe) -> Iterator[float]:
    for _ in range(recipe.epochs):
        yield float(np.random.rand())  # noqa: NPY002 -- as users' code does


LATE = """
import sys
from lrtune.core.recipe import Recipe
from lrtune.training.generator import GeneratorTrainer

def plain(recipe):
    for _ in range(recipe.epochs):
        yield 1.0

def late(recipe):
    yield 0.0
    import torch
    torch.manual_seed(recipe.seed)
    for _ in range(recipe.epochs - 1):
        yield float(torch.rand(()))

GeneratorTrainer(plain).start([Recipe(lr=1.0, epochs=2)]).advance(2)
assert "torch" not in sys.modules and "pandas" not in sys.modules
recipe = Recipe(lr=1.0, epochs=4, seed=3)
one, other = (GeneratorTrainer(late).start([recipe]) for _ in range(2))
found = [[], []]
for _ in range(4):
    for run, values in zip((one, other), found):
        values += [report.point.values["valid_loss"] for report in run.advance(1)]
assert found[0] == found[1], found
"""


def test_nothing_is_imported_for_it_and_torch_may_come_later() -> None:
    subprocess.run([sys.executable, "-c", LATE], check=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
def test_the_random_numbers_of_gpus_are_put_aside_too() -> None:
    def train(recipe: Recipe) -> Iterator[float]:
        torch.manual_seed(recipe.seed)
        for _ in range(recipe.epochs):
            yield float(torch.rand((), device="cuda"))

    recipes = [Recipe(lr=0.1, epochs=4, seed=seed) for seed in (1, 2)]
    alone = values(GeneratorTrainer(train).start(recipes[:1]), 4)
    run, other = (GeneratorTrainer(train).start([recipe]) for recipe in recipes)
    before = torch.cuda.get_rng_state_all()
    found = []
    for _ in range(4):
        found += values(run)
        other.advance(1)
    assert found == alone
    assert all(torch.equal(a, b) for a, b in zip(torch.cuda.get_rng_state_all(), before, strict=True))


class Drawing(RegressorMixin, BaseEstimator):
    """Adds noise to each step: from the global generators, and from an estimator within it that holds its own."""

    def __init__(self, rate: float = 0.1, inner: Any = None) -> None:
        self.rate, self.inner = rate, inner

    def partial_fit(self, features: Any, target: Any) -> Drawing:
        del target
        noise = random.random() + np.random.standard_normal()  # noqa: NPY002 -- as users' code does
        noise += check_random_state(self.inner.random_state).random_sample()
        self.weights_ = getattr(self, "weights_", np.zeros(features.shape[1])) + self.rate * noise
        return self

    def predict(self, features: Any) -> Any:
        return features @ self.weights_


@pytest.mark.parametrize("state", [None, 3, np.random.RandomState(3)], ids=["none", "seed", "instance"])
def test_an_estimator_that_draws_is_paused_and_resumed_as_if_it_were_alone(state: Any) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 3))
    estimator = Drawing(inner=SGDRegressor(random_state=state))

    def trainer() -> SklearnTrainer:
        return SklearnTrainer(estimator, rows, rows.sum(1), learning_rate_parameter="rate", batch_size=8)

    one, two = Recipe(lr=0.1, epochs=4, seed=1), Recipe(lr=0.1, epochs=4, seed=2)
    alone = [values(run) for run in [trainer().start([one])] for _ in range(8)]
    run, other = trainer().start([one]), trainer().start([two])
    found = []
    for turn in range(8):
        found.append(values(run))
        other.advance(1)
        if turn == 3:
            saved = run.state()
            run = trainer().start([one])
            run.restore(saved)
    assert found == alone
    assert alone[:2] != [values(run) for run in [trainer().start([two])] for _ in range(2)]
