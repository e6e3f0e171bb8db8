"""What optimizers do with their learning rate and state: seen before training, saved whole, made to follow, shared."""

from __future__ import annotations

import dataclasses
import itertools
import random
import threading
from collections import defaultdict, deque
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import CLASSES, FEATURES, blobs, last_reports, make, mlp, plain
from torch import nn
from trainer_contract import SavingContract, TrainerContract, train

import lrtune
from lrtune.core.recipe import Recipe
from lrtune.errors import RecipeError
from lrtune.schedules import for_recipe
from lrtune.training import checkpoint
from lrtune.training.networks import optimizer_check
from lrtune.training.networks.composed_optimizers import ScaledUpdates
from lrtune.training.networks.optimizer_check import OptimizerBehavior, behavior_of
from lrtune.training.networks.optimizer_state import load_optimizer, save_optimizer
from lrtune.training.networks.optimizers import build

if TYPE_CHECKING:
    from pathlib import Path

    from lrtune.training.base import Trainer

BOTH = 'muon(others="adamw", others_lr_ratio=0.1)'
SHARES = hasattr(torch.optim, "Muon")
needs_muon = pytest.mark.skipif(not SHARES, reason="torch.optim has Muon since 2.9")


def matrices() -> nn.Module:
    return nn.Linear(FEATURES, CLASSES, bias=False)


def groups(*shapes: tuple[int, ...]) -> list[dict[str, Any]]:
    numbers = torch.Generator().manual_seed(0)
    return [{"params": [nn.Parameter(torch.randn(shape, generator=numbers)) for shape in shapes or ((5, 4), (5,))]}]


def behavior(optimizer: Any, recipe: Recipe | None = None) -> OptimizerBehavior:
    return behavior_of(partial(build, optimizer, {}), groups(), recipe or Recipe(lr=0.1))


def stepped(optimizer: torch.optim.Optimizer, weights: list[torch.Tensor], steps: int, seed: int = 0) -> None:
    numbers = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=numbers)
        optimizer.step()


# -- what is seen --------------------------------------------------------------------------------------


class Relative(torch.optim.SGD):
    """A step size of its own, whatever learning rate it is told."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr=lr)
        for group in self.param_groups:
            group["relative_step"] = True

    def step(self, closure: Any = None) -> Any:
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.sub_(parameter.grad, alpha=0.01)


class Locked(torch.optim.SGD):
    """Keeps a count where no number can be read."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr=lr)
        self.lock = threading.Lock()


class Hidden(torch.optim.SGD):
    """Counts where nobody looks, and halves its steps after the third."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr=lr)
        numbers = itertools.count(1)
        self.count: Any = lambda: next(numbers)

    def step(self, closure: Any = None) -> Any:
        for _ in range(1 if self.count() > 8 else 2):
            super().step(closure)


class Curved(torch.optim.SGD):
    """Asks for second derivatives."""

    def step(self, closure: Any = None) -> Any:
        del closure
        parameter = self.param_groups[0]["params"][0]
        torch.autograd.grad(parameter.grad.sum(), parameter)


class Twice(torch.optim.SGD):
    """Takes a step in two halves, between which the loss is evaluated again."""

    def step(self, closure: Any = None) -> Any:
        if closure is None:
            msg = "SAM requires closure"
            raise RuntimeError(msg)


def foreign(params: Any, lr: float) -> torch.optim.Optimizer:
    """Over weights that nobody else has."""
    del params
    return torch.optim.Rprop(plain().parameters(), lr=lr)


def failing(params: Any, lr: float) -> torch.optim.Optimizer:
    del params, lr
    raise KeyError("x")  # noqa: EM101 -- what a dict raises


def _global_numbers() -> tuple[Any, ...]:
    kept: Any = np.random.get_state()  # noqa: NPY002 -- the global one is what users' code draws from
    return torch.get_rng_state().tolist(), kept[2], random.getstate()


def deaf(params: Any, lr: float) -> torch.optim.Optimizer:
    del lr
    return torch.optim.SGD([parameter for group in params for parameter in group["params"]], lr=0.5)


class First(torch.optim.SGD):
    """Reads the learning rate of its first group alone, as Prodigy and D-Adaptation of `pytorch_optimizer` do."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["lr"] = self.rate([float(other["lr"]) for other in self.param_groups])
        return super().step(closure)

    @staticmethod
    def rate(rates: list[float]) -> float:
        return rates[0]


