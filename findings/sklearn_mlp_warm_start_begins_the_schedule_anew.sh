#!/usr/bin/env bash
# scikit-learn 1.9.1: `MLPClassifier(warm_start=True, max_iter=1)` in a loop, which scikit-learn's user guide recommends
# "if you want more control over stopping criteria or learning rate" (Neural network models, "More control with
# warm_start"), trains with another learning rate than the same epochs in one `fit`, and reports the rate that it did
# not use. The docstring says only that the solution is reused.
#
# Each `fit` makes a new optimizer at `learning_rate_init`, without momentum or averages of Adam, while the counter
# of samples `t_` goes on. Seen, 1000 rows, 20 epochs without shuffling:
#   - "invscaling": every epoch of the loop runs at the peak, bit for bit as with "constant"; the schedule is without
#     effect. `_optimizer.learning_rate` shows 0.000707 all the same, the value for 20,000 samples, since it is set
#     at the end of each epoch. Loss 0.111 instead of 0.206.
#   - "adaptive": the rate never falls, since the epochs without improvement are counted within one `fit` (with
#     tol=10, n_iter_no_change=1 one fit ends at a rate of 2.6e-07 and the loop at 0.1).
#   - "constant" and adam lose their momentum at each epoch: adam's loss is 0.121 instead of 0.049.
# `partial_fit` in a loop keeps the optimizer, and is equal to one `fit` bit for bit but for "adaptive".
#
# lrtune trains by partial_fit, sets the rate of the living optimizer at each minibatch and turns warm_start off with a
# notice: tests/unit/training/test_estimators.py, test_a_run_equals_a_loop_of_partial_fit,
# test_the_schedule_drives_the_optimizer_of_a_perceptron and test_a_setting_that_lrtune_owns_is_replaced_and_told.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6
"$work/venv/bin/python" - <<'PY'
import warnings

import numpy as np
import sklearn
from sklearn.datasets import make_classification
from sklearn.neural_network import MLPClassifier

warnings.simplefilter("ignore")  # 20 epochs are no convergence
EPOCHS, PEAK = 20, 0.1
X, y = make_classification(1000, 10, random_state=0)


def made(**options):
    always = dict(hidden_layer_sizes=(8,), learning_rate_init=PEAK, shuffle=False, random_state=0)
    return MLPClassifier(**{**always, "tol": 0, "n_iter_no_change": 1000, **options})


def once(**options):
    return made(max_iter=EPOCHS, **options).fit(X, y)


def warm(**options):
    model = made(max_iter=1, warm_start=True, **options)
    for _ in range(EPOCHS):
        model.fit(X, y)
    return model


def partial(**options):
    model = made(**options)
    for _ in range(EPOCHS):
        model.partial_fit(X, y, classes=[0, 1])
    return model


def equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one.coefs_, other.coefs_))


assert sklearn.__version__ == "1.9.1", sklearn.__version__
sgd = {"solver": "sgd"}
found = {}
for name, options in {
    "constant": {**sgd, "learning_rate": "constant"},
    "invscaling": {**sgd, "learning_rate": "invscaling"},
    "adam": {"solver": "adam"},
}.items():
    found[name] = [kind(**options) for kind in (once, warm, partial)]
    whole, loop, pieces = found[name]
    print(f"{name:11} loss: one fit {whole.loss_:.4f}, warm_start loop {loop.loss_:.4f}, partial_fit {pieces.loss_:.4f}")
    assert equal(whole, pieces), name
    assert not equal(whole, loop), name
whole, loop, _ = found["invscaling"]
shown = float(loop._optimizer.learning_rate)
print(f"invscaling  rate shown after the loop: {shown:.6f}; equal to constant: {equal(loop, found['constant'][1])}")
assert equal(loop, found["constant"][1])
assert abs(shown - 0.000707) < 1e-6 and loop.t_ == EPOCHS * len(X)
assert found["adam"][1].loss_ > 2 * found["adam"][0].loss_

adaptive = {**sgd, "learning_rate": "adaptive", "tol": 10.0, "n_iter_no_change": 1}
rates = [float(kind(**adaptive)._optimizer.learning_rate) for kind in (once, warm)]
print("adaptive    last rate: one fit %.2g, warm_start loop %.2g" % tuple(rates))
assert rates[0] < 1e-4 and rates[1] == PEAK
PY
