"""Keras models on the backend that KERAS_BACKEND names; ``nox -s hosts`` runs these for all three."""

# ruff: noqa: E402, N806 -- Keras is imported once its presence is known; X is scikit-learn's name
from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest

keras = pytest.importorskip("keras", reason="Keras is not installed; nox -s hosts installs it")

from open_tab import open_tab
from trainer_contract import BowlContract, SavingContract, TrainerContract, refused, train

import lrtune
from lrtune.core.outcome import Outcome
from lrtune.core.recipe import Recipe
from lrtune.errors import InputError
from lrtune.integrations.keras_trainer.trainer import KerasTrainer
from lrtune.schedules import for_recipe, multipliers
from lrtune.training import checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.hosts,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # Keras 3.15 under NumPy 2
]

FEATURES, CLASSES = 6, 3
# A contract makes hundreds of models: compiling each takes most of the time, and two tests do it.
QUICK: dict[str, Any] = {"tensorflow": {"run_eagerly": True}, "jax": {"jit_compile": False}}.get(
    keras.backend.backend(), {}
)


def blobs(samples: int = 70, seed: int = 0) -> tuple[Any, Any]:
    X = np.random.default_rng(seed).normal(size=(samples, FEATURES)).astype("float32")
    return X, X[:, :CLASSES].argmax(1)


def mlp(**options: Any) -> Any:
    model = keras.Sequential(
        [
            keras.layers.Input((FEATURES,)),
            keras.layers.Dense(16),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(CLASSES),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = options.pop("optimizer", None) or keras.optimizers.Adam()
    model.compile(optimizer, loss, metrics=["accuracy"], **(QUICK | options))
    return model


def make(**changes: Any) -> KerasTrainer:
    given = {"make_model": mlp, "train_data": blobs(), "valid_data": blobs(30, seed=1), "batch_size": 16} | changes
    return KerasTrainer(**given)


RECIPES = (
    Recipe(lr=0.01, epochs=2, batch_size=30, seed=1),
    Recipe(lr=0.03, epochs=2, batch_size=25, seed=2, schedule="cosine", warmup=0.2),
    Recipe(lr=0.003, epochs=2, batch_size=30, seed=3, schedule="plateau(patience=0)"),
)


class TestArrays(SavingContract, BowlContract, TrainerContract):
    recipes: ClassVar[tuple[Recipe, ...]] = RECIPES
    bowl_epochs: ClassVar[int] = 250

    def trainer(self) -> KerasTrainer:
        return make()

    def bowl(self) -> tuple[KerasTrainer, float]:
        def linear() -> Any:
            model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1, use_bias=False)])
            model.compile(keras.optimizers.SGD(), "mse", **QUICK)
            return model

        X, y = np.diag([3.0, 1.0, 0.5]), np.array([[1.0], [-2.0], [0.5]])
        return KerasTrainer(linear, (X, y), (X, y)), 2 / 3 * 9.0


def compiled(optimizer: Any = None) -> Any:
    return mlp(optimizer=optimizer, run_eagerly=False, jit_compile="auto")


