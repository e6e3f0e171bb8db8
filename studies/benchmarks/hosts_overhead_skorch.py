"""What SklearnTrainer costs beside skorch's own fit, at a look after each hundredth of the training.

python studies/benchmarks/hosts_overhead_skorch.py [--rounds 3]

The same network, data and steps on both sides, in seconds of CPU. With evaluations skorch measures the held-out loss
and accuracy after each epoch, as it does by default; lrtune measures its own besides.
"""

from __future__ import annotations

from typing import Any

import torch
from _hosts import EPOCHS, RECIPE, compare, table
from skorch import NeuralNetClassifier
from skorch.dataset import Dataset
from skorch.helper import predefined_split
from torch import nn

import lrtune

TRAIN, VALID = table(), table(400, seed=1)


class Net(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


def net(**options: Any) -> Any:
    given = {"criterion": nn.CrossEntropyLoss, "optimizer": torch.optim.Adam, "verbose": 0} | options
    return NeuralNetClassifier(Net, lr=RECIPE.lr, max_epochs=EPOCHS, batch_size=RECIPE.batch_size, **given)


def fit(evaluate: bool) -> None:  # noqa: FBT001 -- a way of training
    split = predefined_split(Dataset(*VALID)) if evaluate else None
    net(train_split=split, iterator_train__shuffle=True).fit(*TRAIN)


if __name__ == "__main__":
    compare("skorch", fit, lrtune.SklearnTrainer(net(), *TRAIN, valid=VALID, metrics=["accuracy"]))
