"""skorch: the net is an estimator, in the trainer of scikit-learn's."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from skorch import NeuralNetClassifier
from torch import nn

import lrtune

pixels, labels = load_digits(return_X_y=True)
x = (pixels / 16).astype("float32")


class Net(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


net = NeuralNetClassifier(Net, criterion=nn.CrossEntropyLoss, optimizer=torch.optim.Adam)

if __name__ == "__main__":
    trainer = lrtune.SklearnTrainer(net, x[:1300], labels[:1300], valid=(x[1300:], labels[1300:]), batch_size=32)
    result = lrtune.tune(trainer, {"lr": (1e-5, 1.0)}, epochs=4, budget=2.5, seed=0, storage="answer.db")
    print(result.best_recipe.lr, result.best_value)
