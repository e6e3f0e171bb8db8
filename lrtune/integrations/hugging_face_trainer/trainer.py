"""The trainer of ``transformers.Trainer``: starts runs, measures baselines and fingerprints."""

from __future__ import annotations

import importlib.util
import math
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from lrtune.core.recipe import Recipe
from lrtune.errors import InputError
from lrtune.integrations.hugging_face_trainer.live import HuggingFaceSettings
from lrtune.integrations.hugging_face_trainer.run import HuggingFaceMember
from lrtune.training.base import Baseline
from lrtune.training.member_run import MemberRun
from lrtune.training.networks.amp import chosen_device
from lrtune.training.networks.build import described

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["HuggingFaceTrainer"]

KIND = "transformers-1"
NOMINAL = Recipe(lr=1e-5)  # where any recipe will do


class HuggingFaceTrainer:
    """Trains with a ``transformers.Trainer``, optimizer step by optimizer step.

    Parameters
    ----------
    make
        Makes a fresh ``Trainer`` with a fresh model each time: ``make()`` or ``make(recipe)``. It may be of a
        subclass; what that overrides (``compute_loss``, ``training_step``, ``create_optimizer``, loaders,
        ``evaluate``), collators, label smoothing, ``compute_metrics`` and callbacks count as in ``train()``.
        lrtune sets learning rate, epochs, seed and batch size in a copy of its ``TrainingArguments``, and replaces
        schedule and warmup by the recipe's; a batch size above ``per_device_train_batch_size`` is
        accumulated from micro-batches. Nothing is written into ``output_dir``. What has no effect in a search is a
        notice, see :mod:`lrtune.integrations.hugging_face_trainer.arguments`.

    Raises
    ------
    InputError
        If transformers or accelerate is not installed, or `make` cannot be called.

    Notes
    -----
    A step is an optimizer step. What is reported is what ``Trainer.evaluate()`` returns, under its names
    (``eval_loss``, ``eval_accuracy``), without its times; ``valid_loss`` is ``eval_loss`` again, and ``train_loss`` the
    mean of the Trainer's own loss over the steps since the last full epoch. Without an ``eval_dataset`` only the latter
    is measured. The same recipe and seed give the same curve on the CPU, bit for bit, also over a pause, for a
    fixed number of threads. A callback that asks to stop ends its run, which counts as trained to its end.
    """

    saves = True

    def __init__(self, make: Any) -> None:
        for package in ("transformers", "accelerate"):
            if importlib.util.find_spec(package) is None:
                msg = f"{package} is not installed; install it with: pip install 'lrtune[transformers]'"
                raise InputError(msg)
        if not callable(make):
            msg = f"make must be a function that returns a fresh transformers.Trainer (got {type(make).__name__})"
            raise InputError(msg)
        self._settings = HuggingFaceSettings(make=make, device=chosen_device("auto"), made=WeakSet())
        self._facts: tuple[dict[str, str], str | None] | None = None

    @property
    def notices(self) -> Sequence[str]:
        """Notices for the user, one sentence each."""
        return tuple(self._settings.notices)

    @property
    def optimizer(self) -> str | None:
        """The optimizer's name where ``TrainingArguments(optim=...)`` says it; None where the Trainer was given one."""
        return self._known()[1]

    def start(self, recipes: Sequence[Recipe], /) -> MemberRun[HuggingFaceMember]:
        """Start a run: one Trainer for each recipe.

        Raises
        ------
        InputError
            If `make` returns no fresh Trainer, or one that asks for what lrtune cannot do.
        RecipeError
            If a recipe asks for something that its Trainer cannot do.
        """
        members = [HuggingFaceMember(number, recipe, self._settings) for number, recipe in enumerate(recipes)]
        return MemberRun(members, {"kind": KIND})

    def steps_per_epoch(self, recipe: Recipe, /) -> int:
        """Optimizer steps of one epoch under that recipe."""
        if recipe.batch_size not in self._settings.steps:
            HuggingFaceMember(0, recipe, self._settings).end()
        return self._settings.steps.get(recipe.batch_size, 1)

    def baseline(self, recipe: Recipe, metric: str, /) -> Baseline:
        """The untrained model's; the best constant prediction of a Trainer's loss is not known."""
        member = HuggingFaceMember(0, recipe, self._settings)
        try:
            untrained = member.evaluate().get(metric) if member.live is not None else None
        finally:
            member.end()
        undefined = untrained is not None and not math.isfinite(untrained)
        return Baseline(untrained=None if undefined else untrained, undefined=undefined)

    def fingerprint(self) -> Mapping[str, str]:
        """Data (class and length; the samples are not hashed), model (class and shapes) and the Trainer's class."""
        return dict(self._known()[0])

    def _known(self) -> tuple[dict[str, str], str | None]:
        """Fingerprint and optimizer, of a Trainer that is made once for it."""
        if self._facts is None:
            member = HuggingFaceMember(0, NOMINAL, self._settings)
            live = member.live
            if live is None:
                return {"model": "too large for the device"}, None
            trainer, optim = live.trainer, live.trainer.args.optim
            facts = {
                "data": _described(trainer.train_dataset),
                "model": described(trainer.model),
                "loss": f"{type(trainer).__name__}, label smoothing {trainer.args.label_smoothing_factor:g}",
            }
            if trainer.eval_dataset is not None:
                facts["held-out"] = _described(trainer.eval_dataset)
            given = trainer.optimizer_cls_and_kwargs is not None or live.own_optimizer
            name = None if given else str(getattr(optim, "value", optim)).partition("_")[0]
            self._facts = facts, name
            member.end()
        return self._facts


def _described(dataset: Any) -> str:
    if isinstance(dataset, dict):
        return "; ".join(f"{name}: {_described(part)}" for name, part in dataset.items())
    count = f"{len(dataset)} samples, " if hasattr(dataset, "__len__") else ""
    return f"{count}{type(dataset).__name__}"