class Blobs(keras.utils.PyDataset):
    """Batches by number, with noise from NumPy's global generator and from one of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.X, self.y = blobs(60)
        self.numbers = np.random.default_rng(0)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        rows = slice(15 * index, 15 * index + 15)
        noise = np.random.normal(size=(15, 1)) + self.numbers.normal(size=(15, 1))  # noqa: NPY002 -- as users do
        return (self.X[rows] + 0.1 * noise).astype("float32"), self.y[rows]


def generated(seed: int, batch_size: int) -> Any:
    X, y = blobs(60)
    order = np.random.default_rng(seed).permutation(60)
    for begin in range(0, 60, batch_size):
        rows = order[begin : begin + batch_size]
        yield X[rows] + np.random.normal(size=(1, FEATURES)), y[rows]  # noqa: NPY002 -- as users do


def loaded(batch_size: int) -> Any:
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    return DataLoader(TensorDataset(*map(torch.as_tensor, blobs(60))), batch_size=batch_size, shuffle=True)


def tf_data(seed: int) -> Any:
    tensorflow = pytest.importorskip("tensorflow", reason="TensorFlow is not installed; nox -s hosts installs it")
    return tensorflow.data.Dataset.from_tensor_slices(blobs(60)).shuffle(60, seed=seed).batch(15)


DATA = {
    "arrays": {},
    "PyDataset": {"train_data": Blobs()},
    "generator": {"train_data": generated, "steps_per_epoch": 4, "batch_size": 15},
    "DataLoader": {"train_data": loaded},
    "tf.data": {"train_data": tf_data},
}


@pytest.mark.parametrize("kind", DATA)
def test_whatever_fit_takes_a_run_is_resumed_bit_for_bit_beside_another_one(kind: str, tmp_path: Path) -> None:
    if kind == "tf.data" and keras.backend.backend() != "tensorflow":
        pytest.skip("tf.data is tested on its own backend")
    make_model = compiled if kind == "arrays" else mlp
    trainer = make(make_model=make_model, **DATA[kind])
    recipe = Recipe(lr=0.01, epochs=3, seed=5, schedule="cosine")
    whole = train(trainer.start([recipe]))[0]
    run = trainer.start([recipe, recipe.with_seed(6)])
    train(run, segments=trainer.steps_per_epoch(recipe) + 2)
    checkpoint.save(tmp_path / "run.npz", run.state() or {})
    run.close()
    run = make(make_model=make_model, **DATA[kind]).start([recipe, recipe.with_seed(6)])
    run.restore(checkpoint.load(tmp_path / "run.npz"))
    rest = train(run)
    assert rest[0] == {step: said for step, said in whole.items() if step in rest[0]}
    assert len(rest[0]) == 2 * trainer.steps_per_epoch(recipe) - 2
    assert [said[4] for said in rest[1].values()] != [said[4] for said in rest[0].values()]


def test_the_rate_is_the_schedules_at_each_step_whatever_schedule_the_optimizer_has() -> None:
    decay = keras.optimizers.schedules.CosineDecay(0.5, 10)
    trainer = make(make_model=lambda: mlp(optimizer=keras.optimizers.SGD(decay, momentum=0.5)))
    assert any("CosineDecay" in notice and "replaced" in notice for notice in trainer.notices)
    recipe = Recipe(lr=0.1, epochs=2, schedule="linear", momentum=0.9)
    member = trainer.start([recipe]).members[0]
    rates = for_recipe(recipe, 10)(np.arange(10) / 10) * 0.1
    for step in range(10):
        member.advance(1, evaluate=False)
        assert float(member.live.model.optimizer.learning_rate) == pytest.approx(rates[step], rel=1e-6)
    assert member.live.model.optimizer.momentum == 0.9
    member.end()


def test_evaluating_leaves_the_seeds_of_a_model_that_draws_in_inference_as_they_were() -> None:
    class Noise(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.seeds = keras.random.SeedGenerator(1)

        def call(self, x: Any) -> Any:
            return x + keras.random.normal(keras.ops.shape(x), seed=self.seeds)

    def noisy() -> Any:
        model = keras.Sequential([keras.layers.Input((FEATURES,)), Noise(), keras.layers.Dense(CLASSES)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(), loss, **QUICK)
        return model

    trainer, recipe = make(make_model=noisy), Recipe(lr=0.1)
    often = train(trainer.start([recipe]))[0]
    once = train(trainer.start([recipe]), steps=10**6)[0]
    assert often[max(once)] == once[max(once)]


def test_an_optimizer_that_averages_is_judged_at_the_average_and_trains_on_from_the_trained_weights() -> None:
    def averaging() -> Any:
        return mlp(optimizer=keras.optimizers.SGD(use_ema=True, ema_momentum=0.9))

    recipe = Recipe(lr=0.1, epochs=2)
    plain, averaged = (
        train(make(make_model=kind).start([recipe]))[0]
        for kind in (lambda: mlp(optimizer=keras.optimizers.SGD()), averaging)
    )
    trained = [[said[4][1] for said in curve.values()] for curve in (plain, averaged)]
    held_out = [[said[4][2] for said in curve.values()] for curve in (plain, averaged)]
    assert trained[0] == trained[1]
    assert held_out[0] != held_out[1]


def test_metrics_have_the_same_names_in_every_run() -> None:
    def scored() -> Any:
        model = mlp()
        top = keras.metrics.SparseTopKCategoricalAccuracy(k=2, name="top_2")
        model.compile("sgd", model.loss, metrics=[keras.metrics.SparseCategoricalAccuracy(), top], **QUICK)
        return model

    trainer = make(make_model=scored)
    for _ in range(2):
        (report,) = trainer.start([Recipe(lr=0.1)]).advance(1)
        assert set(report.point.values) == {"train_loss", "valid_loss", "sparse_categorical_accuracy", "top_2"}


def test_it_is_stopped_at_the_step_at_which_the_loss_is_no_number() -> None:
    X, y = blobs()
    X[3, 0] = np.nan
    (report,) = make(train_data=(X, y)).start([Recipe(lr=0.1, epochs=3)]).advance(10**6)
    assert report.outcome is Outcome.NON_FINITE
    assert "the training loss was nan at step" in report.why
    assert report.point.step < 5


def once() -> Iterator[Any]:
    yield blobs()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"make_model": mlp()}, "a function that makes a fresh compiled model"),
        ({"make_model": lambda: keras.Sequential([keras.layers.Dense(3)])}, "call model.compile"),
        ({"make_model": lambda: 3}, r"a keras.Model \(got int\)"),
        ({"train_data": once()}, "only once; give the function"),
        ({"train_data": once}, "no length .*; give steps_per_epoch"),
        ({"train_data": ({"a": 1}, 2, 3, 4)}, r"\(got 4 parts\)"),
        ({"train_data": (np.zeros((3, 6)), np.zeros(4))}, r"the lengths \[3, 4\]"),
        ({"train_data": (np.array(["a"]), np.zeros(1))}, "encode them first"),
        ({"batch_size": 0}, r"batch_size must be a whole number of at least 1 \(got 0\)"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_its_cure(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        make(**changes)


@pytest.mark.parametrize(
    ("recipe", "changes", "said"),
    [
        (Recipe(lr=0.1, optimizer="sgd"), {}, "make_model.recipe., which sees it"),
        (Recipe(lr=0.1, momentum=0.9), {}, "adam cannot take momentum"),
        (Recipe(lr=0.1, batch_size=8), {"train_data": Blobs()}, "makes its own batches"),
    ],
)
def test_a_recipe_that_the_model_cannot_do_is_refused(recipe: Recipe, changes: dict[str, Any], said: str) -> None:
    refused(make(**changes), recipe, said)


def test_the_setup_is_plain_json() -> None:
    run = make().start([Recipe(lr=0.1)])
    run.advance(1)
    setup = json.loads(json.dumps(run.setup()))
    assert (setup["library"], setup["optimizer"]["name"], setup["steps"]) == ("keras", "Adam", 5)
    assert setup["options"]["beta_1"] == 0.9


class Rates(keras.callbacks.Callback):
    """Notes the learning rate of every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        del batch, logs
        self.seen.append(float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)))


