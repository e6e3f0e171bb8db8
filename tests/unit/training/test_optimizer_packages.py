"""Optimizers of other packages, and of any that train at one point and are judged at another."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch
from networks import blobs, last_reports, make, plain
from torch import nn
from trainer_contract import SavingContract, TrainerContract, train

from lrtune.core.recipe import Recipe
from lrtune.errors import RecipeError
from lrtune.training.networks import optimizer_packages
from lrtune.training.networks.averaged_weights import at_averaged_weights, has_averaged_weights
from lrtune.training.networks.optimizer_packages import PACKAGED
from lrtune.training.networks.optimizers import build, layer_groups, parsed
from lrtune.training.networks.trainer import TorchTrainer

if TYPE_CHECKING:
    from lrtune.training.base import Trainer


def needs(package: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed (extra tuning-free)")


prodigy, schedule_free = needs("prodigyopt"), needs("schedulefree")


@prodigy
class TestProdigy(SavingContract, TrainerContract):
    recipes: ClassVar = (
        Recipe(lr=1.0, epochs=3, seed=1, schedule="cosine", optimizer="prodigy(use_bias_correction=True)"),
        Recipe(lr=0.5, epochs=2, seed=2, warmup=0.2, weight_decay=0.01, optimizer="prodigy(slice_p=3)"),
    )

    def trainer(self) -> Trainer:
        return make()


@schedule_free
class TestScheduleFree(SavingContract, TrainerContract):
    recipes: ClassVar = (
        Recipe(lr=0.0025, epochs=3, seed=1, warmup=0.05),
        Recipe(lr=0.01, epochs=2, seed=2, batch_size=32, schedule="cosine", layer_decay=0.5, momentum=0.95),
    )

    def trainer(self) -> Trainer:
        return make(optimizer="schedule-free-adamw")


@schedule_free
class TestTheUsersOwn(SavingContract, TrainerContract):
    """Another one with two points, made by the user's function."""

    recipes: ClassVar = (Recipe(lr=0.1, epochs=3, seed=1), Recipe(lr=1.0, epochs=2, seed=2))

    def trainer(self) -> Trainer:
        def mine(params: Any, lr: float) -> torch.optim.Optimizer:
            import schedulefree

            made: torch.optim.Optimizer = schedulefree.SGDScheduleFree(params, lr=lr)
            return made

        return make(optimizer=mine, model=plain)


class Averaged(torch.optim.SGD):
    """Judged at the mean of all its points."""

    judged = False

    def train(self) -> None:
        self.judged = False
        self._swap("point")

    def eval(self) -> None:
        self.judged = True
        for parameter, entry in self.state.items():
            entry["point"] = parameter.detach() * 1.0
        self._swap("mean")

    @torch.no_grad()
    def _swap(self, name: str) -> None:
        for parameter, entry in self.state.items():
            if name in entry:
                parameter.copy_(entry[name] + (1e-3 if name == "point" else 0.0))  # a swap that is not exact

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is None
        assert not self.judged
        super().step()
        for group in self.param_groups:
            for parameter in group["params"]:
                entry = self.state[parameter]
                entry["count"] = entry.get("count", 0) + 1
                entry.setdefault("mean", parameter.clone()).lerp_(parameter, 1 / entry["count"])


def averaged_by_hand(recipe: Recipe, batches: list[Any]) -> tuple[float, float]:
    """Loss on the held-out part at the mean of all points, and at the last one."""
    torch.manual_seed(recipe.seed)
    model = plain()
    points = []
    for x, y in batches:
        model.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.sub_(recipe.lr * parameter.grad)
        points.append(nn.utils.parameters_to_vector(model.parameters()).detach().clone())
    losses = []
    for point in (torch.stack(points).mean(0), points[-1]):
        nn.utils.vector_to_parameters(point, model.parameters())
        x, y = blobs(30, seed=1)
        losses.append(nn.functional.cross_entropy(model(x), y).item())
    return losses[0], losses[1]


