"""PyTorch models as a trainer: the contract, and what is PyTorch's own."""

from __future__ import annotations

import gc
import math
import random
import weakref
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import CLASSES, FEATURES, RECIPES, Drawing, Noisy, blobs, bowl_trainer, last_reports, make, mlp, plain
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from trainer_contract import BowlContract, SavingContract, TrainerContract, train

from lrtune.core.outcome import Outcome
from lrtune.core.recipe import Recipe
from lrtune.errors import InputError, RecipeError
from lrtune.schedules import for_recipe
from lrtune.training import checkpoint
from lrtune.training.networks.data import epoch_order
from lrtune.training.networks.optimizers import apply_lr, blocks, build, layer_groups
from lrtune.training.networks.trainer import TorchTrainer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lrtune.training.base import Trainer


class TestTensors(SavingContract, BowlContract, TrainerContract):
    recipes: ClassVar = RECIPES

    def trainer(self) -> Trainer:
        return make()

    def bowl(self) -> tuple[Trainer, float]:
        return bowl_trainer()


class TestListening(SavingContract, TrainerContract):
    """A schedule that hears the metric, half precision, accumulation, clipping, decay by layer."""

    recipes: ClassVar = (
        Recipe(lr=0.1, epochs=4, seed=1, schedule="plateau(factor=0.5, patience=0, threshold=0.5)", warmup=0.1),
        Recipe(lr=0.05, epochs=2, seed=2, optimizer="nesterov", layer_decay=0.5),
    )

    def trainer(self) -> Trainer:
        return make(precision="bf16", accumulate=2, clip_norm=0.5, layer_decay=0.8)


class TestDrawingModel(SavingContract, TrainerContract):
    """Code of the user's own that draws random numbers, in training and in evaluation."""

    recipes: ClassVar = RECIPES[:2]

    def trainer(self) -> Trainer:
        return make(model=Drawing)


class TestDataset(SavingContract, TrainerContract):
    recipes: ClassVar = RECIPES

    def trainer(self) -> Trainer:
        return make(train_data=Noisy(), valid_data=TensorDataset(*blobs(30, seed=1)))


class TestLoaderFactory(SavingContract, TrainerContract):
    recipes: ClassVar = RECIPES

    def trainer(self) -> Trainer:
        def loader(batch_size: int) -> DataLoader[Any]:
            return DataLoader(Noisy(), batch_size=batch_size, shuffle=True)

        def held_out() -> DataLoader[Any]:
            return DataLoader(Noisy(), batch_size=20)

        return make(train_data=loader, valid_data=held_out)


class TestLoader(SavingContract, TrainerContract):
    """One loader with a generator of its own, shared by all members."""

    recipes: ClassVar = tuple(Recipe(lr=lr, epochs=2, seed=seed) for seed, lr in enumerate((0.1, 0.01)))

    def trainer(self) -> Trainer:
        loader = DataLoader(Noisy(), batch_size=16, shuffle=True, generator=torch.Generator())
        return make(train_data=loader)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Small models on a busy machine: threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class TestPrivacy:
    """What a run leaves alone, and what leaves a run alone."""

    def test_the_global_generators_and_settings_stay_as_they_were(self) -> None:
        def look() -> list[Any]:
            np_state = np.random.get_state()  # noqa: NPY002 -- the global one
            settings_ = (
                torch.get_num_threads(),
                torch.are_deterministic_algorithms_enabled(),
                torch.get_default_dtype(),
            )
            return [torch.get_rng_state().tolist(), random.getstate(), str(np_state), settings_]

        before = look()
        trainer = make(train_data=Noisy())
        run = trainer.start(RECIPES)
        run.advance(3)
        run.state()
        run.suspend()
        trainer.fingerprint()
        trainer.baseline(RECIPES[0], "valid_loss")
        run.close()
        assert look() == before

    def test_the_curve_does_not_depend_on_the_global_generators(self) -> None:
        trainer = make(train_data=Noisy())
        quiet = train(trainer.start(RECIPES[:1]))
        run = trainer.start(RECIPES[:1])
        curves: dict[int, Any] = {}
        while run.alive:
            torch.manual_seed(random.randrange(1000))
            np.random.seed(3)  # noqa: NPY002 -- the global one
            curves.update(train(run, segments=1)[0])
            torch.rand(7)
        assert curves == quiet[0]

    def test_an_exception_leaves_them_alone_too(self) -> None:
        def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            torch.rand(3)
            msg = f"a bug at {output.shape} {target.shape}"
            raise KeyError(msg)

        before = torch.get_rng_state()
        run = make(loss=loss).start([RECIPES[0]])
        with pytest.raises(KeyError, match="a bug"):
            run.advance(1)
        assert torch.equal(torch.get_rng_state(), before)
        assert run.alive == ()
        run.close()

    def test_other_seeds_give_other_weights_and_orders(self) -> None:
        first, second = last_reports(make(), RECIPES[0], RECIPES[0].with_seed(99))
        assert first.point.values != second.point.values


