"""What KerasTrainer costs beside Keras's own fit, at a look after each hundredth of the training.

KERAS_BACKEND=torch python studies/benchmarks/hosts_overhead_keras.py [--rounds 3]

The same model, data and steps on both sides, in seconds of CPU, which other programs on the machine do not lengthen.
"""

from __future__ import annotations

from typing import Any

import keras
from _hosts import EPOCHS, RECIPE, compare, table

import lrtune

TRAIN, VALID = table(), table(400, seed=1)


def make_model() -> Any:
    dense, relu = keras.layers.Dense, "relu"
    model = keras.Sequential([keras.layers.Input((64,)), dense(256, relu), dense(256, relu), dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(RECIPE.lr), loss, metrics=["accuracy"])
    return model


def fit(evaluate: bool) -> None:  # noqa: FBT001 -- a way of training
    valid = {"validation_data": VALID, "validation_batch_size": 512} if evaluate else {}
    make_model().fit(*TRAIN, epochs=EPOCHS, batch_size=RECIPE.batch_size, verbose=0, **valid)


if __name__ == "__main__":
    compare(f"Keras on {keras.backend.backend()}", fit, lrtune.KerasTrainer(make_model, TRAIN, valid_data=VALID))