class Greatest(First):
    """Reads the greatest of them."""

    @staticmethod
    def rate(rates: list[float]) -> float:
        return max(rates)


def ratios(*found: float) -> list[dict[str, Any]]:
    return [{**group, "lr_ratio": ratio} for ratio in found for group in groups()]


class TestSeen:
    @pytest.mark.parametrize("kind", [First, Greatest])
    @pytest.mark.parametrize("given", [(1.0, 1.0), (1.0, 0.1), (0.1, 0.3, 1.0), (1.0, 0.0), (0.0, 1.0)])
    def test_whether_groups_train_at_rates_of_their_own(self, kind: Any, given: tuple[float, ...]) -> None:
        one, all_alike = groups(), given == (0.0, 1.0) and kind is First
        assert behavior_of(partial(build, kind, {}), one, Recipe(lr=0.1)) == OptimizerBehavior()
        found = behavior_of(partial(build, kind, {}), ratios(*given), Recipe(lr=0.1))
        assert found == (
            OptimizerBehavior() if all_alike else OptimizerBehavior(per_group_lr=False)
        )  # at a rate of 0 nothing is to be seen
        assert behavior_of(partial(build, "sgd", {}), ratios(*given), Recipe(lr=0.1)) == OptimizerBehavior()

    @pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "adamw", "radam", "nadam", "adagrad", "rmsprop"])
    def test_most_read_and_follow_and_restore(self, name: str) -> None:
        assert behavior(name) == OptimizerBehavior()

    def test_rprop_adafactor_and_others(self) -> None:
        assert behavior("rprop") == OptimizerBehavior(follows_schedule=False)
        assert behavior("adafactor") == OptimizerBehavior(lr_capped=True)
        assert behavior(deaf) == OptimizerBehavior(uses_lr=False, lr_capped=True)
        assert behavior(Relative) == OptimizerBehavior(uses_lr=False, lr_capped=True, follows_schedule=False)
        assert behavior(Locked) == behavior(Hidden) == OptimizerBehavior(restorable=False)

    def test_a_weight_of_its_own_is_nobodys_stand_in(self) -> None:
        assert behavior(foreign) == OptimizerBehavior()

    def test_looking_leaves_no_trace(self) -> None:
        """Neither in the random numbers of the process nor in the curve: the second run is not recipes at."""

        def drawing(params: Any, lr: float) -> torch.optim.Optimizer:
            return torch.optim.SGD(params, lr=lr * (1 + random.random()))

        before = _global_numbers()
        trainer = make(optimizer=drawing)
        first, second = (last_reports(trainer, Recipe(lr=0.1, epochs=2, seed=3)) for _ in range(2))
        assert first == second
        assert _global_numbers() == before

    def test_the_behavior_is_found_out_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        recipes: list[Recipe] = []
        found = optimizer_check.behavior_of

        def counted(make_one: Any, over: Any, recipe: Recipe) -> OptimizerBehavior:
            recipes.append(recipe)
            return found(make_one, over, recipe)

        monkeypatch.setattr(optimizer_check, "behavior_of", counted)
        trainer = make(optimizer=lambda params, lr: torch.optim.SGD(params, lr=lr))
        for lr in (0.1, 0.2):
            trainer.start([Recipe(lr=lr, seed=int(10 * lr))]).close()
        assert len(recipes) == 1
        trainer.start([Recipe(lr=0.1, momentum=0.0)]).close()
        assert len(recipes) == 2


