"""The user's own loop: the contract of every trainer, and what user code gets wrong."""

from __future__ import annotations

import math
import sys
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
from generators import GENERATOR_RECIPES, descend
from hypothesis import given
from hypothesis import strategies as st
from trainer_contract import BowlContract, NotSavingContract, TrainerContract

from lrtune.core.outcome import Outcome
from lrtune.core.recipe import Recipe
from lrtune.errors import InputError
from lrtune.training.generator import GeneratorTrainer, number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lrtune.training.base import Report, Run


class TestContract(NotSavingContract, BowlContract, TrainerContract):
    recipes: ClassVar = GENERATOR_RECIPES

    def trainer(self) -> GeneratorTrainer:
        return GeneratorTrainer(descend)

    def bowl(self) -> tuple[GeneratorTrainer, float]:
        return GeneratorTrainer(descend), 10.0


def run_of(function: Callable[[Recipe], Any], *, epochs: int = 3, metric: str = "valid_loss") -> Run:
    return GeneratorTrainer(function, metric=metric).start([Recipe(lr=0.1, epochs=epochs)])


def yields(*values: Any) -> Callable[[Recipe], Iterator[Any]]:
    def train(recipe: Recipe) -> Iterator[Any]:  # noqa: ARG001 -- the values are given
        yield from values

    return train


def last(run: Run) -> Report:
    report = None
    while run.alive:
        (report,) = run.advance(1)
    assert report is not None
    return report


def test_a_bare_number_is_the_metric() -> None:
    (first, second) = run_of(yields(0.5, np.float32(0.25)), epochs=2, metric="accuracy").advance(9)
    assert first.point.values == {"accuracy": 0.5}
    assert second.point.values == {"accuracy": 0.25}
    assert second.outcome is Outcome.COMPLETED


def test_no_more_than_the_epochs_of_the_recipe_are_asked_for() -> None:
    asked = []

    def train(recipe: Recipe) -> Iterator[float]:  # noqa: ARG001 -- one signature for all
        while True:
            asked.append(len(asked))
            yield 1.0

    assert last(run_of(train, epochs=4)).outcome is Outcome.COMPLETED
    assert len(asked) == 4


def test_user_code_is_suspended_between_yields() -> None:
    seen = []

    def train(recipe: Recipe) -> Iterator[float]:
        for epoch in range(recipe.epochs):
            seen.append(epoch)
            yield 1.0

    run = run_of(train)
    assert seen == []
    run.advance(1)
    assert seen == [0]
    run.advance(2)
    assert seen == [0, 1, 2]


def test_returning_early_is_complete_with_a_notice() -> None:
    trainer = GeneratorTrainer(yields(1.0, 0.5))
    run = trainer.start([Recipe(lr=0.1, epochs=10)])
    assert trainer.notices == ()
    reports = run.advance(10)
    assert [report.point.step for report in reports] == [1, 2, 2]
    assert reports[-1].outcome is Outcome.COMPLETED
    assert reports[-1].point.values == {}
    assert "after 2 of 10 epochs" in reports[-1].why
    assert "after 2 of 10 epochs" in trainer.notices[0]
    assert run.alive == ()


def test_returning_without_a_yield_fails() -> None:
    report = last(run_of(yields()))
    assert report.outcome is Outcome.FAILED
    assert "without one yield" in report.why


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("1.5", "got str"),
        (None, "got NoneType"),
        ([1.0], "got list"),
        (1j, "got complex"),
        (b"1", "got bytes"),
        (10**400, "got int too large"),
        (np.zeros(3), "got ndarray"),
        (object(), "got object"),
        (np.complex64(1), "complex"),
        ({"valid_loss": "1.5"}, "got str for 'valid_loss'"),
        ({"a": 1.0, "b": None}, "got NoneType for 'b'"),
        ({3: 1.0}, "got 3 for a name"),
        ({}, "empty mapping"),
    ],
)
def test_what_is_no_number_fails_with_a_sentence(wrong: Any, said: str) -> None:
    run = run_of(yields(1.0, wrong))
    assert run.advance(1)[0].outcome is None
    report = last(run)
    assert report.outcome is Outcome.FAILED
    assert report.why.startswith("the training code must yield numbers")
    assert said in report.why
    assert report.point.step == 2


