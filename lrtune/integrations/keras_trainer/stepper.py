"""One compiled Keras model: a step at a learning rate, the held-out values, and all its variables as arrays.

On PyTorch and TensorFlow a step is the public ``train_on_batch``. On JAX that writes every variable back after each
step, which takes longer than the step of a small model; there the functions that ``fit`` compiles are called with the
state that ``train_step`` is documented to take and return, and variables are written at the end of each advance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lrtune.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lrtune.integrations.keras_trainer.data import Batch
    from lrtune.training.base import State

__all__ = ["KerasStepper", "stepper_for"]

WIDTHS: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class KerasStepper:
    """A model, trained by ``train_on_batch``."""

    def __init__(self, model: Any) -> None:
        import keras

        self.model = model
        self._tested = False
        self._listed = keras.backend.backend() == "torch"

    def build(self, batch: Batch) -> None:
        """Make all variables of model and optimizer, those of a model without an input shape too."""
        if not self.model.built:
            self.model(batch[0])
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)

    def step(self, batch: Batch, rate: float) -> float:
        """Train on a batch; its loss before the update, penalties included."""
        self.model.optimizer.learning_rate = rate
        return loss_in(self.model.train_on_batch(*batch, return_dict=True))

    def sync(self) -> None:
        """Write the state of training to the model's variables."""

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """The compiled loss and metrics over all batches; the model is as before, its seeds included."""
        model = self.model
        optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
        averaged = bool(getattr(optimizer, "use_ema", False)) and int(optimizer.iterations) > 0
        kept = [*self._seeds(), *(model.trainable_variables if averaged else ())]
        before = [(variable, array_of(variable)) for variable in kept]
        if averaged:  # as at the end of `fit`
            optimizer.finalize_variable_values(model.trainable_variables)
        try:
            logs = self._tested_on(batches)
        finally:
            for variable, value in before:
                variable.assign(value)
        return {name: float(value) for name, value in logs.items() if np.ndim(value) == 0}

    def _tested_on(self, batches: Iterable[Batch]) -> Mapping[str, Any]:
        """The values over all batches, by the names that the model gives them."""
        model = self.model
        logs: Mapping[str, Any] = {}
        for number, batch in enumerate(batches):
            if not self._tested:
                seeds = [(variable, array_of(variable)) for variable in self._seeds()]
                model.test_on_batch(*batch)  # makes the metrics' variables
                model.make_test_function()
                self._tested = True
                for variable, value in seeds:
                    variable.assign(value)
            if number == 0:
                model.reset_metrics()
                self._begin_test()
            logs = self._test(batch)
        self._end_test()
        whole = model.get_metrics_result()
        return whole if set(whole) == set(logs) else logs

    def _begin_test(self) -> None:
        """Before the first batch."""
        if hasattr(self.model, "eval"):  # a torch.nn.Module on that backend
            self.model.eval()

    def _test(self, batch: Batch) -> Mapping[str, Any]:
        given = [self._padded(batch)]  # which is what the function gets on PyTorch; else an iterator
        return dict(self.model.test_function(given if self._listed else iter(given)))

    def _end_test(self) -> None:
        """After the last batch."""
        if hasattr(self.model, "train") and callable(self.model.train):
            self.model.train()

    @staticmethod
    def _padded(batch: Batch) -> tuple[Any, Any, Any]:
        x, y, weight = (*batch, None, None)[:3]
        return x, y, weight

    def _seeds(self) -> list[Any]:
        """The states of the model's seed generators, which a saved model does not have."""
        weights = {id(variable) for variable in self.model.weights}
        return [variable for variable in self.model.variables if id(variable) not in weights]

    def state(self) -> State:
        """Copies of all variables: the model's, its seed generators' and the optimizer's."""
        self.sync()
        return {
            "model": [packed(array_of(variable)) for variable in self.model.variables],
            "optimizer": [packed(array_of(variable)) for variable in self.model.optimizer.variables],
        }

    def restore(self, saved: State) -> None:
        """Give the variables their saved values; InputError if they are another model's."""
        for what, variables in (("model", self.model.variables), ("optimizer", self.model.optimizer.variables)):
            values = [unpacked_array(item) for item in saved[what]]
            if [value.shape for value in values] != [tuple(variable.shape) for variable in variables]:
                msg = f"the state is of another {what}: its variables have other shapes; start the run again"
                raise InputError(msg)
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)