def test_the_held_out_part_is_judged_at_the_other_point_and_training_goes_on_at_its_own() -> None:
    recipe = Recipe(lr=0.5, epochs=4, seed=3)
    mine = make(model=plain, optimizer=Averaged, batch_size=70)
    judged, last = averaged_by_hand(recipe, [blobs()] * 4)
    reports = [report for piece in (1, 4) for report in last_reports(mine, recipe, piece=piece)]
    for report in reports:  # however often it was looked at
        assert report.point.values["valid_loss"] == pytest.approx(judged, rel=1e-5)
    assert abs(judged - last) > 1e-3


def test_the_weights_come_back_to_the_bit_even_after_an_error() -> None:
    model = plain()
    optimizer = Averaged(model.parameters(), lr=0.1)
    model(blobs()[0]).sum().backward()
    optimizer.step()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        optimizer.state[parameter]["mean"] += 1.0

    def look() -> None:
        with at_averaged_weights(optimizer):
            assert not torch.equal(next(model.parameters()), before[0])
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        look()
    assert all(torch.equal(one, two) for one, two in zip(before, model.parameters(), strict=True))
    assert not optimizer.judged


def test_an_optimizer_with_one_point_is_left_alone() -> None:
    optimizer = torch.optim.SGD(plain().parameters(), lr=0.1)
    assert not has_averaged_weights(optimizer)
    with at_averaged_weights(optimizer):
        pass


# -- by name ------------------------------------------------------------------------------------------------


@prodigy
@pytest.mark.parametrize(
    ("warmup", "name", "guarded"),
    [(0.0, "prodigy", False), (0.1, "prodigy", True), (0.1, "prodigy(safeguard_warmup=False)", False)],
)
def test_prodigy_guards_a_warmup(warmup: float, name: str, guarded: bool) -> None:
    recipe = Recipe(lr=1.0, warmup=warmup)
    optimizer = build(name, {}, layer_groups(plain(), None), recipe)
    assert optimizer.param_groups[0]["safeguard_warmup"] is guarded


@prodigy
def test_prodigy_takes_one_learning_rate_for_all_groups() -> None:
    trainer = make(optimizer="prodigy", layer_decay=0.5)
    with pytest.raises(RecipeError, match="takes one learning rate for all parameter groups") as caught:
        trainer.start([Recipe(lr=1.0)])
    assert "layer_decay" in str(caught.value)
    trainer.start([Recipe(lr=1.0, layer_decay=1)]).close()


@prodigy
def test_prodigy_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    train(make(optimizer="prodigy").start([Recipe(lr=1.0, weight_decay=0.1)]))
    assert capsys.readouterr().out == ""


@schedule_free
def test_batchnorm_under_schedule_free_is_a_notice() -> None:
    def told(optimizer: str, model: Any) -> bool:
        trainer = make(optimizer=optimizer) if model is None else make(optimizer=optimizer, model=model)
        trainer.start([Recipe(lr=0.01)]).close()
        return any("BatchNorm" in notice for notice in trainer.notices)

    assert told("schedule-free-adamw", None)
    assert not told("schedule-free-adamw", plain)
    assert not told("adamw", None)


@pytest.fixture(params=sorted(PACKAGED))
def missing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A name whose package is not installed."""
    monkeypatch.setattr(optimizer_packages.importlib.util, "find_spec", lambda _: None)
    return str(request.param)


def test_a_package_that_is_not_installed_is_named_with_the_way_to_it(missing: str) -> None:
    with pytest.raises(RecipeError, match=r"needs the package .*pip install 'lrtune\[tuning-free\]'"):
        make(optimizer=missing)
    assert not PACKAGED[missing].installed


def test_a_misspelled_name_is_set_right() -> None:
    with pytest.raises(RecipeError, match="did you mean 'schedule-free-adamw'"):
        parsed("schedule-fre-adamw")
    with pytest.raises(RecipeError, match="did you mean 'prodigy'"):
        TorchTrainer(model=plain, train_data=blobs(), optimizer="prodgy")
