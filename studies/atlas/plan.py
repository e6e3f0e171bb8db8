"""Which trainings the atlas has: a family is a kind of model; each of its tables is drawn by its number."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["FAMILIES", "JOINT", "RATES", "SEEDS", "Training", "joint_trainings", "trainings"]

RATES, DECADES, SEEDS = 31, 6.0, 2
FEWEST_BATCHES = 5  # an epoch
JOINT_TABLES = 18
TABULAR = ["digits", "breast_cancer", "wine", "diabetes", "spirals", "teacher", "teacher_regression", "sparse"]
TABULAR += ["friedman", "mixture"]
IMAGES, SIGNALS = ["digit_images", "textures"], ["chirps", "autoregression", "adding"]
SYMBOLS, PAIRS = ["source", "markov", "copying"], ["ratings", "popular"]

CENTRES = {  # log10 of the learning rate in the middle of the range, by optimizer
    "sgd": -1.0,
    "momentum": -1.7,
    "nesterov": -1.7,
    "momentum99": -2.5,
    "adam": -2.7,
    "adamw": -2.7,
    "nadam": -2.7,
    "radam": -2.5,
    "adamax": -2.3,
    "rmsprop": -2.8,
    "adagrad": -1.5,
    "adadelta": -0.5,
    "lion": -3.5,
    "each-row": -2.3,  # scikit-learn's SGD, one step a row
}
OFTEN = ["sgd", "momentum", "adam", "adamw"]
SCHEDULES = ["constant"] * 5 + ["cosine", "cosine", "linear", "step", "warmup-cosine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How many trainings, of which model, on which data, and how long: gradient steps at most."""

    count: int
    model: str
    data: list[str]
    steps: int
    options: dict[str, list[Any]]


