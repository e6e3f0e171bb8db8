"""The range test: what it finds, what it survives, and that everything is afterwards as it was before."""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier, SGDRegressor
from torch import nn

from lrtune.core.curve import Point
from lrtune.core.divergence import Baseline
from lrtune.core.outcome import Outcome
from lrtune.core.recipe import Recipe
from lrtune.errors import InputError
from lrtune.schedules import for_recipe
from lrtune.search.lr_range.lr_range import RangeTest, range_test
from lrtune.training.base import Report
from lrtune.training.estimators.trainer import SklearnTrainer
from lrtune.training.generator import GeneratorTrainer
from lrtune.training.networks.trainer import TorchTrainer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from lrtune.training.base import Run, State

X, Y = load_digits(return_X_y=True)
X = (X / 16.0).astype(np.float32)
FULL = Recipe(lr=1.0, epochs=50)  # at batch 32 about 2,000 steps


def torch_trainer(model: Callable[..., nn.Module] | None = None, **options: Any) -> TorchTrainer:
    data = torch.from_numpy(X), torch.from_numpy(Y)
    told = {
        "model": model or (lambda: nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))),
        "train_data": (data[0][:1280], data[1][:1280]),
        "valid_data": (data[0][1280:], data[1][1280:]),
        "device": "cpu",
    }
    return TorchTrainer(**(told | options))


def delicate() -> nn.Module:
    """All that remembers or draws: BatchNorm buffers, dropout."""
    return nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 10))


# --- a trainer that says what it is told to: for what no real one does on demand


@dataclass
class Scripted:
    """A trainer whose loss is a function of seed, step and learning rate; it may raise."""

    loss: Callable[[int, int, float], float]
    per_epoch: int = 1
    saves: bool = False
    notices: Sequence[str] = ()
    closed: list[int] = field(default_factory=list)

    def start(self, recipes: Sequence[Recipe], /) -> ScriptedRun:
        return ScriptedRun(self, recipes[0])

    def steps_per_epoch(self, recipe: Recipe, /) -> int:  # noqa: ARG002 -- the protocol's
        return self.per_epoch

    def baseline(self, recipe: Recipe, metric: str, /) -> Baseline:  # noqa: ARG002 -- the protocol's
        return Baseline()

    def fingerprint(self) -> Mapping[str, str]:
        return {}


class ScriptedRun:
    def __init__(self, trainer: Scripted, recipe: Recipe) -> None:
        self.trainer, self.recipe = trainer, recipe
        self.total = recipe.epochs * trainer.per_epoch
        self.schedule = for_recipe(recipe, self.total)
        self.step, self.losses = 0, []

    @property
    def recipes(self) -> Sequence[Recipe]:
        return [self.recipe]

    @property
    def alive(self) -> tuple[int, ...]:
        return (0,) if self.step < self.total else ()

    def advance(self, steps: int, /, *, evaluate: bool = True) -> list[Report]:  # noqa: ARG002 -- the protocol's
        for _ in range(steps):
            lr = self.recipe.lr * self.schedule(self.step / self.total)
            if self.step % self.trainer.per_epoch == 0:
                self.losses = []
            self.losses.append(self.trainer.loss(self.recipe.seed, self.step, lr))
            self.step += 1
        point = Point(
            step=self.step,
            epoch=self.step / self.trainer.per_epoch,
            values={"train_loss": float(np.mean(self.losses))},
            lr=lr,
        )
        return [Report(member=0, point=point, outcome=None if self.alive else Outcome.COMPLETED)]

    def drop(self, members: Iterable[int], /) -> None: ...

    def state(self) -> State | None:
        return None

    def restore(self, state: State, /) -> None: ...

    def suspend(self) -> None: ...

    def close(self) -> None:
        self.trainer.closed.append(self.recipe.seed)


def good(seed: int, step: int, lr: float) -> float:
    """Falls around 1e-2, explodes above 1, with a little noise of its own."""
    x = math.log10(lr)
    noise = 0.03 * np.random.default_rng([seed, step]).normal()
    return 2.3 - 2 / (1 + math.exp(-4 * (x + 2))) + 50 * max(x, 0) + noise


