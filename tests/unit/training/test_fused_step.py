"""PyTorch's engine and kernels without its wrappers: the same numbers to the last bit, or its own way."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import CLASSES, FEATURES, blobs, make, plain
from torch import nn
from torch.nn import functional

from lrtune.core.outcome import Outcome
from lrtune.core.recipe import Recipe
from lrtune.training.networks.fused_step import FusedStep, backward, step_of
from lrtune.training.networks.loss import objective_of
from lrtune.training.networks.optimizers import FUSED_ON_CPU, plain_step
from lrtune.training.networks.step import Stepper

needs_fused = pytest.mark.skipif(not FUSED_ON_CPU, reason="this PyTorch has no fused kernels on the CPU")
DECAYS = st.sampled_from([0.0, 0.1])
FUSED = st.booleans() if FUSED_ON_CPU else st.just(False)  # noqa: FBT003 -- a value, not a flag
DESCENT = st.fixed_dictionaries(
    {"momentum": st.sampled_from([0.0, 0.9]), "dampening": st.sampled_from([0.0, 0.3]), "weight_decay": DECAYS}
)
NESTEROV = st.fixed_dictionaries({"momentum": st.just(0.9), "nesterov": st.just(value=True), "weight_decay": DECAYS})
MOMENTS = st.fixed_dictionaries({"betas": st.sampled_from([(0.9, 0.999), (0.5, 0.8)]), "weight_decay": DECAYS})


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(FEATURES, 5), nn.Tanh(), nn.Linear(5, CLASSES)).to(dtype)


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, step: Any, steps: int = 7) -> list[torch.Tensor]:
    """Weights and the optimizer's state after some steps at changing rates, a parameter without gradient in one."""
    x, y = blobs()
    dtype = next(model.parameters()).dtype
    for number in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(model(x.to(dtype)), y).backward()
        if number == 4:
            next(model.parameters()).grad = None
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (1 + number)
        step()
    kept = [entry[name] for entry in optimizer.state.values() for name in sorted(entry)]
    return [*model.parameters(), *(value for value in kept if isinstance(value, torch.Tensor))]


def alike(
    kind: type[torch.optim.Optimizer], options: dict[str, Any], *, groups: bool = False, dtype: torch.dtype
) -> None:
    found = []
    for direct in (False, True):
        model = network(dtype)
        parameters: Any = list(model.parameters())
        if groups:
            parameters = [{"params": parameters[:1], "weight_decay": 0.3}, {"params": parameters[1:]}]
        optimizer = kind(parameters, lr=0.1, **options)  # type: ignore[call-arg]
        found.append(trained(model, optimizer, step_of(optimizer) if direct else optimizer.step))
    assert len(found[0]) == len(found[1])
    assert all(map(torch.equal, *found))


class TestSteps:
    @given(st.one_of(DESCENT, NESTEROV), FUSED, st.booleans(), st.sampled_from([torch.float32, torch.float64]))
    @settings(max_examples=60, deadline=None)
    def test_descent_is_torchs_own(self, options: dict[str, Any], fused: bool, groups: bool, dtype: Any) -> None:
        alike(torch.optim.SGD, options | {"fused": fused or None}, groups=groups, dtype=dtype)

    @given(st.sampled_from([torch.optim.Adam, torch.optim.AdamW]), MOMENTS, FUSED, st.booleans())
    @settings(max_examples=40, deadline=None)
    def test_moments_are_torchs_own(self, kind: Any, options: dict[str, Any], fused: bool, groups: bool) -> None:
        alike(kind, options | {"fused": fused or None}, groups=groups, dtype=torch.float32)

    @pytest.mark.parametrize(
        ("kind", "options", "own_steps"),
        [
            (torch.optim.SGD, {}, 2),  # the first, and the one that lacks a gradient
            (torch.optim.SGD, {"momentum": 0.9}, 2),
            pytest.param(torch.optim.SGD, {"fused": True}, 2, marks=needs_fused),
            pytest.param(torch.optim.AdamW, {"fused": True}, 2, marks=needs_fused),
            (torch.optim.AdamW, {}, 7),
            (torch.optim.SGD, {"maximize": True}, 7),
            (torch.optim.SGD, {"foreach": True}, 7),
            (torch.optim.Adam, {"amsgrad": True}, 7),
        ],
    )
    def test_who_takes_them(self, kind: Any, options: dict[str, Any], own_steps: int) -> None:
        model, calls = network(), []
        optimizer = kind(model.parameters(), lr=0.1, **options)
        own = plain_step(optimizer)
        trained(model, optimizer, FusedStep(optimizer, lambda: calls.append(own())).step)
        assert len(calls) == own_steps

    def test_other_classes_and_hooks_go_their_own_way(self) -> None:
        class Mine(torch.optim.SGD):
            """Not one whose step is known."""

        parameters = list(network().parameters())
        hooked = torch.optim.SGD(parameters, lr=0.1)
        hooked.register_step_pre_hook(lambda *_: None)
        assert step_of(hooked) == hooked.step
        for optimizer in (Mine(parameters, lr=0.1), torch.optim.RMSprop(parameters, lr=0.1)):
            assert not isinstance(getattr(step_of(optimizer), "__self__", None), FusedStep)

    def test_weights_that_were_exchanged_are_the_ones_that_are_trained(self) -> None:
        run = make(model=plain).start([Recipe(lr=0.1, epochs=2)])
        run.advance(3, evaluate=False)
        weight = run.members[0].live.model.weight  # type: ignore[union-attr]  # if it is not there, this fails
        weight.data = torch.zeros_like(weight)
        run.advance(1, evaluate=False)
        assert weight.abs().sum() > 0
        run.close()