@given(
    st.one_of(st.floats(), st.integers(-(2**60), 2**60), st.booleans(), st.fractions(), st.decimals(allow_nan=False))
)
def test_what_is_a_number_is_that_number(value: Any) -> None:
    assert number(value) == float(value) or math.isnan(float(value))


@pytest.mark.parametrize("value", [np.float32(0.5), np.array(0.5), np.array([0.5]), Fraction(1, 2), 0.5])
def test_one_element_of_an_array_is_a_number(value: Any) -> None:
    assert number(value) == 0.5


def test_non_finite_numbers_are_reported_as_they_are() -> None:
    (report,) = run_of(yields(math.nan)).advance(1)
    assert math.isnan(report.point.values["valid_loss"])
    assert report.outcome is None


def raising(error: BaseException) -> Callable[[Recipe], Iterator[float]]:
    def train(recipe: Recipe) -> Iterator[float]:  # noqa: ARG001 -- one signature for all
        yield 1.0
        raise error

    return train


class OutOfMemoryError(RuntimeError):
    """What torch calls its own."""


@pytest.mark.parametrize(
    ("error", "outcome", "said"),
    [
        (SystemExit(3), Outcome.FAILED, "called sys.exit(3) in epoch 2"),
        (SystemExit(), Outcome.FAILED, "called sys.exit() in epoch 2"),
        (GeneratorExit(), Outcome.FAILED, "GeneratorExit in epoch 2"),
        (MemoryError(), Outcome.OUT_OF_MEMORY, "memory ran out in epoch 2"),
        (OutOfMemoryError("CUDA out of memory. Tried\nmore"), Outcome.OUT_OF_MEMORY, "CUDA out of memory. Tried"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), Outcome.OUT_OF_MEMORY, "allocate"),
    ],
)
def test_exits_and_memory_are_outcomes(error: BaseException, outcome: Outcome, said: str) -> None:
    report = last(run_of(raising(error)))
    assert report.outcome is outcome
    assert said in report.why
    assert "\n" not in report.why


@pytest.mark.parametrize("error", [ValueError("mine"), RuntimeError("mine"), KeyboardInterrupt()])
def test_other_exceptions_are_the_users_own(error: BaseException) -> None:
    run = run_of(raising(error))
    run.advance(1)
    with pytest.raises(type(error)) as caught:
        run.advance(1)
    assert caught.value is error
    assert run.alive == ()
    run.close()


@pytest.mark.parametrize("wrong", [lambda _: 0.5, lambda _: None, lambda _: [1.0, 2.0]])
def test_a_function_that_does_not_yield_is_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match="must be a generator function"):
        run_of(wrong).advance(1)


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(InputError, match="got int"):
        GeneratorTrainer(3)


def test_dropping_runs_the_clean_up_of_the_user() -> None:
    cleaned = []

    def train(recipe: Recipe) -> Iterator[float]:
        try:
            while True:
                yield recipe.lr
        finally:
            cleaned.append(recipe.lr)

    run = GeneratorTrainer(train).start([Recipe(lr=1.0, epochs=9), Recipe(lr=2.0, epochs=9)])
    run.advance(1)
    run.drop([1])
    assert cleaned == [2.0]
    run.close()
    assert cleaned == [2.0, 1.0]


def test_a_clean_up_that_goes_wrong_ends_nothing_else() -> None:
    def train(recipe: Recipe) -> Iterator[float]:
        try:
            while True:
                yield recipe.lr
        finally:
            sys.exit(1)

    trainer = GeneratorTrainer(train)
    run = trainer.start([Recipe(lr=1.0, epochs=9)])
    run.advance(1)
    run.close()
    assert "SystemExit" in trainer.notices[0]


def test_an_iterator_object_will_do() -> None:
    class Loop:
        def __init__(self, recipe: Recipe) -> None:
            self.lr = recipe.lr

        def __iter__(self) -> Loop:
            return self

        def __next__(self) -> float:
            self.lr /= 2
            return self.lr

    assert last(run_of(Loop)).point.values == {"valid_loss": 0.0125}