def swept(loss: Callable[[int, int, float], float], *, per_epoch: int = 1, **options: Any) -> RangeTest:
    trainer = Scripted(loss, per_epoch=per_epoch)
    found = range_test(trainer, recipe=FULL, **({"steps": 150} | options))
    assert trainer.closed == [FULL.seed + k for k in range(len(found.sweeps))], "every run is closed"
    json.dumps(found.to_json(), allow_nan=False)
    assert found.reliable == (found.confidence != "unreliable here")
    assert found.why
    assert str(found).startswith("range test: ")
    return found


def holds(found: RangeTest, lr: float) -> bool:
    return found.interval is not None and found.interval[0] < lr < found.interval[1]


@pytest.mark.parametrize("per_epoch", [1, 7, 150, 1000])
def test_the_minibatch_losses_come_out_of_the_running_means(per_epoch: int) -> None:
    found = swept(good, per_epoch=per_epoch)
    sweep = found.sweeps[1]
    told = [good(1, step, lr) for step, lr in enumerate(sweep.lrs)]
    assert sweep.losses == pytest.approx(told, abs=1e-9)
    assert sweep.lrs[0] == pytest.approx(1e-7)
    assert np.diff(np.log10(sweep.lrs)) == pytest.approx(8 / 150)
    assert holds(found, 1e-2)


def test_a_clean_sweep_is_good_and_its_interval_leaves_most_out() -> None:
    found = swept(good)
    assert found.confidence == "good"
    assert found.interval is not None
    assert holds(found, 1e-2)
    assert math.log10(found.interval[1] / found.interval[0]) < 4
    assert found.edge == pytest.approx(1.0, rel=0.5)
    rows = found.rows()
    assert len(rows) == sum(len(sweep.losses) for sweep in found.sweeps)
    assert set(rows[0]) == {"seed", "step", "lr", "loss", "smooth"}


def test_one_nan_in_the_middle_costs_nothing() -> None:
    found = swept(lambda seed, step, lr: math.nan if step == 90 else good(seed, step, lr))
    assert holds(found, 1e-2)
    assert found.confidence == "good"
    assert found.to_json()["sweeps"][0]["loss"][90] is None


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf, 1e300])
def test_a_tail_that_is_broken_is_an_edge(broken: float) -> None:
    found = swept(lambda seed, step, lr: good(seed, step, lr) if lr < 0.3 else broken)
    assert holds(found, 1e-2)
    assert found.edge == pytest.approx(0.3, rel=0.5)
    assert found.interval is not None
    assert found.interval[1] < 1


def test_negative_losses() -> None:
    found = swept(lambda seed, step, lr: good(seed, step, lr) - 100)
    assert found.interval == pytest.approx(swept(good).interval, rel=0.15)


def test_flat_losses_are_unreliable() -> None:
    found = swept(lambda *_: 2.3)
    assert found.interval is None
    assert "0 of 3 sweeps" in found.why


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nothing_finite_is_unreliable(value: float) -> None:
    found = swept(lambda *_: value)
    assert found.interval is None
    assert "not finite" in found.why
    assert all(len(sweep.losses) < 150 for sweep in found.sweeps), "what is hopeless ends early"


def test_divergence_within_ten_steps_is_unreliable() -> None:
    found = swept(lambda seed, step, lr: 2.3 if step < 5 else 10.0 ** min(step, 300) + 0 * seed * lr)
    assert found.interval is None
    assert all(len(sweep.losses) < 40 for sweep in found.sweeps)


def test_seeds_that_disagree_are_unreliable() -> None:
    found = swept(lambda seed, step, lr: good(seed, step, min(lr * 10.0 ** (1.5 * seed), 1.0)))
    assert found.interval is None
    assert "disagree" in found.why


def test_what_never_breaks_down_is_fair_at_most() -> None:
    found = swept(lambda seed, step, lr: good(seed, step, min(lr, 1.0)))
    assert found.confidence == "fair"
    assert found.edge is None
    assert "did not break down up to 10" in found.why


