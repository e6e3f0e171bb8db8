"""A ``transformers.Trainer`` driven step by step: its own parts, in the order in which ``Trainer.train`` calls them.

``train()`` is one long call that cannot be paused for as long as one likes, nor saved within an epoch without its
checkpoint folder. Here its parts are called instead: ``get_train_dataloader``, ``create_optimizer``,
``get_batch_samples``, ``training_step``, the accelerator's clipping and every event of the callbacks, so that what a
subclass overrides, a collator draws or a callback does is part of the run. On the CPU a run of the Trainer's own
settings has the weights of ``train()`` bit for bit, as long as its collator draws no random numbers.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from lrtune.errors import DataError, InputError, RecipeError
from lrtune.integrations.hugging_face_trainer.arguments import check_arguments, own_arguments, remove_callbacks
from lrtune.training.callables import call_with
from lrtune.training.networks.data_loaders import LoaderFeed
from lrtune.training.networks.nested import length
from lrtune.training.networks.optimizers import RATIO, apply_lr
from lrtune.training.networks.rng import RngStream, derived_seed

if TYPE_CHECKING:
    from collections.abc import Callable
    from weakref import WeakSet

    from lrtune.core.recipe import Recipe

__all__ = ["HuggingFaceSettings", "LiveTrainer", "build_live"]

EVALUATION = 0xE7A1  # separates the random stream of evaluations from the others of a seed
TIMES = ("_runtime", "_samples_per_second", "_steps_per_second", "_model_preparation_time", "_compilation_time")
MEMORY = "_mem_"  # what TrainerMemoryTracker measures


@dataclass(frozen=True, slots=True, kw_only=True)
class HuggingFaceSettings:
    """What the trainer was given, the same for all its runs.

    Attributes
    ----------
    make
        Makes a fresh Trainer: ``make()`` or ``make(recipe)``.
    device
        Whose random numbers are kept apart.
    made
        Every Trainer and model that was made, each of which must be a new one.
    steps
        Steps of an epoch by the recipe's batch size, as far as a Trainer was made for it.
    notices
        Notices for the user, in order.
    """

    make: Callable[..., Any]
    device: torch.device
    made: WeakSet[Any]
    steps: dict[int | None, int] = field(default_factory=dict)
    notices: dict[str, None] = field(default_factory=dict)

    def notify(self, notice: str) -> None:
        """Tell the user something, once."""
        self.notices[notice] = None


class RecipeRates:
    """What stands for the Trainer's scheduler: the rates are set before each step, by the recipe's schedule."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    def get_last_lr(self) -> list[float]:
        """The learning rate of each group, as callbacks ask for it."""
        return [float(group["lr"]) for group in self._optimizer.param_groups]


