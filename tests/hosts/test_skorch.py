"""skorch's networks in SklearnTrainer."""

# ruff: noqa: E402, N806 -- skorch is imported once its presence is known; X is scikit-learn's name
from __future__ import annotations

import json
from typing import Any, ClassVar

import numpy as np
import pytest

skorch = pytest.importorskip("skorch", reason="skorch is not installed; nox -s hosts installs it")

import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback, EarlyStopping, EpochScoring, GradientNormClipping, LRScheduler
from torch import nn
from trainer_contract import BowlContract, SavingContract, TrainerContract, refused

from lrtune.core.recipe import Recipe
from lrtune.errors import DataError
from lrtune.training.estimators.trainer import SklearnTrainer

pytestmark = pytest.mark.hosts

FEATURES, CLASSES = 6, 3


def blobs(samples: int = 96, seed: int = 0) -> tuple[Any, Any]:
    X = np.random.default_rng(seed).normal(size=(samples, FEATURES)).astype("float32")
    return X, X[:, :CLASSES].argmax(1)


class Net(nn.Sequential):
    def __init__(self, dropout: float = 0.3) -> None:
        layers = (nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, CLASSES))
        super().__init__(*layers)


def classifier(**changes: Any) -> Any:
    given = {"criterion": nn.CrossEntropyLoss, "optimizer": torch.optim.Adam, "lr": 0.5, "max_epochs": 7} | changes
    return skorch.NeuralNetClassifier(Net, **given)


class TestNetworks(SavingContract, BowlContract, TrainerContract):
    recipes: ClassVar[tuple[Recipe, ...]] = (
        Recipe(lr=0.01, epochs=2, batch_size=24, seed=1),
        Recipe(lr=0.03, epochs=2, batch_size=25, seed=2, schedule="cosine", warmup=0.2),
        Recipe(lr=0.003, epochs=2, batch_size=24, seed=3, schedule="plateau(patience=0)"),
    )
    bowl_epochs: ClassVar[int] = 300

    def trainer(self) -> SklearnTrainer:
        scoring = EpochScoring("accuracy", lower_is_better=False, name="own")
        net = classifier(callbacks=[("clip", GradientNormClipping(1.0)), scoring])
        return SklearnTrainer(net, *blobs(), metrics=["accuracy"])

    def bowl(self) -> tuple[SklearnTrainer, float]:
        X = np.diag([3.0, 1.0, 0.5]).astype("float32")
        y = np.array([[1.0], [-2.0], [0.5]], dtype="float32")
        net = skorch.NeuralNetRegressor(nn.Linear, module__in_features=3, module__out_features=1, module__bias=False)
        return SklearnTrainer(net, X, y, valid=(X, y), batch_size=3), 2 / 3 * 9.0


SEEN: list[str] = []


class Noting(Callback):
    """Notes what it is told."""

    def on_train_begin(self, net: Any, **given: Any) -> None:
        del net, given
        SEEN.append("train")

    def on_epoch_begin(self, net: Any, **given: Any) -> None:
        del net
        SEEN.append(f"epoch of {len(given['dataset_train'])} and {len(given['dataset_valid'])}")

    def on_batch_end(self, net: Any, *, training: bool, **given: Any) -> None:
        del net, given
        SEEN.append("step" if training else "held out")

    def on_epoch_end(self, net: Any, **given: Any) -> None:
        del given
        assert {"train_loss", "valid_loss", "dur"} <= set(net.history[-1])
        SEEN.append("epoch ends")

    def on_train_end(self, net: Any, **given: Any) -> None:
        del net, given
        SEEN.append("end")


def test_callbacks_see_the_epochs_that_fit_would_show_them() -> None:
    SEEN.clear()
    trainer = SklearnTrainer(classifier(callbacks=[("noting", Noting())]), *blobs(), batch_size=24)
    assert SEEN == []  # trying out says nothing
    run = trainer.start([Recipe(lr=0.1, epochs=2)])
    while run.alive:
        run.advance(1)
    epoch = ["epoch of 72 and 24", *["step"] * 3, "held out", "epoch ends"]
    assert ["train", *epoch, *epoch, "end"] == SEEN


def test_a_schedule_and_early_stopping_of_its_own_are_set_aside_and_said() -> None:
    callbacks = [LRScheduler("StepLR", step_size=1), ("stop", EarlyStopping()), ("clip", GradientNormClipping(1.0))]
    trainer = SklearnTrainer(classifier(callbacks=callbacks), *blobs())
    assert [notice for notice in trainer.notices if "LRScheduler" in notice and "drives" in notice]
    assert [notice for notice in trainer.notices if "EarlyStopping" in notice]
    assert [name for name, _ in trainer.task.adapter.template.callbacks] == ["clip"]


def test_the_rate_is_the_schedules_and_groups_keep_their_ratios() -> None:
    groups = [("0.*", {"lr": 0.05})]
    net = classifier(optimizer__param_groups=groups, optimizer=torch.optim.SGD)
    trainer = SklearnTrainer(net, *blobs(), batch_size=24)
    member = trainer.start([Recipe(lr=0.2, epochs=2, schedule="linear", momentum=0.9, weight_decay=0.01)]).members[0]
    for step in range(6):
        member.advance(1, evaluate=False)
        rates = [group["lr"] for group in member.estimator.optimizer_.param_groups]
        assert rates == pytest.approx([0.02 * (1 - step / 6), 0.2 * (1 - step / 6)])
    assert member.estimator.optimizer_.param_groups[1]["momentum"] == 0.9
    assert member.estimator.optimizer_.param_groups[1]["weight_decay"] == 0.01


def test_a_pipeline_ends_in_one_and_its_setup_is_plain_json() -> None:
    trainer = SklearnTrainer(make_pipeline(StandardScaler(), classifier()), *blobs())
    assert trainer.optimizer == "adam"
    assert trainer.saves
    run = trainer.start([Recipe(lr=0.1, weight_decay=0.1)])
    run.advance(1)
    setup = json.loads(json.dumps(run.setup()))
    assert (setup["library"], setup["rate"], setup["module"]["name"]) == ("sklearn", "lr", "Net")
    assert setup["settings"]["optimizer__weight_decay"] == 0.1


def test_what_a_network_cannot_do_is_refused() -> None:
    refused(SklearnTrainer(classifier(), *blobs()), Recipe(lr=0.1, momentum=0.5), "cannot take momentum")
    with pytest.raises(DataError, match="takes no sample_weight"):
        SklearnTrainer(classifier(), *blobs(), sample_weight=np.ones(96))