@pytest.mark.parametrize("micro", [None, 2])
@pytest.mark.parametrize("spec", ["constant", "cosine", "linear(floor=0.2)", "onecycle"])
@pytest.mark.parametrize("warmup", [0, 0.3])
def test_the_pasted_lines_train_as_the_search_did(spec: str, warmup: float, micro: int | None) -> None:
    """The optimizer's configuration, and the loss in the end; rows are alike, so that their order does not count."""
    x, y = (np.repeat(part[:1], 70, axis=0) for part in blobs())
    valid = blobs(30, seed=1)

    def compiled(optimizer: Any = None) -> Any:
        dense = keras.layers.Dense(CLASSES, kernel_initializer=keras.initializers.GlorotUniform(seed=1))
        model = keras.Sequential([keras.layers.Input((FEATURES,)), dense])
        own = keras.optimizers.SGD(0.5, momentum=0.8, clipnorm=0.1, gradient_accumulation_steps=micro)
        model.compile(optimizer or own, keras.losses.SparseCategoricalCrossentropy(from_logits=True), **QUICK)
        return model

    recipe = Recipe(lr=0.1, epochs=2, batch_size=15, schedule=spec, warmup=warmup, weight_decay=0.01)
    run = make(make_model=compiled, train_data=(x, y), valid_data=valid).start([recipe])
    setup = json.loads(json.dumps(run.setup()))
    (report,) = run.advance(10**6)
    names: dict[str, Any] = {"x": x}
    exec(lrtune.snippet(recipe, "keras", setup=setup), names)  # noqa: S102 -- what a person pastes
    model, rates = compiled(names["optimizer"]), Rates()
    own = [names["LearningRate"]()] if "LearningRate" in names else []
    model.fit(x, y, batch_size=15, epochs=2, callbacks=[*own, rates], verbose=0)
    got = {name: value for name, value in names["optimizer"].get_config().items() if name in setup["options"]}
    assert {**got, "weight_decay": pytest.approx(0.01), "clipnorm": pytest.approx(0.1)} == setup["options"]
    if own and micro is None:
        want = recipe.lr * multipliers(for_recipe(recipe, 10), 10)
        assert rates.seen == pytest.approx(list(want), abs=1e-6)
    assert model.evaluate(*valid, verbose=0) == pytest.approx(report.point.values["valid_loss"], rel=1e-4)


def test_the_report_of_a_study_opens_with_its_lines(tmp_path: Path) -> None:
    result = lrtune.tune(
        make(make_model=lambda: mlp(optimizer=keras.optimizers.SGD(momentum=0.5))),
        {"lr": (1e-3, 0.1)},
        epochs=2,
        budget=1.5,
        seed=0,
    )
    host, code = open_tab(result, tmp_path)
    assert host == "keras"
    assert code == lrtune.snippet(result)
    assert "momentum=0.5" in code
