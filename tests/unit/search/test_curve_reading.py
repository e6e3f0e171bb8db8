"""What is read from a sweep: on curves whose answer is known, and on what breaks the usual finders."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrtune.errors import InputError
from lrtune.search.lr_range import curve_reading

LRS = np.logspace(-7, 1, 150)
FALL, EDGE = 1e-2, 1.0  # the middle of the fall, and where training breaks down
ALL = list(curve_reading.READERS.values())


def loss(lrs: np.ndarray, *, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """Falls from 2.3 to 0.3 as a sigmoid of log lr around FALL, and explodes above EDGE."""
    x = np.log10(lrs)
    fallen = 2.3 - 2.0 / (1 + np.exp(-4 * (x - math.log10(FALL))))
    above = np.maximum(x - math.log10(EDGE), 0)
    return fallen + 1e3 * above**2 + noise * np.random.default_rng(seed).normal(size=len(x))


def decades(found: float | None, expected: float) -> float:
    assert found is not None
    return abs(math.log10(found / expected))


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("seed", range(5))
def test_a_known_sweep_is_read_right(noise: float, seed: int) -> None:
    losses = loss(LRS, noise=noise, seed=seed)
    assert decades(curve_reading.steepest(LRS, losses), FALL) < 0.3
    assert decades(curve_reading.edge(LRS, losses), EDGE) < 0.3
    minimum = curve_reading.minimum_over_ten(LRS, losses)
    assert minimum is not None
    assert FALL < 10 * minimum <= EDGE * 1.2
    valley = curve_reading.valley(LRS, losses)
    assert valley is not None
    assert FALL / 100 < valley < 10 * minimum
    sliding = curve_reading.sliding(LRS, losses)
    assert sliding is not None
    assert FALL / 1.5 < sliding < 10 * minimum


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize("at", [0, 40, 94, 149])
def test_one_broken_loss_moves_nothing_far(broken: float, at: int) -> None:
    whole = loss(LRS, noise=0.05)
    damaged = whole.copy()
    damaged[at] = broken
    for reader in (curve_reading.steepest, curve_reading.minimum_over_ten, curve_reading.valley):
        expected = reader(LRS, whole)
        assert expected is not None
        assert decades(reader(LRS, damaged), expected) < 0.25


@pytest.mark.parametrize("tail", [math.nan, math.inf, -math.inf])
def test_a_tail_that_is_not_finite_is_an_edge(tail: float) -> None:
    losses = loss(LRS, noise=0.02)
    losses[LRS > 0.5] = tail
    assert decades(curve_reading.edge(LRS, losses), 0.5) < 0.1
    assert decades(curve_reading.steepest(LRS, losses), FALL) < 0.3


def test_slopes_are_taken_against_the_logarithm() -> None:
    x = np.log10(LRS)
    _, slope = curve_reading.smooth(LRS, 3.0 - 0.5 * x)
    inside = slice(20, -20)  # the median of five mirrors the ends
    assert slope[inside] == pytest.approx(np.full(len(x), -0.5)[inside], abs=1e-4)


@pytest.mark.parametrize("seed", range(20))
def test_noise_alone_says_nothing(seed: int) -> None:
    losses = 2.3 + 0.2 * np.random.default_rng(seed).normal(size=len(LRS))
    assert [reader(LRS, losses) for reader in ALL] == [None] * len(ALL)


def test_flat_says_nothing() -> None:
    assert [reader(LRS, np.full(len(LRS), 2.3)) for reader in ALL] == [None] * len(ALL)


def test_a_sweep_that_only_explodes_has_an_edge_and_nothing_else() -> None:
    losses = np.where(LRS > 1e-3, 1e6, 2.3) + 0.01 * np.random.default_rng(0).normal(size=len(LRS))
    assert decades(curve_reading.edge(LRS, losses), 1e-3) < 0.2
    assert curve_reading.steepest(LRS, losses) is None


def test_what_keeps_falling_has_no_edge() -> None:
    assert curve_reading.edge(LRS, 2.3 - np.log1p(LRS * 1e5)) is None


def test_too_few_losses_say_nothing() -> None:
    for n in range(8):
        assert [reader(LRS[:n], loss(LRS[:n])) for reader in ALL] == [None] * len(ALL)


ANY = st.floats(allow_nan=True, allow_infinity=True, width=32)


@given(st.lists(ANY, max_size=60))
def test_anything_gives_a_learning_rate_of_the_sweep_or_none(losses: list[float]) -> None:
    lrs = np.logspace(-5, 1, max(len(losses), 2))[: len(losses)]
    for reader in ALL:
        found = reader(lrs, losses)
        if found is not None:
            low = lrs[0] / 10 if reader is curve_reading.minimum_over_ten else lrs[0]
            assert low * (1 - 1e-9) <= found <= lrs[-1] * (1 + 1e-9)


@given(scale=st.floats(1e-3, 1e3), shift=st.floats(-1e3, 1e3), seed=st.integers(0, 9))
def test_the_unit_and_the_zero_of_the_loss_do_not_matter(scale: float, shift: float, seed: int) -> None:
    """Losses may be negative: only differences count."""
    losses = loss(LRS[:130], noise=0.05, seed=seed)
    for reader in ALL:
        expected = reader(LRS[:130], losses)
        if expected is not None:
            assert decades(reader(LRS[:130], scale * losses + shift), expected) < 0.06  # a step of the grid


@pytest.mark.parametrize(
    ("lrs", "losses", "message"),
    [
        ([1e-3, 1e-2], [1.0], "one length"),
        ([[1e-3]], [[1.0]], "one length"),
        ([1e-2, 1e-3], [1.0, 2.0], "increasing"),
        ([0.0, 1e-3], [1.0, 2.0], "positive"),
        ([1e-3, math.inf], [1.0, 2.0], "finite"),
        ([1e-3, math.nan], [1.0, 2.0], "finite"),
    ],
)
def test_what_is_no_sweep_is_refused(lrs: list[float], losses: list[float], message: str) -> None:
    for reader in ALL:
        with pytest.raises(InputError, match=message):
            reader(lrs, losses)
