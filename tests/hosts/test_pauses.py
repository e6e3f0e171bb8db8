"""What a pause keeps, measured: a run saved in the middle of an epoch and restored, beside one that never stopped."""

from __future__ import annotations

import importlib.util
import os
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from layering import ROOT
from trainer_contract import train

from lrtune.core.recipe import Recipe
from lrtune.training import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [
    pytest.mark.hosts,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # Keras 3.15 under NumPy 2
]

BACKENDS = {"torch": "PyTorch", "tensorflow": "TensorFlow", "jax": "JAX"}
RECIPE = Recipe(lr=0.01, epochs=2, seed=3)


def table(samples: int = 64, seed: int = 0) -> tuple[Any, Any]:
    x = np.random.default_rng(seed).normal(size=(samples, 6)).astype("float32")
    return x, x[:, :3].argmax(1)


def keras_trainer(data: Any, *, draws: bool = False) -> Any:
    import keras

    from lrtune.integrations.keras_trainer.trainer import KerasTrainer

    class Noise(keras.layers.Layer):
        def call(self, x: Any, *, training: bool = False) -> Any:
            return x + keras.random.normal(keras.ops.shape(x)) if training else x

    def make_model() -> Any:
        extra = Noise() if draws else keras.layers.Dropout(0.3)
        layers = [keras.layers.Input((6,)), keras.layers.Dense(16), extra, keras.layers.Dense(3)]
        model = keras.Sequential(layers)
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    return KerasTrainer(make_model, data, table(30, 1), batch_size=16)


def tf_data() -> Any:
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(table()).shuffle(64).batch(16)


def skorch_trainer() -> Any:
    import skorch
    import torch
    from torch import nn

    from lrtune.training.estimators.trainer import SklearnTrainer

    class Net(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))

    net = skorch.NeuralNetClassifier(Net, criterion=nn.CrossEntropyLoss, optimizer=torch.optim.Adam)
    return SklearnTrainer(net, *table(), valid=table(30, 1), batch_size=16)


def lightning_trainers() -> list[Any]:
    from lightning.pytorch import LightningDataModule

    from lrtune.integrations.lightning_trainer.trainer import LightningTrainer

    spec = importlib.util.spec_from_file_location("program", ROOT / "docs" / "hosts" / "lightning_module.py")
    assert spec is not None
    assert spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)

    class Data(LightningDataModule):
        def train_dataloader(self) -> Any:
            return program.make_data()[0]

        def val_dataloader(self) -> Any:
            return program.make_data()[1]

    def tensors() -> Any:
        return (program.x[:64], program.y[:64]), (program.x[64:90], program.y[64:90])

    datas = (tensors, program.make_data, Data)
    return [LightningTrainer(program.Module, data, accelerator="cpu") for data in datas]


def kept(trainer: Any, folder: Path) -> str:
    """What a run that is saved one step into its second epoch and restored has in common with one that is not."""
    run = trainer.start([RECIPE])
    cut = trainer.steps_per_epoch(RECIPE) + 1
    train(run, segments=cut)
    checkpoint.save(folder / "run.npz", run.state() or {})
    rest = train(run)[0]
    due = batch_of(run.members[0])
    other = trainer.start([RECIPE])
    other.restore(checkpoint.load(folder / "run.npz"))
    if train(other)[0] == rest:
        return "bit for bit"
    found = batch_of(other.members[0])
    return "the same data order" if due is not None and np.array_equal(due, found) else "neither"


def batch_of(member: Any) -> Any:
    """The features of the second batch of the second epoch."""
    return np.asarray(member._feed.batch(1, 1)[0]) if hasattr(member, "_feed") else None


def shown() -> dict[tuple[str, str], str]:
    """The table of the page."""
    page = (ROOT / "docs" / "howto" / "keras-lightning-skorch.md").read_text()
    text = page.split("<!-- pauses -->")[1].split("<!-- /pauses -->")[0]
    rows = re.findall(r"^\| (?!host|---)(.+?) \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    return {(host, data): said for host, data, said in rows}


def needed(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed; nox -s hosts installs it")


def test_keras_on_the_backend_in_use(tmp_path: Path) -> None:
    needed("keras")
    import keras

    backend = keras.backend.backend()
    host = f"Keras on {BACKENDS[backend]}"
    measured = {(host, "arrays"): kept(keras_trainer(table()), tmp_path)}
    if backend == "torch":
        drawing = keras_trainer(table(), draws=True)
        measured[host, "a model that draws from Keras's global seed generator"] = kept(drawing, tmp_path)
    if backend == "tensorflow":
        trainer = keras_trainer(tf_data())
        assert any("gives other batches each time" in notice for notice in trainer.notices)
        measured[host, "a `tf.data.Dataset` that shuffles without a seed"] = kept(trainer, tmp_path)
    assert measured == {row: said for row, said in shown().items() if row[0] == host}


@pytest.mark.parametrize(
    ("row", "package", "trainers"),
    [
        (("skorch", "arrays"), "skorch", lambda: [skorch_trainer()]),
        (("Lightning", "tensors, DataLoaders, a LightningDataModule"), "lightning", lightning_trainers),
    ],
)
def test_skorch_and_lightning(
    row: tuple[str, str], package: str, trainers: Callable[[], list[Any]], tmp_path: Path
) -> None:
    needed(package)
    if os.environ.get("KERAS_BACKEND", "torch") != "torch":
        pytest.skip("the backend of Keras is nothing to them")
    assert {kept(trainer, tmp_path) for trainer in trainers()} == {shown()[row]}
