#!/usr/bin/env bash
# keras 3.15.1 (torch backend, torch 2.13.0): with `use_ema=True` a training that is cut into several `fit` calls learns a
# fraction of what one `fit` of the same epochs learns: at the end of each call the averaged weights replace the trained
# ones, and the next call trains on from the average.
#
# `fit(..., initial_epoch=e, epochs=e + 1)` is the usual way to look at a training between epochs, to pause it and to go
# on with it; without `use_ema` it is equal to one `fit` bit for bit, as is the history of the first piece here. The
# momentum of the optimizer and its average go on from the trained weights, the model from older ones.
#
# Seen, SGD at 0.01, ema_momentum 0.99 (the default), 20 epochs of 16 steps without shuffling, the training loss of the
# last epoch: 0.431 in one call, 0.460 in two, 2.377 in twenty. No warning; `ema_overwrite_frequency` does not help.
# Whoever looks at such a training after each epoch compares learning rates on another training than the final one.
#
# Whoever yields from a loop of `fit` calls in a generator is touched, and is told in docs/tutorial.md. lrtune's own
# KerasTrainer and TorchTrainer measure the averaged weights and train on from the trained ones:
# tests/hosts/test_keras.py, and in tests/unit/training/test_optimizer_packages.py
# test_the_held_out_part_is_judged_at_the_other_point_and_training_goes_on_at_its_own.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6 keras==3.15.1
KERAS_BACKEND=torch "$work/venv/bin/python" - <<'PY'
import keras
import numpy as np

EPOCHS = 20
numbers = np.random.default_rng(0)
X = numbers.normal(size=(512, 10)).astype("float32")
y = (X @ numbers.normal(size=(10, 1)) + 0.5 * numbers.normal(size=(512, 1))).astype("float32")


def losses(pieces, **options):
    """The training loss of each epoch, with so many epochs in each call of fit."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.layers.Input((10,)), keras.layers.Dense(16, activation="tanh"), keras.layers.Dense(1)]
    )
    model.compile(keras.optimizers.SGD(0.01, **options), loss="mse")
    seen, begin = [], 0
    for count in pieces:
        history = model.fit(
            X, y, initial_epoch=begin, epochs=begin + count, batch_size=32, shuffle=False, verbose=0
        ).history
        seen += history["loss"]
        begin += count
    return seen


assert keras.__version__ == "3.15.1", keras.__version__
CUTS = {"one fit": [EPOCHS], "two": [EPOCHS // 2] * 2, "twenty": [1] * EPOCHS}
plain = {name: losses(cut) for name, cut in CUTS.items()}
averaged = {name: losses(cut, use_ema=True) for name, cut in CUTS.items()}
often = losses(CUTS["twenty"], use_ema=True, ema_overwrite_frequency=10_000)
for name in CUTS:
    print(f"{name:8} loss of the last epoch: use_ema=False {plain[name][-1]:.4f}   use_ema=True {averaged[name][-1]:.4f}")
print(f"epoch 11 of two: {averaged['two'][10]:.4f}, of one fit: {averaged['one fit'][10]:.4f}")
assert plain["one fit"] == plain["two"] == plain["twenty"]
assert averaged["one fit"] == plain["one fit"]  # the average is not trained from
assert averaged["two"][:10] == plain["one fit"][:10]
assert averaged["two"][10] > 1.1 * averaged["one fit"][10]
assert averaged["twenty"][-1] > 5 * averaged["one fit"][-1]
assert often == averaged["twenty"]
PY
