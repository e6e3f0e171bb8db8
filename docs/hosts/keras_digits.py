"""Keras: a function that makes a compiled model, and what `fit` would get."""

from __future__ import annotations

import keras
from sklearn.datasets import load_digits

import lrtune

pixels, labels = load_digits(return_X_y=True)
x, y = pixels / 16, labels


def make_model() -> keras.Model:
    layers = keras.layers
    model = keras.Sequential(
        [layers.Input((64,)), layers.Dense(32, activation="relu"), layers.Dropout(0.1), layers.Dense(10)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(), loss, metrics=["accuracy"])
    return model


if __name__ == "__main__":
    trainer = lrtune.KerasTrainer(make_model, (x[:1300], y[:1300]), valid_data=(x[1300:], y[1300:]))
    result = lrtune.tune(trainer, {"lr": (1e-5, 1.0)}, epochs=6, budget=3.0, seed=0, storage="keras.db")
    print(result.text())