class JaxStepper(KerasStepper):
    """A model whose training state is a tuple of JAX arrays between two calls of :meth:`sync`."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._state: Any = None
        self._fresh: list[Any] = []
        self._rate_at = -1

    def step(self, batch: Batch, rate: float) -> float:
        """Train on a batch; the first one after the variables have been written makes what ``fit`` makes."""
        if self._state is None:
            loss = super().step(batch, rate)
            self._begin()
            return loss
        weights, others, optimizer, _ = self._state
        optimizer[self._rate_at] = np.asarray(rate, self._fresh_rate)
        given = (weights, others, optimizer, list(self._fresh))
        logs, self._state = self.model.train_function(given, iter([self._padded(batch)]))
        return loss_in(logs)

    def _begin(self) -> None:
        """Read the state as ``train_step`` takes it."""
        model = self.model
        variables = model.optimizer.variables
        rate = model.optimizer.learning_rate
        self._rate_at = next(place for place, variable in enumerate(variables) if variable is rate)
        self._fresh_rate = array_of(rate).dtype
        model.reset_metrics()
        self._fresh = [array_of(variable) for variable in model.metrics_variables]
        groups = (model.trainable_variables, model.non_trainable_variables, variables, model.metrics_variables)
        self._state = tuple([variable.value for variable in group] for group in groups)

    def sync(self) -> None:
        """Write the state of training to the model's variables."""
        if self._state is None:
            return
        model, state = self.model, self._state
        self._state = None
        groups = (model.trainable_variables, model.non_trainable_variables, model.optimizer.variables)
        for variables, values in zip(groups, state, strict=False):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)

    def _begin_test(self) -> None:
        """The state as ``test_step`` takes it: copies, since what it is given is given up."""
        model = self.model
        groups = (model.trainable_variables, model.non_trainable_variables, model.metrics_variables)
        self._testing = tuple([array_of(variable) for variable in group] for group in groups)

    def _test(self, batch: Batch) -> Mapping[str, Any]:
        logs, self._testing = self.model.test_function(self._testing, iter([self._padded(batch)]))
        return dict(logs)

    def _end_test(self) -> None:
        for variable, value in zip(self.model.metrics_variables, self._testing[2], strict=True):
            variable.assign(value)
        self._testing = ()


def stepper_for(model: Any) -> KerasStepper:
    """The stepper for the backend in use."""
    import keras

    # An eager JAX step and a custom train function are called as Keras calls them.
    jax = keras.backend.backend() == "jax" and not model.run_eagerly
    return JaxStepper(model) if jax else KerasStepper(model)


def loss_in(logs: object) -> float:
    """The loss of a step, which the compiled model returns under that name."""
    if not isinstance(logs, Mapping) or "loss" not in logs:
        got = ", ".join(map(repr, logs)) if isinstance(logs, Mapping) else type(logs).__name__
        msg = f"train_step of the model must return the loss under the name 'loss' (got {got})"
        raise InputError(msg)
    return float(logs["loss"])


def array_of(variable: Any) -> Any:
    """A copy of a variable on the host."""
    import keras

    return np.array(keras.ops.convert_to_numpy(variable.value))


def packed(array: Any) -> Any:
    """An array as a checkpoint holds it; types that NumPy lacks (bfloat16) as integers of the same width."""
    if array.dtype.kind in "biufc":
        return array
    return {"type": str(array.dtype), "bits": array.view(WIDTHS[array.dtype.itemsize])}


def unpacked_array(item: Any) -> Any:
    """What :func:`packed` was given."""
    if not isinstance(item, dict):
        return np.asarray(item)
    import ml_dtypes

    return np.asarray(item["bits"]).view(np.dtype(getattr(ml_dtypes, str(item["type"]))))