class Broken(torch.autograd.Function):
    """Raises where only the engine can hear it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        del ctx
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        del ctx
        raise KeyError(len(gradients))


class TestBackward:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_gradients_are_torchs_own_and_add_up(self, dtype: torch.dtype) -> None:
        model = network(dtype)
        twin = copy.deepcopy(model)
        x, y = blobs()
        for _ in range(2):
            backward(functional.cross_entropy(model(x.to(dtype)), y))
            functional.cross_entropy(twin(x.to(dtype)), y).backward()
        for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            assert mine.grad is not None
            assert theirs.grad is not None
            assert torch.equal(mine.grad, theirs.grad)

    def test_a_loss_that_is_a_weight_itself(self) -> None:
        weight = nn.Parameter(torch.tensor(2.0))
        for expected in (1.0, 2.0):
            backward(weight)
            assert weight.grad == expected

    def test_a_loss_without_gradients_is_the_error_that_torch_has_for_it(self) -> None:
        with pytest.raises(RuntimeError, match="does not require grad"):
            backward(torch.tensor(1.0))

    def test_what_the_users_code_raises_comes_through(self) -> None:
        model = network()
        with pytest.raises(KeyError):
            backward(Broken.apply(model(blobs()[0])).sum())

    def test_the_graph_is_freed(self) -> None:
        loss = network()(blobs()[0]).square().sum()
        backward(loss)
        with pytest.raises(RuntimeError, match="second time"):
            loss.backward()

    def test_a_subclass_of_a_tensor_has_a_say(self) -> None:
        called: list[str] = []

        class Mine(torch.Tensor):
            """Hears all that is done with it."""

            @classmethod
            def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                called.append(getattr(func, "__name__", ""))
                return super().__torch_function__(func, types, args, kwargs or {})

        loss = network()(blobs()[0]).sum().as_subclass(Mine)
        backward(loss)
        assert "backward" in called


def stepper(model: nn.Module, loss: Any = "cross_entropy") -> Stepper:
    optimizer, host = torch.optim.SGD(model.parameters(), lr=0.1), torch.device("cpu")
    return Stepper(model, optimizer, objective_of(loss), device=host, precision="float32", clip_norm=None, accumulate=1)


class TestTrouble:
    @pytest.mark.parametrize("where", ["weight", "gradient"])
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_one_number_among_many_is_found(self, where: str, value: float) -> None:
        model = network()
        made = stepper(model)
        made.step(blobs())
        assert made.non_finite() == ""
        weight = list(model.parameters())[2]
        assert weight.grad is not None
        with torch.no_grad():
            (weight if where == "weight" else weight.grad)[1, 2] = value
        assert made.non_finite() == f"a {where}"

    def test_infinities_of_both_signs_do_not_cancel(self) -> None:
        model = network()
        made = stepper(model)
        made.step(blobs())
        with torch.no_grad():
            next(model.parameters())[0, :2] = torch.tensor([math.inf, -math.inf])
        assert made.non_finite() == "a weight"

    def test_large_numbers_are_finite_though_their_sum_is_not(self) -> None:
        model = network()
        made = stepper(model)
        made.step(blobs())
        with torch.no_grad():
            next(model.parameters()).fill_(3e38)
        assert not torch.isfinite(next(model.parameters()).sum())
        assert made.non_finite() == ""


def test_a_gradient_that_comes_late_is_trained_on() -> None:
    class Late(nn.Module):
        """Its bias takes part from the fourth step on."""

        def __init__(self) -> None:
            super().__init__()
            self.net, self.bias, self.calls = plain(), nn.Parameter(torch.zeros(CLASSES)), 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.net(x) + self.bias if self.calls > 3 else self.net(x)

    for optimizer in ("sgd", "momentum", "adamw"):
        run = make(model=Late, optimizer=optimizer).start([Recipe(lr=0.1, epochs=2)])
        live = run.members[0].live
        assert live is not None
        run.advance(3, evaluate=False)
        assert live.model.bias.tolist() == [0.0] * CLASSES
        (report,) = run.advance(7)
        assert report.outcome is Outcome.COMPLETED
        assert all(value != 0 for value in live.model.bias.tolist())


class TestShared:
    """The gradient of a loss with respect to itself is made once where nobody can change it."""

    def test_nobody_changes_it(self) -> None:
        for name in ("cross_entropy", "mse", "l1", "huber", "bce_with_logits"):
            x, y = blobs()
            model = nn.Linear(FEATURES, CLASSES if name == "cross_entropy" else 1)
            target = y if name == "cross_entropy" else (y > 0).float()
            made = stepper(model, name)
            for _ in range(3):
                made.step((x, target))
            assert made._ones is not None
            assert made._ones == 1.0

    def test_a_loss_of_ones_own_has_one_of_its_own(self) -> None:
        def greedy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            loss = functional.cross_entropy(output, target)
            loss.register_hook(lambda gradient: gradient.mul_(2))
            return loss

        x, y = blobs()
        found = []
        for loss in (greedy, lambda output, target: 2 * functional.cross_entropy(output, target)):
            model = network()
            made = stepper(model, loss)
            for _ in range(3):
                made.step((x, y))
            found.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
        assert torch.allclose(*found)

    def test_double_precision_has_its_own(self) -> None:
        model = network(torch.float64)
        made = stepper(model)
        x, y = blobs()
        made.step((x.double(), y))
        assert all(p.grad is not None and p.grad.dtype == torch.float64 for p in model.parameters())