@dataclass(slots=True)
class LiveTrainer:
    """A Trainer in memory and what drives it.

    Attributes
    ----------
    trainer, model
        The Trainer, and its model as the accelerator prepared it.
    optimizer
        The optimizer itself, without the accelerator's wrapper.
    feed, batches
        Micro-batches by their place, and how many an epoch has.
    own_optimizer
        Whether the Trainer was given its optimizer.
    stream, eval_stream
        The random numbers of the training, and those of an evaluation, each of which begins from the same ones.
    """

    trainer: Any
    model: Any
    optimizer: torch.optim.Optimizer
    feed: LoaderFeed
    batches: int
    own_optimizer: bool
    stream: RngStream
    eval_stream: RngStream

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch; the last one may have fewer micro-batches."""
        micro_batches: int = self.trainer.args.gradient_accumulation_steps
        return -(-self.batches // micro_batches)

    def event(self, name: str) -> None:
        """Call the callbacks."""
        trainer = self.trainer
        trainer.control = getattr(trainer.callback_handler, name)(trainer.args, trainer.state, trainer.control)

    def step(self, epoch: int, position: int, lr: float) -> tuple[float, float, int]:
        """One optimizer step; the loss before it, the norm of the gradient (NaN: not known) and the samples."""
        trainer, accelerator = self.trainer, self.trainer.accelerator
        every = trainer.args.gradient_accumulation_steps
        places = range(position * every, min((position + 1) * every, self.batches))
        apply_lr(self.optimizer, lr)
        fetched = iter([self.feed.batch(epoch, place) for place in places])
        batches, items = trainer.get_batch_samples(fetched, len(places), trainer.args.device)
        trainer.current_gradient_accumulation_steps = len(batches)
        losses, samples = [], 0
        for number, inputs in enumerate(batches):
            last = number == len(batches) - 1
            accelerator.sync_gradients = last
            if number == 0:
                self.event("on_step_begin")
            samples += length(inputs)
            with contextlib.nullcontext() if last else accelerator.no_sync(model=self.model):
                losses.append(trainer.training_step(self.model, inputs, items))
            if not last:
                self.event("on_substep_end")
        norm = None
        if trainer.args.max_grad_norm:
            norm = accelerator.clip_grad_norm_(self.model.parameters(), trainer.args.max_grad_norm)
        self.event("on_pre_optimizer_step")
        trainer.optimizer.step()
        self.event("on_optimizer_step")
        self.model.zero_grad()
        read = [torch.stack([loss.float() for loss in losses]).sum()]
        if norm is not None and accelerator.scaler is None:  # a scaled gradient may overflow: then its scale decides
            read.append(torch.as_tensor(norm, device=read[0].device).float())
        loss, *rest = torch.stack(read).tolist()
        return loss, rest[0] if rest else 0.0, samples

    def stepped(self, step: int, epoch: float) -> bool:
        """Tell the callbacks that a step is done; whether one of them asks to stop."""
        self.trainer.state.global_step, self.trainer.state.epoch = step, epoch
        self.event("on_step_end")
        return bool(self.trainer.control.should_training_stop)

    def evaluate(self) -> tuple[dict[str, float], bool]:
        """The numbers of ``Trainer.evaluate()``, and whether a callback asked to stop, which is not done."""
        control = self.trainer.control
        before = control.should_training_stop
        with self.eval_stream.active(keep=False):
            found = self.trainer.evaluate()
        asked = bool(self.trainer.control.should_training_stop and not before)
        self.trainer.control.should_training_stop = before
        values = {name: float(value) for name, value in found.items() if _is_result(name, value)}
        return ({"valid_loss": values["eval_loss"]} if "eval_loss" in values else {}) | values, asked

    def callback_states(self) -> list[dict[str, Any]]:
        """What the callbacks that can be saved with a checkpoint of transformers have to keep, in their order."""
        return [dict(callback.state().get("attributes", {})) for callback in self._saving()]

    def set_callback_states(self, states: list[dict[str, Any]]) -> None:
        """Give the callbacks what they kept."""
        for callback, attributes in zip(self._saving(), states, strict=True):
            for name, value in attributes.items():
                setattr(callback, name, value)

    def _saving(self) -> list[Any]:
        from transformers.trainer_callback import ExportableState

        return [one for one in self.trainer.callback_handler.callbacks if isinstance(one, ExportableState)]

    def end(self) -> None:
        """Let go of everything, the circles of references included that only a garbage collection would find."""
        trainer = self.trainer
        self.feed.release()
        accelerator = trainer.accelerator
        for held in (accelerator._models, accelerator._optimizers, accelerator._dataloaders):  # noqa: SLF001 -- free_memory() collects garbage, too, which takes as long as many steps
            held.clear()
        for name in ("forward", "_original_forward"):  # mixed precision: the model holds a function that holds it
            vars(trainer.model).pop(name, None)
        handler = trainer.callback_handler
        for name in ("model", "optimizer", "lr_scheduler", "train_dataloader", "eval_dataloader"):
            setattr(handler, name, None)
        vars(trainer).pop("gather_function", None)


def _is_result(name: str, value: object) -> bool:
    """Whether it is a number that says how good the model is, and not how long that took."""
    number = isinstance(value, int | float) or hasattr(value, "__float__")
    return number and name != "epoch" and not name.endswith(TIMES) and MEMORY not in name


def build_live(settings: HuggingFaceSettings, recipe: Recipe) -> LiveTrainer:
    """A fresh Trainer, ready for its first step.

    InputError if `make` does not make one, or it asks for what lrtune cannot do; RecipeError if the recipe does.
    """
    stream = RngStream(recipe.seed, settings.device)
    with stream.active():
        trainer = _made(settings, recipe)
        check_arguments(trainer)
        given = trainer.args.learning_rate
        trainer.args = args = own_arguments(trainer, recipe, settings.notify)
    stream.seed(recipe.seed)  # as train() does it
    with stream.active():
        if trainer.model_init is not None:
            trainer.model = trainer.call_model_init()
        trainer.model.to(args.device)
        trainer.model_wrapped = trainer.model
        live = _prepared(trainer, recipe, stream, settings)
        _ratios(live.optimizer, recipe, given)
        settings.steps[recipe.batch_size] = live.steps_per_epoch
        trainer.state.max_steps = recipe.epochs * live.steps_per_epoch
        trainer.state.num_train_epochs = recipe.epochs
        live.event("on_train_begin")
    return live


def _made(settings: HuggingFaceSettings, recipe: Recipe) -> Any:
    from transformers import Trainer

    trainer = call_with(settings.make, recipe=recipe)
    if not isinstance(trainer, Trainer):
        msg = f"make must return a transformers.Trainer (got {type(trainer).__name__})"
        raise InputError(msg)
    for what, thing in (("Trainer", trainer), ("model", trainer.model)):
        if thing in settings.made:
            msg = f"make must return a Trainer with a fresh model each time it is called (it had the same {what} again)"
            raise InputError(msg)
        settings.made.add(thing)
    return trainer


def _prepared(trainer: Any, recipe: Recipe, stream: RngStream, settings: HuggingFaceSettings) -> LiveTrainer:
    """Data, optimizer and model as ``Trainer.train`` prepares them."""
    args = trainer.args
    remove_callbacks(trainer, settings.notify)
    _activate(trainer)
    trainer._train_batch_size = args.train_batch_size  # noqa: SLF001 -- what get_train_dataloader() reads
    trainer.accelerator.dataloader_config.data_seed = args.data_seed
    loader = trainer.get_train_dataloader()
    batches = len(loader)
    if batches == 0:
        msg = (
            "train_dataset: the Trainer's loader has no batches; lower its batch size or leave dataloader_drop_last out"
        )
        raise DataError(msg)
    asked = args.per_device_train_batch_size * args.gradient_accumulation_steps
    if asked > len(trainer.train_dataset):
        settings.notify(f"a batch size of {asked} is more than the data has: {len(trainer.train_dataset)} is used")
    ready = trainer.optimizer is not None
    trainer.create_optimizer()
    optimizer = trainer.optimizer
    model, trainer.optimizer = trainer.accelerator.prepare(trainer.model, optimizer)
    trainer.model_wrapped, trainer.lr_scheduler, trainer.is_in_train = model, RecipeRates(optimizer), True
    handler = trainer.callback_handler
    for name in ("model", "optimizer", "lr_scheduler"):
        setattr(handler, name, getattr(trainer, name))
    handler.train_dataloader = loader
    return LiveTrainer(
        trainer=trainer,
        model=model,
        optimizer=optimizer,
        feed=LoaderFeed(loader, batches, recipe.seed, args.device, "train_dataset"),
        batches=batches,
        own_optimizer=ready,
        stream=stream,
        eval_stream=RngStream(derived_seed(recipe.seed, EVALUATION), settings.device),
    )


def _activate(trainer: Any) -> None:
    """What ``Trainer.train`` switches on in the model: activation checkpointing and NEFTune's noise."""
    args = trainer.args
    if getattr(args, "activation_checkpointing", False):
        options = dict(args.activation_checkpointing_kwargs or {})
        more = {name: options.pop(name) for name in ("every_n_layers", "offload") if name in options}
        trainer.model.activation_checkpointing_enable(activation_checkpointing_kwargs=options or None, **more)
    if trainer.neftune_noise_alpha is not None:
        from transformers.integrations.neftune import activate_neftune

        trainer.neftune_hook_handle = activate_neftune(trainer.model, trainer.neftune_noise_alpha, trainer.accelerator)


def _ratios(optimizer: torch.optim.Optimizer, recipe: Recipe, given: float) -> None:
    """Note how each group's learning rate relates to the recipe's.

    An optimizer that the Trainer makes is made at the recipe's rate. One that the user hands in is at the recipe's, at
    ``TrainingArguments(learning_rate=...)`` or at its own ``lr``, whichever one of its groups is at.
    """
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    candidates = (recipe.lr, given, optimizer.defaults.get("lr"))
    peak = next((rate for rate in candidates if rate is not None and float(rate) in rates), max(rates))
    if not peak:
        msg = "the optimizer has a learning rate of zero, which no recipe can scale; give it the recipe's"
        raise RecipeError(msg)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group[RATIO] = rate / float(peak)
