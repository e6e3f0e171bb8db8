"""The training of one segment: where it is evaluated, what ends it, what it leaves in the curve."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import pytest
from counter import Counter
from hypothesis import given
from hypothesis import strategies as st

from lrtune.core.curve import Curve, Point
from lrtune.core.divergence import Baseline
from lrtune.core.outcome import Outcome
from lrtune.core.recipe import Recipe
from lrtune.errors import InputError, UserCodeError
from lrtune.study.engine.run_cache import PausedRun
from lrtune.study.engine.segment import Lane, SegmentMonitor, SegmentResult, failed, train
from lrtune.study.settings import Settings
from lrtune.training.base import Report
from lrtune.training.generator import GeneratorTrainer
from lrtune.workers.process import Death, DiedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RECIPE = Recipe(lr=0.1, epochs=5)


def trained(
    paused: PausedRun,
    recipe: Recipe,
    until: float,
    *,
    spe: int = 4,
    seconds: float = 0.0,
    **changes: Any,
) -> SegmentResult:
    """Train one run alone."""
    lane = Lane(number=0, paused=paused, recipe=recipe, until=until, steps_per_epoch=spe, seconds=seconds)
    train(paused.run, [lane], monitor(**changes))
    assert lane.result is not None
    assert lane.saved_steps == 0
    return lane.result


def monitor(**changes: Any) -> SegmentMonitor:
    options = {field.name for field in dataclasses.fields(Settings)}
    told = {name: changes.pop(name) for name in list(changes) if name in options}
    whole: dict[str, Any] = {
        "settings": Settings(**{"epochs": RECIPE.epochs, **told}),
        "baseline": None,
        "should_stop": lambda: False,
        "save": lambda _number, _paused: None,
        "progressed": lambda: None,
        **changes,
    }
    return SegmentMonitor(**whole)


def counting(recipe: Recipe = RECIPE) -> PausedRun:
    return PausedRun(run=Counter(recipe), curve=Curve())


def generating(function: Callable[[Recipe], Iterator[Any]], recipe: Recipe = RECIPE) -> PausedRun:
    return PausedRun(run=GeneratorTrainer(function).start([recipe]), curve=Curve())


class Scripted(Counter):
    """A run whose metric is scripted by step."""

    def __init__(self, value: Callable[[int], float], recipe: Recipe = RECIPE) -> None:
        super().__init__(recipe)
        self.value = value

    def advance(self, steps: int, /, *, evaluate: bool = True) -> list[Report]:
        (report,) = super().advance(steps, evaluate=evaluate)
        values = {"valid_loss": self.value(self.count)} if evaluate else {}
        return [dataclasses.replace(report, point=dataclasses.replace(report.point, values=values))]


def test_a_run_is_evaluated_at_the_end_of_every_epoch_and_of_the_segment() -> None:
    paused = counting()
    end = trained(paused, RECIPE, 2.5)
    assert (end.outcome, end.interrupted) == (None, False)
    assert paused.curve.steps.tolist() == [4, 8, 10]
    end = trained(paused, RECIPE, 5.0)
    assert end.outcome is Outcome.COMPLETED
    assert paused.curve.steps.tolist() == [4, 8, 10, 12, 16, 20]


@given(st.lists(st.floats(0.01, 5.0), min_size=1, max_size=6), st.integers(1, 40))
def test_however_it_is_cut_every_segment_reaches_what_was_asked(untils: list[float], spe: int) -> None:
    paused = counting()
    paused.run.spe = spe  # type: ignore[attr-defined]  # it has it, untyped
    for until in sorted(untils):
        before = paused.step
        trained(paused, RECIPE, until, spe=spe)
        assert paused.step >= min(until, 5) * spe * (1 - 1e-6)
        assert paused.step < until * spe + 1
        assert paused.step >= before
    assert paused.curve.steps.tolist() == sorted(
        {math.ceil(u * spe * (1 - 1e-9)) for u in untils} | {e * spe for e in range(1, paused.step // spe + 1)}
    )


def test_a_segment_that_ends_within_an_epoch_is_evaluated_there() -> None:
    paused = counting()
    trained(paused, RECIPE, 0.3)
    assert paused.curve.steps.tolist() == [2]
    assert paused.step == 2


def test_a_generator_that_returns_early_is_complete() -> None:
    def short(_recipe: Recipe) -> Iterator[float]:
        yield 1.0
        yield 0.5

    paused = generating(short)
    end = trained(paused, RECIPE, 5.0, spe=1)
    assert end.outcome is Outcome.COMPLETED
    assert "returned after 2 of 5 epochs" in end.why
    assert paused.curve.values("valid_loss").tolist() == [1.0, 0.5]


def test_a_generator_that_returns_early_costs_what_it_yielded() -> None:
    def short(_recipe: Recipe) -> Iterator[float]:
        yield 1.0
        yield 0.5

    paused = generating(short)
    trained(paused, RECIPE, 5.0, spe=1)
    assert paused.step == 2


def test_a_report_that_is_not_finite_ends_the_segment_where_it_stands() -> None:
    paused = PausedRun(run=Scripted(lambda step: math.nan if step >= 8 else 1.0), curve=Curve())
    end = trained(paused, RECIPE, 5.0)
    assert end.outcome is Outcome.NON_FINITE
    assert paused.step == 8
    assert paused.curve.trained == 2.0


def test_what_the_run_itself_found_ends_the_segment() -> None:
    class Failing(Counter):
        def advance(self, steps: int, /, *, evaluate: bool = True) -> list[Report]:
            del steps, evaluate
            self.count += 1
            point = Point(step=self.count, epoch=self.count / 4, values={"train_loss": math.nan})
            return [
                Report(member=0, point=point, outcome=Outcome.NON_FINITE, why="the training loss was nan at step 1")
            ]

    paused = PausedRun(run=Failing(RECIPE), curve=Curve())
    end = trained(paused, RECIPE, 5.0)
    assert (end.outcome, end.why) == (Outcome.NON_FINITE, "the training loss was nan at step 1")
    assert len(paused.curve) == paused.step == 1, "what was not trained is not paid"


def test_a_stop_from_outside_is_an_interruption_and_no_end() -> None:
    paused = counting()
    end = trained(paused, RECIPE, 5.0, should_stop=lambda: paused.step >= 8)
    assert (end.outcome, end.interrupted) == (None, True)
    assert paused.step == 8


def test_it_is_saved_within_a_segment() -> None:
    saved: list[int] = []
    trained(counting(), RECIPE, 5.0, checkpoint_every=1e-9, save=lambda _number, paused: saved.append(paused.step))
    assert saved == list(range(1, saved[-1] + 1))
    assert len(saved) >= 16
    saved.clear()
    trained(counting(), RECIPE, 5.0, checkpoint_every=3600, save=lambda _number, paused: saved.append(paused.step))
    assert not saved


def test_a_trial_may_take_so_long_and_no_longer() -> None:
    end = trained(counting(), RECIPE, 5.0, trial_timeout=60.0, seconds=61.0)
    assert end.outcome is Outcome.STALLED
    assert "60 s" in end.why
    assert trained(counting(), RECIPE, 5.0, trial_timeout=60.0).outcome is Outcome.COMPLETED


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_patience_completes_a_run_without_a_better_value(direction: str) -> None:
    sign = 1 if direction == "minimize" else -1
    paused = PausedRun(run=Scripted(lambda step: sign * (1.0 + abs(step - 4))), curve=Curve())
    end = trained(paused, RECIPE, 5.0, patience=2, direction=direction, value=Settings(epochs=1).value)
    assert end.outcome is Outcome.COMPLETED
    assert paused.curve.trained == 3.0


def test_the_metric_must_be_reported() -> None:
    with pytest.raises(InputError, match=r"'accuracy' \(it reports valid_loss\)"):
        trained(counting(), RECIPE, 1.0, metric="accuracy")


def test_progress_is_told_after_every_chunk() -> None:
    told: list[float] = []
    paused = counting()
    trained(paused, RECIPE, 2.5, progressed=lambda: told.append(paused.step / 4))
    assert told == [0.25, 1.0, 2.0, 2.5]  # one step first, to see how fast it is


def test_a_stuck_run_ends_by_the_baseline() -> None:
    values = [2.31, 2.35, 2.4, 2.33, 2.36]
    paused = PausedRun(run=Scripted(lambda step: values[step // 4 - 1]), curve=Curve())
    end = trained(paused, RECIPE, 5.0, baseline=Baseline(untrained=2.3))
    assert end.outcome is Outcome.STUCK


# -- what an exception means ----------------------------------------------------------------------------


def raised(error: BaseException) -> BaseException:
    try:
        raise error  # noqa: TRY301 -- to have a traceback
    except BaseException as caught:  # noqa: BLE001 -- given back
        return caught


def test_the_first_error_is_the_users_and_carries_the_traceback() -> None:
    end = failed(raised(KeyError("gone")), first=True)
    assert isinstance(end.error, UserCodeError)
    assert "gone" in end.error.user_traceback
    assert "in raised" in end.error.user_traceback
    assert end.outcome is Outcome.FAILED


def test_later_errors_end_their_trial_alone() -> None:
    end = failed(raised(KeyError("gone")), first=False)
    assert (end.error, end.outcome) == (None, Outcome.FAILED)
    assert "gone" in end.why


@pytest.mark.parametrize("first", [True, False])
def test_memory_and_exits_have_outcomes_of_their_own(*, first: bool) -> None:
    assert failed(raised(MemoryError("8 GB")), first=first).outcome is Outcome.OUT_OF_MEMORY
    end = failed(raised(SystemExit(3)), first=first)
    assert end.error is None
    assert "sys.exit(3)" in end.why


def test_a_signal_an_input_error_and_a_death_say_what_ends() -> None:
    stopped = failed(KeyboardInterrupt(), first=False)
    assert (stopped.outcome, stopped.interrupted) == (None, True)
    assert isinstance(stopped.error, KeyboardInterrupt)
    refused = failed(raised(InputError("no such metric")), first=False)
    assert (refused.outcome, refused.why) == (Outcome.FAILED, "no such metric")
    assert isinstance(refused.error, InputError)
    death = Death(pid=1, why="killed by SIGKILL")
    died = failed(raised(DiedError(death)), first=False)
    assert (died.outcome, died.error, died.death, died.why) == (None, None, death, "killed by SIGKILL")


def test_a_long_traceback_keeps_its_end() -> None:
    end = failed(raised(ValueError("x" * 10_000 + " the cause")), first=False)
    assert len(end.why) <= 4000
    assert end.why.strip().endswith("the cause")
