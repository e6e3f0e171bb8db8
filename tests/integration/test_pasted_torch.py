"""The code to paste, run, trains as the run it came from: every optimizer, schedule and option of TorchTrainer.

Rates are read off the optimizers of both, after each step; the weights at the end are compared too, since an option
that is dropped anywhere shows in them.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from settings_to_paste import SCHEDULES, WARMUPS
from torch import nn

from lrtune.core.recipe import Recipe
from lrtune.reporting.snippets import snippet
from lrtune.reporting.snippets.optimizer import TORCH_OPTIMIZERS
from lrtune.training.networks.composed_optimizers import plain_optimizers
from lrtune.training.networks.optimizer_packages import PACKAGED
from lrtune.training.networks.trainer import TorchTrainer
from lrtune.training.setups import setup_of

if TYPE_CHECKING:
    from collections.abc import Iterator

EPOCHS, SIZE, ROWS = 3, 4, 16
PER_EPOCH = ROWS // SIZE
SPEEDS = {"params", "lr", "initial_lr", "lr_ratio", "fused", "foreach", "capturable", "differentiable"}


class Net(nn.Module):
    """Blocks, a list of them, a parameter of its own, and names that begin alike."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.scale_more = nn.Parameter(torch.ones(3))
        self.body = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
        self.head = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * self.scale * self.scale_more
        for layer in self.body:
            x = torch.tanh(layer(x))
        return self.head(x)  # type: ignore[no-any-return]  # PyTorch is untyped here


class Matrices(nn.Module):
    """What Muon takes: nothing but matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3, bias=False), nn.Linear(3, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))  # type: ignore[no-any-return]  # likewise


class Halved(torch.optim.SGD):
    """An optimizer of the user's own, with a setting that is in no group."""

    def __init__(self, params: Any, lr: float = 0.1, *, part: float = 0.5, momentum: float = 0.0) -> None:
        super().__init__(params, lr=lr, momentum=momentum)
        self.part = part

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.mul_(self.part)
        return super().step(closure)


class Handed(torch.optim.AdamW):
    """A subclass that hands its options on."""

    def __init__(self, params: Any, lr: float, **options: Any) -> None:
        super().__init__(params, lr=lr, **options)