def test_one_sweep_is_fair_at_most() -> None:
    assert swept(good, seeds=1).confidence == "fair"


@pytest.mark.parametrize("at", [0, 1, 60, 140])
def test_a_loss_that_raises_never_comes_out(at: int) -> None:
    def raises(seed: int, step: int, lr: float) -> float:
        if step == at:
            msg = "index 7 is out of bounds\nand more"
            raise IndexError(msg)
        return good(seed, step, lr)

    found = swept(raises)
    assert found.sweeps[0].ended == "the training code raised IndexError: index 7 is out of bounds"
    assert len(found.sweeps[0].losses) == at
    if at < 100:
        assert found.interval is None
        assert "IndexError" in found.why


def test_a_stop_of_the_process_does_come_out() -> None:
    def interrupted(*_: Any) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        swept(interrupted)


def test_the_cost_is_counted_in_full_trainings() -> None:
    found = swept(lambda seed, step, lr: good(seed, step, min(lr, 1.0)), per_epoch=9)
    assert found.cost == pytest.approx(3 * 150 / (50 * 9))


@pytest.mark.parametrize(("per_epoch", "expected"), [(40, 150), (20, 80), (1, 40)])
def test_sweeps_are_short_where_trainings_are(per_epoch: int, expected: int) -> None:
    found = swept(lambda seed, step, lr: good(seed, step, min(lr, 1.0)), per_epoch=per_epoch, steps=None)
    assert [len(sweep.losses) for sweep in found.sweeps] == [expected] * 3
    assert expected == 40 or found.cost < 0.25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 1.0, "high": 0.1}, "below a finite high"),
        ({"low": 0.0}, "positive"),
        ({"low": math.nan}, "positive"),
        ({"high": math.inf}, "finite"),
        ({"steps": 19}, "at least 20 steps"),
        ({"seeds": 0}, "at least one seed"),
    ],
)
def test_what_makes_no_sweep_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        range_test(Scripted(good), **options)


def test_a_generator_is_refused() -> None:
    def train(recipe: Recipe) -> Any:
        for _ in range(recipe.epochs):
            yield {"train_loss": 1.0}

    with pytest.raises(InputError, match="must drive the learning rate itself"):
        range_test(GeneratorTrainer(train))


# --- real trainers


def test_the_interval_holds_the_stable_rates_of_a_quadratic_bowl() -> None:
    """Gradient descent on a bowl of curvature c is stable below 2 / c and fastest near 1 / c."""
    curvature = 8.0
    data = torch.ones(64, 1) * math.sqrt(curvature), torch.zeros(64, 1)

    def bowl() -> nn.Module:
        layer = nn.Linear(1, 1, bias=False)
        nn.init.constant_(layer.weight, 1.0)
        return layer

    trainer = TorchTrainer(model=bowl, train_data=data, loss=lambda out, y: 0.5 * ((out - y) ** 2).mean(), device="cpu")
    found = range_test(trainer, steps=150)
    assert holds(found, 1 / curvature)
    assert found.edge is None or found.edge > 1 / curvature


@pytest.mark.parametrize("batch_size", [32, 256, 10_000])
def test_pytorch_with_any_batch(batch_size: int) -> None:
    recipe = Recipe(lr=1.0, epochs=27, batch_size=batch_size)
    found = range_test(torch_trainer(optimizer_options={"momentum": 0.9}), recipe=recipe)
    assert holds(found, 0.05)


