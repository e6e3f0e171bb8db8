"""skorch's networks: minibatches of lrtune's within skorch's own epochs, so that callbacks see what fit shows them.

``partial_fit`` of one minibatch would be an epoch to every callback, and would build a data loader each time. What is
called here is what ``fit`` calls: ``notify``, ``train_step`` and ``validation_step``. skorch is not imported: the
networks bring it.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lrtune.errors import InputError
from lrtune.training.estimators.adapters import EstimatorAdapter, EstimatorStepper
from lrtune.training.estimators.run import EstimatorMember, quiet
from lrtune.training.setups import plain, reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.training.base import Setup, State
    from lrtune.training.estimators.arrays import TrainingArrays

__all__ = ["SKORCH", "SkorchAdapter", "without_owned_callbacks"]

SKORCH = {"module", "max_epochs", "train_split", "iterator_train", "batch_size"}
"""Parameters that make a network of skorch's."""

OWNED = {
    "LRScheduler": "lrtune drives the learning rate",
    "WarmRestartLR": "lrtune drives the learning rate",
    "EarlyStopping": "lrtune decides how long a run trains",
}
"""Callbacks that do what lrtune does, and why each is set aside."""

EVALUATION = 0xE7A1  # separates the random stream of evaluations from the others of a seed


@dataclass(slots=True)
class SkorchStepper(EstimatorStepper):
    """A network; its parameter groups keep the ratios that their learning rates have to the net's own ``lr``."""

    ratios: tuple[float, ...] = ()

    def step(self, batch: TrainingArrays, rate: float) -> float:
        """Train by one minibatch without a word to the callbacks; at a rate of zero only make the network."""
        self.initialize()
        return 0.0 if rate == 0 else float(self.train_on(tensors(batch), rate)["loss"].item())

    def initialize(self) -> None:
        """Make modules, optimizer and callbacks, once."""
        if self.begun:
            return
        net = self.estimator
        net.initialize()
        if self.adapter.classes is not None:
            net.classes_inferred_ = self.adapter.classes  # as `fit` does
        self.ratios = tuple(group["lr"] / net.lr for group in net.optimizer_.param_groups)
        self.begun = True

    def train_on(self, batch: tuple[Any, Any], rate: float) -> dict[str, Any]:
        """One step of the optimizer at a learning rate: the ``loss`` and the ``y_pred`` before it."""
        net = self.estimator
        for group, ratio in zip(net.optimizer_.param_groups, self.ratios, strict=True):
            group["lr"] = rate * ratio
        step: dict[str, Any] = net.train_step(batch)
        return step


