"""skorch's networks in SklearnTrainer."""

# ruff: noqa: E402, N806 -- skorch is imported once its presence is known; X is scikit-learn's name
from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest

skorch = pytest.importorskip("skorch", reason="skorch is not installed; nox -s hosts installs it")

import torch
from open_tab import open_tab
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from skorch.callbacks import Callback, EarlyStopping, EpochScoring, GradientNormClipping, LRScheduler
from skorch.dataset import Dataset
from skorch.helper import predefined_split
from torch import nn
from torch.nn import functional
from trainer_contract import BowlContract, SavingContract, TrainerContract, refused

import lrtune
from lrtune.core.recipe import Recipe
from lrtune.errors import DataError
from lrtune.training.estimators.trainer import SklearnTrainer

if TYPE_CHECKING:
    from pathlib import Path

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


class Rates(Callback):
    """Notes the learning rates of every step."""

    seen: ClassVar[list[list[float]]] = []

    def on_batch_end(self, net: Any, *, training: bool, **given: Any) -> None:
        del given
        if training:
            self.seen.append([group["lr"] for group in net.optimizer_.param_groups])


@pytest.mark.parametrize("spec", ["constant", "cosine", "onecycle", "plateau(patience=0)"])
@pytest.mark.parametrize("warmup", [0, 0.3])
@pytest.mark.parametrize("scaled", [False, True])
def test_the_pasted_lines_train_as_the_search_did(spec: str, warmup: float, *, scaled: bool) -> None:
    """The rates of every step, and the loss in the end; rows are alike, so that their order does not count."""
    X = np.repeat(blobs()[0][:1], 72, axis=0)
    y = np.full((72, 1), 0.5, "float32")
    held = blobs(30, seed=1)[0]
    target = held[:, :1]

    class Alike(nn.Sequential):
        def __init__(self) -> None:
            torch.manual_seed(7)
            super().__init__(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, 1))

    def net() -> Any:
        callbacks = [("clip", GradientNormClipping(0.05)), LRScheduler("StepLR", step_size=1), ("rates", Rates())]
        options = {"optimizer__param_groups": [("0.*", {"lr": 0.005})], "optimizer__weight_decay": 0.1}
        made = skorch.NeuralNetRegressor(Alike, lr=0.1, callbacks=callbacks, verbose=0, **options)
        return make_pipeline(Normalizer(), made) if scaled else made

    recipe = Recipe(lr=0.1, epochs=3, batch_size=20, schedule=spec, warmup=warmup, momentum=0.8)
    run = SklearnTrainer(net(), X, y, valid=(held, target)).start([recipe])
    setup = json.loads(json.dumps(run.setup()))
    Rates.seen.clear()
    (report,) = run.advance(10**6)
    before = list(Rates.seen)
    names: dict[str, Any] = {"model": net(), "y": y}
    exec(lrtune.snippet(recipe, "sklearn", setup=setup), names)  # noqa: S102 -- what a person pastes
    model, steps = names["model"], names.get("steps")
    if steps is not None:
        X = steps.fit_transform(X, y)
        held = steps.transform(held)
    if spec.startswith("plateau"):
        model.set_params(train_split=predefined_split(Dataset(held, target)))
    Rates.seen.clear()
    model.fit(X, y)
    assert len(before) == len(Rates.seen) == 12
    np.testing.assert_allclose(Rates.seen, before, atol=1e-12)
    assert model.optimizer_.param_groups[0]["momentum"] == 0.8
    with torch.no_grad():
        loss = functional.mse_loss(model.forward(held), torch.as_tensor(target))
    assert float(loss) / 2 == pytest.approx(report.point.values["valid_loss"], rel=1e-5)  # as scikit-learn halves it


def test_the_report_of_a_study_opens_with_its_lines(tmp_path: Path) -> None:
    result = lrtune.tune(
        SklearnTrainer(classifier(verbose=0), *blobs(), batch_size=24),
        {"lr": (1e-3, 0.1)},
        epochs=2,
        budget=1.5,
        seed=0,
    )
    host, code = open_tab(result, tmp_path)
    assert host == "sklearn"
    assert code == lrtune.snippet(result)
    assert "batch_size=24," in code