def test_groups_with_different_rates_are_scaled_by_one_factor() -> None:
    seen: list[tuple[float, ...]] = []
    sizes: list[int] = []

    class Spy(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            if sum(p.numel() for group in self.param_groups for p in group["params"]) == sizes[-1]:  # no stand-ins
                seen.append(tuple(group["lr"] for group in self.param_groups))
            return super().step(closure)

    def groups(model: Any) -> list[dict[str, Any]]:
        sizes.append(sum(p.numel() for p in model.parameters()))
        return [
            {"params": model[0].parameters(), "lr_ratio": 0.1},
            {"params": model[2].parameters(), "lr_ratio": 1.0},
        ]

    trainer = torch_trainer(
        optimizer=lambda params, lr: Spy(params, lr=lr),
        param_groups=groups,
    )
    found = range_test(trainer, recipe=FULL, seeds=1)
    assert holds(found, 0.3)
    ratios = np.array(seen)[:, 0] / np.array(seen)[:, 1]
    assert ratios == pytest.approx(np.full(len(seen), 0.1))
    assert np.array(seen)[:, 1] == pytest.approx(found.sweeps[0].lrs)


def test_scikit_learn() -> None:
    found = range_test(SklearnTrainer(SGDClassifier(loss="log_loss"), X, Y), recipe=FULL)
    assert holds(found, 0.05)


def test_scikit_learn_that_diverges_in_silence() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(600, 10))
    found = range_test(SklearnTrainer(SGDRegressor(), rows, rows @ rng.normal(size=10)), recipe=FULL)
    assert holds(found, 0.01)
    assert found.edge is not None
    assert found.edge < 5


def snapshot() -> tuple[Any, ...]:
    numpy_state = np.random.get_state()  # noqa: NPY002 -- the global one is what must not move
    threads = torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()
    return torch.get_rng_state().tolist(), numpy_state[1].tolist(), numpy_state[2:], random.getstate(), threads


def bits(value: Any) -> Any:
    """A state, comparable bit for bit."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    return [bits(item) for item in value] if isinstance(value, list | tuple) else value


def trained(run: Run) -> list[Any]:
    curve = []
    while run.alive:
        curve += [(r.point.step, {k: float(v).hex() for k, v in r.point.values.items()}) for r in run.advance(17)]
    return curve


def delicate_trainer() -> TorchTrainer:
    return torch_trainer(delicate, optimizer="adamw", layer_decay=0.8)


def sklearn_trainer() -> SklearnTrainer:
    return SklearnTrainer(SGDClassifier(loss="log_loss"), X, Y)


@pytest.mark.parametrize("make", [delicate_trainer, sklearn_trainer])
def test_everything_is_as_before_bit_for_bit(make: Callable[[], Any]) -> None:
    recipe = Recipe(lr=1e-2, epochs=4, schedule="cosine", seed=3)
    undisturbed = trained(make().start([recipe]))
    trainer = make()
    run = trainer.start([recipe])
    begun = [(r.point.step, {k: float(v).hex() for k, v in r.point.values.items()}) for r in run.advance(17)]
    before, globals_before = bits(run.state()), snapshot()
    range_test(trainer, recipe=recipe, steps=60, seeds=2, keep=run)
    assert bits(run.state()) == before
    assert snapshot() == globals_before
    assert begun + trained(run) == undisturbed


def test_a_run_is_put_back_even_where_models_share_their_parts() -> None:
    shared = delicate()
    trainer = torch_trainer(lambda: nn.Sequential(shared), optimizer="adamw")
    run = trainer.start([Recipe(lr=1e-2, epochs=4)])
    run.advance(17)
    kept = run.state()
    assert kept is not None
    before = bits(kept)
    range_test(trainer, steps=40, seeds=1)
    assert bits(run.state()) != before, "the shared part was trained"
    run.restore(kept)
    range_test(trainer, steps=40, seeds=1, keep=run)
    assert bits(run.state()) == before


def test_it_is_put_back_where_the_loss_raises_too() -> None:
    calls = []

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) > 60:
            msg = "out of patience"
            raise RuntimeError(msg)
        return nn.functional.cross_entropy(output, target)

    shared = delicate()
    trainer = torch_trainer(lambda: nn.Sequential(shared), loss=loss, valid_data=None)
    run = trainer.start([Recipe(lr=1e-2, epochs=4)])
    run.advance(17, evaluate=False)
    before, globals_before = bits(run.state()), snapshot()
    found = range_test(trainer, steps=100, keep=run)
    assert found.interval is None
    assert "out of patience" in found.why
    assert bits(run.state()) == before
    assert snapshot() == globals_before


def test_the_same_seed_gives_the_same_test() -> None:
    first, second = (range_test(delicate_trainer(), recipe=FULL, seeds=2, steps=60).to_json() for _ in range(2))
    assert first == second
