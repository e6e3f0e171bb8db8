"""The trainer of Keras models: checks what the user gives, starts runs, measures baselines and fingerprints."""

from __future__ import annotations

import hashlib
import importlib
import math
from typing import TYPE_CHECKING, Any

from lrtune.core.recipe import Recipe
from lrtune.errors import InputError, RecipeError
from lrtune.integrations.keras_trainer.data import BatchSource, source_of
from lrtune.integrations.keras_trainer.member import KerasMember, KerasTask
from lrtune.training.base import Baseline
from lrtune.training.callables import call_with, wanted
from lrtune.training.member_run import MemberRun
from lrtune.training.setups import plain, reference

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lrtune.training.base import Setup

__all__ = ["KerasTrainer"]

KIND = "keras-1"
NOMINAL = Recipe(lr=1e-3)


class KerasTrainer:
    """Trains models of Keras 3, on its PyTorch, JAX or TensorFlow backend.

    Parameters
    ----------
    make_model
        Makes a fresh, compiled model each time: ``make_model()`` or ``make_model(recipe)``. Loss, metrics and
        optimizer are those that it is compiled with; the learning rate is set by lrtune at every step, in place of a
        schedule that the optimizer has.
    train_data
        What ``fit`` takes: ``(x, y)`` or ``(x, y, sample_weight)``, arrays or dicts and lists of them; a
        ``PyDataset``; a ``tf.data.Dataset``; a DataLoader; or a function that takes any of ``recipe``, ``batch_size``
        and ``seed`` by name, is called for each epoch and returns one of these or a generator of batches.
    valid_data
        The held-out part, likewise; with None only the training loss is measured.
    batch_size
        Samples of a step where the recipe does not say and the data is not in batches already; as in ``fit``, 32.
    eval_batch_size
        Samples evaluated at once, for arrays; the values do not depend on it.
    steps_per_epoch
        Batches of one epoch, for data without a length.
    valid_steps
        Batches of the held-out part, for data without a length.

    Raises
    ------
    InputError
        If something cannot be used: Keras is not installed, the model is not compiled, the data has no length.

    Notes
    -----
    ``train_loss`` is the mean over the batches since the last full epoch, each loss measured before its update and with
    its penalties; ``valid_loss`` and the compiled metrics, under their own names, are what ``evaluate`` gives. A run
    keeps its weights, its optimizer's variables, the states of its seed generators (which a saved model does not have)
    and its random numbers of Python, NumPy and PyTorch; what draws from Keras's global seed generator, or from
    TensorFlow's, is not kept. Arrays and a ``PyDataset`` are shuffled by lrtune from seed and epoch, the latter by
    batches and without its ``on_epoch_end``; other data keeps its own order. Callbacks of ``fit`` have no part in it.
    """

    saves = True

    def __init__(
        self,
        make_model: Any,
        train_data: Any,
        valid_data: Any = None,
        *,
        batch_size: int = 32,
        eval_batch_size: int = 512,
        steps_per_epoch: int | None = None,
        valid_steps: int | None = None,
    ) -> None:
        keras = _keras()
        if isinstance(make_model, keras.Model) or not callable(make_model):
            msg = (
                "make_model must be a function that makes a fresh compiled model each time "
                f"(got {type(make_model).__name__}); write a function that builds, compiles and returns it"
            )
            raise InputError(msg)
        sizes: dict[str, Any] = {"batch_size": batch_size, "eval_batch_size": eval_batch_size}
        steps: dict[str, Any] = {"steps_per_epoch": steps_per_epoch, "valid_steps": valid_steps}
        for name, value in (*sizes.items(), *steps.items()):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                msg = f"{name} must be a whole number of at least 1 (got {value!r})"
                raise InputError(msg)
        self._make = make_model
        self._notices: dict[str, None] = {}
        self._task = KerasTask(
            compiled=self._compiled,
            train=source_of(train_data, "train_data", steps_per_epoch),
            valid=None if valid_data is None else source_of(valid_data, "valid_data", valid_steps),
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            on_device=_on_device(keras),
            setup=self._setup,
        )
        self._task.train.steps(NOMINAL, batch_size)
        if self._task.valid is not None:
            self._task.valid.steps(NOMINAL, eval_batch_size)
        self._tell_of_data(keras)
        self._fingerprint = self._described()

    @property
    def notices(self) -> Sequence[str]:
        """Notices for the user, one sentence each."""
        return tuple(self._notices)

    @property
    def optimizer(self) -> str:
        """The name of the optimizer that the model is compiled with."""
        return self._optimizer

    def start(self, recipes: Sequence[Recipe], /) -> MemberRun[KerasMember]:
        """Start a run: one model for each recipe, made when it is first trained.

        Raises
        ------
        RecipeError
            If a recipe asks for something that the compiled model cannot do.
        """
        for recipe in recipes:
            self._check(recipe)
        return MemberRun(
            [KerasMember(number, recipe, self._task) for number, recipe in enumerate(recipes)], {"kind": KIND}
        )

    def _check(self, recipe: Recipe) -> None:
        self.steps_per_epoch(recipe)
        if self._takes_recipe:
            return
        for name in ("optimizer", "layer_decay"):
            if getattr(recipe, name) is not None:
                msg = (
                    f"recipe: make_model() cannot take {name} {getattr(recipe, name)!r}: it is compiled with its own; "
                    "give make_model(recipe), which sees it"
                )
                raise RecipeError(msg)
        for name in ("momentum", "weight_decay"):
            if getattr(recipe, name) is not None and name not in self._config:
                msg = (
                    f"recipe: {self._optimizer} cannot take {name} {getattr(recipe, name)!r}: it has none; leave it out"
                )
                raise RecipeError(msg)

    @property
    def _takes_recipe(self) -> bool:
        required, named = wanted(self._make)
        return bool(required) or "recipe" in named

    def _compiled(self, recipe: Recipe) -> Any:
        """A compiled model whose optimizer has a learning rate that can be set."""
        keras = _keras()
        model = call_with(self._make, recipe=recipe)
        if not isinstance(model, keras.Model):
            msg = f"make_model must return a keras.Model (got {type(model).__name__})"
            raise InputError(msg)
        if not getattr(model, "compiled", False) or model.optimizer is None:
            msg = "make_model must return a compiled model; call model.compile(optimizer, loss) in it"
            raise InputError(msg)
        if model.steps_per_execution != 1:
            model.steps_per_execution = 1
            self._notices[
                "steps_per_execution of the model has been set to 1: lrtune looks at the loss of every step"
            ] = None
        self._renew_optimizer(model, recipe)
        return model

    def _renew_optimizer(self, model: Any, recipe: Recipe) -> None:
        """The same optimizer without a schedule of its own, and with what the recipe says."""
        keras = _keras()
        outer = model.optimizer
        inner = getattr(outer, "inner_optimizer", outer)
        config = inner.get_config()
        changed: dict[str, Any] = {}
        if isinstance(config.get("learning_rate"), dict):  # a schedule
            name = type(inner.learning_rate_schedule).__name__ if hasattr(inner, "learning_rate_schedule") else ""
            name = name or str(config["learning_rate"].get("class_name", "its schedule"))
            self._notices[f"the schedule of the model's optimizer ({name}) has been replaced by lrtune's"] = None
            changed["learning_rate"] = recipe.lr
        for option in ("momentum", "weight_decay"):
            value = getattr(recipe, option)
            if value is not None and option in config and not self._takes_recipe:
                changed[option] = value
        if not changed:
            return
        made = type(inner).from_config({**config, **changed})
        model.optimizer = made if outer is inner else keras.optimizers.LossScaleOptimizer(made)

    def _tell_of_data(self, keras: Any) -> None:
        """Notices of data whose order lrtune changes, or cannot repeat."""
        train = self._task.train
        if not isinstance(train, BatchSource):
            return
        kind = type(train.made)
        if (
            isinstance(train.made, keras.utils.PyDataset)
            and kind.on_epoch_end is not keras.utils.PyDataset.on_epoch_end
        ):
            self._notices[
                f"on_epoch_end of {kind.__name__} is not called: lrtune orders the batches from seed and epoch"
            ] = None
        if not train.repeats(NOMINAL, self._task.batch_size):
            self._notices[
                "train_data gives other batches each time, so two runs of a recipe differ, and a resumed one goes on "
                "with others; give a function of seed, such as lambda seed: data.shuffle(1000, seed=seed).batch(32)"
            ] = None

    def _setup(self, model: Any, recipe: Recipe) -> Setup:
        """How a run of a recipe is set up beyond it, as plain JSON."""
        found: Setup = {
            "library": "keras",
            "backend": _keras().backend.backend(),
            "model": reference(self._make),
            "steps": recipe.epochs * self.steps_per_epoch(recipe),
            "batch_size": self._task.train.batch_size(recipe, self._task.batch_size),
            "arrays": not isinstance(self._task.train, BatchSource),
            "optimizer": reference(self._kind),
            "options": _options(self._config if model is None else _inner(model).get_config()),
        }
        return found

    def steps_per_epoch(self, recipe: Recipe, /) -> int:
        """Steps of one epoch under that recipe."""
        return self._task.steps(recipe)

    def baseline(self, recipe: Recipe, metric: str, /) -> Baseline:
        """The untrained model's; that of a constant prediction is not known."""
        if self._task.valid is None:
            return Baseline()
        member = KerasMember(0, recipe, self._task)
        try:
            with member.active():
                value = member.evaluate().get(metric)
        finally:
            member.end()
        undefined = value is not None and not math.isfinite(value)
        return Baseline(untrained=None if undefined else value, undefined=undefined)

    def fingerprint(self) -> Mapping[str, str]:
        """Data (hashed where it is arrays), model (class and shapes), optimizer and loss."""
        return dict(self._fingerprint)

    def _described(self) -> dict[str, str]:
        """Make a model once, so that what is wrong with it is said before any search."""
        member = KerasMember(0, NOMINAL, self._task)
        with member.active() as live:
            model = live.model
        inner = _inner(model)
        self._kind, self._config, self._optimizer = type(inner), inner.get_config(), type(inner).__name__.lower()
        shapes = [f"{tuple(variable.shape)} {variable.dtype}" for variable in model.weights]
        digest = hashlib.sha256("\n".join(shapes).encode()).hexdigest()[:16]
        loss = model.loss if isinstance(model.loss, str) else getattr(model.loss, "name", type(model.loss).__name__)
        found = {
            "data": self._task.train.describe(),
            "model": f"{type(model).__name__}, {model.count_params()} parameters, sha256 of shapes {digest}",
            "loss": str(loss),
            "optimizer": type(inner).__name__,
        }
        if self._task.valid is not None:
            found["held-out"] = self._task.valid.describe()
        member.end()
        return found


def _keras() -> Any:
    """Keras 3; InputError if it is not installed."""
    try:
        keras = importlib.import_module("keras")
    except ImportError as error:
        msg = f"KerasTrainer needs Keras and one of its backends ({error}); pip install 'lrtune[keras]'"
        raise InputError(msg) from error
    if int(keras.__version__.split(".")[0]) < 3:  # noqa: PLR2004 -- Keras 3
        msg = f"KerasTrainer needs Keras 3 (got {keras.__version__}); pip install 'lrtune[keras]'"
        raise InputError(msg)
    return keras


def _on_device(keras: Any) -> bool:
    """Whether models are trained on something else than the host."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.is_available()
    return any(not str(device).lower().startswith("cpu") for device in keras.distribution.list_devices())


def _inner(model: Any) -> Any:
    """The optimizer, within the one that scales the loss."""
    return getattr(model.optimizer, "inner_optimizer", model.optimizer)


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of an optimizer that are plain values."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if name in {"name", "learning_rate"}:
            continue
        try:
            found[name] = plain(value)
        except TypeError:
            continue
    return found