@dataclass(slots=True, kw_only=True)
class SkorchAdapter(EstimatorAdapter):
    """A classifier or regressor of skorch's; its learning rate is ``lr``."""

    @property
    def solver(self) -> str:
        """The name of the net's optimizer."""
        return str(getattr(self.template.optimizer, "__name__", "sgd")).lower()

    def member(self, *given: Any) -> EstimatorMember:
        """A network in training."""
        return SkorchMember(*given)

    def stepper(self, recipe: Recipe) -> SkorchStepper:
        """A fresh network for a recipe."""
        return SkorchStepper(estimator=EstimatorAdapter.stepper(self, recipe).estimator, adapter=self)

    def check(self, recipe: Recipe) -> None:
        """Momentum and weight decay are options of the optimizer where the net names them so."""
        EstimatorAdapter.check(self, dataclasses.replace(recipe, momentum=None, weight_decay=None))
        options = inspect.signature(self.template.optimizer).parameters
        for name in ("momentum", "weight_decay"):
            if getattr(recipe, name) is not None and name not in options:
                EstimatorAdapter.check(self, recipe)

    def changes(self, recipe: Recipe) -> dict[str, Any]:
        """Options of the optimizer that a recipe sets."""
        values = {"momentum": recipe.momentum, "weight_decay": recipe.weight_decay}
        return {f"optimizer__{name}": value for name, value in values.items() if value is not None}

    def setup(self, recipe: Recipe, given: Any) -> Setup:
        """How the net is trained under a recipe, as plain JSON: no module or callback is written out."""
        settings: dict[str, Any] = {}
        for name, value in self.stepper(recipe).estimator.get_params(deep=False).items():
            try:
                if name != self.rate and not name.startswith("_") and plain(value) != given.get_params().get(name):
                    settings[name] = plain(value)
            except TypeError:
                continue
        settings.pop("callbacks", None)
        module = reference(self.template.module)
        return {"estimator": self.name, "rate": self.rate, "kept_by": None, "settings": settings, "module": module}

    def saved(self, estimator: Any) -> State:
        """Weights, optimizer, history, and what of the callbacks is numbers and words."""
        from lrtune.training.networks.nested import encoded
        from lrtune.training.networks.optimizer_state import save_optimizer

        return {
            "modules": {name: encoded(tensor) for name, tensor in _tensors(estimator).items()},
            "optimizer": save_optimizer(estimator.optimizer_),
            "history": json.dumps(list(estimator.history), default=float),
            "callbacks": {name: _words(callback) for name, callback in estimator.callbacks_},
        }

    def load(self, saved: State, estimator: Any) -> None:
        """Give a network that has been made what another had learned; InputError if it is of another shape."""
        import torch

        from lrtune.training.networks.nested import decoded
        from lrtune.training.networks.optimizer_state import load_optimizer

        tensors_now = _tensors(estimator)
        values = {name: decoded(item) for name, item in saved["modules"].items()}
        if {name: value.shape for name, value in values.items()} != {n: t.shape for n, t in tensors_now.items()}:
            msg = f"the state is of another module than {self.name} has now; start the run again"
            raise InputError(msg)
        with torch.no_grad():
            for name, tensor in tensors_now.items():
                tensor.copy_(values[name])
        load_optimizer(estimator.optimizer_, saved["optimizer"])
        estimator.history[:] = json.loads(saved["history"])
        load_callbacks(saved, estimator)


class SkorchMember(EstimatorMember):
    """A network in training: epochs, callbacks and random numbers as in its own ``fit``."""

    def reset(self) -> None:
        """Back to step 0."""
        from lrtune.training.networks.rng import RngStream

        super().reset()
        self._stream = RngStream(self.recipe.seed)
        self._announced = False

    def train_to(self, target: int, *, evaluate: bool) -> dict[str, float]:
        """Train up to a step with the member's own random numbers."""
        with self._stream.active():
            return super().train_to(target, evaluate=evaluate)

    def train(self, epoch: int, begin: int, end: int) -> None:
        """Train on the minibatches of an epoch from position `begin` to `end`."""
        stepper, rates, data = self._network(), self.rates(epoch), self.task.train
        net = stepper.estimator
        self._announce()
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self.recipe.seed, epoch]).permutation(len(data)))
        if begin == 0:
            net.notify("on_epoch_begin", **self._datasets(net))
        for position in range(begin, end):
            batch = tensors(data.take(self._order[1][position * self.rows : (position + 1) * self.rows]))
            rows = len(batch[1])
            self.step += 1
            self.samples = epoch * len(data) + min((position + 1) * self.rows, len(data))
            net.notify("on_batch_begin", batch=batch, training=True)
            step = stepper.train_on(batch, rates[position])
            loss = float(step["loss"].item())
            net.history.record_batch("train_loss", loss)
            net.history.record_batch("train_batch_size", rows)
            net.notify("on_batch_end", batch=batch, training=True, **step)
            self.record(loss, rows)
        if end == self.per_epoch:
            self._end_epoch(net)

    def _network(self) -> SkorchStepper:
        stepper = self._training
        if not isinstance(stepper, SkorchStepper):
            raise TypeError(type(stepper).__name__)
        stepper.initialize()
        return stepper

    def _announce(self) -> None:
        """Tell the callbacks, once in this process, that training begins."""
        if not self._announced:
            self._announced = True
            self.estimator.notify("on_train_begin", X=self.task.train.X, y=self.task.train.y)

    def _datasets(self, net: Any) -> dict[str, Any]:
        parts = {"dataset_train": self.task.train, "dataset_valid": self.task.valid}
        return {name: net.get_dataset(*arrays_of(part)) for name, part in parts.items()}

    def _end_epoch(self, net: Any) -> None:
        """What `fit` does at the end of an epoch: the held-out loss in the history, and a word to the callbacks."""
        net.history.record("train_batch_count", self.per_epoch)
        batch = tensors(self.task.valid)
        with self._apart():
            net.notify("on_batch_begin", batch=batch, training=False)
            step = net.validation_step(batch)
            net.history.record_batch("valid_loss", step["loss"].item())
            net.history.record_batch("valid_batch_size", len(batch[1]))
            net.notify("on_batch_end", batch=batch, training=False, **step)
            net.history.record("valid_batch_count", 1)
            net.notify("on_epoch_end", **self._datasets(net))
        if self.step == self.total_steps:
            net.notify("on_train_end", X=self.task.train.X, y=self.task.train.y)

    def _apart(self) -> Any:
        """Random numbers for what measures: a data loader draws a seed whenever it is read."""
        from lrtune.training.networks.rng import RngStream, derived_seed

        return RngStream(derived_seed(self.recipe.seed, self.step, EVALUATION)).active()

    def evaluate(self) -> dict[str, float]:
        """The held-out loss and all scores."""
        with self._apart():
            return super().evaluate()

    def state(self) -> State:
        """What :meth:`restore` takes."""
        return {**super().state(), "stream": self._stream.state()}

    def restore(self, saved: State | None) -> None:
        """Continue from a state."""
        from lrtune.training.networks.rng import RngStream

        with RngStream(self.recipe.seed).active():
            super().restore(saved)
        if saved is None:
            return
        self._stream.restore(saved["stream"])
        if saved["learned"] is not None and self.stepper is not None:
            with quiet(), RngStream(self.recipe.seed).active():
                self._announce()
            load_callbacks(saved["learned"], self.estimator)  # what has been announced begins anew


