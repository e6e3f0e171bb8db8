"""Runs trained as one model with a leading dimension: the contract, what they share, and what cannot be stacked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import torch
from networks import CLASSES, FEATURES, SAMPLES, Noisy, blobs, bowl_trainer, make, plain
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from trainer_contract import BowlContract, SavingContract, TrainerContract, train

from lrtune.core.recipe import Recipe
from lrtune.errors import InputError
from lrtune.training.base import Run
from lrtune.training.networks import stacking

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lrtune.training.base import Report, Trainer

TOLERANCE = 1e-5
FOUR = (
    Recipe(lr=0.1, epochs=3, seed=1, schedule="cosine", warmup=0.2, momentum=0.9),
    Recipe(lr=0.01, epochs=2, seed=2, momentum=0.5, weight_decay=0.1),
    Recipe(lr=0.05, epochs=3, seed=1, momentum=0.9, weight_decay=0.01),
    Recipe(lr=0.02, epochs=3, seed=1, momentum=0.8),
)


def dropped() -> nn.Module:
    return nn.Sequential(
        nn.Linear(FEATURES, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 8), nn.Dropout(0.1), nn.Linear(8, CLASSES)
    )


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Small models on a busy machine: threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class TestStacked(SavingContract, BowlContract, TrainerContract):
    """Dropout and BatchNorm; learning rates, schedules, seeds, lengths, momentum and weight decay that differ."""

    recipes: ClassVar = FOUR
    tolerance: ClassVar = TOLERANCE

    def trainer(self) -> Trainer:
        return make(stack=True)

    def bowl(self) -> tuple[Trainer, float]:
        return bowl_trainer(stack=True)


class TestStackedAdam(SavingContract, TrainerContract):
    """A schedule that hears the metric, clipping, decay by layer, gradients of other batches."""

    recipes: ClassVar = (
        Recipe(lr=0.01, epochs=4, seed=1, schedule="plateau(factor=0.5, patience=0, threshold=0.5)", warmup=0.1),
        Recipe(lr=0.02, epochs=2, seed=2, weight_decay=0.1),
        Recipe(lr=0.003, epochs=3, seed=3, momentum=0.8),
    )
    tolerance: ClassVar = TOLERANCE

    def trainer(self) -> Trainer:
        return make(stack=True, model=dropped, optimizer="adamw", clip_norm=0.5, layer_decay=0.8)


def storage(run: Run) -> set[int]:
    """Where the weights of a run's members lie: one place where they are stacked."""
    lives = [member.live for member in run.members]  # type: ignore[attr-defined]  # a run of networks
    return {next(live.model.parameters()).untyped_storage().data_ptr() for live in lives}


def curves(run: Run, steps: int = 3) -> dict[int, list[Report]]:
    found: dict[int, list[Report]] = {}
    while run.alive:
        for report in run.advance(steps):
            found.setdefault(report.member, []).append(report)
    return found


def alike(one: Sequence[Report], two: Sequence[Report]) -> bool:
    """Whether two curves are the same within rounding, at the same steps and with the same end."""
    heads = [[(r.point.step, r.point.samples, r.point.lr, r.outcome) for r in part] for part in (one, two)]
    return heads[0] == heads[1] and all(
        dict(b.point.values) == pytest.approx(dict(a.point.values), abs=TOLERANCE, rel=TOLERANCE, nan_ok=True)
        for a, b in zip(one, two, strict=True)
    )


class Attending(nn.Module):
    """Causal attention over the features, by the kernel that has no rule for several models."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.out = nn.Linear(1, 12), nn.Linear(4 * FEATURES, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.heads(x.unsqueeze(-1)).view(len(x), FEATURES, 3, 2, 2).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(*parts, is_causal=True)
        return self.out(seen.transpose(1, 2).flatten(1))


def convolving() -> nn.Module:
    """Running averages of two dimensions, and weights that are not trained."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, FEATURES // 2)),
        nn.Conv2d(1, 4, 2, padding=1).requires_grad_(False),  # noqa: FBT003 -- PyTorch's signature
        nn.BatchNorm2d(4),
        nn.PReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.LazyLinear(CLASSES),
    )