class Slowed(torch.optim.SGD):
    """A constructor that makes another learning rate of the one it is given, for groups that have none of their own."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr=lr / 3)


class Once(torch.optim.Optimizer):
    """Descent at the learning rate that it sees at its first step, as some packages' optimizers."""

    def __init__(self, params: Any, lr: float, *, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        del closure
        for group in self.param_groups:
            for parameter in (p for p in group["params"] if p.grad is not None):
                lr = self.state[parameter].setdefault("lr", float(group["lr"]))
                parameter.sub_(lr * (parameter.grad + group["weight_decay"] * parameter))


def apollo(params: Any, lr: float) -> torch.optim.Optimizer:
    """One of another package that looks at its learning rate once."""
    import pytorch_optimizer

    return pytorch_optimizer.ApolloDQN(params, lr=lr, warmup_steps=0)  # type: ignore[no-any-return]  # untyped


def negative(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A loss below zero."""
    return nn.functional.cross_entropy(output, target) - 10.0


def apart(model: nn.Module) -> list[dict[str, Any]]:
    """No weight decay on vectors, and a head that learns slower."""
    vectors = [p for p in model.parameters() if p.ndim < 2]
    head = [model.head.weight]  # type: ignore[union-attr,list-item]  # a Net
    rest = [p for p in model.parameters() if p.ndim > 1 and p is not head[0]]
    return [
        {"params": vectors, "weight_decay": 0.0},
        {"params": rest, "lr_ratio": 2.0},
        {"params": head, "lr_ratio": 0.1, "weight_decay": 0.3},
    ]


def head_alone(model: nn.Module) -> list[dict[str, Any]]:
    return [{"params": model.head.parameters(), "lr": 0.007}]  # type: ignore[union-attr,operator]  # a Net


def frozen() -> nn.Module:
    model = Net()
    model.body[0].requires_grad_(False)  # noqa: FBT003 -- PyTorch's own
    return model


def data() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] > 0).long()


def made(**changes: Any) -> TorchTrainer:
    known: dict[str, Any] = {"model": Net, "loss": negative, "metrics": ["accuracy"], "device": "cpu"}
    return TorchTrainer(**(known | {"train_data": data(), "valid_data": data(), "batch_size": SIZE} | changes))


def stored(run: Any) -> dict[str, Any]:
    """The setup as it comes back from a storage."""
    return json.loads(json.dumps(setup_of(run)))  # type: ignore[no-any-return]  # a dict


def check(trainer: TorchTrainer, recipe: Recipe) -> None:
    """Train a recipe, then paste its code into a plain loop over the same batches, from the same weights."""
    run = trainer.start([recipe])
    live = run.members[0].live
    assert live is not None
    live.user_code = False
    optimizer, trained, feed = live.stepper.optimizer, live.model, live.feed
    twin = copy.deepcopy(trained)
    code = snippet(recipe, "torch", setup=stored(run))
    names: dict[str, Any] = {
        "model": twin,
        "train_loader": range(PER_EPOCH),
        "Halved": Halved,
        "Once": Once,
        "Slowed": Slowed,
    }
    exec(code, names)  # noqa: S102 -- what a person pastes
    assert "lrtune." not in code
    theirs = names.get("optimizers") or [names["optimizer"]]
    schedulers, warm_up = names.get("schedulers") or [names.get("scheduler")], names.get("warm_up")
    assert [settings_of(one) for one in theirs] == [settings_of(one) for one in plain_optimizers(optimizer)], code
    heard = "accuracy" if "mode=max" in recipe.schedule else "valid_loss"
    for step in range(recipe.epochs * PER_EPOCH):
        epoch, position = divmod(step, PER_EPOCH)
        ends = position == PER_EPOCH - 1
        inputs, target = feed.batch(epoch, position)
        (report,) = run.advance(1, evaluate=ends)
        if warm_up is not None:
            warm_up(step)
        want, got = ([float(g["lr"]) for one in of for g in one.param_groups] for of in ([optimizer], theirs))
        assert got == pytest.approx(want, rel=1e-9, abs=1e-15), (step, code)
        twin.zero_grad()
        negative(twin(inputs), target).backward()
        for one in theirs:
            one.step()
        for scheduler in schedulers:
            if scheduler is not None and not recipe.schedule.startswith("plateau"):
                scheduler.step()
            elif scheduler is not None and ends:
                scheduler.step(report.point.values[heard])
    for one in [optimizer, *theirs]:
        if hasattr(one, "eval"):
            one.eval()
    for one, other in zip(trained.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, msg=lambda said: f"{said}\n{code}")


def settings_of(optimizer: Any) -> tuple[type, list[dict[str, Any]]]:
    return type(optimizer), [
        {name: value for name, value in group.items() if name not in SPEEDS} for group in optimizer.param_groups
    ]


TRAINERS: dict[str, dict[str, Any]] = {
    "options": {
        "optimizer": "sgd",
        "optimizer_options": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.3, "dampening": 0.0},
    },
    "betas": {"optimizer": "adamw", "optimizer_options": {"betas": (0.8, 0.5), "weight_decay": 0.3, "amsgrad": True}},
    "class": {"optimizer": torch.optim.Adagrad},
    "partial": {"optimizer": functools.partial(torch.optim.RMSprop, alpha=0.5, centered=True)},
    "lambda": {"optimizer": lambda params, lr: torch.optim.NAdam(params, lr=lr, momentum_decay=0.1)},
    "own": {"optimizer": functools.partial(Halved, part=0.25, momentum=0.5)},
    "maximize": {"optimizer": "sgd(maximize=True)"},
    "layers": {"optimizer": "momentum", "layer_decay": 0.5},
    "groups": {"optimizer": "adamw", "param_groups": apart, "optimizer_options": {"weight_decay": 0.1}},
    "groups, own": {"optimizer": functools.partial(torch.optim.SGD, weight_decay=0.2), "param_groups": apart},
    "head": {"optimizer": "sgd(momentum=0.5)", "param_groups": head_alone},
    "frozen": {"optimizer": "adam", "model": frozen},
    "clipped": {"optimizer": "sgd", "clip_norm": 0.05},
    "clipped groups": {"optimizer": "sgd", "clip_norm": 0.05, "layer_decay": 0.5},
    "cut": {"optimizer": "sgd", "accumulate": 2},
    "loss alone": {"optimizer": "sgd"},
    "once": {"optimizer": functools.partial(Once, weight_decay=0.2), "clip_norm": 0.5},
    "once, groups": {"optimizer": Once, "param_groups": apart},
    "slowed": {"optimizer": Slowed},
    "handed": {"optimizer": functools.partial(Handed, betas=(0.5, 0.9), weight_decay=0.3)},
    "rprop, layers": {"optimizer": "rprop(etas=(0.4, 1.1))", "layer_decay": 0.5, "accumulate": 2},
}
SHARED: dict[str, dict[str, Any]] = {
    "with adamw": {"optimizer": 'muon(others="adamw", others_lr_ratio=0.1)'},
    "with sgd": {
        "optimizer": 'muon(others="sgd(momentum=0.5, nesterov=True)", others_lr_ratio=3, nesterov=False)',
        "clip_norm": 0.05,
    },
    "layers": {"optimizer": 'muon(others="adam")', "layer_decay": 0.5, "accumulate": 2, "clip_norm": 0.1},
    "groups": {
        "optimizer": "muon",
        "optimizer_options": {"others": "adamw(betas=(0.8, 0.9))", "others_lr_ratio": 0.5, "weight_decay": 0.3},
        "param_groups": apart,
    },
    "with rprop": {"optimizer": 'muon(others="rprop")', "clip_norm": 0.1},
    "frozen": {"optimizer": 'muon(others="momentum")', "model": frozen},
    "nothing else": {"optimizer": 'muon(others="adamw", others_lr_ratio=0.1)', "model": Matrices},
}
RECIPES: list[dict[str, Any]] = [
    {"optimizer": "sgd"},
    {"optimizer": "nesterov"},
    {"optimizer": "nesterov", "momentum": 0.0},
    {"optimizer": "momentum", "weight_decay": 0.2},
    {"optimizer": "adam(betas=(0.5, 0.9))", "momentum": 0.8, "weight_decay": 0.0},
    {"optimizer": "adamw", "layer_decay": 0.6, "weight_decay": 0.1},
    {"optimizer": "rmsprop", "momentum": 0.5},
]


def tried() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Every optimizer by name and what else a trainer or a recipe can say, as (what, trainer, recipe)."""
    for name in TORCH_OPTIMIZERS:
        if name == "SparseAdam":  # takes sparse gradients alone: see below
            continue
        yield name, {"model": Matrices} if name == "Muon" else {}, {"optimizer": name.lower()}
    for name, package in PACKAGED.items():
        if package.installed:
            yield name, {"optimizer": name}, {"momentum": 0.95} if name != "prodigy" else {}
    yield from ((name, trainer, {}) for name, trainer in TRAINERS.items())
    yield from ((str(recipe), TRAINERS["options"], recipe) for recipe in RECIPES)
    if importlib.util.find_spec("pytorch_optimizer"):
        yield "ApolloDQN", {"optimizer": apollo}, {}
    if hasattr(torch.optim, "Muon"):
        yield from ((f"muon {name}", trainer, {}) for name, trainer in SHARED.items())
        told = {"optimizer": 'muon(others="adamw")', "weight_decay": 0.2, "momentum": 0.8, "layer_decay": 0.5}
        yield str(told), {"optimizer": "sgd", "clip_norm": 0.1}, told


def run_all(*, one_in: int) -> None:
    """All of it, or one in so many ways for each optimizer, in turn: each schedule with each warmup is met."""
    ways = list(itertools.product(SCHEDULES, WARMUPS))
    for number, (what, given, told) in enumerate(tried()):
        trainer = made(**given)
        for schedule, warmup in ways[number % one_in :: one_in]:
            recipe = Recipe(lr=0.0123456789, epochs=EPOCHS, seed=3, schedule=schedule, warmup=warmup, **told)
            try:
                check(trainer, recipe)
            except (Exception, pytest.fail.Exception) as error:
                error.add_note(f"{what}: {recipe}")
                raise


def test_a_spread_of_optimizers_schedules_and_options() -> None:
    run_all(one_in=32)


@pytest.mark.slow
def test_every_optimizer_schedule_and_option() -> None:
    run_all(one_in=1)