def tensors(table: TrainingArrays) -> tuple[Any, Any]:
    """Rows as a loader of skorch's gives them: targets of a regressor in the type of the features."""
    import torch

    features, targets = arrays_of(table)
    return torch.as_tensor(features), torch.as_tensor(targets)


def arrays_of(table: TrainingArrays) -> tuple[Any, Any]:
    """Features and targets as the network takes them."""
    features = table.X.toarray() if hasattr(table.X, "toarray") else table.X
    targets = table.y.astype(features.dtype) if table.y.dtype.kind == "f" else table.y
    return features, targets


def without_owned_callbacks(template: Any) -> list[str]:
    """Take away the callbacks that do what lrtune does; a notice for each."""
    found = getattr(template, "callbacks", None)
    given: Sequence[Any] = found if isinstance(found, list) else ()
    kept, notices = [], []
    for item in given:
        callback = item[1] if isinstance(item, tuple) else item
        name = callback.__name__ if isinstance(callback, type) else type(callback).__name__
        if name in OWNED:
            notices.append(f"the callback {name} of {type(template).__name__} has been set aside: {OWNED[name]}")
        else:
            kept.append(item)
    if notices:
        template.set_params(callbacks=kept)
    return notices


def _tensors(net: Any) -> dict[str, Any]:
    """Parameters and buffers of the module and the criterion by name."""
    parts = {"module": net.module_, "criterion": net.criterion_}
    return {
        f"{part}.{name}": tensor
        for part, module in parts.items()
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
    }


def _words(callback: Any) -> State:
    """Attributes of a callback that are plain values, such as a best score."""
    return {
        name: value for name, value in vars(callback).items() if value is None or type(value) in (bool, int, float, str)
    }


def load_callbacks(saved: State, net: Any) -> None:
    """Give the callbacks what was saved of them."""
    for name, callback in net.callbacks_:
        for attribute, value in saved["callbacks"].get(name, {}).items():
            setattr(callback, attribute, value)