class Tied(nn.Module):
    """Two layers with the same weights."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, CLASSES)
        self.two.weight = self.one.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.two(torch.relu(self.one(x)))))


@pytest.mark.parametrize(
    "options",
    [
        {"model": Attending},
        {"model": convolving},
        {"model": Tied},
        {"optimizer": "sgd"},
        {"optimizer": "nesterov", "clip_norm": 0.1},
        {"optimizer": "momentum", "layer_decay": 0.5},
        {"optimizer": "adam", "optimizer_options": {"weight_decay": 0.1}},
        {"optimizer": "adamw"},
        {"optimizer": lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.5)},
        {"loss": nn.CrossEntropyLoss(label_smoothing=0.1, ignore_index=1)},
        {"loss": lambda output, target: functional.cross_entropy(output, target, label_smoothing=0.2)},
        {"loss": lambda model, batch: functional.cross_entropy(model(batch[0]), batch[1]), "metrics": None},
        {"metrics": {"mine": lambda outputs, targets: float((outputs.argmax(1) == targets).float().mean())}},
    ],
)
@pytest.mark.parametrize("seeds", [(5, 5, 5), (1, 2, 3)])
def test_it_is_what_each_does_alone(options: dict[str, Any], seeds: tuple[int, ...]) -> None:
    recipes = [Recipe(lr=0.01 * (n + 1), epochs=2, seed=seed) for n, seed in enumerate(seeds)]
    options = {"model": dropped, **options}
    stacked = make(stack=True, **options)
    run = stacked.start(recipes)
    first = run.advance(3)
    assert len(storage(run)) == 1
    assert stacked.notices == make(**options).notices
    together = curves(run)
    for number, recipe in enumerate(recipes):
        alone = curves(make(**options).start([recipe]))[0]
        assert alike(alone, [first[number], *together[number]])


def test_one_that_diverges_leaves_the_others_as_they_were() -> None:
    recipes = [Recipe(lr=lr, epochs=3, seed=1) for lr in (0.1, 1e30, 0.01, 1e6)]
    ends = {}
    together = curves(make(stack=True, model=dropped).start(recipes), steps=10)
    for number, recipe in enumerate(recipes):
        alone = curves(make(model=dropped).start([recipe]), steps=10)[0]
        ends[number] = alone[-1].outcome
        if alone[-1].outcome is not None and alone[-1].outcome.diverged:
            assert together[number][-1].outcome is alone[-1].outcome
            assert together[number][-1].point.step == alone[-1].point.step
            assert together[number][-1].why.split()[:4] == alone[-1].why.split()[:4]
        else:
            assert alike(alone, together[number])
    assert [end is not None and end.diverged for end in ends.values()] == [False, True, False, True]


class TestTogether:
    def test_members_are_saved_restored_and_join_again(self) -> None:
        recipes = [Recipe(lr=0.01 * n, epochs=4, seed=n, momentum=0.9) for n in (1, 2, 3)]
        whole = [curves(make().start([recipe]))[0] for recipe in recipes]
        trainer = make(stack=True)
        runs = [trainer.start([recipe]) for recipe in recipes]
        found: list[list[Report]] = [[], [], []]

        def advance(run: Run, numbers: Sequence[int]) -> None:
            for report in run.advance(3):
                found[numbers[report.member]].append(report)

        joint = trainer.together(runs)
        assert joint is not None
        assert isinstance(joint, Run)
        assert tuple(joint.recipes) == tuple(recipes)
        advance(joint, (0, 1, 2))
        assert len({next(iter(storage(run))) for run in runs}) == 1
        state = runs[1].state()
        joint.drop([1])
        assert joint.alive == (0, 2)
        assert runs[1].alive == (0,)
        assert storage(runs[1]) != storage(runs[0])
        advance(joint, (0, 1, 2))
        runs[1].close()
        runs[1] = trainer.start([recipes[1]])
        runs[1].restore(state)
        advance(runs[1], (1,))
        joint.close()
        assert [run.alive for run in runs] == [(0,)] * 3
        advance(runs[0], (0,))  # one goes on alone: the stack knows
        again = trainer.together(runs[::-1])
        assert again is not None
        while again.alive:
            advance(again, (2, 1, 0))
        assert all(alike(one, two) for one, two in zip(whole, found, strict=True))
        assert [run.alive for run in runs] == [()] * 3

    def test_one_that_trains_alone_between_is_where_it_was_left(self) -> None:
        recipes = [Recipe(lr=0.01 * n, epochs=3, seed=n) for n in (1, 2)]
        trainer = make(stack=True, optimizer="adam", model=dropped)
        runs = [trainer.start([recipe]) for recipe in recipes]
        joint = trainer.together(runs)
        assert joint is not None
        found = [r for r in joint.advance(3) if r.member == 0]
        found += runs[0].advance(2)
        place = storage(runs[0])
        while joint.alive:
            found += [r for r in joint.advance(5) if r.member == 0]
        run = make(optimizer="adam", model=dropped).start(recipes[:1])
        alone = [*run.advance(3), *run.advance(2), *curves(run, steps=5)[0]]
        assert place
        assert alike(alone, found)

    @pytest.mark.parametrize("samples", [64, SAMPLES])  # whole batches, which members need not reach together, or not
    def test_those_at_other_steps_have_batches_and_rates_of_their_own(self, samples: int) -> None:
        recipes = [Recipe(lr=0.05 * n, epochs=4, seed=n, schedule="cosine") for n in (1, 1, 2)]
        trainer = make(stack=True, train_data=blobs(samples))
        runs = [trainer.start([recipe]) for recipe in recipes]
        found = [[*run.advance(ahead)] for run, ahead in zip(runs, (1, 6, 11), strict=True)]
        joint = trainer.together(runs)
        assert joint is not None
        while joint.alive:
            for report in joint.advance(1):
                found[report.member].append(report)
        for recipe, ahead, reports in zip(recipes, (1, 6, 11), found, strict=True):
            run = make(train_data=blobs(samples)).start([recipe])
            assert alike([*run.advance(ahead), *curves(run, steps=1)[0]], reports)

    def test_an_exception_of_the_user_leaves_no_state(self) -> None:
        def metric(outputs: Any, targets: Any) -> float:
            msg = f"a bug at {len(outputs)} {len(targets)}"
            raise KeyError(msg)

        trainer = make(stack=True, metrics={"broken": metric})
        runs = [trainer.start([recipe]) for recipe in FOUR[:2]]
        joint = trainer.together(runs)
        assert joint is not None
        with pytest.raises(KeyError, match="a bug"):
            joint.advance(3)

    def test_it_has_no_state_of_its_own(self) -> None:
        trainer = make(stack=True)
        joint = trainer.together([trainer.start([recipe]) for recipe in FOUR[:2]])
        assert joint is not None
        assert joint.state() is None
        with pytest.raises(InputError, match="restore the runs"):
            joint.restore({})

    def test_runs_of_another_trainer_do_not_join(self) -> None:
        trainer = make(stack=True)
        runs = [trainer.start(FOUR[:1]), make(stack=True).start(FOUR[1:2])]
        assert trainer.together(runs) is None


class TestChoice:
    def test_auto_stacks_only_where_it_is_measured_to_pay(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for least, stacked in ((float("inf"), False), (0.0, True)):
            monkeypatch.setattr(stacking, "CLEARLY", least)
            trainer = make(stack="auto", model=plain)
            runs = [trainer.start([recipe]) for recipe in FOUR]
            assert (trainer.together(runs) is not None) is stacked
            assert (trainer.stack_speedup(FOUR[0], 4) != 1.0) is stacked
            run = trainer.start(FOUR)
            run.advance(1)
            assert (len(storage(run)) == 1) is stacked
            assert trainer.notices == ()

    def test_false_never_stacks(self) -> None:
        trainer = make(stack=False)
        assert trainer.together([trainer.start([recipe]) for recipe in FOUR]) is None
        assert trainer.stack_speedup(FOUR[0], 16) == 1.0

    @pytest.mark.parametrize("stack", ["yes", 0, 1, None])
    def test_anything_else_is_refused(self, stack: Any) -> None:
        with pytest.raises(InputError, match='stack must be "auto", True or False'):
            make(stack=stack)

    def test_a_measurement_leaves_no_trace(self) -> None:
        trainer = make(stack=True)
        alone = train(trainer.start(FOUR[:1]))
        assert trainer.stack_speedup(FOUR[0], 5) > 0
        assert train(trainer.start(FOUR[:1])) == alone

    def test_other_batch_sizes_are_other_stacks(self) -> None:
        recipes = [Recipe(lr=0.01, epochs=2, seed=n, batch_size=16 if n % 2 else 8) for n in range(4)]
        run = make(stack=True).start(recipes)
        run.advance(1)
        assert len(storage(run)) == 2


class Loose(nn.Module):
    """A model to be bent."""

    def __init__(self, forward: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.net = plain()
        self.spare = nn.Linear(2, 2)
        self.calls = 0
        self._forward = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._forward(self, x) + 0 * self.spare.weight.sum() + 0 * self.spare.bias.sum()


def counting(model: Any, x: torch.Tensor) -> torch.Tensor:
    model.calls += 1
    return model.net(x)


def drawing(model: Any, x: torch.Tensor) -> torch.Tensor:
    return model.net(x) * (1 + 0.1 * float(np.random.rand()))  # noqa: NPY002 -- what users write


def branching(model: Any, x: torch.Tensor) -> torch.Tensor:
    found = model.net(x)
    return found * 2 if found.sum() > 0 else found


def functionally_dropped(model: Any, x: torch.Tensor) -> torch.Tensor:
    return model.net(functional.dropout(x, 0.3, model.training))


class Sparse(nn.Module):
    """A table of which few rows are trained in a step."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, CLASSES, sparse=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.table((x > 0).sum(1) % 5)