class TestNotices:
    @pytest.mark.parametrize(
        ("optimizer", "recipe", "told"),
        [
            (deaf, Recipe(lr=0.1), "optimizer 'SGD' ignores the learning rate"),
            (Relative, Recipe(lr=0.1), "set relative_step=False"),
            ("adafactor", Recipe(lr=2.0), "ignores a learning rate above 1"),
            ("adafactor", Recipe(lr=1.0), ""),
            ("rprop", Recipe(lr=0.1, warmup=0.2), "'rprop' reads its learning rate at its first step only"),
            (torch.optim.Rprop, Recipe(lr=0.1, schedule="cosine"), "'Rprop' reads its learning rate"),
            ("rprop", Recipe(lr=0.1), ""),
            (Hidden, Recipe(lr=0.1), "'Hidden' cannot be saved and restored"),
            ("sgd", Recipe(lr=0.1, schedule="cosine", warmup=0.1), ""),
        ],
    )
    def test_one_sentence(self, optimizer: Any, recipe: Recipe, told: str) -> None:
        trainer = make(optimizer=optimizer)
        run = trainer.start([recipe])
        assert len(trainer.notices) == bool(told)
        assert told in "".join(trainer.notices)
        assert (run.state() is None) == (optimizer is Hidden)

    def test_ignored_rates_of_groups_are_a_notice(self) -> None:
        told = "'First' ignores that parameter groups have learning rates of their own"
        for optimizer, decay, said in (
            (First, 0.5, True),
            (First, None, False),
            ("sgd", 0.5, False),
            (BOTH, 0.5, False),
        ):
            if optimizer == BOTH and not SHARES:
                continue
            trainer = make(optimizer=optimizer, layer_decay=decay)
            trainer.start([Recipe(lr=0.1)]).close()
            assert [told in notice for notice in trainer.notices] == [True] * said

    def test_a_search_passes_it_on(self) -> None:
        trainer = make(optimizer="rprop")
        space = lrtune.Space(lr=(1e-3, 0.1), warmup=0.3)
        result = lrtune.tune(trainer, space, epochs=2, budget=2, metric="valid_loss", direction="minimize")
        assert any("'rprop' reads its learning rate at its first step only" in warning for warning in result.warnings)


