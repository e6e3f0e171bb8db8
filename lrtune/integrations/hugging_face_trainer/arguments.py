"""What lrtune sets, replaces and refuses in the ``TrainingArguments`` of a Trainer, and in its callbacks.

The recipe's own settings (learning rate, epochs, seed) are set without a word; for whatever else was asked for and is
not done there is a notice. What would need a training loop other than :class:`.live.LiveTrainer`'s is refused.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from lrtune.errors import InputError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrtune.core.recipe import Recipe

__all__ = ["REFUSED", "REPLACED", "check_arguments", "own_arguments", "remove_callbacks"]

SEEDS = 2**32  # NumPy takes 32 bits
FIRST_BETA = "adam"  # optimizers whose `momentum` is TrainingArguments' adam_beta1

REPLACED: dict[str, tuple[Any, str]] = {
    "max_steps": (-1, "a run has the recipe's epochs"),
    "data_seed": (None, "the data order is the recipe's seed's"),
    "eval_strategy": ("no", "lrtune evaluates when it looks at a run"),
    "eval_on_start": (False, "lrtune evaluates when it looks at a run"),
    "save_strategy": ("no", "lrtune keeps the state of a paused run itself, and writes nothing into output_dir"),
    "load_best_model_at_end": (False, "a run is judged where it ends"),
    "logging_strategy": ("no", "lrtune keeps the curve of a run"),
    "auto_find_batch_size": (False, "the batch size is the recipe's"),
    "dataloader_persistent_workers": (False, "worker processes end when a run is paused"),
}
"""Arguments with the value that lrtune puts in their place, and why."""

USUAL = {"save_strategy": "steps", "logging_strategy": "steps"}  # defaults of transformers, which nobody has asked for

REFUSED: dict[str, str] = {
    "deepspeed": "DeepSpeed has a training loop of its own",
    "fsdp": "a model in pieces cannot be paused in one process",
    "parallelism_config": "a model in pieces cannot be paused in one process",
    "push_to_hub": "a search must not upload its trials",
    "use_liger_kernel": "its kernels are patched into the model by Trainer.train, which lrtune does not call",
    "enable_jit_checkpoint": "it takes the process's signals, by which a search is stopped",
}
"""Arguments that must be off, and why."""

NO_OPTIMIZERS = (
    "lomo",
    "layerwise",
)  # they step within the backward pass, before the learning rate is known to be good

OWN_LOOKS = ("EarlyStoppingCallback",)
DISPLAYS = ("ProgressCallback", "PrinterCallback", "NotebookProgressCallback")


def check_arguments(trainer: Any) -> None:
    """InputError where the Trainer asks for what lrtune cannot do."""
    args = trainer.args
    for name, why in REFUSED.items():
        if getattr(args, name, None):
            msg = f"HuggingFaceTrainer: TrainingArguments({name}=...) cannot be searched with: {why}; leave it out"
            raise InputError(msg)
    if args.world_size > 1:
        msg = (
            f"HuggingFaceTrainer trains in one process (this one is of {args.world_size}); start it without a launcher"
        )
        raise InputError(msg)
    optim = str(getattr(args.optim, "value", args.optim))
    if any(word in optim for word in NO_OPTIMIZERS):
        msg = f"HuggingFaceTrainer: optim={optim!r} updates the weights within the backward pass; choose another optim"
        raise InputError(msg)
    if trainer.train_dataset is None or not hasattr(trainer.train_dataset, "__len__"):
        msg = (
            "HuggingFaceTrainer: train_dataset must have a length, so that an epoch has an end "
            f"(got {type(trainer.train_dataset).__name__}); give a map-style dataset"
        )
        raise InputError(msg)


def own_arguments(trainer: Any, recipe: Recipe, notify: Callable[[str], object]) -> Any:
    """A copy of the Trainer's arguments for one run; RecipeError if the recipe asks for what it cannot do."""
    given = trainer.args
    args = copy.copy(given)
    for name, (value, why) in REPLACED.items():
        was = getattr(given, name, value)
        was = getattr(was, "value", was)
        if was != value and was != USUAL.get(name, value) and not (name == "max_steps" and was < 0):
            notify(f"TrainingArguments({name}={was!r}) has no effect in a search: {why}")
        setattr(args, name, value)
    kind = getattr(given.lr_scheduler_type, "value", given.lr_scheduler_type)
    notify(
        f"the Trainer's schedule ({kind}, warmup_steps={given.warmup_steps:g}) is not used: learning rates are the "
        "recipe's schedule's and warmup's, see the space"
    )
    if given.n_gpu > 1:
        notify(f"one GPU of {given.n_gpu} is used: a run is trained on one device")
        args._n_gpu = 1  # noqa: SLF001 -- as the Trainer itself does it
    args.learning_rate = recipe.lr
    args.num_train_epochs = recipe.epochs
    args.seed = recipe.seed % SEEDS
    args.logging_nan_inf_filter = False  # it would leave the worst batches out of the held-out loss
    if args.device.type == "cpu":
        args.dataloader_pin_memory = False  # without effect but for a warning
    _batch_size(args, recipe)
    _optimizer(trainer, args, recipe)
    return args


def _batch_size(args: Any, recipe: Recipe) -> None:
    """The recipe's batch size as the fewest micro-batches of equal size that the Trainer's own batch size allows."""
    if recipe.batch_size is None:
        return
    most = args.per_device_train_batch_size
    count = next(
        n for n in range(1, recipe.batch_size + 1) if recipe.batch_size % n == 0 and recipe.batch_size // n <= most
    )
    args.per_device_train_batch_size = recipe.batch_size // count
    args.gradient_accumulation_steps = count


def _optimizer(trainer: Any, args: Any, recipe: Recipe) -> None:
    """The recipe's momentum and weight decay as arguments."""
    optim = str(getattr(args.optim, "value", args.optim))
    for name in ("optimizer", "layer_decay"):
        if getattr(recipe, name) is not None:
            msg = (
                f"recipe: {name} cannot be set on a transformers.Trainer, which makes its own optimizer; leave it out "
                "of the recipe and of the space, and give optim or create_optimizer"
            )
            raise RecipeError(msg)
    for name in ("weight_decay", "momentum"):
        value = getattr(recipe, name)
        if value is None:
            continue
        ready = trainer.optimizer is not None or trainer.optimizer_cls_and_kwargs is not None
        if ready or (name == "momentum" and not optim.startswith(FIRST_BETA)):
            what = "the optimizer that the Trainer was given" if ready else f"optim={optim!r}"
            msg = f"recipe: {name} cannot be set on {what}; leave it out of the recipe and of the space"
            raise RecipeError(msg)
        setattr(args, "weight_decay" if name == "weight_decay" else "adam_beta1", value)


def remove_callbacks(trainer: Any, notify: Callable[[str], object]) -> None:
    """Take away displays, trackers and early stopping, which would meet every trial; the user's own stay."""
    for callback in list(trainer.callback_handler.callbacks):
        kind = type(callback)
        tracks = kind.__module__.startswith("transformers.integrations")
        if tracks or kind.__name__ in OWN_LOOKS:
            why = "a search has its own observers" if tracks else "lrtune decides which run goes on"
            notify(f"the Trainer's callback {kind.__name__} is left out of a search: {why}")
        if tracks or kind.__name__ in (*OWN_LOOKS, *DISPLAYS):
            trainer.remove_callback(callback)