class Recurrent(nn.Module):
    """A layer that keeps its weights in a list, too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.GRU(1, 4, batch_first=True), nn.Linear(4, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.layer(x.unsqueeze(-1))[0][:, -1])


def normed() -> nn.Module:
    return nn.utils.parametrizations.spectral_norm(plain())


def hooked() -> nn.Module:
    model = plain()
    model.register_forward_hook(lambda _module, _args, output: output * 2)
    return model


def by_recipe(recipe: Recipe) -> nn.Module:
    return nn.Sequential(plain(), nn.LeakyReLU(recipe.lr))


def partly_used() -> nn.Module:
    model = plain()
    model.spare = nn.Linear(2, 2)
    return model


def weighted(output: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, int]:
    return functional.cross_entropy(output, target), len(target)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"train_data": Noisy()}, "not tensors in memory"),
        ({"train_data": DataLoader(TensorDataset(*blobs()), batch_size=16)}, "not tensors in memory"),
        ({"precision": "bf16"}, "precision='bf16'"),
        ({"accumulate": 2}, "accumulate"),
        ({"optimizer": "rmsprop"}, "stacked step of the optimizer RMSprop"),
        ({"optimizer": "adam", "optimizer_options": {"amsgrad": True}}, "option amsgrad"),
        ({"optimizer": "adam", "optimizer_options": {"eps": 0.0}}, "option eps"),
        ({"model": Sparse}, "gradients are sparse"),
        ({"model": Recurrent}, "the model changes layer._flat_weights"),
        ({"model": normed}, "torch.func refuses"),
        ({"compile": {"backend": "eager"}, "model": plain}, "compiled"),
        ({"optimizer_options": {"momentum": 0.5, "dampening": 0.5}}, "option dampening"),
        ({"loss": nn.CrossEntropyLoss(weight=torch.ones(CLASSES))}, "class weights"),
        ({"loss": weighted}, "returns a weight"),
        ({"model": lambda: Loose(counting)}, "changes calls"),
        ({"model": lambda: Loose(drawing)}, "NumPy's or Python's"),
        ({"model": lambda: Loose(branching)}, "torch.func refuses"),
        ({"model": lambda: Loose(functionally_dropped)}, "random numbers other than those of nn.Dropout"),
        ({"model": hooked}, "has hooks"),
        ({"model": by_recipe}, "models differ in 1.negative_slope"),
        ({"model": partly_used}, "no gradient"),
    ],
)
def test_what_cannot_be_stacked_goes_one_by_one_and_says_why(options: dict[str, Any], why: str) -> None:
    recipes = [Recipe(lr=0.1 / (n + 1), epochs=2, seed=n) for n in range(2)]
    trainer, alone = make(stack=True, **options), make(**options)
    assert train(trainer.start(recipes), steps=3) == train(alone.start(recipes), steps=3)
    added = [notice for notice in trainer.notices if notice not in alone.notices]
    assert len(added) == 1
    assert added[0].startswith("runs are trained one by one, not stacked: ")
    assert why in added[0]
    assert trainer.together([trainer.start([recipe]) for recipe in recipes]) is None or "differ" in why
    assert trainer.stack_speedup(recipes[0], 4) == 1.0 or "differ" in why
