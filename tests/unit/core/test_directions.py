"""A search never minimises an accuracy unasked: what is known of a metric's better side, and what is asked for."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import f1_score, get_scorer, get_scorer_names, make_scorer

import lrtune
from lrtune.config.study_file import read_study
from lrtune.core.directions import contradiction, known_direction
from lrtune.errors import InputError
from lrtune.study.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SPACE = lrtune.Space(lr=(1e-3, 1.0))


def training(recipe: lrtune.Recipe) -> Iterator[dict[str, float]]:
    for epoch in range(recipe.epochs):
        accuracy = (1 - abs(recipe.lr - 0.5)) * (epoch + 1) / recipe.epochs
        yield {"accuracy": accuracy, "valid_loss": 1 - accuracy, "reward": accuracy}


def tuned(**options: Any) -> lrtune.Result:
    return lrtune.tune(training, SPACE, epochs=2, trials=4, strategy="random", **options)


@pytest.mark.parametrize("name", get_scorer_names())
def test_of_every_scorer_of_scikit_learn_more_is_better(name: str) -> None:
    assert known_direction(name) == known_direction(f"valid_{name}") == "maximize"


@pytest.mark.parametrize("name", ["valid_loss", "val/loss_cls", "error_rate", "losses", "log_loss", "logloss"])
def test_of_a_loss_and_an_error_less_is_better(name: str) -> None:
    assert known_direction(name) == "minimize"


TURNED = ["neg_my_loss", "val_neg_loss", "negative_loss", "minus_loss", "inverse-loss", "-loss", "1 - error", "1/loss"]


@pytest.mark.parametrize(
    "name", ["reward", "score", "neg_mine", "perplexity", "lossless", "glossy", "loss_reduction", "error_free", *TURNED]
)
def test_of_any_other_nothing_is_known(name: str) -> None:
    assert known_direction(name) is None


def test_an_accuracy_is_maximised_unasked() -> None:
    result = tuned(metric="accuracy")
    assert result.direction == "maximize"
    assert result.study is not None
    assert result.study.direction.name == "MAXIMIZE"
    assert result.best_value == max(trial.value for trial in result.study.trials)
    assert Settings(epochs=1, metric="accuracy").direction == "maximize"
    assert Settings(epochs=1).direction == tuned().direction == "minimize"


def test_where_nothing_is_known_it_is_asked_for_at_every_door(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text('[study]\nmetric = "reward"\n[train]\ntrainer = "t.py:t"\n[space]\nlr = [1e-3, 1.0]\n')
    doors = (
        lambda: tuned(metric="reward"),
        lambda: Settings(epochs=1, metric="reward"),
        lambda: lrtune.compare(training, SPACE, epochs=2, budget=1, metric="reward"),
        lambda: read_study(file),
    )
    for door in doors:
        with pytest.raises(InputError, match=r"direction.* is missing; say whether .* is better for 'reward'"):
            door()
    assert tuned(metric="reward", direction="maximize").direction == "maximize"


@pytest.mark.parametrize(
    ("metric", "direction"), [("accuracy", "minimize"), ("valid_loss", "maximize"), ("neg_log_loss", "minimize")]
)
def test_a_direction_against_what_is_known_is_warned_of(metric: str, direction: Any) -> None:
    (said,) = contradiction(metric, direction)
    assert repr(metric) in said
    assert contradiction(metric, known_direction(metric) or direction) == []


def test_a_result_carries_that_warning_and_goes_on() -> None:
    result = tuned(metric="accuracy", direction="minimize")
    assert any("larger is better" in warning for warning in result.warnings)
    assert result.direction == "minimize"
    assert not any("is better" in warning for warning in tuned(metric="accuracy").warnings)


def test_a_stored_study_goes_on_as_it_is(tmp_path: Path) -> None:
    where = tmp_path / "s.db"
    before = tuned(metric="accuracy", direction="minimize", storage=where)
    after = lrtune.tune(training, SPACE, epochs=2, trials=6, strategy="random", metric="accuracy", storage=where)
    assert (before.direction, after.direction) == ("minimize", "minimize")
    assert sum(after.trials_by_outcome.values()) == 6


def test_scorers_of_ones_own_have_a_name_and_a_direction() -> None:
    X, y = load_iris(return_X_y=True)  # noqa: N806 -- scikit-learn's name
    mine = {"mine": make_scorer(f1_score, average="macro"), "accuracy": "accuracy"}
    trainer = lrtune.SklearnTrainer(SGDClassifier(random_state=0), X, y, metrics=mine)
    assert known_direction("mine", trainer) == known_direction("accuracy", trainer) == "maximize"
    result = lrtune.tune(trainer, SPACE, epochs=1, trials=2, strategy="random", metric="mine")
    assert result.direction == "maximize"


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ("accuracy", r"metrics=\['accuracy'\]"),
        ([make_scorer(f1_score)], "needs a name"),
        (get_scorer("accuracy"), r"metrics=\['accuracy'\]"),
        ([f1_score], "needs a name"),
        ({"mine": f1_score}, r"a scorer takes \(estimator, X, y\)"),
        ({"mine": 5}, "scikit-learn's scorers"),
    ],
)
def test_a_scorer_that_cannot_be_used_gets_its_cure(metrics: Any, said: str) -> None:
    X, y = load_iris(return_X_y=True)  # noqa: N806 -- scikit-learn's name
    with pytest.raises(InputError, match=said):
        lrtune.SklearnTrainer(SGDClassifier(), X, y, metrics=metrics)


def test_a_scorer_as_the_metric_is_told_where_to_go() -> None:
    with pytest.raises(InputError, match=r"give a scorer to the trainer: metrics="):
        tuned(metric=get_scorer("accuracy"))


def test_the_pruner_warns_once_of_an_optuna_study_that_minimises_an_accuracy() -> None:
    study = optuna.create_study(pruner=lrtune.DivergencePruner())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study.set_metric_names(["accuracy"])

    def objective(trial: optuna.Trial) -> float:
        trial.report(0.5, 0)
        trial.should_prune()
        return 0.5

    with pytest.warns(UserWarning, match="larger is better") as said:
        study.optimize(objective, n_trials=3)
    assert len([one for one in said if "larger is better" in str(one.message)]) == 1