class TestRefused:
    @pytest.mark.parametrize("kind", [torch.optim.LBFGS, Twice])
    def test_a_closure_by_callable_as_by_name(self, kind: Any) -> None:
        trainer = make(optimizer=lambda params, lr: kind(params, lr=lr))
        with pytest.raises(RecipeError, match=rf"{kind.__name__}' evaluates the loss several times a step, which"):
            trainer.start([Recipe(lr=0.1)])
        with pytest.raises(RecipeError, match="'lbfgs' evaluates the loss several times a step, which"):
            make(optimizer="lbfgs")

    def test_second_derivatives(self) -> None:
        with pytest.raises(RecipeError, match="'Curved' needs second derivatives"):
            make(optimizer=Curved).start([Recipe(lr=0.1)])

    @needs_muon
    def test_muon_on_vectors_by_callable_as_by_name(self) -> None:
        for optimizer in ("muon", lambda params, lr: torch.optim.Muon(params, lr=lr)):
            with pytest.raises(RecipeError, match=r"(?i)'muon' trains matrices only, and 1 parameters .* \(3,\)"):
                make(model=plain, optimizer=optimizer).start([Recipe(lr=0.1)])

    def test_a_function_that_fails(self) -> None:
        with pytest.raises(RecipeError, match=r"optimizer\(params, lr\) failed \(KeyError: 'x'\)"):
            make(optimizer=failing).start([Recipe(lr=0.1)])

    def test_a_first_step_that_fails_is_the_optimizers(self) -> None:
        run = make(optimizer="sparseadam").start([Recipe(lr=0.1)])
        with pytest.raises(
            RecipeError, match="'SparseAdam' cannot train this model: SparseAdam does not support dense"
        ):
            run.advance(1)

    def test_a_later_step_that_fails_is_the_trials(self) -> None:
        class Failing(torch.optim.SGD):
            left = 5

            def step(self, closure: Any = None) -> Any:
                self.left -= 1
                if not self.left:
                    msg = "eigh failed to converge"
                    raise RuntimeError(msg)
                super().step(closure)

        run = make(optimizer=Failing).start([Recipe(lr=0.1, epochs=2)])
        with pytest.raises(RuntimeError, match="eigh failed"):
            run.advance(7)

    @pytest.mark.parametrize("option", ["warmup_steps", "num_warmup_steps", "warm_up_iterations"])
    def test_two_warmups(self, option: str) -> None:
        def warming(params: Any, lr: float, *, steps: int = 10) -> torch.optim.Optimizer:
            made = torch.optim.SGD(params, lr=lr)
            made.param_groups[0][option] = steps
            return made

        make(optimizer=warming).start([Recipe(lr=0.1)]).close()
        make(optimizer=partial(warming, steps=0)).start([Recipe(lr=0.1, warmup=0.2)]).close()
        with pytest.raises(RecipeError, match=rf"own \({option}=10\), which would multiply .* warmup of 0.2; set it"):
            make(optimizer=warming).start([Recipe(lr=0.1, warmup=0.2)])

    def test_a_schedule_of_its_own(self) -> None:
        def moving(params: Any, lr: float, *, still: bool = False) -> torch.optim.Optimizer:
            made: Any = torch.optim.SGD(params, lr=lr)
            made.disable_lr_scheduler, made.num_warm_up_iterations = still, 10
            return made  # type: ignore[no-any-return]  # a torch.optim.SGD

        recipe = Recipe(lr=0.1, schedule="cosine", warmup=0.2)
        make(optimizer=partial(moving, still=True)).start([recipe]).close()
        with pytest.raises(RecipeError, match="make it with disable_lr_scheduler=True"):
            make(optimizer=moving).start([recipe])

    def test_schedule_free_by_name(self) -> None:
        pytest.importorskip("schedulefree")
        trainer = make(model=plain, optimizer="schedule-free-adamw(warmup_steps=5)")
        trainer.start([Recipe(lr=0.1)]).close()
        with pytest.raises(RecipeError, match=r"has a warmup of its own \(warmup_steps=5\)"):
            trainer.start([Recipe(lr=0.1, warmup=0.1)])


# -- what follows ----------------------------------------------------------------------------------------


class TestRpropFollows(SavingContract, TrainerContract):
    recipes: ClassVar = (
        Recipe(lr=0.01, epochs=3, seed=1, schedule="cosine", warmup=0.2),
        Recipe(lr=0.1, epochs=2, seed=2, schedule="linear", optimizer="rprop(etas=(0.4, 1.1))"),
    )

    def trainer(self) -> Trainer:
        return make(optimizer="rprop")


