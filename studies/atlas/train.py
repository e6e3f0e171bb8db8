"""Trains one table of the atlas: all its learning rates and seeds at once, as one stacked model.

The members differ in their learning rate and, by seed, in initial weights, batches and dropout. Each optimizer is
PyTorch's own, at learning rate 1 on zeros: the step that it takes there is the direction, which is scaled for each
member. That is exact for optimizers whose step is proportional to the learning rate, and all of these are.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from data import load
from models import MODELS, loss_and_error
from plan import RATES, SEEDS
from sklearn import linear_model, neural_network
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from lrtune.schedules import parse, with_warmup

if TYPE_CHECKING:
    from data import Data
    from plan import Training

__all__ = ["table"]

LARGEST = 1e15  # a loss above is as good as infinite


class _Lion(torch.optim.Optimizer):
    """The sign of an interpolated momentum (Chen et al. 2023, arXiv:2302.06675, algorithm 2)."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    def step(self, closure: Any = None) -> None:  # noqa: ARG002 -- PyTorch's signature
        for group in self.param_groups:
            for p in group["params"]:
                held = self.state[p].setdefault("held", torch.zeros_like(p))
                p.data.sub_((0.9 * held + 0.1 * p.grad).sign())
                held.lerp_(p.grad, 0.01)


def _optimizer(name: str, params: list[torch.Tensor]) -> torch.optim.Optimizer:
    makers = {
        "sgd": lambda p: torch.optim.SGD(p, lr=1.0),
        "momentum": lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9),
        "nesterov": lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9, nesterov=True),
        "momentum99": lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.99),
        "adam": lambda p: torch.optim.Adam(p, lr=1.0),
        "adamw": lambda p: torch.optim.Adam(p, lr=1.0),  # its decay is decoupled, see _step
        "nadam": lambda p: torch.optim.NAdam(p, lr=1.0),
        "radam": lambda p: torch.optim.RAdam(p, lr=1.0),
        "adamax": lambda p: torch.optim.Adamax(p, lr=1.0),
        "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1.0),
        "adagrad": lambda p: torch.optim.Adagrad(p, lr=1.0),
        "adadelta": lambda p: torch.optim.Adadelta(p, lr=1.0),
        "lion": _Lion,
    }
    return makers[name](params)


def _multiplier(schedule: str, steps: int) -> Any:
    """The schedule's multiplier at each step, shape (steps,)."""
    warmed = schedule.startswith("warmup-")
    base = parse(schedule.removeprefix("warmup-"))
    return with_warmup(base, 0.1 if warmed else 0.0, total_steps=steps)(np.arange(steps) / steps)


