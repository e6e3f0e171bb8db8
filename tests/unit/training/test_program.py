"""Recorded tensor operations: the same results as the function, for other numbers of the same shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch.func import grad_and_value, vmap
from torch.nn import functional

from lrtune.training.networks.program import recorded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SHAPES = ((3, 4), (3, 4), (4, 4))


def arithmetic(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> Sequence[torch.Tensor]:
    """Constants, several results of one operation, the same operation twice, and ones that do nothing."""
    low, high = torch.aminmax(x.expand(3, 4) * 1)
    twice = (x @ w).relu() + (x @ w).relu()
    return [low + high, twice.view(3, 4) + torch.tensor(0.5), torch.cat([x, y], 1), torch.stack([x, y]).sum(0)]


def in_place(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> Sequence[torch.Tensor]:
    """A result that is changed after it was read, by way of a view."""
    held = x * 1
    before = held.sum()
    held.view(-1).add_(y.reshape(-1))
    return [before, held, held @ w, held.sum()]


def averages(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> Sequence[torch.Tensor]:
    """An operation that changes its arguments and does not say so."""
    mean, spread = torch.zeros(4), torch.ones(4)
    found = functional.batch_norm(x, mean, spread, training=True)
    return [found @ w, mean + 1, spread * y]


def gradients(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> Sequence[torch.Tensor]:
    """A gradient for each row."""

    def loss(row: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return functional.mse_loss(torch.tanh(row @ w), other)

    return [*vmap(grad_and_value(loss))(x, y)]


@pytest.mark.parametrize("function", [arithmetic, in_place, averages, gradients])
def test_it_repeats_what_the_function_does(function: Callable[..., Sequence[torch.Tensor]]) -> None:
    generator = torch.Generator().manual_seed(0)
    program = recorded(function, [torch.randn(shape, generator=generator) for shape in SHAPES])
    for _ in range(3):
        inputs = [torch.randn(shape, generator=generator) for shape in SHAPES]
        copies = [tensor.clone() for tensor in inputs]
        found = program(*inputs)
        for one, two in zip(found, function(*copies), strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_what_changes_in_place_is_changed_each_time() -> None:
    def count(x: torch.Tensor) -> Sequence[torch.Tensor]:
        x.add_(1)
        return [x * 2]

    number = torch.zeros(2)
    program = recorded(count, [number])
    assert [program(number)[0][0].item() for _ in range(3)] == [4.0, 6.0, 8.0]


def test_a_result_that_was_not_computed_is_refused() -> None:
    constant = torch.ones(2)
    with pytest.raises(ValueError, match="output 1 is no result"):
        recorded(lambda x: [x + 1, constant], [torch.zeros(2)])
