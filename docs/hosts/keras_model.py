"""Keras: a function that makes a compiled model, and what `fit` would get."""

from __future__ import annotations

import keras
from sklearn.datasets import load_digits

import lrtune

pixels, labels = load_digits(return_X_y=True)
x = pixels / 16


def make_model() -> keras.Model:
    layers = [keras.layers.Input((64,)), keras.layers.Dense(32, activation="relu"), keras.layers.Dense(10)]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(), loss, metrics=["accuracy"])
    return model


if __name__ == "__main__":
    trainer = lrtune.KerasTrainer(make_model, (x[:1300], labels[:1300]), valid_data=(x[1300:], labels[1300:]))
    result = lrtune.tune(trainer, {"lr": (1e-5, 1.0)}, epochs=4, budget=2.5, seed=0, storage="answer.db")
    print(result.best_recipe.lr, result.best_value)