class TestScaledUpdates:
    def test_each_update_is_the_optimizers_own_times_the_share(self) -> None:
        mine, theirs = groups(), groups()
        scaled, alone = ScaledUpdates(torch.optim.Rprop(mine, lr=0.1)), torch.optim.Rprop(theirs, lr=0.1)
        for seed, share in enumerate((0.0, 0.5, 1.0, 2.0, 0.25)):
            before = [weight.detach().clone() for weight in mine[0]["params"]]
            old = [weight.detach().clone() for weight in theirs[0]["params"]]
            scaled.param_groups[0]["lr"] = 0.1 * share
            stepped(scaled, mine[0]["params"], 1, seed)
            stepped(alone, theirs[0]["params"], 1, seed)
            for now, was, new, then in zip(mine[0]["params"], before, theirs[0]["params"], old, strict=True):
                assert torch.allclose(now - was, share * (new - then), atol=1e-6)
            assert scaled.param_groups[0]["lr"] == 0.1 * share

    def test_at_the_peak_it_is_the_optimizer_itself(self) -> None:
        mine, theirs = groups(), groups()
        stepped(ScaledUpdates(torch.optim.Rprop(mine, lr=0.1)), mine[0]["params"], 9)
        stepped(torch.optim.Rprop(theirs, lr=0.1), theirs[0]["params"], 9)
        assert all(torch.equal(a, b) for a, b in zip(mine[0]["params"], theirs[0]["params"], strict=True))

    def test_every_learning_rate_and_schedule_makes_a_difference(self) -> None:
        recipes = [Recipe(lr=lr, epochs=2, seed=1, warmup=0.3) for lr in (1e-6, 1e-3, 0.1)]
        recipes += [Recipe(lr=0.01, epochs=2, seed=1, schedule=name) for name in ("constant", "cosine", "linear")]
        losses = [report.point.values["valid_loss"] for report in last_reports(make(optimizer="rprop"), *recipes)]
        assert len(set(losses)) == len(recipes)

    @needs_muon
    def test_one_of_two_that_reads_its_learning_rate_once_follows_too(self) -> None:
        """Muon follows by itself; Rprop beside it has to be made to, and is told of."""
        trainer = make(model=plain, optimizer='muon(others="rprop")', valid_data=None)
        moving = Recipe(lr=0.01, epochs=2, seed=1, schedule="linear")
        biases = []
        for recipe in (moving, dataclasses.replace(moving, schedule="constant")):
            run: Any = trainer.start([recipe])
            run.advance(4)
            biases.append(run.members[0].live.model.bias.detach().clone())
        assert not torch.equal(*biases)
        assert "reads its learning rate at its first step only" in " ".join(trainer.notices)
        assert behavior_of(partial(build, "rprop", {}), groups(), moving).follows_schedule is False
        assert behavior_of(partial(build, BOTH, {}), groups(), moving) == OptimizerBehavior()


# -- what is shared --------------------------------------------------------------------------------------


@needs_muon
class TestShared(SavingContract, TrainerContract):
    recipes: ClassVar = (
        Recipe(lr=0.02, epochs=3, seed=1, schedule="cosine", warmup=0.2, optimizer=BOTH),
        Recipe(lr=0.01, epochs=2, seed=2, weight_decay=0.1, momentum=0.8, layer_decay=0.5, optimizer=BOTH),
    )

    def trainer(self) -> Trainer:
        return make(clip_norm=0.5)


