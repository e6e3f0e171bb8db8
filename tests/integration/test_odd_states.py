"""Searches in odd states: ranges of any size, metrics that come seldom, trials that others have put there or ended.

None of them hangs, raises anything but a sentence, or claims what did not happen.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

import optuna
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

import lrtune
from lrtune.core.outcome import Outcome
from lrtune.core.parameters import HIGHEST_LR, LOWEST_LR
from lrtune.errors import InputError, LrtuneError, SearchError
from lrtune.search.base import Continue, Finish, Start, Stop, Wait
from lrtune.search.freeze_thaw.strategy import FreezeThaw, Prior
from lrtune.search.registry import NAMES
from lrtune.study.engine import scheduler
from lrtune.study.tuning import tune
from lrtune.workers.pool import WorkerContext

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from lrtune.core.recipe import Recipe
    from lrtune.search.base import Action, SearchContext

SPACE = lrtune.Space(lr=(1e-4, 1.0), batch_size=[16, 32], momentum=(0.5, 0.9))


def descent(recipe: Recipe) -> Iterator[float]:
    weight = 10.0
    for _ in range(recipe.epochs):
        weight -= min(recipe.lr, 1.5) * weight * 0.3
        yield weight**2 + 0.1


def towards(best: float) -> Callable[[Recipe], Iterator[float]]:
    """A basin whose lowest point is at that log10 of the learning rate, wherever the range is."""

    def train(recipe: Recipe) -> Iterator[float]:
        for epoch in range(recipe.epochs):
            yield 0.1 * abs(math.log10(recipe.lr) - best) + math.exp(-epoch)

    return train


# Numbers at the ends of a range.


@st.composite
def ranges(draw: st.DrawFn) -> tuple[float, float]:
    """From the whole of what is allowed down to a few bits, wherever."""
    low = draw(st.sampled_from([LOWEST_LR, 1e-5, 1e11]) | st.floats(-30, 11.5).map(lambda x: max(10.0**x, LOWEST_LR)))
    factor = draw(st.sampled_from([1 + 1e-15, 1 + 1e-12, 2.0]) | st.floats(0.001, 42).map(lambda x: 10.0**x))
    return low, min(low * factor, HIGHEST_LR)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    span=ranges(),
    strategy=st.sampled_from([name for name in NAMES if name not in {"gp", "optuna"}] + ["freeze-thaw"] * 4),
    side=st.sampled_from([-3.0, 0.0, 0.5, 1.0, 4.0]),
    widen=st.floats(0, 3),
    joint=st.booleans(),
    prior=st.sampled_from([None, -4.0, 0.0, 0.3, 1.0, 4.0]),
)
def test_no_range_and_no_best_ends_in_anything_but_an_answer(
    *, span: tuple[float, float], strategy: str, side: float, widen: float, joint: bool, prior: float | None
) -> None:
    """Every trial that is started lies in the range as it was then: Optuna keeps it as it is, or refuses it."""
    low, decades = math.log10(span[0]), math.log10(span[1] / span[0])
    others: dict[str, Any] = {"batch_size": [16, 64], "weight_decay": (1e-300, 1e6)} if joint else {}
    chosen: Any = strategy
    if prior is not None and strategy == "freeze-thaw":
        best = 10.0 ** min(max(low + prior * decades, -300), 300)
        chosen = FreezeThaw(Prior(best=best, low=best / 2, high=best * 2))
    space = lrtune.Space(lr=span, **others)
    result = tune(towards(low + side * decades), space, epochs=4, strategy=chosen, budget=2.5, widen=widen)
    wider = lrtune.Space.from_json(result.study.user_attrs["lrtune:space"])
    assert wider.lr_range[0] <= span[0] < span[1] <= wider.lr_range[1]
    assert wider.lr_range[0] >= LOWEST_LR
    assert all(wider.contains(trial.params) for trial in result.study.trials)
    grown = math.log10(span[0] / wider.lr_range[0]) + math.log10(wider.lr_range[1] / span[1])
    assert grown <= widen + 1e-6


@pytest.mark.parametrize(("best", "end"), [(-9.0, 0), (9.0, 1)])
def test_a_widened_end_is_the_learning_rate_that_asked_for_it(best: float, end: int) -> None:
    result = tune(towards(best), lrtune.Space(lr=(1e-5, 1.0)), epochs=27)
    wider = result.study.user_attrs["lrtune:space"]["lr"]
    tried = [trial.params["lr"] for trial in result.study.trials]
    assert (min(tried), max(tried))[end] == (wider["low"], wider["high"])[end] == (1e-6, 10.0)[end]


# The metric is not reported at every epoch.


def seldom(every: int, offset: int = 0) -> Callable[[Recipe], Iterator[dict[str, float]]]:
    def train(recipe: Recipe) -> Iterator[dict[str, float]]:
        for epoch, value in enumerate(descent(recipe)):
            yield {"train_loss": value, **({"valid_loss": value} if epoch % every == offset else {})}

    return train


@pytest.mark.parametrize("strategy", NAMES)
@pytest.mark.parametrize("every", [2, 3, 50])
def test_a_metric_that_comes_seldom_ends_as_any_other(strategy: str, every: int) -> None:
    space = lrtune.Space(lr=(1e-4, 1.0))
    result = tune(seldom(every), space, epochs=8, budget=3.0, strategy=strategy)
    assert result.trials_by_outcome["completed"] >= 1
    assert result.cost <= 3.0 + 1e-9
    daily = tune(descent, space, epochs=8, budget=3.0, strategy=strategy)
    assert result.cost > 0.6 * daily.cost


def test_a_metric_that_comes_late_or_never_is_refused_with_what_to_do() -> None:
    for train in (seldom(3, offset=2), seldom(50, offset=40)):
        with pytest.raises(InputError, match="report it from the first epoch on"):
            tune(train, lrtune.Space(lr=(1e-4, 1.0)), epochs=8, budget=3.0)


# All fail midway.


def breaking(error: BaseException) -> Callable[[Recipe], Iterator[float]]:
    def train(recipe: Recipe) -> Iterator[float]:
        for epoch, value in enumerate(descent(recipe)):
            if epoch == 2:
                raise error
            yield value

    return train


@pytest.mark.parametrize("strategy", NAMES)
@pytest.mark.parametrize("trials", [1, 3])
def test_where_all_fail_midway_the_reason_is_told(strategy: str, trials: int) -> None:
    with pytest.raises(SearchError, match="a broken batch") as caught:
        tune(
            breaking(RuntimeError("a broken batch")),
            lrtune.Space(lr=(1e-3, 1.0)),
            epochs=8,
            trials=trials,
            strategy=strategy,
        )
    assert caught.value.exit_code == 3


def test_some_that_diverged_are_counted() -> None:
    def train(recipe: Recipe) -> Iterator[dict[str, float]]:
        for epoch in range(recipe.epochs):
            yield {"valid_loss": math.nan if epoch == 2 else 1.0 + recipe.lr}

    with pytest.raises(SearchError, match=r"\d+ of \d+ trials diverged: raise the budget, or try a range further down"):
        tune(train, lrtune.Space(lr=(1e-5, 1.0)), epochs=9, budget=4.0)


def test_some_out_of_memory_are_counted() -> None:
    with pytest.raises(SearchError, match="ran out of memory"):
        tune(breaking(MemoryError()), lrtune.Space(lr=(1e-3, 1.0)), epochs=8, trials=3, strategy="tpe")


# A budget of one.


@pytest.mark.parametrize("strategy", NAMES)
@pytest.mark.parametrize("budget", [1.0, 1.2, 1.5])
@pytest.mark.parametrize("epochs", [3, 8])
def test_every_budget_holds_one_full_training(strategy: str, budget: float, epochs: int) -> None:
    result = tune(descent, lrtune.Space(lr=(1e-4, 0.3)), epochs=epochs, budget=budget, strategy=strategy)
    assert result.trials_by_outcome["completed"] >= 1
    assert result.cost <= budget + 1e-9


@pytest.mark.parametrize("strategy", ["freeze-thaw", "tpe", "random", "grid", "top-k", "optuna"])
def test_two_workers_do_not_share_one_budget_to_pieces(tmp_path: Path, strategy: str) -> None:
    """Runs of a generator live in the memory of one worker: the other leaves room for their end, and waits for it."""
    found: list[dict[str, int]] = []

    def work(index: int) -> None:
        place = WorkerContext(index=index, count=2)
        result = tune(
            descent,
            lrtune.Space(lr=(1e-4, 0.3)),
            epochs=8,
            budget=1.2,
            strategy=strategy,
            storage=tmp_path / "s.db",
            place=place,
        )
        found.append(dict(result.trials_by_outcome))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [outcomes["completed"] for outcomes in found] == [1, 1]


# Trials of other hands.


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"batch_size": 64}, "batch_size must be one of 16, 32"),
        ({"lr": 50.0}, "lr must be from 0.0001 to 1"),
        ({"lr": "0.1"}, "lr must be from 0.0001 to 1"),
        ({"lr": math.nan}, "lr must be from"),
        ({"lr": True}, "lr must be from"),
        ({"momentum": None}, "momentum must be from 0.5 to 0.9"),
        ({"momentum": [0.6]}, "momentum must be from 0.5 to 0.9"),
        ({"weight_decay": 0.5}, "weight_decay is 0.1 throughout this study"),
    ],
)
def test_an_enqueued_point_that_does_not_fit_fails_with_a_sentence(asked: dict[str, Any], said: str) -> None:
    space = lrtune.Space(lr=(1e-4, 1.0), batch_size=[16, 32], momentum=(0.5, 0.9), weight_decay=0.1)
    storage = optuna.storages.InMemoryStorage()
    tune(descent, space, epochs=4, trials=1, storage=storage)
    study = optuna.load_study(study_name="lrtune", storage=storage)
    study.enqueue_trial(asked)
    study.enqueue_trial({"lr": 0.5, "batch_size": 16.0})
    result = tune(descent, space, epochs=4, trials=3, storage=storage)
    refused, fits = result.study.trials[1:3]
    assert refused.state is TrialState.FAIL
    assert said in refused.user_attrs["why"]
    assert any(said in warning for warning in result.warnings)
    assert fits.state is TrialState.COMPLETE
    assert (fits.params["lr"], fits.params["batch_size"]) == (0.5, 16)


def test_names_that_nobody_searches_are_said_to_be_ignored() -> None:
    storage = optuna.storages.InMemoryStorage()
    tune(descent, SPACE, epochs=4, trials=1, storage=storage)
    optuna.load_study(study_name="lrtune", storage=storage).enqueue_trial({"lr": 0.5, "dropout": 0.3})
    result = tune(descent, SPACE, epochs=4, trials=2, storage=storage)
    assert result.study.trials[1].state is TrialState.COMPLETE
    assert any("'dropout'" in warning for warning in result.warnings)


@pytest.mark.parametrize(
    ("state", "value", "outcome"),
    [
        (TrialState.FAIL, None, "failed"),
        (TrialState.PRUNED, None, "pruned"),
        (TrialState.COMPLETE, 0.05, "completed"),
    ],
)
def test_what_other_hands_have_ended_is_shown_as_they_ended_it(
    state: TrialState, value: float | None, outcome: str
) -> None:
    storage = optuna.storages.InMemoryStorage()
    calls = [0]

    def soon() -> bool:
        calls[0] += 1
        return calls[0] > 5

    result = tune(descent, lrtune.Space(lr=(1e-4, 1.0)), epochs=9, storage=storage, should_stop=soon)
    number = next(trial.number for trial in result.study.trials if trial.state is TrialState.RUNNING)
    result.study.tell(number, value, state=state)
    assert result.trials().set_index("number").loc[number, "outcome"] == outcome
    again = tune(descent, lrtune.Space(lr=(1e-4, 1.0)), epochs=9, budget=3.0, storage=storage)
    assert again.trials().set_index("number").loc[number, "outcome"] == outcome
    assert again.best_value == again.study.best_value


# A strategy that asks for what cannot be done.


class Stubborn:
    """Starts one trial, and then answers the same for ever."""

    name = "stubborn"

    def __init__(self, answer: Callable[[SearchContext], Action]) -> None:
        self.answer = answer
        self.asked = 0

    def next(self, context: SearchContext) -> Action:
        if not context.trials:
            return Start(params={"lr": 0.1}, until=1.0)
        self.asked += 1
        return self.answer(context)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda _: Wait(), "nobody trains anything"),
        (lambda _: Continue(number=0, until=1.0), "from epoch 1 up to 1"),
        (lambda _: Continue(number=0, until=math.nan), "up to epoch nan"),
        (lambda _: Continue(number=7, until=3.0), "trial 7, which is not paused"),
        (lambda _: Stop(number=7), "trial 7, which is not paused"),
        (lambda _: Stop(number=0), "trial 0, which is not paused"),
        (lambda _: Start(params={"lr": 1e300}, until=1.0), "no point of the space"),
        (lambda _: Start(params={"momentum": 0.1}, until=1.0), "no point of the space"),
        (lambda _: Start(params=None, until=1.0), "no point of the space"),
        (lambda _: Start(params={"lr": 0.2}, until=0.0), "up to 0"),
        (lambda _: "nonsense", "no action"),
    ],
)
def test_a_strategy_that_asks_for_the_impossible_is_named(
    answer: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "IDLE_ROUNDS", 0)
    stubborn = Stubborn(answer)
    with pytest.raises(LrtuneError, match="a bug of the strategy 'stubborn': twice in a row") as caught:
        tune(descent, lrtune.Space(lr=(1e-3, 1.0)), epochs=4, budget=2.0, strategy=stubborn)
    assert said in str(caught.value)
    assert stubborn.asked <= 3


def test_once_is_forgiven() -> None:
    answers: list[Action] = [Continue(number=0, until=1.0), Continue(number=0, until=4.0), Wait(), Finish(why="done")]
    stubborn = Stubborn(lambda _: answers.pop(0))
    result = tune(descent, lrtune.Space(lr=(1e-3, 1.0)), epochs=4, budget=2.0, strategy=stubborn)
    assert result.trials_by_outcome == {Outcome.COMPLETED.group: 1}


def test_a_metric_that_is_no_number_before_training_is_not_blamed_on_the_learning_rate() -> None:
    x, y = torch.randn(40, 5), torch.zeros(40, dtype=torch.long)
    masked = torch.full((8,), -100)

    def own(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(output, target)

    trainer = lrtune.TorchTrainer(
        model=lambda: torch.nn.Linear(5, 2),
        train_data=(x, y),
        valid_data=(x[:8], masked),
        loss=own,
    )
    with pytest.raises(lrtune.SearchError, match="valid_loss is no finite number before any training") as raised:
        lrtune.tune(trainer, lrtune.Space(lr=(1e-3, 1.0)), epochs=2, trials=3)
    assert "range" not in str(raised.value)
