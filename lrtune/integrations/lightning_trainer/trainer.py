"""The trainer of Lightning modules: checks what the user gives, starts runs, measures baselines and fingerprints."""

from __future__ import annotations

import contextlib
import importlib
import math
from typing import TYPE_CHECKING, Any

import torch

from lrtune.core.recipe import Recipe
from lrtune.errors import InputError, RecipeError
from lrtune.integrations.lightning_trainer.live import quiet
from lrtune.integrations.lightning_trainer.member import LightningMember, LightningTask, RunData
from lrtune.training.base import Baseline
from lrtune.training.callables import call_with, wanted
from lrtune.training.member_run import MemberRun
from lrtune.training.networks.build import described
from lrtune.training.networks.rng import RngStream
from lrtune.training.networks.trainer import source_of
from lrtune.training.setups import plain, reference

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lrtune.integrations.lightning_trainer.live import LiveFit
    from lrtune.training.base import Setup

__all__ = ["LightningTrainer"]

KIND = "lightning-1"
NOMINAL = Recipe(lr=1e-3)
HOST = torch.device("cpu")
OURS = {
    "max_epochs": "epochs is the recipe's",
    "min_epochs": "epochs is the recipe's",
    "max_steps": "epochs is the recipe's",
    "min_steps": "epochs is the recipe's",
    "max_time": "lrtune decides how long a run trains",
    "fast_dev_run": "lrtune decides how long a run trains",
    "limit_train_batches": "give make_data less data",
    "overfit_batches": "give make_data less data",
    "num_sanity_val_steps": "lrtune evaluates where it looks",
    "check_val_every_n_epoch": "lrtune evaluates where it looks",
    "val_check_interval": "lrtune evaluates where it looks",
    "reload_dataloaders_every_n_epochs": "lrtune drives the batches",
}
"""Options of Lightning's Trainer that lrtune decides, and why."""