FAMILIES = {
    "linear": Family(count=20, model="mlp", data=TABULAR, steps=1500, options={"width": [0], "depth": [0]}),
    "mlp-narrow": Family(count=30, model="mlp", data=TABULAR, steps=1500, options={"width": [8, 16], "depth": [1, 2]}),
    "mlp-wide": Family(count=20, model="mlp", data=TABULAR, steps=700, options={"width": [64, 128], "depth": [1, 2]}),
    "mlp-deep": Family(count=24, model="mlp", data=TABULAR, steps=900, options={"width": [32], "depth": [4, 6]}),
    "residual": Family(count=18, model="residual", data=TABULAR, steps=800, options={"width": [32], "depth": [3, 5]}),
    "cnn": Family(count=22, model="cnn", data=IMAGES, steps=320, options={"width": [4, 8], "norm": [False]}),
    "cnn-batchnorm": Family(count=18, model="cnn", data=IMAGES, steps=260, options={"width": [4, 8], "norm": [True]}),
    "gru": Family(count=14, model="recurrent", data=SIGNALS, steps=320, options={"width": [16, 24], "cell": ["gru"]}),
    "lstm": Family(
        count=14, model="recurrent", data=[*SIGNALS, "markov"], steps=260, options={"width": [16], "cell": ["lstm"]}
    ),
    "transformer": Family(
        count=20,
        model="transformer",
        data=[*SYMBOLS, "chirps"],
        steps=220,
        options={"width": [16, 24], "depth": [1, 2]},
    ),
    "autoencoder": Family(
        count=18,
        model="autoencoder",
        data=["digits", "textures", "mixture", "sparse"],
        steps=900,
        options={"width": [32, 64], "code": [4, 12], "variational": [False]},
    ),
    "vae": Family(
        count=14,
        model="autoencoder",
        data=["digits", "textures", "mixture"],
        steps=900,
        options={"width": [32, 64], "code": [4, 8], "variational": [True]},
    ),
    "factors": Family(
        count=14, model="factors", data=PAIRS, steps=1200, options={"width": [3, 8, 16], "samples": [1500, 3000, 4000]}
    ),
    "sklearn-sgd": Family(
        count=16,
        model="sklearn-sgd",
        data=TABULAR,
        steps=1500,
        options={"optimizer": ["each-row"], "schedule": ["constant"]},
    ),
    "sklearn-mlp": Family(
        count=12,
        model="sklearn-mlp",
        data=TABULAR,
        steps=800,
        options={"optimizer": ["momentum", "adam", "adam"], "schedule": ["constant"]},
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One table to be made: `spec` holds the model, the data and how it is trained."""

    name: str
    family: str
    seed: int
    spec: dict[str, Any]

    @property
    def rates(self) -> Any:
        """The learning rates, shape (n,)."""
        return 10 ** np.linspace(*self.spec["lr"], RATES)


def _training(family: str, number: int) -> Training:
    seed = sum(family.encode()) * 1000 + number
    rng = np.random.default_rng(seed)
    plan = FAMILIES[family]

    def one(values: list[Any]) -> Any:
        return values[int(rng.integers(len(values)))]

    spec: dict[str, Any] = {"model": plan.model, "data": plan.data[number % len(plan.data)]}
    spec |= {"norm": one([False, False, True]), "activation": one(["relu", "relu", "tanh", "gelu"])}
    spec |= {"dropout": one([0.0, 0.0, 0.0, 0.2]) if plan.model == "mlp" else 0.0}
    spec |= {"optimizer": one(OFTEN if rng.random() < 0.6 else list(CENTRES)[:-1]), "schedule": one(SCHEDULES)}
    spec |= {"weight_decay": one([0.0, 0.0, 1e-4, 1e-2]), "clip": one([0.0, 0.0, 0.0, 0.0, 1.0])}
    spec |= {"label_noise": one([0.0, 0.0, 0.1, 0.3]), "samples": one([150, 400, 1000, 2000])}
    spec |= {"batch": one([16, 32, 32, 64]), "epochs": one([5, 8, 10, 15, 20, 27, 30, 40, 60, 100])}
    spec |= {name: one(values) for name, values in plan.options.items()}
    spec["epochs"] = min(spec["epochs"], plan.steps // FEWEST_BATCHES)
    spec["samples"] = min(spec["samples"], plan.steps // spec["epochs"] * spec["batch"])
    centre = CENTRES[spec["optimizer"]] + rng.uniform(-0.8, 0.8)
    spec["lr"] = [round(centre - DECADES / 2, 3), round(centre + DECADES / 2, 3)]
    return Training(name=f"{family}-{number:02d}", family=family, seed=seed, spec=spec)


def trainings(family: str) -> list[Training]:
    """All of a family, the same at every call; those of joint tables one after the other."""
    if family == "joint":
        return [one for number in range(JOINT_TABLES) for one in joint_trainings(number)]
    return [_training(family, number) for number in range(FAMILIES[family].count)]


JOINT = {"batch_size": [16, 64, 256], "schedule": ["constant", "cosine"]}  # what joint tables vary beside the rate
JOINT_OF = ("linear", "mlp-narrow", "mlp-wide", "mlp-deep", "residual", "cnn")


def joint_trainings(number: int) -> list[Training]:
    """The trainings of one joint table: the same model and data under each combination of :data:`JOINT`."""
    family = JOINT_OF[number % len(JOINT_OF)]
    base = _training(family, 100 + number)
    steps = FAMILIES[family].steps * 2
    rng = np.random.default_rng(base.seed)
    samples = min([400, 800, 1200][int(rng.integers(3))], steps * 16 // 10)
    epochs = min([10, 15, 20, 27][int(rng.integers(4))], steps * 16 // samples)
    found = []
    for batch, schedule in itertools.product(*JOINT.values()):
        spec = base.spec | {"batch": batch, "schedule": schedule, "samples": samples, "epochs": epochs}
        found.append(
            dataclasses.replace(base, name=f"joint-{number:02d}@{batch},{schedule}", family="joint", spec=spec)
        )
    return found