@needs_muon
class TestMuonWithOthers:
    def test_it_trains_as_the_two_do_by_hand(self) -> None:
        """Schedule, warmup and clipping over both, each at its own learning rate."""
        (x, y), recipe = blobs(), Recipe(lr=0.05, epochs=2, seed=5, schedule="cosine", warmup=0.2, batch_size=70)
        torch.manual_seed(5)
        model: Any = plain()
        kept = [parameter.detach().clone() for parameter in model.parameters()]
        trainer = make(model=partial(_copied, kept), optimizer=BOTH, batch_size=70, clip_norm=0.1, valid_data=None)
        (report,) = last_reports(trainer, dataclasses.replace(recipe, epochs=6))
        schedule, losses = for_recipe(dataclasses.replace(recipe, epochs=6), 6), []
        muon: Any
        adamw: Any
        muon, adamw = torch.optim.Muon([model.weight], lr=0.05), torch.optim.AdamW([model.bias], lr=0.005)
        for step in range(6):
            for optimizer, peak in ((muon, 0.05), (adamw, 0.005)):
                optimizer.param_groups[0]["lr"] = peak * float(schedule(step / 6))
                optimizer.zero_grad()
            loss: Any = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            muon.step()
            adamw.step()
            losses.append(loss.item())
        assert report.point.values["train_loss"] == pytest.approx(losses[-1], rel=1e-5)

    def test_who_gets_what(self) -> None:
        made = build(
            "muon",
            {"others": "adam(betas=(0.8, 0.9))", "others_lr_ratio": 0.5, "momentum": 0.7},
            [
                {"params": groups((3, 4), (3,), (2, 3, 1, 1))[0]["params"]},
                {"params": groups((4,))[0]["params"], "lr": 3},
            ],
            Recipe(lr=2.0, weight_decay=0.3),
        )
        got = [
            ([tuple(p.shape) for p in g["params"]], g["lr"], g["lr_ratio"], g["weight_decay"])
            for g in made.param_groups
        ]
        assert got == [([(3, 4)], 2.0, 1.0, 0.3), ([(3,), (2, 3, 1, 1)], 1.0, 0.5, 0.3), ([(4,)], 1.5, 0.75, 0.3)]
        assert made.param_groups[0]["momentum"] == 0.7
        assert made.param_groups[1]["betas"] == (0.8, 0.9)

    def test_one_of_them_may_have_nothing_to_do(self) -> None:
        only = build(BOTH, {}, groups((3, 4)), Recipe(lr=0.1))
        assert isinstance(only, torch.optim.Muon)
        only = build(BOTH, {}, groups((3,), (2, 2, 2)), Recipe(lr=0.1))
        assert isinstance(only, torch.optim.AdamW)
        assert only.param_groups[0]["lr"] == pytest.approx(0.01)

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ('muon(others="adamw", others_lr_ratio=0)', "others_lr_ratio must be a positive, finite number"),
            ("muon(others=3)", r"others must be the name of an optimizer, such as \"adamw\" \(got 3\)"),
            ('muon(others="addam")', "did you mean 'adam'"),
            ('muon(others="muon")', "trains matrices only"),
            ('muon(others="lbfgs")', "several times a step"),
            ('adamw(others="sgd")', "has no option 'others'"),
            ("muon(others_lr_ratio=0.1)", "trains matrices only"),
        ],
    )
    def test_what_cannot_be_had(self, text: str, match: str) -> None:
        with pytest.raises(RecipeError, match=match):
            make(model=plain).start([Recipe(lr=0.1, optimizer=text)])


def _copied(weights: list[torch.Tensor]) -> nn.Module:
    model = plain()
    with torch.no_grad():
        for parameter, weight in zip(model.parameters(), weights, strict=True):
            parameter.copy_(weight)
    return model


# -- what is kept ----------------------------------------------------------------------------------------


class Counter:
    """State in an object of its own."""

    def __init__(self) -> None:
        self.taken, self.noise = 0, torch.zeros(3)