class _Stack:
    """RATES x SEEDS models with a leading dimension, the seed varying slowest."""

    def __init__(self, training: Training, data: Data) -> None:
        self.spec, self.data = training.spec, data
        modules = []
        for seed in range(SEEDS):
            torch.manual_seed(training.seed + seed)
            one = MODELS[self.spec["model"]](data, self.spec)
            modules += [copy.deepcopy(one) for _ in range(RATES)]
        self.base = modules[0]
        self.weights, _ = stack_module_state(modules)
        self.weights = {name: value.detach() for name, value in self.weights.items()}
        self.moves = {name: nn.Parameter(torch.zeros_like(value)) for name, value in self.weights.items()}
        self.optimizer = _optimizer(self.spec["optimizer"], list(self.moves.values()))
        self.rates = torch.tensor(training.rates, dtype=torch.float32).repeat(SEEDS)
        self.gradient = vmap(grad(self._loss), randomness="different")
        self.measure = vmap(self._measured, in_dims=(0, None, None), randomness="same")

    def _output(self, weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = functional_call(self.base, weights, (x,))
        return output

    def _loss(self, weights: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return loss_and_error(self._output(weights, x), y, self.data.classes)[0]

    def _measured(self, weights: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> Any:
        return loss_and_error(self._output(weights, x), y, self.data.classes)

    def step(self, batches: torch.Tensor, multiplier: float) -> None:
        """One step of every member; `batches` holds each seed's samples, shape (SEEDS, batch)."""
        batches = batches.repeat_interleave(RATES, 0)
        found = self.gradient(self.weights, self.data.x[batches], self.data.y[batches])
        decay, decoupled = self.spec["weight_decay"], self.spec["optimizer"] in {"adamw", "lion"}
        if self.spec["clip"]:
            norms = torch.stack([g.flatten(1).square().sum(1) for g in found.values()]).sum(0).sqrt()
            scale = (self.spec["clip"] / (norms + 1e-6)).clamp(max=1.0)
            found = {name: g * scale.view(-1, *[1] * (g.ndim - 1)) for name, g in found.items()}
        for name, move in self.moves.items():
            move.data.zero_()
            move.grad = found[name] if decoupled or not decay else found[name] + decay * self.weights[name]
        self.optimizer.step()
        for name, move in self.moves.items():
            lr = (multiplier * self.rates).view(-1, *[1] * (move.ndim - 1))
            step = move.detach() - decay * self.weights[name] if decoupled and decay else move.detach()
            self.weights[name] = self.weights[name] + lr * step

    def evaluate(self) -> tuple[Any, Any]:
        """Held-out loss and error, each of shape (SEEDS, RATES)."""
        self.base.eval()
        torch.manual_seed(0)  # a variational code is sampled alike at every evaluation
        with torch.no_grad():
            loss, error = self.measure(self.weights, self.data.held_x, self.data.held_y)
        self.base.train()
        return loss.view(SEEDS, RATES).numpy(), error.view(SEEDS, RATES).numpy()


def _stacked(training: Training, data: Data) -> tuple[Any, Any]:
    spec = training.spec
    stack = _Stack(training, data)
    count = len(data.x)
    per_epoch = -(-count // spec["batch"])
    multiplier = _multiplier(spec["schedule"], per_epoch * spec["epochs"])
    orders = [torch.Generator().manual_seed(training.seed + 100 + seed) for seed in range(SEEDS)]
    found = [stack.evaluate()]
    for epoch in range(spec["epochs"]):
        torch.manual_seed(training.seed * 1000 + epoch)
        order = torch.stack([torch.randperm(count, generator=one) for one in orders])
        for i in range(per_epoch):
            stack.step(order[:, i * spec["batch"] : (i + 1) * spec["batch"]], float(multiplier[epoch * per_epoch + i]))
        found.append(stack.evaluate())
    loss, error = (np.stack(parts, -1) for parts in zip(*found, strict=True))
    return loss, error


def _estimator(training: Training, data: Data, rate: float, seed: int) -> Any:
    spec = training.spec
    decay = spec["weight_decay"] or 1e-5
    if spec["model"] == "sklearn-sgd":
        penalty = "l2" if spec["activation"] != "tanh" else "l1"
        kind = linear_model.SGDClassifier if data.classes else linear_model.SGDRegressor
        loss = "log_loss" if data.classes else "squared_error"
        return kind(loss=loss, penalty=penalty, alpha=decay, learning_rate="constant", eta0=rate, random_state=seed)
    kind = neural_network.MLPClassifier if data.classes else neural_network.MLPRegressor
    solver = "adam" if spec["optimizer"] == "adam" else "sgd"
    return kind((24,), solver=solver, alpha=decay, batch_size=spec["batch"], learning_rate_init=rate, random_state=seed)


def _curve(training: Training, data: Data, rate: float, seed: int) -> Any:
    """Held-out loss and error after each epoch, shape (epochs, 2)."""
    model = _estimator(training, data, rate, seed)
    x, y = data.x.numpy().astype(np.float64), data.y.numpy()
    held_x, held_y = data.held_x.numpy().astype(np.float64), data.held_y.numpy()
    rng = np.random.default_rng([training.seed, seed])
    found = np.full((training.spec["epochs"], 2), np.nan)
    for epoch in range(len(found)):
        order = rng.permutation(len(x))
        try:
            more = {"classes": np.arange(data.classes)} if data.classes else {}
            model.partial_fit(x[order], y[order], **more)
        except ValueError:  # non-finite weights: it has diverged
            break
        if data.classes:
            chance = np.clip(model.predict_proba(held_x)[np.arange(len(held_y)), held_y], 1e-7, 1)
            found[epoch] = -np.log(chance).mean(), (model.predict(held_x) != held_y).mean()
        else:
            found[epoch] = np.square(model.predict(held_x) - held_y).mean()
    return found


def _estimated(training: Training, data: Data) -> tuple[Any, Any]:
    """scikit-learn's own estimators, one after the other."""
    curves = np.array([[_curve(training, data, rate, seed) for rate in training.rates] for seed in range(SEEDS)])
    held = data.held_y.numpy()
    start = [np.log(data.classes), 1 - 1 / data.classes] if data.classes else [np.square(held).mean()] * 2
    first = np.broadcast_to(np.array(start), (*curves.shape[:2], 1, 2))
    both = np.concatenate([first, curves], 2)
    return both[..., 0], both[..., 1]


def table(training: Training) -> dict[str, Any]:
    """Held-out loss, and error where there are classes, each of shape (SEEDS, RATES, 1 + epochs), from epoch 0."""
    spec = training.spec
    data = load(spec["data"], training.seed, samples=spec["samples"], label_noise=spec["label_noise"])
    run = _estimated if spec["model"].startswith("sklearn") else _stacked
    with np.errstate(all="ignore"):
        loss, error = run(training, data)
    found = {"loss": loss} if not data.classes or spec["model"] == "autoencoder" else {"loss": loss, "error": error}
    return {name: _cut(values) for name, values in found.items()}


def _cut(values: Any) -> Any:
    """To four digits; NaN from the first value that is not finite, or as good as infinite."""
    bad = np.maximum.accumulate(~np.isfinite(values) | (np.nan_to_num(np.abs(values), nan=np.inf) > LARGEST), axis=-1)
    with np.errstate(all="ignore"):
        digits = 10.0 ** (3 - np.floor(np.log10(np.maximum(np.abs(values), 1e-12))))
        rounded = np.round(values.astype(np.float64) * digits) / digits
    return np.where(bad, np.nan, rounded).astype(np.float32)