def groups_of(trainer: TorchTrainer, recipe: Recipe) -> list[dict[str, Any]]:
    return optimizer_of(trainer.start([recipe])).param_groups


def optimizer_of(run: Any) -> torch.optim.Optimizer:
    return run.members[0].live.stepper.optimizer


class Named(nn.Module):
    """A class token, an embedding, a list of blocks, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(FEATURES))
        self.stem = nn.Linear(FEATURES, 8)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x + self.token)
        for block in self.blocks:
            x = torch.relu(block(x))
        return self.head(x)


class TestGroups:
    def test_the_last_block_has_the_rate_and_each_before_it_less(self) -> None:
        groups = groups_of(make(model=Named, layer_decay=0.8), Recipe(lr=0.5))
        assert [len(group["params"]) for group in groups] == [3, 2, 2, 2, 2]
        assert [group["lr"] for group in groups] == pytest.approx([0.5 * 0.8**depth for depth in (4, 3, 2, 1, 0)])

    def test_a_sequential_model_has_its_layers_as_blocks_and_the_recipe_decides(self) -> None:
        groups = groups_of(make(layer_decay=0.8), Recipe(lr=1.0, layer_decay=0.5))
        assert [group["lr"] for group in groups] == [0.25, 0.5, 1.0]
        assert len(groups_of(make(layer_decay=0.8), Recipe(lr=1.0, layer_decay=1.0))) == 1

    def test_shared_weights_are_trained_once_and_a_wrapper_is_looked_through(self) -> None:
        class Tied(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
                self.net[1].weight = self.net[0].weight

        found = layer_groups(Tied(), 0.5)
        assert [len(group["params"]) for group in found] == [2, 1]
        assert len(blocks(nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))))) == 2

    def test_the_ratios_hold_under_a_schedule(self) -> None:
        run = make(layer_decay=0.5).start([Recipe(lr=0.2, epochs=2, schedule="linear", warmup=0.3)])
        while run.alive:
            optimizer = optimizer_of(run)
            (report,) = run.advance(1)
            rates = [group["lr"] for group in optimizer.param_groups]
            assert report.point.lr is not None
            assert rates == pytest.approx([report.point.lr * 0.5**depth for depth in (2, 1, 0)])

    def test_groups_keep_their_own_rate_where_the_optimizer_is_given_a_tensor(self) -> None:
        # torch 2.13.0 lets groups without a rate of their own share the tensor, and LambdaLR gives all of them the rate
        # of the last group: findings/torch_tensor_lr_shared_by_groups.sh
        trainer = make(layer_decay=0.5, optimizer=lambda params, lr: torch.optim.SGD(params, lr=torch.tensor(lr)))
        run = trainer.start([Recipe(lr=0.2, epochs=2, schedule="linear", warmup=0.3)])
        while run.alive:
            optimizer = optimizer_of(run)
            (report,) = run.advance(1)
            assert report.point.lr is not None
            rates = [float(group["lr"]) for group in optimizer.param_groups]
            assert rates == pytest.approx([report.point.lr * 0.5**depth for depth in (2, 1, 0)])

    def test_groups_of_ones_own(self) -> None:
        def mine(model: nn.Sequential, recipe: Recipe) -> list[dict[str, Any]]:
            return [
                {"params": model[0].parameters(), "lr_ratio": 0.1, "weight_decay": 0.0},
                {"params": model[4].parameters(), "lr": 3 * recipe.lr},
            ]

        trainer = make(param_groups=mine, optimizer="adamw")
        groups = groups_of(trainer, Recipe(lr=0.2, weight_decay=0.3, momentum=0.7))
        assert [group["lr"] for group in groups] == pytest.approx([0.02, 0.6])
        assert [group["weight_decay"] for group in groups] == [0.0, 0.3]
        assert [group["betas"] for group in groups] == [(0.7, 0.999)] * 2
        assert last_reports(trainer, Recipe(lr=0.01, epochs=2))[0].outcome is Outcome.COMPLETED

    @given(st.floats(1e-4, 1e2), st.floats(0.05, 0.95))
    @settings(max_examples=20, deadline=None)
    def test_ratios_do_not_depend_on_the_rate(self, lr: float, decay: float) -> None:
        built = build("sgd", {}, layer_groups(Named(), decay), Recipe(lr=lr))
        apply_lr(built, 1.0)
        assert [group["lr"] for group in built.param_groups] == pytest.approx([decay**d for d in (4, 3, 2, 1, 0)])

    def test_frozen_models_are_refused(self) -> None:
        with pytest.raises(RecipeError, match="no parameters to train"):
            make(model=lambda: plain().requires_grad_(requires_grad=False)).start([Recipe(lr=0.1)])


SPECIAL = {"LBFGS", "SparseAdam"}  # needs a closure; sparse gradients only
EVERY = sorted(
    name
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
    if name not in SPECIAL
)


class TestOptimizers:
    @pytest.mark.parametrize("name", ["momentum", "nesterov", *EVERY])
    def test_each_of_torch_trains_and_its_state_survives(self, name: str, tmp_path: Path) -> None:
        trainer = make(model=lambda: nn.Linear(FEATURES, CLASSES, bias=False), optimizer=name)
        recipe = Recipe(lr=0.01, epochs=2)
        run = trainer.start([recipe])
        run.advance(4)
        checkpoint.save(tmp_path / "state.npz", run.state() or {})
        other = trainer.start([recipe])
        other.restore(checkpoint.load(tmp_path / "state.npz"))
        assert train(other) == train(run)

    def test_options_from_everywhere(self) -> None:
        trainer = make(optimizer="sgd", optimizer_options={"momentum": 0.5, "weight_decay": 0.1})
        assert groups_of(trainer, Recipe(lr=0.1))[0]["momentum"] == 0.5
        assert groups_of(trainer, Recipe(lr=0.1, momentum=0.2, weight_decay=0.0))[0]["momentum"] == 0.2
        group = groups_of(trainer, Recipe(lr=0.1, optimizer="AdamW(betas=(0.8, 0.9))"))[0]
        assert (group["betas"], group["weight_decay"]) == ((0.8, 0.9), 0.1)
        group = groups_of(make(), Recipe(lr=0.1, optimizer="nesterov", momentum=0.0))[0]
        assert (group["momentum"], group["nesterov"]) == (0.0, False)

    def test_a_callable(self) -> None:
        def mine(params: Any, lr: float) -> torch.optim.Optimizer:
            return torch.optim.RMSprop(params, lr=lr, momentum=0.1)

        group = groups_of(make(optimizer=mine, layer_decay=0.5), Recipe(lr=0.4, momentum=0.3, weight_decay=0.2))[0]
        assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.1, 0.3, 0.2)
        with pytest.raises(RecipeError, match=r"must return a torch.optim.Optimizer \(got list"):
            make(optimizer=lambda params, lr: [params, lr]).start([Recipe(lr=0.1)])

    @pytest.mark.parametrize(
        ("recipe", "match"),
        [
            (Recipe(lr=0.1, optimizer="addam"), "did you mean 'adam'"),
            (Recipe(lr=0.1, optimizer="???"), "must be a name"),
            (Recipe(lr=0.1, optimizer="adam(0.1)"), "must be a name"),
            (Recipe(lr=0.1, optimizer="adam(betas=open)"), "must be a name"),
            (Recipe(lr=0.1, optimizer="sgd(beta=1)"), "no option 'beta'"),
            (Recipe(lr=0.1, optimizer="lbfgs"), "several times a step"),
            (Recipe(lr=0.1, optimizer="adagrad", momentum=0.5), "has no momentum"),
            (Recipe(lr=0.1, optimizer="rprop", weight_decay=0.5), "has no weight decay"),
            (Recipe(lr=0.1, optimizer="adam", momentum=1.5), "refuses its options"),
            (Recipe(lr=0.1, schedule="cosinus"), "cosinus"),
            (Recipe(lr=0.1, warmup=1000), "does not fit"),
            (Recipe(lr=0.1, layer_decay=0.0), "layer_decay must be above zero"),
        ],
    )
    def test_what_a_recipe_cannot_have(self, recipe: Recipe, match: str) -> None:
        with pytest.raises(RecipeError, match=match):
            make().start([recipe])

    @pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")  # PyTorch's Adagrad makes sparse tensors
    def test_sparse_gradients(self) -> None:
        class Bag(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.bag = nn.EmbeddingBag(9, CLASSES, sparse=True)

            def forward(self, words: torch.Tensor) -> torch.Tensor:
                return self.bag(words)

        words = torch.arange(60).reshape(20, 3) % 9
        trainer = TorchTrainer(
            model=Bag, train_data=(words, words[:, 0] % 3), optimizer="adagrad", device="cpu", batch_size=7
        )
        assert last_reports(trainer, Recipe(lr=0.1, epochs=3))[0].outcome is Outcome.COMPLETED

    def test_hooks_of_an_optimizer_are_kept(self) -> None:
        calls: list[int] = []

        def mine(params: Any, lr: float) -> torch.optim.Optimizer:
            made = torch.optim.SGD(params, lr=lr)
            made.register_step_post_hook(lambda *_: calls.append(1))
            return made

        (report,) = last_reports(make(optimizer=mine), Recipe(lr=0.1))
        assert len(calls) == report.point.step


def bare_losses(recipe: Recipe, batch_size: int) -> list[float]:
    """What the loop that everybody writes gives with the same order, weights and schedule."""
    torch.manual_seed(recipe.seed)
    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr)
    x, y = blobs()
    means, step, total = [], 0, recipe.epochs * math.ceil(len(x) / batch_size)
    schedule = for_recipe(recipe, total)
    for epoch in range(recipe.epochs):
        losses = []
        for indices in epoch_order(len(x), recipe.seed, epoch).split(batch_size):
            optimizer.param_groups[0]["lr"] = recipe.lr * float(schedule(step / total))
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x[indices]), y[indices])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            step += 1
        means.append(sum(losses) / len(losses))
    return means


def test_it_trains_as_a_bare_loop_does() -> None:
    recipe = Recipe(lr=0.3, epochs=3, schedule="cosine", warmup=0.1, seed=5)
    with torch.random.fork_rng(devices=[]):
        expected = bare_losses(recipe, 16)
    run = make(model=plain).start([recipe])
    found = [report.point.values["train_loss"] for _ in range(3) for report in run.advance(5)]
    assert found == pytest.approx(expected, rel=1e-6)


class TestSteps:
    def test_micro_batches_give_the_gradient_of_the_whole_batch(self) -> None:
        data = blobs(50)
        whole = last_reports(make(model=plain, train_data=data), Recipe(lr=0.3, epochs=3))[0]
        for parts in (2, 3, 16, 40):
            cut = last_reports(make(model=plain, train_data=data, accumulate=parts), Recipe(lr=0.3, epochs=3))[0]
            assert cut.point.values == pytest.approx(whole.point.values, rel=1e-5)

    def test_clipping_bounds_the_step(self) -> None:
        run = make(model=plain, clip_norm=1e-3).start([Recipe(lr=1.0, epochs=1)])
        weights = [p.clone() for p in run.members[0].live.model.parameters()]  # type: ignore[union-attr]  # if it is not there, this fails
        live = run.members[0].live
        assert live is not None
        run.advance(1)
        moved = sum(((p - w) ** 2).sum().item() for p, w in zip(live.model.parameters(), weights, strict=True)) ** 0.5
        assert moved == pytest.approx(1e-3, rel=1e-3)

    def test_a_last_batch_of_one_sample_is_left_out(self) -> None:
        trainer = make(train_data=blobs(33))
        assert trainer.steps_per_epoch(Recipe(lr=0.1)) == 2
        assert trainer.steps_per_epoch(Recipe(lr=0.1, batch_size=32)) == 1
        (report,) = last_reports(trainer, Recipe(lr=0.1, epochs=2))
        assert (report.point.samples, report.outcome) == (64, Outcome.COMPLETED)

    def test_modes_of_modules_are_left_as_the_user_set_them(self) -> None:
        def model() -> nn.Module:
            made = mlp()
            made[1].eval()  # type: ignore[index]  # frozen statistics
            return made

        run = make(model=model).start([Recipe(lr=0.1, epochs=2)])
        live = run.members[0].live
        assert live is not None
        run.advance(3)
        assert [module.training for module in live.model] == [True, False, True, True, True]
        assert torch.equal(live.model[1].running_mean, torch.zeros(16))

    @pytest.mark.parametrize("backend", ["eager", "aot_eager"])  # the second compiles the backward pass, too
    def test_a_compiled_model_trains_alike(self, backend: str) -> None:
        plain_report = last_reports(make(model=plain), Recipe(lr=0.1))[0]
        compiled = last_reports(make(model=plain, compile={"backend": backend}), Recipe(lr=0.1))[0]
        assert compiled.point.values == pytest.approx(plain_report.point.values, rel=1e-5)


class Greedy(nn.Module):
    """A model whose memory ends above a batch size, after it has drawn random numbers."""

    def __init__(self, most: int, *, evaluating: bool = False) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 16), nn.Dropout(0.0), nn.Linear(16, CLASSES))
        self.most, self.evaluating = most, evaluating

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.rand(len(x))
        if len(x) > self.most and (self.training or self.evaluating):
            msg = "CUDA out of memory. Tried to allocate 20.00 GiB"
            raise torch.cuda.OutOfMemoryError(msg)
        return self.net(x)


class TestMemory:
    @pytest.mark.parametrize("most", [1, 3, 8, 15])
    def test_a_batch_that_does_not_fit_is_halved_and_the_curve_stays(self, most: int) -> None:
        roomy = last_reports(make(model=lambda: Greedy(64)), RECIPES[1])[0]
        tight = last_reports(make(model=lambda: Greedy(most, evaluating=True)), RECIPES[1])[0]
        assert tight.outcome is Outcome.COMPLETED
        assert tight.point.values == pytest.approx(roomy.point.values, rel=1e-4)
        assert tight.point.samples == roomy.point.samples

    def test_the_random_state_of_a_failed_attempt_is_taken_back(self) -> None:
        drawn: list[float] = []

        class Drawing(Greedy):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                drawn.append(float(torch.rand(())))
                return super().forward(x)

        make(model=lambda: Drawing(8)).start([Recipe(lr=0.1)]).advance(1, evaluate=False)
        assert drawn[0] == drawn[1]
        assert len(drawn) == 3

    def test_where_not_even_one_sample_fits_that_is_the_outcome(self) -> None:
        run = make(model=lambda: Greedy(0)).start(RECIPES[:2])
        first, second = run.advance(4)
        assert first.outcome is second.outcome is Outcome.OUT_OF_MEMORY
        assert "20.00 GiB" in first.why
        assert (run.alive, first.point.step) == ((), 0)

    def test_no_room_for_the_weights(self) -> None:
        def model() -> nn.Module:
            raise MemoryError

        trainer = make(model=model)
        run = trainer.start([RECIPES[0]])
        other = trainer.start([RECIPES[0]])
        other.restore(run.state() or {})
        for each in (run, other):
            (report,) = each.advance(1)
            assert report.outcome is Outcome.OUT_OF_MEMORY
            assert each.alive == ()

    def test_no_room_for_a_run_that_comes_back(self) -> None:
        room = [True]

        def model() -> nn.Module:
            if not room[0]:
                raise MemoryError
            return plain()

        trainer = make(model=model)
        run, other = trainer.start([RECIPES[0]]), trainer.start([RECIPES[0]])
        run.advance(3)
        room[0] = False
        other.restore(run.state() or {})
        (report,) = other.advance(1)
        assert (report.outcome, report.point.step) == (Outcome.OUT_OF_MEMORY, 3)

    def test_the_halved_size_is_part_of_the_state(self) -> None:
        trainer = make(model=lambda: Greedy(5))
        run = trainer.start([RECIPES[1]])
        run.advance(2)
        other = trainer.start([RECIPES[1]])
        other.restore(run.state() or {})
        assert other.members[0].live.stepper.micro_batch == 4  # type: ignore[union-attr]  # if it is not there, this fails
        assert train(other) == train(run)

    @pytest.mark.parametrize("end", ["close", "finish", "drop", "diverge", "raise"])
    def test_nothing_is_left_of_a_run_that_ended(self, end: str) -> None:
        seen: list[weakref.ref[Any]] = []

        def model() -> nn.Module:
            made = mlp()
            seen.extend([weakref.ref(made), *map(weakref.ref, made.parameters())])
            return made

        def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            if end == "raise":
                raise KeyError(end)
            return functional.cross_entropy(output, target)

        recipe = Recipe(lr=1e30 if end == "diverge" else 0.1, epochs=2, optimizer="momentum")
        run = make(model=model, loss=loss).start([recipe])
        try:
            run.advance(1000 if end == "finish" else 8)
        except KeyError:
            assert end == "raise"
        if end == "drop":
            run.drop([0])
        if end == "finish":
            assert any(ref() is not None for ref in seen), "a run trained to its end keeps its model until it is closed"
        if end in {"close", "finish"}:
            run.close()
        gc.collect()
        assert seen
        assert [ref() for ref in seen] == [None] * len(seen)
        assert run.alive == ()

    def test_a_model_that_is_not_fresh_is_refused(self) -> None:
        net = plain()
        run = make(model=lambda: net).start([RECIPES[0]])
        run.close()
        with pytest.raises(InputError, match="fresh module each time"):
            make(model=lambda: net).start(RECIPES[:2])
        with pytest.raises(InputError, match="such as lambda"):
            make(model=net)
        with pytest.raises(InputError, match=r"must return a torch.nn.Module \(got int"):
            make(model=lambda: 3).start([RECIPES[0]])


class TestDivergence:
    def test_a_loss_that_is_not_a_number(self) -> None:
        class Bad(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net, self.calls = plain(), 0

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                self.calls += 1
                return self.net(x) * (math.nan if self.calls > 7 else 1.0)

        run = make(model=Bad).start([Recipe(lr=0.1, epochs=9)])
        (report,) = run.advance(30)
        assert (report.outcome, report.point.step) == (Outcome.NON_FINITE, 8)
        assert math.isnan(report.point.values["train_loss"])
        assert "nan at step 8" in report.why
        assert (run.alive, run.advance(3)) == ((), [])

    @pytest.mark.parametrize("value", [math.inf, math.nan])
    def test_gradients_that_are_not_finite_under_a_finite_loss(self, value: float) -> None:
        class Hooked(nn.Module):
            """Its broken gradient reaches a weight that its output does not depend on."""

            def __init__(self) -> None:
                super().__init__()
                self.net = plain()
                self.idle = nn.Parameter(torch.ones(1))
                self.idle.register_hook(lambda gradient: gradient * 0 + value)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.net(x) + 0 * self.idle.nan_to_num(0.0, 0.0, 0.0)

        run = make(model=Hooked, batch_size=1).start([Recipe(lr=0.1, epochs=9)])
        (report,) = run.advance(10**4)
        assert report.outcome is Outcome.NON_FINITE
        assert report.point.step <= 64
        assert "a gradient was NaN or infinite" in report.why
        assert math.isfinite(report.point.values["train_loss"])

    def test_an_explosion_is_found_at_the_step(self) -> None:
        (report,) = last_reports(bowl_trainer()[0], Recipe(lr=50.0, epochs=500))
        assert report.outcome is Outcome.EXPLODED
        assert report.point.step < 20

    def test_the_others_go_on(self) -> None:
        alone = train(make().start([RECIPES[0]]))[0]
        both = train(make().start([Recipe(lr=1e30, epochs=3), RECIPES[0]]))
        assert both[1] == alone
        assert len(both[0]) < len(alone)