class LightningTrainer:
    """Trains Lightning modules with Lightning's own ``Trainer``, one device each.

    Parameters
    ----------
    make_module
        Makes a fresh module each time: ``make_module()`` or ``make_module(recipe)``. Its optimization is automatic,
        with one optimizer, whose learning rate lrtune sets at each step; a scheduler of its own is replaced. Its
        ``validation_step`` logs what is measured, e.g. ``self.log("val_loss", loss)``.
    make_data
        Makes the data, and takes any of ``recipe`` and ``batch_size`` by name: a pair of a train part and a held-out
        part, or a LightningDataModule. A part is a DataLoader, a Dataset or tensors ``(inputs..., target)``.
    loss
        The name under which ``validation_step`` logs the held-out loss: it becomes ``valid_loss``. Other logged values
        keep their names.
    batch_size
        Samples of a batch where neither the recipe nor a DataLoader says.
    trainer_options
        Options of ``lightning.pytorch.Trainer``: ``precision``, ``gradient_clip_val``, ``accumulate_grad_batches``,
        ``callbacks`` (each run has copies), ``accelerator``. Loggers, checkpoints and the progress bar are off unless
        they are given.

    Raises
    ------
    InputError
        If something cannot be used: Lightning is not installed, the module is optimized manually or by several
        optimizers, an option is lrtune's to decide.

    Notes
    -----
    A step is one of the optimizer, of ``accumulate_grad_batches`` batches. lrtune orders the batches from seed and
    epoch, so that a run resumed in the middle of an epoch goes on with the batches that are due. A run keeps weights
    and buffers, the optimizer, the state dicts of callbacks and what ``on_save_checkpoint`` adds; metrics that add up
    over an epoch of training begin anew.
    """

    saves = True

    def __init__(
        self,
        make_module: Callable[..., Any],
        make_data: Callable[..., Any],
        *,
        loss: str = "val_loss",
        batch_size: int = 32,
        **trainer_options: Any,
    ) -> None:
        self._lightning = _lightning()
        for name, value in (("make_module", make_module), ("make_data", make_data)):
            if isinstance(value, torch.nn.Module) or not callable(value):
                msg = f"{name} must be a function that makes it anew each time (got {type(value).__name__})"
                raise InputError(msg)
        for name in trainer_options:
            if name in OURS:
                msg = f"LightningTrainer takes no {name}: {OURS[name]}; leave it out"
                raise InputError(msg)
        self._make_module, self._make_data, self._batch_size = make_module, make_data, batch_size
        self._cached: tuple[Any, Any, int] | None = None
        self._notices: dict[str, None] = {}
        self._task = LightningTask(
            module=self._module,
            data=self._data,
            options=trainer_options,
            loss=loss,
            setup=self._setup,
            notices=self._notices,
        )
        self._fingerprint = self._described()

    @property
    def notices(self) -> Sequence[str]:
        """Notices for the user, one sentence each."""
        return tuple(self._notices)

    @property
    def optimizer(self) -> str:
        """The name of the module's optimizer."""
        return self._optimizer

    def start(self, recipes: Sequence[Recipe], /) -> MemberRun[LightningMember]:
        """Start a run: one module for each recipe, made when it is first trained.

        Raises
        ------
        RecipeError
            If a recipe asks for something that the module does not see.
        """
        for recipe in recipes:
            for name in ("optimizer", "momentum", "weight_decay", "layer_decay"):
                if getattr(recipe, name) is not None and not self._takes_recipe:
                    msg = (
                        f"recipe: make_module() cannot take {name} {getattr(recipe, name)!r}: the module makes its "
                        "optimizer; give make_module(recipe), which sees it"
                    )
                    raise RecipeError(msg)
        members = [LightningMember(number, recipe, self._task) for number, recipe in enumerate(recipes)]
        return MemberRun(members, {"kind": KIND})

    @property
    def _takes_recipe(self) -> bool:
        required, named = wanted(self._make_module)
        return bool(required) or "recipe" in named

    def _module(self, recipe: Recipe) -> Any:
        module = call_with(self._make_module, recipe=recipe)
        if not isinstance(module, self._lightning.LightningModule):
            msg = f"make_module must return a LightningModule (got {type(module).__name__})"
            raise InputError(msg)
        if not module.automatic_optimization:
            msg = (
                f"{type(module).__name__} optimizes manually (automatic_optimization is False), so lrtune cannot set "
                "its learning rate at each step; train it in a generator function of your own"
            )
            raise InputError(msg)
        return module

    def _data(self, recipe: Recipe) -> RunData:
        """The data of a recipe; made once where the function does not ask for a recipe or a batch size."""
        train, valid, default = self._parts(recipe)
        return RunData(feed=train.feed(recipe, default, HOST), per_epoch=train.steps(recipe, default), valid=valid)

    def _parts(self, recipe: Recipe) -> tuple[Any, Any, int]:
        """The source of batches, the held-out part as Lightning takes it, and the batch size by default."""
        required, named = wanted(self._make_data)
        fixed = not required and not {"recipe", "batch_size"} & named
        if fixed and self._cached is not None:
            return self._cached
        with RngStream(recipe.seed).active():
            size = recipe.batch_size or self._batch_size
            made = call_with(self._make_data, recipe=recipe, batch_size=size)
            if isinstance(made, self._lightning.LightningDataModule):
                made.prepare_data()
                made.setup("fit")
                made = (made.train_dataloader(), made.val_dataloader())
        if not isinstance(made, tuple | list) or len(made) != 2:  # noqa: PLR2004 -- train and held-out part
            msg = (
                "make_data must return a pair of a train part and a held-out part, or a LightningDataModule "
                f"(got {type(made).__name__})"
            )
            raise InputError(msg)
        train, default = _train_part(made[0], self._batch_size)
        parts = train, self._held_out(made[1]), default
        if fixed:
            self._cached = parts
        return parts

    def _held_out(self, given: Any) -> Any:
        """What Lightning evaluates: the user's own loaders, or one that gives the batches of a source."""
        loaders = given if isinstance(given, list) and given else [given]
        if given is None or all(isinstance(loader, torch.utils.data.DataLoader) for loader in loaders):
            return given
        return _Ordered(source_of(given, "the held-out part"), 512)

    def _setup(self, live: LiveFit, recipe: Recipe) -> Setup:
        """How a run of a recipe is set up beyond it, as JSON; ``objects`` are options that are no plain values."""
        given: dict[str, Any] = {}
        for name, value in self._task.options.items():
            with contextlib.suppress(TypeError):
                given[name] = plain(value)
        return {
            "library": "lightning",
            "module": reference(self._make_module),
            "steps": recipe.epochs * self.steps_per_epoch(recipe),
            "batch_size": recipe.batch_size or self._parts(recipe)[2],
            "accumulate": self._task.accumulate,
            "optimizers": live.optimizers,
            "trainer": given,
            "objects": [name for name in self._task.options if name not in given],
        }

    def steps_per_epoch(self, recipe: Recipe, /) -> int:
        """Steps of one epoch under that recipe."""
        return self._task.steps(recipe)

    def baseline(self, recipe: Recipe, metric: str, /) -> Baseline:
        """The untrained module's; that of a constant prediction is not known."""
        member = LightningMember(0, recipe, self._task)
        try:
            with RngStream(recipe.seed).active(), quiet():
                member.running()
                value = member.evaluate().get(metric)
        finally:
            member.end()
        undefined = value is not None and not math.isfinite(value)
        return Baseline(untrained=None if undefined else value, undefined=undefined)

    def fingerprint(self) -> Mapping[str, str]:
        """Data (hashed where it is tensors), module (class and shapes) and optimizer."""
        return dict(self._fingerprint)

    def _described(self) -> dict[str, str]:
        """Begin one fit, so that what is wrong is said before any search."""
        member = LightningMember(0, NOMINAL, self._task)
        try:
            with RngStream(0).active(), quiet():
                live = member.running()
                kind = type(live.trainer.optimizers[0]).__name__
                self._optimizer = kind.lower()
                found = {
                    "data": self._parts(NOMINAL)[0].describe(),
                    "model": described(live.module),
                    "optimizer": kind,
                }
        finally:
            member.end()
        return found


def _train_part(given: Any, default: int) -> tuple[Any, int]:
    """The source of batches, and their size by default.

    The tensors of a shuffling DataLoader over a TensorDataset are taken by index: lrtune orders them anyway, and to
    collate them sample by sample takes as long as the step of a small model.
    """
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset, default_collate

    if (
        type(given) is DataLoader
        and type(given.dataset) is TensorDataset
        and type(given.sampler) is RandomSampler
        and type(given.batch_sampler) is BatchSampler
        and given.collate_fn is default_collate
        and not (given.drop_last or given.sampler.replacement or given.sampler._num_samples)  # noqa: SLF001 -- no other
    ):
        return source_of(given.dataset, "the train part"), given.batch_size or default
    return source_of(given, "the train part"), default


class _Ordered:
    """A held-out part as a loader: all its batches in their own order."""

    def __init__(self, source: Any, size: int) -> None:
        self._source, self._size = source, size

    def __iter__(self) -> Any:
        return self._source.ordered(self._size, HOST)

    def __len__(self) -> int:
        batches: int = math.ceil(self._source.samples / self._size)
        return batches


def _lightning() -> Any:
    """Lightning; InputError if it is not installed."""
    try:
        return importlib.import_module("lightning.pytorch")
    except ImportError as error:
        msg = f"LightningTrainer needs Lightning ({error}); pip install 'lrtune[lightning]'"
        raise InputError(msg) from error
