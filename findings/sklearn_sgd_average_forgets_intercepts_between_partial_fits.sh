#!/usr/bin/env bash
# scikit-learn 1.9.1: `SGDClassifier(average=True)` trained by several `partial_fit` calls is another model than trained
# by one call on the same rows in the same order: after the first call the intercepts from which training goes on stay as
# they were (`_standard_intercept` is written only while no average is shown yet), and with more than two classes the
# averages of the intercepts are overwritten by the plain ones (`intercept_` is then the same array as
# `_average_intercept`). `SGDRegressor` does it right.
#
# Seen, log loss at a constant 0.1 without a penalty, 60 rows of 3 columns, classes 0, 1, 2 in turn: the intercepts in one
# call are -0.360 -0.292 -0.331, the mean of those that a model without averaging has after each row; in three calls
# -0.528 -0.358 -0.425; for class 0 against the others -0.360 and -0.177. The coefficients differ too, in the second
# digit. No warning. Whoever trains such a model out of core, as `partial_fit` is for, is touched; and more the smaller
# the pieces are.
#
# lrtune trains linear models as `partial_fit` does, this included, so that what it finds holds for a loop of it:
# tests/unit/training/test_inner_steps.py, test_minibatches_at_moving_rates_equal_partial_fit.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check numpy==2.4.6 scikit-learn==1.9.1
"$work/venv/bin/python" - <<'PY'
import numpy as np
import sklearn
from sklearn.linear_model import SGDClassifier, SGDRegressor

ROWS = 60
OPTIONS = {"learning_rate": "constant", "eta0": 0.1, "alpha": 0.0, "shuffle": False, "random_state": 0}
numbers = np.random.default_rng(0)
X, codes = numbers.normal(size=(ROWS, 3)), np.arange(ROWS) % 3


def trained(y, piece, kind=SGDClassifier, **options):
    """The model after `partial_fit` calls of so many rows each, and its intercepts after each call."""
    model = kind(**OPTIONS | ({"loss": "log_loss"} if kind is SGDClassifier else {}) | options)
    classes = {"classes": np.unique(y)} if kind is SGDClassifier else {}
    seen = []
    for begin in range(0, ROWS, piece):
        model.partial_fit(X[begin : begin + piece], y[begin : begin + piece], **classes)
        seen.append(model.intercept_.copy())
    return model, np.array(seen)


assert sklearn.__version__ == "1.9.1", sklearn.__version__
for name, y in (("three classes", codes), ("two classes", (codes == 0).astype(int))):
    once, pieces = (trained(y, piece, average=True)[0] for piece in (ROWS, ROWS // 3))
    mean = trained(y, 1)[1].mean(axis=0)
    print(f"{name}: in one call {once.intercept_.round(3)}, in three {pieces.intercept_.round(3)}, mean {mean.round(3)}")
    print(f"  coefficients of the first class {once.coef_[0].round(4)} and {pieces.coef_[0].round(4)}")
    np.testing.assert_allclose(once.intercept_, mean, rtol=1e-10)
    assert np.abs(pieces.intercept_ - mean).max() > 0.05
    assert np.abs(pieces.coef_ - once.coef_).max() > 1e-3
once, pieces = (trained(X[:, 0] + 1.0, piece, SGDRegressor, average=True)[0] for piece in (ROWS, ROWS // 3))
print(f"SGDRegressor: in one call {once.intercept_.round(3)}, in three {pieces.intercept_.round(3)}")
np.testing.assert_allclose(pieces.intercept_, once.intercept_, rtol=1e-10)
PY
