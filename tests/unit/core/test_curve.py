from __future__ import annotations

import json
import math

import numpy as np
import pytest
from drawn import curves
from hypothesis import given
from hypothesis import strategies as st

from lrtune.core.curve import Curve, Point, ValueRule
from lrtune.errors import InputError


def of(*values: float, name: str = "loss") -> Curve:
    return Curve(Point(step=i + 1, epoch=float(i + 1), values={name: value}) for i, value in enumerate(values))


@given(curves())
def test_a_curve_survives_json(curve: Curve) -> None:
    text = json.dumps(curve.to_json(), allow_nan=False)
    back = Curve.from_json(json.loads(text))
    assert back == curve
    for name in curve.names:
        np.testing.assert_allclose(back.values(name), curve.values(name), rtol=1e-6)


@given(curves(least=1), st.integers(2, 12))
def test_thinning_keeps_the_ends_and_the_extremes(curve: Curve, most: int) -> None:
    thin = curve.thinned(most)
    assert len(thin) <= most + 2 * len(curve.names)
    assert thin.steps[0] == curve.steps[0]
    assert thin.last == curve.last
    for name in curve.names:
        whole, part = curve.values(name), thin.values(name)
        if np.isfinite(whole).any():
            assert np.nanmin(part) == np.nanmin(whole)
            assert np.nanmax(part) == np.nanmax(whole)


def test_a_point_must_lie_beyond_the_last() -> None:
    curve = of(1.0)
    with pytest.raises(ValueError, match="step 1 does not lie beyond step 1"):
        curve.append(Point(step=1, epoch=2.0))


def test_columns_have_gaps_where_a_name_was_not_measured() -> None:
    curve = Curve(
        [
            Point(step=1, epoch=0.5, values={"train_loss": 2.0}),
            Point(step=2, epoch=1.0, samples=64, values={"train_loss": 1.5, "valid_loss": 1.75}, lr=0.5),
        ]
    )
    assert curve.names == ["train_loss", "valid_loss"]
    assert np.isnan(curve.values("valid_loss")).tolist() == [True, False]
    epochs, values = curve.of("valid_loss")
    assert (epochs.tolist(), values.tolist()) == ([1.0], [1.75])
    assert curve.trained == 1.0
    assert curve.samples.tolist() == [0, 64]
    assert math.isnan(curve.lrs[0])
    assert curve.lrs[1] == 0.5
    assert repr(curve) == "Curve(2 points, 1 epochs, train_loss, valid_loss)"


def test_an_empty_curve_has_nothing() -> None:
    curve = Curve()
    assert (len(curve), curve.last, curve.trained, curve.names) == (0, None, 0.0, [])
    assert Curve.from_json(curve.to_json()) == curve


# -- which number is the result ---------------------------------------------------------------------------

VALUES = np.array([3.0, 1.0, 2.0, 4.0])


@pytest.mark.parametrize(
    ("rule", "low", "high"), [("last", 4.0, 4.0), ("best", 1.0, 4.0), ("tail:2", 3.0, 3.0), ("tail:9", 2.5, 2.5)]
)
def test_the_result_of_a_curve(rule: str, low: float, high: float) -> None:
    assert ValueRule.parse(rule).of(VALUES, "minimize") == low
    assert ValueRule.parse(rule).of(VALUES, "maximize") == high
    assert str(ValueRule.parse(rule)) == rule


@pytest.mark.parametrize("rule", ["last", "best", "tail:3"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_divergence_counts_whatever_came_before_it(rule: str, bad: float) -> None:
    assert ValueRule.parse(rule).of(np.array([1.0, 0.5, bad]), "minimize") is None
    assert ValueRule.parse(rule).of(np.array([]), "minimize") is None


def test_a_gap_within_the_tail_leaves_no_result_and_the_best_ignores_it() -> None:
    values = np.array([1.0, math.nan, 2.0])
    assert ValueRule.parse("tail:2").of(values, "minimize") is None
    assert ValueRule.parse("best").of(values, "minimize") == 1.0


@pytest.mark.parametrize("text", ["", "first", "tail", "tail:0", "tail:-1", "tail:1.5", "LAST", "tail:1e9"])
def test_an_unknown_rule_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="value must be"):
        ValueRule.parse(text)