class Keeping(torch.optim.SGD):
    """State in all places at once; each makes a difference to the next step."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr=lr)
        self.counter, self.recent = Counter(), deque([0.0], maxlen=3)
        self.by_id: dict[int, float] = {}
        self.numbers, self.python = torch.Generator().manual_seed(3), random.Random(3)
        self.numpy, self.older = np.random.default_rng(3), np.random.RandomState(3)
        mine = [{"params": group["params"]} for group in self.param_groups]
        self.inner = torch.optim.SGD(mine, lr=lr, momentum=0.9)
        self.grouped: defaultdict[str, list[float]] = defaultdict(list)
        self.seen: set[int] = set()
        self.view: Any = None
        keyed: dict[Any, Any] = self.state
        keyed["k"] = torch.zeros(())

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        del closure
        self.counter.taken += 1
        self.counter.noise += 1.0
        keyed: dict[Any, Any] = self.state
        keyed["k"] += 1
        self.seen.add(self.counter.taken % 5)
        draws = float(torch.rand((), generator=self.numbers)) + self.python.random() + self.numpy.random()
        self.recent.append(draws + self.older.rand())
        self.grouped["x"].append(draws)
        factor = 0.001 * (sum(self.recent) + self.counter.taken + float(keyed["k"]) + len(self.seen))
        for group in self.param_groups:
            for parameter in group["params"]:
                kept = self.state[parameter]
                if "turned" not in kept:
                    kept["turned"] = torch.zeros(parameter.shape[::-1]).T if parameter.ndim == 2 else None
                    self.view = kept["turned"] if parameter.ndim == 2 else self.view
                if kept["turned"] is not None:
                    kept["turned"] += parameter.grad
                    parameter.grad += kept["turned"] @ torch.ones(parameter.shape[1], parameter.shape[1])
                self.by_id[id(parameter)] = self.by_id.get(id(parameter), 0.0) + factor
                parameter.grad.mul_(factor + self.by_id[id(parameter)] + sum(self.grouped["x"]))
        self.inner.param_groups[0]["lr"] = self.param_groups[0]["lr"]
        self.inner.step()
        if self.view is not None:
            self.view.mul_(0.5)


NEEDS = {"ranger21": {"num_iterations": 100}, "bsam": {"num_data": 100}}
BY_MODULE = {"lomo", "adalomo", "adammini"}  # they take the model instead of its parameters
REFUSED = {"adahessian", "alig", "bsam", "demo", "lbfgs", "sophiah", "spectralsphere"} | {
    "adago",
    "adamuon",
    "distributedmuon",
    "muon",
    "muonclip",
    "normuon",  # their groups must say use_muon
}
SAMPLE = ("madgrad", "spam", "magma", "lorarite", "stablespam", "soap", "splus", "conda", "apollodqn", "alig")


def other_package(name: str) -> None:
    """Equal bit for bit after save and restore, or said to be unsavable, or refused with a sentence."""
    package = pytest.importorskip("pytorch_optimizer", reason="4.1.0 is not installed")
    kind = package.load_optimizer(name)
    trainer = make(
        optimizer=lambda params, lr: kind(params, lr=lr, **NEEDS.get(name, {})), model=lambda: mlp(dropout=0)
    )
    recipe = Recipe(lr=0.01, epochs=3, seed=1)
    if name in REFUSED:
        with pytest.raises(RecipeError):
            trainer.start([recipe]).advance(7)
        return
    run = trainer.start([recipe])
    run.advance(7)
    state = run.state()
    if state is None:
        assert "cannot be saved and restored" in " ".join(trainer.notices)
        return
    other = trainer.start([recipe])
    other.restore(state)
    assert train(other) == train(run)


@pytest.mark.parametrize("name", SAMPLE)
def test_some_of_pytorch_optimizer(name: str) -> None:
    other_package(name)


@pytest.mark.parametrize(
    ("name", "apart"), [("prodigy", False), ("dadaptadam", False), ("dadaptsgd", False), ("adamw", True)]
)
def test_groups_of_pytorch_optimizer(name: str, apart: bool) -> None:
    package = pytest.importorskip("pytorch_optimizer", reason="4.1.0 is not installed")
    make_one = partial(build, package.load_optimizer(name), {})
    assert behavior_of(make_one, ratios(1.0, 0.1), Recipe(lr=0.1)) == OptimizerBehavior(per_group_lr=apart)


@pytest.mark.slow
def test_every_one_of_pytorch_optimizer() -> None:
    package = pytest.importorskip("pytorch_optimizer", reason="4.1.0 is not installed")
    for name in sorted(set(package.get_supported_optimizers()) - BY_MODULE):
        other_package(name)


class TestKept:
    def test_whatever_it_keeps_goes_on_bit_for_bit(self, tmp_path: Path) -> None:
        assert behavior(Keeping) == OptimizerBehavior()
        trainer = make(optimizer=Keeping)
        recipe = Recipe(lr=0.01, epochs=3, seed=1)
        run = trainer.start([recipe])
        run.advance(7)
        checkpoint.save(tmp_path / "state.npz", run.state() or {})
        other = trainer.start([recipe])
        other.restore(checkpoint.load(tmp_path / "state.npz"))
        assert train(other) == train(run)
        assert not trainer.notices

    @pytest.mark.parametrize("place", ["counter", "recent", "by_id", "numbers", "python", "numpy", "older", "inner"])
    def test_the_test_would_see_each_of_them_missing(self, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def without(optimizer: torch.optim.Optimizer) -> Any:
            saved = save_optimizer(optimizer)
            return saved | {"beside": {name: value for name, value in saved["beside"].items() if name != place}}

        monkeypatch.setattr(optimizer_check, "save_optimizer", without)
        assert behavior(Keeping) == OptimizerBehavior(restorable=False)

    def test_one_tensor_in_two_places_is_one_again(self) -> None:
        given = groups()
        optimizer = Keeping(given, lr=0.1)
        stepped(optimizer, given[0]["params"], 2)
        fresh = Keeping(groups(), lr=0.1)
        load_optimizer(fresh, save_optimizer(optimizer))
        weight = fresh.param_groups[0]["params"][0]
        assert fresh.view is fresh.state[weight]["turned"]
        assert fresh.view.stride() == optimizer.view.stride() != torch.zeros(fresh.view.shape).stride()
        assert fresh.inner.param_groups[0]["params"][0] is weight
        assert isinstance(fresh.grouped, defaultdict)

    def test_what_a_step_makes_is_not_there_to_be_filled(self) -> None:
        class Lazy(torch.optim.SGD):
            def step(self, closure: Any = None) -> Any:
                for parameter in self.param_groups[0]["params"]:
                    self.state[parameter].setdefault("counter", Counter()).taken += 1
                super().step(closure)

        trainer = make(optimizer=Lazy)
        run = trainer.start([Recipe(lr=0.1)])
        run.advance(1)
        assert run.state() is None
        assert "'Lazy' cannot be saved and restored" in trainer.notices[0]

    def test_states_of_the_first_layout_are_read(self) -> None:
        """Without what lies beside the parameters, as the first builds wrote them."""
        given, fresh = groups(), groups()
        optimizer, other = torch.optim.Adam(given, lr=0.1), torch.optim.Adam(fresh, lr=0.1)
        stepped(optimizer, given[0]["params"], 3)
        saved = save_optimizer(optimizer)
        load_optimizer(other, {"entries": saved["entries"], "groups": saved["groups"]})
        with torch.no_grad():
            for mine, theirs in zip(fresh[0]["params"], given[0]["params"], strict=True):
                mine.copy_(theirs)
        stepped(optimizer, given[0]["params"], 3, seed=1)
        stepped(other, fresh[0]["params"], 3, seed=1)
        assert all(torch.equal(a, b) for a, b in zip(given[0]["params"], fresh[0]["params"], strict=True))

    @settings(max_examples=40)
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.lists(inner, max_size=3).map(tuple)
                | st.lists(inner, max_size=3).map(lambda items: deque(items, maxlen=4))
                | st.dictionaries(st.text(max_size=8) | st.integers() | st.tuples(st.integers()), inner, max_size=3)
                | st.sets(st.integers(), max_size=3)
            ),
            max_leaves=12,
        )
    )
    def test_any_plain_attribute_comes_back_as_it_was(self, tmp_path_factory: Any, value: Any) -> None:
        optimizer, fresh = torch.optim.SGD(groups(), lr=0.1), torch.optim.SGD(groups(), lr=0.1)
        optimizer.extra = value  # type: ignore[attr-defined]  # what packages do
        path = tmp_path_factory.getbasetemp() / "any.npz"
        checkpoint.save(path, save_optimizer(optimizer))
        load_optimizer(fresh, checkpoint.load(path))
        assert repr(fresh.extra) == repr(value)  # type: ignore[attr-defined]  # likewise; repr tells 1 from True
