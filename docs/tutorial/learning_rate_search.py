"""scikit-learn's own shape: the search is an estimator, in a Pipeline, cross-validated, inside a grid."""

from __future__ import annotations

from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import lrtune

if __name__ == "__main__":
    X, X_test, y, y_test = train_test_split(*load_digits(return_X_y=True), random_state=0)

    search = lrtune.LearningRateSearchCV(SGDClassifier(), lr=(1e-5, 1.0), epochs=6, budget=2.0, random_state=0)
    model = make_pipeline(StandardScaler(), search).fit(X, y)
    print(f"eta0 {search.best_params_['eta0']:.2g}, as good: {search.result_.band}, test accuracy", end=" ")
    print(f"{model.score(X_test, y_test):.3f}; cross-validated {cross_val_score(model, X, y, cv=3).mean():.3f}")

    # the scaler within the search, each learning rate on three folds, paused and continued
    inner = make_pipeline(StandardScaler(), SGDClassifier())
    folds = lrtune.LearningRateSearchCV(inner, cv=3, scoring="accuracy", epochs=6, budget=2.0, random_state=0).fit(X, y)
    best = folds.best_index_
    scores = [folds.cv_results_[f"split{fold}_test_score"][best] for fold in range(folds.n_splits_)]
    print(f"three folds: {folds.best_score_:.3f}, from {min(scores):.3f} to {max(scores):.3f}")

    # a grid over everything else: each point is judged at the learning rate that suits it
    grid = GridSearchCV(model, {"learningratesearchcv__estimator__penalty": ["l1", "l2"]}, cv=2).fit(X, y)
    print(f"grid: {grid.best_params_}, test accuracy {grid.score(X_test, y_test):.3f}")
