"""The contract that every trainer passes: compose these classes in a test module of the trainer.

::

    class TestMine(SavingContract, BowlContract, TrainerContract):
        recipes = (Recipe(lr=0.1, epochs=3, seed=1), Recipe(lr=0.01, epochs=3, seed=2))

        def trainer(self): ...                      # a fresh trainer at each call, equal to the last one
        def bowl(self): ...                         # (trainer, largest curvature)

A trainer that cannot save takes `NotSavingContract` in place of `SavingContract`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import pytest

from lrtune.core.outcome import Outcome
from lrtune.core.recipe import Recipe
from lrtune.errors import InputError, RecipeError
from lrtune.training import checkpoint
from lrtune.training.base import Report, Run, Trainer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Key: TypeAlias = tuple[Any, ...]
Curves: TypeAlias = dict[int, dict[int, Key]]


class Value:
    """A number in a report, equal to one that is the same bit for bit (NaN included), or within the tolerance."""

    tolerance: ClassVar[float] = 0.0

    def __init__(self, value: float) -> None:
        self._value = float(value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Value):
            return NotImplemented
        one, two = self._value, other._value
        return one.hex() == two.hex() or abs(one - two) <= self.tolerance * max(1.0, abs(one))

    __hash__ = None  # type: ignore[assignment]  # what is equal within a tolerance has none

    def __repr__(self) -> str:
        return repr(self._value)


def key(report: Report) -> Key:
    """All that a report says, comparable."""
    point = report.point
    values = tuple((name, Value(point.values[name])) for name in sorted(point.values))
    lr = None if point.lr is None else float(point.lr).hex()
    return point.step, float(point.epoch).hex(), point.samples, lr, values, report.outcome, report.why


def gather(reports: Sequence[Report], curves: Curves) -> Curves:
    for report in reports:
        member = curves.setdefault(report.member, {})
        assert report.point.step not in member, "a step is reported once"
        assert not member or report.point.step > max(member), "reports come in the order of their steps"
        member[report.point.step] = key(report)
    return curves


def train(run: Run, *, steps: int = 1, segments: int = 10**9) -> Curves:
    """Advance until nobody is alive, or for so many segments of `steps` steps: member -> step -> its report there."""
    curves: Curves = {}
    while run.alive and segments > 0:
        before = run.alive
        reports = run.advance(steps)
        assert {report.member for report in reports} <= set(before), "only who was alive reports"
        gather(reports, curves)
        segments -= 1
    return curves


def shared(first: dict[int, Key], second: dict[int, Key]) -> tuple[list[Key], list[Key]]:
    """What two curves say at the steps that both reported."""
    steps = sorted(first.keys() & second.keys())
    assert steps, "the two curves have no step in common"
    return [first[step] for step in steps], [second[step] for step in steps]


class Contract:
    """What every part of the contract needs; a test class says what `recipes` and `trainer` are."""

    recipes: ClassVar[tuple[Recipe, ...]]
    tolerance: ClassVar[float] = 0.0
    """By how much values may differ that are to be the same; members trained as one are so within rounding."""

    @pytest.fixture(autouse=True)
    def _within_tolerance(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Value, "tolerance", self.tolerance)

    def trainer(self) -> Trainer:
        """A fresh trainer, equal to the last one."""
        raise NotImplementedError

    def start(self, recipes: Sequence[Recipe] | None = None) -> Run:
        return self.trainer().start(self.recipes if recipes is None else recipes)

    def most_steps(self, recipe: Recipe) -> int:
        return recipe.epochs * self.trainer().steps_per_epoch(recipe)


class TrainerContract(Contract):
    """What holds for every trainer."""

    def test_it_is_a_trainer_and_starts_runs(self) -> None:
        trainer = self.trainer()
        assert isinstance(trainer, Trainer)
        run = trainer.start(self.recipes)
        assert isinstance(run, Run)
        assert tuple(run.recipes) == self.recipes
        assert run.alive == tuple(range(len(self.recipes)))
        run.close()

    def test_together_equals_alone(self) -> None:
        together = train(self.start())
        for member, recipe in enumerate(self.recipes):
            assert train(self.start([recipe]))[0] == together[member]

    def test_dropping_some_leaves_the_others_unchanged(self) -> None:
        whole = train(self.start())
        run = self.start()
        begun = train(run, segments=2)
        run.drop([0])
        assert 0 not in run.alive
        rest = train(run)
        assert 0 not in rest
        for member in range(1, len(self.recipes)):
            assert {**begun[member], **rest.get(member, {})} == whole[member]

    def test_dropping_everyone_ends_the_run(self) -> None:
        run = self.start()
        run.advance(1)
        run.drop(range(len(self.recipes)))
        assert run.alive == ()
        assert run.advance(1) == []
        run.close()

    @pytest.mark.parametrize("steps", [2, 3, 7, 10**6])
    def test_the_curve_does_not_depend_on_the_segments(self, steps: int) -> None:
        fine, coarse = train(self.start()), train(self.start(), steps=steps)
        for member in range(len(self.recipes)):
            left, right = shared(fine[member], coarse[member])
            assert left == right
            assert max(fine[member]) == max(coarse[member])

    def test_evaluating_less_often_changes_nothing_else(self) -> None:
        often = train(self.start())
        run = self.start()
        for _ in range(3):
            run.advance(1, evaluate=False)
        later = train(run)
        for member, curve in later.items():
            left, right = shared(often[member], curve)
            assert left == right

    def test_the_same_recipe_and_seed_give_the_same_curve(self) -> None:
        assert train(self.start()) == train(self.start())

    def test_a_finished_run_is_not_alive(self) -> None:
        run = self.start()
        last: dict[int, Report] = {}
        while run.alive:
            for report in run.advance(1):
                assert report.member not in last or last[report.member].outcome is None
                last[report.member] = report
        assert run.alive == ()
        assert run.advance(1) == []
        for member, recipe in enumerate(self.recipes):
            assert last[member].outcome is Outcome.COMPLETED
            assert last[member].point.step == self.most_steps(recipe)
            assert last[member].point.epoch == recipe.epochs
        run.close()

    def test_it_never_goes_beyond_the_last_step(self) -> None:
        for member, curve in train(self.start(), steps=10**6).items():
            assert max(curve) == self.most_steps(self.recipes[member])

    def test_every_report_has_finite_numbers_under_names(self) -> None:
        run = self.start()
        while run.alive:
            for report in run.advance(1):
                assert report.point.values
                assert all(math.isfinite(value) for value in report.point.values.values())
        run.close()

    def test_close_twice(self) -> None:
        run = self.start()
        run.close()
        run.close()
        run = self.start()
        run.advance(1)
        run.close()
        run.close()
        assert run.alive == ()

    def test_suspending_changes_nothing(self) -> None:
        whole = train(self.start())
        run = self.start()
        begun = train(run, segments=2)
        run.suspend()
        rest = train(run)
        for member, curve in whole.items():
            assert {**begun[member], **rest.get(member, {})} == curve

    def test_the_fingerprint_is_readable_and_the_same_each_time(self) -> None:
        first = dict(self.trainer().fingerprint())
        assert first == dict(self.trainer().fingerprint())
        assert all(isinstance(name, str) and isinstance(value, str) for name, value in first.items())

    def test_the_baseline_is_a_number_or_unknown(self) -> None:
        baseline = self.trainer().baseline(self.recipes[0], "valid_loss")
        for value in (baseline.untrained, baseline.chance):
            assert value is None or math.isfinite(value)


class NotSavingContract(Contract):
    """What holds for a trainer whose runs cannot save."""

    def test_it_has_no_state(self) -> None:
        run = self.start()
        run.advance(1)
        assert run.state() is None
        with pytest.raises(InputError, match="cannot"):
            run.restore({})
        run.close()


class SavingContract(Contract):
    """What holds for a trainer whose runs save and restore."""

    @pytest.mark.parametrize("cut", [0, 1, 3, 5])
    def test_save_restore_and_continue_equals_never_stopped(self, cut: int, tmp_path: Path) -> None:
        assert self.trainer().saves
        whole = train(self.start())
        run = self.start()
        begun = train(run, segments=cut)
        state = run.state()
        assert state is not None
        path = tmp_path / "run.npz"
        checkpoint.save(path, state)
        run.close()

        other = self.start()
        other.restore(checkpoint.load(path))
        rest = train(other)
        other.close()
        for member, curve in whole.items():
            assert {**begun.get(member, {}), **rest.get(member, {})} == curve

    def test_restoring_over_a_run_that_has_trained_on(self) -> None:
        whole = train(self.start())
        run = self.start()
        train(run, segments=2)
        state = run.state()
        assert state is not None
        train(run, segments=2)
        run.restore(state)
        for member, curve in train(run).items():
            assert all(whole[member][step] == said for step, said in curve.items())

    def test_a_state_is_a_snapshot(self, tmp_path: Path) -> None:
        run = self.start()
        train(run, segments=1)
        state = run.state()
        assert state is not None
        checkpoint.save(tmp_path / "before.npz", state)
        train(run)
        checkpoint.save(tmp_path / "after.npz", state)
        before, after = (checkpoint.load(tmp_path / name) for name in ("before.npz", "after.npz"))
        assert same(before, after)

    def test_who_was_dropped_stays_dropped(self) -> None:
        run = self.start()
        train(run, segments=1)
        run.drop([0])
        state = run.state()
        assert state is not None
        other = self.start()
        other.restore(state)
        assert other.alive == run.alive
        assert train(other) == train(run)

    def test_a_finished_run_restores_as_finished(self) -> None:
        run = self.start()
        train(run, steps=10**6)
        state = run.state()
        assert state is not None
        other = self.start()
        other.restore(state)
        assert other.alive == ()

    def test_a_state_of_another_run_is_refused(self) -> None:
        with pytest.raises(InputError):
            self.start().restore({"nonsense": 1})
        donor = self.start([self.recipes[0].with_seed(987_654)])
        donor.advance(1)
        state = donor.state()
        assert state is not None
        with pytest.raises(InputError):
            self.start([self.recipes[0]]).restore(state)


class BowlContract(Contract):
    """What holds for a trainer that can do plain gradient descent on least squares."""

    bowl_epochs: ClassVar[int] = 400
    bowl_recipe: ClassVar[dict[str, Any]] = {}

    def bowl(self) -> tuple[Trainer, float]:
        """A trainer of least squares whose step is plain gradient descent, and its largest curvature."""
        raise NotImplementedError

    @pytest.mark.parametrize("factor", [0.1, 0.9, 0.98, 1.02, 1.1, 3.0, 1e3])
    def test_it_diverges_exactly_beyond_two_over_the_curvature(self, factor: float) -> None:
        trainer, curvature = self.bowl()
        recipe = Recipe(lr=factor * 2 / curvature, epochs=self.bowl_epochs, **self.bowl_recipe)
        run = trainer.start([recipe])
        first: float | None = None
        loss, outcome = math.nan, None
        while run.alive:
            for report in run.advance(trainer.steps_per_epoch(recipe)):
                loss = report.point.values.get("train_loss", loss)
                first = loss if first is None else first
                outcome = report.outcome
        run.close()
        assert first is not None
        assert outcome is not None
        grew = not loss <= 1e3 * first
        assert (outcome.diverged or grew) == (factor > 1)
        if factor < 1:
            assert outcome is Outcome.COMPLETED
            assert loss < first


def same(left: Any, right: Any) -> bool:
    """Whether two states hold the same, types and bits."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[name], right[name]) for name in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
    if isinstance(left, float):
        return left.hex() == right.hex()
    return bool(left == right)


def refused(trainer: Trainer, recipe: Recipe, match: str) -> None:
    """The trainer refuses the recipe with that sentence."""
    with pytest.raises(RecipeError, match=match):
        trainer.start([recipe])
