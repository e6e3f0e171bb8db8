#!/usr/bin/env bash
# keras 3.15.1 (JAX backend, jax 0.10.2): with `gradient_accumulation_steps=4` a `LearningRateSchedule` is asked with the
# number of micro-batches, while `optimizer.iterations`, "the number of training steps this optimizer has run", counts
# updates. A schedule written for the updates of the run is over after a quarter of it, and the last three quarters run at
# its end value: with the usual end of zero nothing more is learned. No warning.
#
# Seen, CosineDecay(0.1, decay_steps=20), SGD, 20 updates of 4 micro-batches each, the size of every update: 0.0946 at the
# first (the schedule at micro-batch 3), 0 from update 5 on, with `iterations` at 5; the same schedule with decay_steps=80
# gives the cosine over the 20 updates.
#
# `lrtune explain` draws it by updates and says so, and the lines that lrtune writes for Keras name it:
# tests/hosts/test_explained.py, test_keras.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check jax==0.10.2 numpy==2.4.6 keras==3.15.1
KERAS_BACKEND=jax JAX_PLATFORMS=cpu "$work/venv/bin/python" - <<'PY'
import keras
import numpy as np

UPDATES, MICRO = 20, 4


def moves(decay_steps):
    """The size of every update of one weight under a gradient of one, and the count of updates beside it."""
    schedule = keras.optimizers.schedules.CosineDecay(0.1, decay_steps)
    optimizer = keras.optimizers.SGD(schedule, gradient_accumulation_steps=MICRO)
    weight = keras.Variable(np.zeros((), "float32"))
    optimizer.build([weight])
    sizes, counts, before = [], [], 0.0
    for _ in range(UPDATES):
        for _ in range(MICRO):
            optimizer.apply([keras.ops.ones(())], [weight])
        sizes.append(before - float(weight))
        counts.append(int(optimizer.iterations))
        before = float(weight)
    return np.array(sizes), counts


assert keras.__version__ == "3.15.1", keras.__version__
sizes, counts = moves(UPDATES)
longer, _ = moves(UPDATES * MICRO)
asked = MICRO * np.arange(UPDATES) + MICRO - 1  # micro-batches before each update
print("first update", sizes[0], " update 4", sizes[4], " updates from 5 on", np.unique(sizes[5:]))
print("iterations after update 4:", counts[4], " at the end:", counts[-1])
print("with decay_steps * 4: update 9", longer[9], " update 18", longer[18])
assert counts == list(range(1, UPDATES + 1))
assert np.all(sizes[5:] == 0)
assert np.allclose(sizes[:5], 0.05 * (1 + np.cos(np.pi * asked[:5] / UPDATES)), atol=1e-6)
assert np.allclose(longer, 0.05 * (1 + np.cos(np.pi * asked / UPDATES / MICRO)), atol=1e-6)
PY
