"""lrtune for whoever keeps an Optuna objective: a pruner that wraps any other, and a recipe suggested."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import optuna
import pytest
from optuna.trial import TrialState

import lrtune

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SPACE = lrtune.Space(lr=(1e-5, 10.0), batch_size=[16, 64], schedule=["constant", "cosine"], warmup=(0.0, 0.2))


def any_pruner(name: str) -> optuna.pruners.BasePruner:
    makers: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
        "median": optuna.pruners.MedianPruner,
        "percentile": lambda: optuna.pruners.PercentilePruner(25.0),
        "threshold": lambda: optuna.pruners.ThresholdPruner(upper=1e6),
        "halving": optuna.pruners.SuccessiveHalvingPruner,
        "hyperband": lambda: optuna.pruners.HyperbandPruner(max_resource=10),
        "patient": lambda: optuna.pruners.PatientPruner(optuna.pruners.MedianPruner(), patience=3),
        "wilcoxon": optuna.pruners.WilcoxonPruner,
        "nop": optuna.pruners.NopPruner,
    }
    return makers[name]()


PRUNERS = ["median", "percentile", "threshold", "halving", "hyperband", "patient", "wilcoxon", "nop"]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
    optuna.logging.set_verbosity(optuna.logging.INFO)


def reported(study: optuna.Study, values: Sequence[float]) -> optuna.trial.FrozenTrial:
    """One trial that reports and asks after every value."""

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("lr", 1e-5, 1.0, log=True)
        for step, value in enumerate(values):
            trial.report(value, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return values[-1]

    study.optimize(objective, n_trials=1)
    return study.trials[-1]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("name", PRUNERS)
def test_a_report_that_is_not_finite_is_pruned_at_its_step(name: str, direction: str, bad: float) -> None:
    study = optuna.create_study(direction=direction, pruner=lrtune.DivergencePruner(any_pruner(name)))
    trial = reported(study, [1.0, 0.9, 0.8, bad, 0.7, 0.6])
    assert trial.state is TrialState.PRUNED
    assert max(trial.intermediate_values) == 3
    assert trial.constraints["diverged"] > 0


def test_a_run_that_explodes_after_a_dip_is_pruned() -> None:
    study = optuna.create_study(pruner=lrtune.DivergencePruner(untrained=2.3))
    trial = reported(study, [0.1, 0.2, 80.0, 90.0, 95.0])
    assert trial.state is TrialState.PRUNED
    assert max(trial.intermediate_values) == 3


def test_a_calm_run_is_left_to_the_wrapped_pruner() -> None:
    study = optuna.create_study(pruner=lrtune.DivergencePruner(optuna.pruners.ThresholdPruner(upper=1.0)))
    assert reported(study, [0.9, 0.8, 0.7]).state is TrialState.COMPLETE
    pruned = reported(study, [0.9, 1.1, 0.7])
    assert pruned.state is TrialState.PRUNED
    assert "diverged" not in pruned.constraints


def test_the_sooner_it_diverged_the_more_it_counts() -> None:
    study = optuna.create_study(pruner=lrtune.DivergencePruner(n_steps=10))
    early = reported(study, [1.0, math.nan])
    late = reported(study, [*[1.0] * 7, math.nan])
    assert early.constraints["diverged"] == pytest.approx(1.8)
    assert late.constraints["diverged"] == pytest.approx(1.2)


def test_a_run_stuck_at_chance_is_pruned_where_chance_is_known() -> None:
    values = [2.31, 2.36, 2.33, 2.35, 2.34, 2.36]
    known = optuna.create_study(pruner=lrtune.DivergencePruner(chance=2.303, n_steps=6))
    assert reported(known, values).state is TrialState.PRUNED
    assert reported(optuna.create_study(pruner=lrtune.DivergencePruner()), values).state is TrialState.COMPLETE


def test_steps_may_begin_anywhere() -> None:
    study = optuna.create_study(pruner=lrtune.DivergencePruner())

    def objective(trial: optuna.Trial) -> float:
        for step, value in ((100, 1.0), (200, math.nan), (300, 1.0)):
            trial.report(value, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return 1.0

    study.optimize(objective, n_trials=1)
    assert sorted(study.trials[0].intermediate_values) == [100, 200]


def test_a_recipe_is_suggested_in_a_plain_study() -> None:
    recipes = []

    def objective(trial: optuna.Trial) -> float:
        recipe = lrtune.suggest(trial, SPACE, epochs=10, seed=3)
        recipes.append(recipe)
        return (math.log10(recipe.lr) + 2) ** 2

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0), pruner=lrtune.DivergencePruner())
    study.optimize(objective, n_trials=15)
    assert [trial.params for trial in study.trials] == [SPACE.params(recipe) for recipe in recipes]
    assert all(SPACE.contains(trial.params) for trial in study.trials)
    assert {(recipe.epochs, recipe.seed) for recipe in recipes} == {(10, 3)}
    assert SPACE.distributions() == study.trials[0].distributions


def test_both_keep_a_sampler_from_the_cliff() -> None:
    space = lrtune.Space(lr=(1e-5, 10.0))

    def objective(trial: optuna.Trial) -> float:
        recipe = lrtune.suggest(trial, space)
        value = math.nan if recipe.lr > 0.1 else (math.log10(recipe.lr) + 1.1) ** 2
        trial.report(value, 0)
        if trial.should_prune():
            raise optuna.TrialPruned
        return value

    def lost(pruner: optuna.pruners.BasePruner) -> int:
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=1), pruner=pruner)
        study.optimize(objective, n_trials=40, catch=())
        return sum(trial.state is not TrialState.COMPLETE for trial in study.trials)

    plain, ours = lost(optuna.pruners.NopPruner()), lost(lrtune.DivergencePruner())
    assert ours < 0.7 * plain
