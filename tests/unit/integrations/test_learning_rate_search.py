"""LearningRateSearchCV is an estimator of scikit-learn's: its own checks, its composition, its folds, its answer."""

from __future__ import annotations

import pickle
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.callback import ProgressBar
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning, NotFittedError
from sklearn.linear_model import SGDClassifier, SGDRegressor
from sklearn.metrics import get_scorer, make_scorer, mean_absolute_error
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, StratifiedKFold, cross_val_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted

from lrtune import InputError, LearningRateSearchCV, Recipe, SearchError, SklearnTrainer, Space, tune

if TYPE_CHECKING:
    from collections.abc import Callable

QUICK: dict[str, Any] = {"epochs": 4, "budget": 1.5, "random_state": 0}
IRIS = load_iris(return_X_y=True)
SCALED = StandardScaler().fit_transform(IRIS[0]), IRIS[1]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # some checks learn from noise
@parametrize_with_checks(
    [
        LearningRateSearchCV(SGDClassifier(), **QUICK),
        LearningRateSearchCV(SGDRegressor(), **QUICK),
        LearningRateSearchCV(SGDClassifier(), cv=2, epochs=3, budget=1.5, random_state=0),
    ]
)
def test_scikit_learns_own_checks(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


# -- the answer ---------------------------------------------------------------------------------------------


def test_it_is_the_search_of_tune_and_a_training_on_all_rows() -> None:
    x, y = SCALED
    search = LearningRateSearchCV(SGDClassifier(), epochs=8, budget=2.0, random_state=3).fit(x, y)
    trainer = SklearnTrainer(SGDClassifier(), x, y, split_seed=3)
    found = tune(trainer, Space(lr=(1e-5, 10.0)), epochs=8, budget=2.0, seed=3)
    assert search.result_ == found
    assert search.best_params_["eta0"] == found.best_recipe.lr  # type: ignore[union-attr]
    assert search.best_score_ == -float(found.best_value or 0)
    anew = found.refit(x, y)
    assert search.best_estimator_.coef_.tolist() == anew.coef_.tolist()
    assert search.predict(x).tolist() == anew.predict(x).tolist()
    assert search.score(x, y) == anew.score(x, y) > 0.9
    assert search.decision_function(x).shape == (150, 3)
    assert not hasattr(search, "predict_proba"), "a hinge loss has no probabilities"
    assert search.best_estimator_.get_params()["eta0"] == search.best_params_["eta0"]
    assert search.best_estimator_.get_params()["shuffle"] is True, "what lrtune sets for itself is not left there"
    assert search.classes_.tolist() == [0, 1, 2]
    assert search.n_features_in_ == 4


def test_best_params_train_an_estimator_of_ones_own() -> None:
    x, y = SCALED
    search = LearningRateSearchCV(SGDClassifier(), epochs=20, budget=2.0, random_state=0).fit(x, y)
    own = SGDClassifier(random_state=0, tol=None).set_params(**search.best_params_).fit(x, y)
    assert own.n_iter_ == 20
    assert own.score(x, y) == pytest.approx(search.score(x, y), abs=0.05)


def test_the_table_of_trials() -> None:
    x, y = SCALED
    search = LearningRateSearchCV(MLPClassifier([8], solver="sgd"), schedule=["constant", "cosine"], cv=3, **QUICK)
    table = pd.DataFrame(search.fit(x, y).cv_results_)
    assert len(table) == len(search.result_.trials())
    best = table.iloc[search.best_index_]
    assert best["rank_test_score"] == 1
    assert best["mean_test_score"] == search.best_score_
    assert best["outcome"] == "completed"
    assert best["epochs"] == 4
    splits = table[[f"split{i}_test_score" for i in range(3)]]
    assert splits.mean(axis=1, skipna=False).tolist() == pytest.approx(table["mean_test_score"].tolist(), nan_ok=True)
    assert splits.std(axis=1, ddof=0, skipna=False).tolist() == pytest.approx(
        table["std_test_score"].tolist(), nan_ok=True
    )
    assert table.loc[table["outcome"] != "completed", "mean_test_score"].isna().all()
    assert table["param_learning_rate_init"].tolist() == [given["learning_rate_init"] for given in table["params"]]
    assert {"max_iter", "batch_size", "learning_rate_init"} <= set(search.best_params_)


def test_a_scorer_decides_in_its_own_sign() -> None:
    x, y = load_diabetes(return_X_y=True)
    scorer = make_scorer(mean_absolute_error, greater_is_better=False)
    search = LearningRateSearchCV(SGDRegressor(), scoring=scorer, **QUICK).fit(x, y)
    done = search.cv_results_["mean_test_score"]
    assert search.best_score_ == np.nanmax(done) < 0
    assert search.score(x, y) == scorer(search.best_estimator_, x, y)
    named = LearningRateSearchCV(SGDRegressor(), scoring="neg_mean_absolute_error", **QUICK).fit(x, y)
    assert named.best_score_ == search.best_score_


def test_without_refit_nothing_predicts() -> None:
    x, y = SCALED
    search = LearningRateSearchCV(SGDClassifier(), refit=False, **QUICK).fit(x, y)
    assert not hasattr(search, "predict")
    assert not hasattr(search, "best_estimator_")
    assert set(search.best_params_) == {"eta0", "learning_rate", "max_iter"}
    ended = search.result_.best_estimator()
    assert -search.best_score_ == pytest.approx(search.result_.best_value)
    assert ended.score(x, y) > 0.8


def test_where_the_budget_ends_first_what_looked_best_is_taken_with_a_warning() -> None:
    x, y = load_diabetes(return_X_y=True)
    search = LearningRateSearchCV(SGDRegressor(), epochs=5, budget=1.0, random_state=0)
    with pytest.warns(ConvergenceWarning, match="what looked best so far is taken: no trial was trained to its end"):
        search.fit(x * 80, y)
    assert np.isnan(search.best_score_)
    assert search.cv_results_["outcome"].tolist() == ["exploded", "pruned"]
    assert search.best_params_["eta0"] == search.best_estimator_.eta0 == search.cv_results_["param_eta0"][1]
    assert np.isfinite(search.predict(x)).all()


def test_a_range_in_which_everything_diverges_is_an_error() -> None:
    x, y = load_diabetes(return_X_y=True)
    with pytest.raises(SearchError, match="diverged"):
        LearningRateSearchCV(SGDRegressor(), lr=(1e6, 1e7), epochs=2, budget=1.0).fit(x * 1e3, y)


# -- within scikit-learn ------------------------------------------------------------------------------------


def test_it_ends_a_pipeline_and_holds_one() -> None:
    x, y = load_breast_cancer(return_X_y=True, as_frame=True)
    outer = make_pipeline(StandardScaler(), LearningRateSearchCV(SGDClassifier(), **QUICK)).fit(x, y)
    assert outer.score(x, y) > 0.9
    inner = LearningRateSearchCV(make_pipeline(StandardScaler(), SGDClassifier()), **QUICK).fit(x, y)
    assert inner.score(x, y) > 0.9
    assert isinstance(inner.best_estimator_, Pipeline)
    check_is_fitted(inner.best_estimator_)
    assert inner.best_estimator_[0].n_samples_seen_ == len(x), "its earlier steps see all rows"
    assert set(inner.best_params_) == {f"sgdclassifier__{name}" for name in ("eta0", "learning_rate", "max_iter")}
    assert clone(inner.estimator).set_params(**inner.best_params_)[-1].eta0 == inner.result_.best_recipe.lr
    assert inner.feature_names_in_.tolist() == list(x.columns)


def test_a_frame_keeps_its_names() -> None:
    x, y = load_iris(return_X_y=True, as_frame=True)
    search = LearningRateSearchCV(SGDClassifier(), **QUICK).fit(x, y)
    assert search.feature_names_in_.tolist() == list(x.columns)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search.predict(x)


def test_it_is_cross_validated() -> None:
    scores = cross_val_score(LearningRateSearchCV(SGDClassifier(), **QUICK), *SCALED, cv=3)
    assert scores.shape == (3,)
    assert scores.min() > 0.7


def test_a_grid_searches_its_other_parameters() -> None:
    search = LearningRateSearchCV(SGDClassifier(), **QUICK)
    grid = GridSearchCV(search, {"estimator__alpha": [1e-4, 1.0], "schedule": [None, "cosine"]}, cv=2)
    grid.fit(*SCALED)
    assert grid.best_params_["estimator__alpha"] == 1e-4
    assert grid.best_estimator_.best_estimator_.alpha == 1e-4
    assert grid.predict(SCALED[0]).shape == (150,)


def test_clone_and_pickle() -> None:
    x, y = SCALED
    search = LearningRateSearchCV(SGDClassifier(), refit=False, **QUICK).fit(x, y)
    copy = clone(search)
    assert copy.get_params()["epochs"] == 4
    with pytest.raises(NotFittedError):
        check_is_fitted(copy, "result_")
    data = pickle.dumps(LearningRateSearchCV(SGDClassifier(), **QUICK).fit(x, y))
    again = pickle.loads(data)  # noqa: S301 -- our own
    assert again.result_.best_recipe == search.result_.best_recipe
    assert again.predict(x).shape == (150,)
    wide = np.hstack([x] * 500)
    large = LearningRateSearchCV(SGDRegressor(), refit=False, epochs=1, budget=2.0, lr=(1e-6, 1e-4)).fit(wide, y)
    assert len(pickle.dumps(large)) < wide.nbytes / 10, "the table does not travel with it"


def test_sparse_tables() -> None:
    x, y = SCALED
    dense = LearningRateSearchCV(SGDClassifier(), **QUICK).fit(x, y)
    search = LearningRateSearchCV(SGDClassifier(), **QUICK).fit(sparse.csr_matrix(x), y)
    assert search.best_params_["eta0"] == dense.best_params_["eta0"]


def test_the_same_random_state_gives_the_same() -> None:
    first, second = (LearningRateSearchCV(SGDClassifier(), **QUICK).fit(*SCALED) for _ in range(2))
    assert first.best_estimator_.coef_.tolist() == second.best_estimator_.coef_.tolist()
    state = LearningRateSearchCV(SGDClassifier(), **QUICK | {"random_state": np.random.RandomState(1)}).fit(*SCALED)
    assert state.best_estimator_.coef_.tolist() != first.best_estimator_.coef_.tolist()


# -- weights and routing ------------------------------------------------------------------------------------


def weights() -> np.ndarray[Any, Any]:
    return np.where(IRIS[1] == 2, 0.01, 1.0)


def test_weights_reach_training_and_score() -> None:
    x, y = SCALED
    plain = LearningRateSearchCV(SGDClassifier(), scoring="accuracy", **QUICK)
    weighted = clone(plain).fit(x, y, sample_weight=weights())
    assert plain.fit(x, y).best_score_ != weighted.best_score_
    trainer = SklearnTrainer(SGDClassifier(), x, y, sample_weight=weights(), metrics=["accuracy"], split_seed=0)
    found = tune(trainer, Space(lr=(1e-5, 10.0)), epochs=4, budget=1.5, metric="accuracy", seed=0)
    assert weighted.best_score_ == found.best_value
    assert weighted.best_estimator_.coef_.tolist() == found.refit(x, y, sample_weight=weights()).coef_.tolist()


def test_weights_of_a_pipelines_last_step() -> None:
    x, y = IRIS
    search = LearningRateSearchCV(make_pipeline(StandardScaler(), SGDClassifier()), **QUICK)
    search.fit(x, y, sgdclassifier__sample_weight=weights())
    other = clone(search).fit(x, y)
    assert search.best_estimator_[-1].coef_.tolist() != other.best_estimator_[-1].coef_.tolist()


def test_metadata_routing() -> None:
    x, y = SCALED
    with config_context(enable_metadata_routing=True):
        asking = SGDClassifier().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        search = LearningRateSearchCV(asking, **QUICK).fit(x, y, sample_weight=weights())
        scores = cross_val_score(clone(search), x, y, params={"sample_weight": weights()}, cv=2)
        assert scores.shape == (2,)
        with pytest.raises(TypeError, match="sample_weight"):
            LearningRateSearchCV(
                SGDClassifier().set_fit_request(sample_weight=False).set_score_request(sample_weight=False), **QUICK
            ).fit(x, y, sample_weight=weights())
        unweighted = get_scorer("accuracy").set_score_request(sample_weight=False)
        judged = LearningRateSearchCV(asking, scoring=unweighted, **QUICK).fit(x, y, sample_weight=weights())
        groups = np.arange(150) % 5
        folds = LearningRateSearchCV(SGDClassifier(), cv=GroupKFold(3), **QUICK).fit(x, y, groups=groups)
    assert folds.n_splits_ == 3
    direct = LearningRateSearchCV(SGDClassifier(), **QUICK).fit(x, y, sample_weight=weights())
    assert search.best_estimator_.coef_.tolist() == direct.best_estimator_.coef_.tolist()
    both = LearningRateSearchCV(SGDClassifier(), scoring="accuracy", **QUICK).fit(x, y, sample_weight=weights())
    assert judged.best_score_ != both.best_score_, "the score has not asked for weights"


# -- folds --------------------------------------------------------------------------------------------------


def test_folds_are_each_trained_as_alone() -> None:
    x, y = IRIS
    splits = list(StratifiedKFold(3, shuffle=True, random_state=0).split(x, y))
    model = make_pipeline(StandardScaler(), MLPClassifier([4], batch_size=7))
    search = LearningRateSearchCV(model, cv=splits, scoring="accuracy", epochs=4, budget=1.0, random_state=5)
    search.fit(x, y)
    recipe = search.result_.best_recipe
    for fold, (train, test) in enumerate(splits):
        alone = SklearnTrainer(model, x[train], y[train], valid=(x[test], y[test]), metrics=["accuracy"])
        run = alone.start([Recipe.from_json(recipe.to_json())])
        (last,) = run.advance(4 * alone.steps_per_epoch(recipe))
        run.close()
        values = dict(last.point.values)
        assert search.cv_results_[f"split{fold}_test_score"][search.best_index_] == pytest.approx(values["accuracy"])
    assert search.best_score_ == search.result_.best_value


def test_a_split_by_number_is_stratified() -> None:
    x, y = SCALED
    search = LearningRateSearchCV(SGDClassifier(), cv=3, **QUICK).fit(x, y)
    named = LearningRateSearchCV(SGDClassifier(), cv=StratifiedKFold(3), **QUICK).fit(x, y)
    sorted_by_class = LearningRateSearchCV(SGDClassifier(), cv=KFold(3), **QUICK).fit(x, y)
    assert search.best_score_ == named.best_score_ > sorted_by_class.best_score_
    assert search.n_splits_ == 3
    assert search.result_.cost <= 1.5


# -- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "fit", "said"),
    [
        ({"scoring": ["accuracy"]}, {}, "scoring must be one scorer"),
        ({}, {"coef_init": 1}, "fit takes sample_weight and groups"),
        ({"lr": (1.0, 0.1)}, {}, "lr"),
        ({"epochs": 0}, {}, "epochs"),
        ({"validation_fraction": 1.0}, {}, "validation_fraction"),
        ({"budget": 0.5}, {}, "budget"),
        ({"cv": []}, {}, "no folds"),
    ],
)
def test_what_cannot_be_used_is_said(options: dict[str, Any], fit: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LearningRateSearchCV(SGDClassifier(), **options).fit(*SCALED, **fit)


def test_callbacks_and_labels_that_it_does_not_take() -> None:
    with pytest.raises(InputError, match="calls no callbacks"):
        LearningRateSearchCV(SGDClassifier()).set_callbacks(ProgressBar())
    tags = get_tags(LearningRateSearchCV(MLPClassifier([4])))
    assert tags.estimator_type == "classifier"
    assert get_tags(MLPClassifier()).classifier_tags.multi_label
    assert not tags.classifier_tags.multi_label
    with pytest.raises(ValueError, match="1d array"):
        LearningRateSearchCV(MLPClassifier([4])).fit(IRIS[0], np.eye(3)[IRIS[1]])


def test_several_targets_and_one_column_of_them() -> None:
    x, y = load_diabetes(return_X_y=True)
    two = LearningRateSearchCV(MLPRegressor(hidden_layer_sizes=[4]), **QUICK).fit(x, np.column_stack([y, -y]))
    assert two.predict(x).shape == (442, 2)
    with pytest.warns(DataConversionWarning):
        assert LearningRateSearchCV(MLPRegressor(hidden_layer_sizes=[4]), **QUICK).fit(x, y[:, None]).predict(
            x
        ).shape == (442,)


def test_folds_have_no_model_of_the_search() -> None:
    search = LearningRateSearchCV(SGDClassifier(), cv=2, refit=False, **QUICK).fit(*SCALED)
    with pytest.raises(InputError, match=r"each of the 2 folds has a model of its own; .* result.refit\(X, y\)"):
        search.result_.best_estimator()
    assert search.result_.refit(*SCALED).score(*SCALED) > 0.8
