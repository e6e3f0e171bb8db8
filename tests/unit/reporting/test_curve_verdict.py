"""Verdicts: right on curves whose cause is known, silent on none, never a crash."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelled import MAKERS, Bowl, labelled, make_curve

from lrtune.core.curve import Curve
from lrtune.core.outcome import Outcome
from lrtune.reporting.diagnosis import Finding, VerdictKind, judge

EACH = 30


def verdict(item: Any, **context: Any) -> Finding:
    return judge(
        item.curve, metric=item.metric, direction=item.direction, untrained=item.untrained, lr=item.lr, **context
    )


@pytest.fixture(scope="module", params=[3, 4])
def counts(request: pytest.FixtureRequest) -> Counter[tuple[str, str]]:
    return Counter((item.kind.name, verdict(item).kind.name) for item in labelled(EACH, request.param))


def test_at_least_95_percent_are_right_on_seeds_that_nothing_was_tuned_on(counts: Counter[tuple[str, str]]) -> None:
    assert sum(n for (true, said), n in counts.items() if true == said) >= 0.95 * counts.total()


@pytest.mark.parametrize("kind", MAKERS)
def test_no_kind_is_bought_with_another(counts: Counter[tuple[str, str]], kind: VerdictKind) -> None:
    assert counts[kind.name, kind.name] >= 0.8 * EACH


def test_every_kind_but_the_short_one_is_simulated() -> None:
    assert set(MAKERS) == set(VerdictKind) - {VerdictKind.TOO_SHORT}


@pytest.mark.parametrize("factor", [1.2, 2.0, 3.0])
def test_a_quadratic_above_its_known_edge_has_exploded_and_below_it_has_not(factor: float) -> None:
    rng = np.random.default_rng(0)
    bowl = Bowl.random(rng)
    above = bowl.descend(bowl.edge * factor, 60, 5, rng)
    below = bowl.descend(bowl.edge / 3, 60, 5, rng)
    told = [judge(make_curve(1, valid_loss=v[v < 1e200]), metric="valid_loss").kind for v in (above, below)]
    assert told[0] is VerdictKind.EXPLODED
    assert told[1] not in {VerdictKind.EXPLODED, VerdictKind.NON_FINITE, VerdictKind.STUCK}


def test_the_step_of_the_first_number_that_is_none_is_named() -> None:
    values = np.array([2.0, 1.5, 1.2, math.nan, 1.0])
    told = judge(make_curve(7, valid_loss=values), metric="valid_loss", lr=0.3)
    assert told.kind is VerdictKind.NON_FINITE
    assert told.evidence["step"] == 28
    assert "28" in told.why
    assert "0.1" in told.advice


def test_the_step_of_an_explosion_is_where_it_left_the_untrained_level_for_good() -> None:
    values = np.array([2.0, 1.0, 3.0, 1.5, 4.0, 40.0, 400.0, 4000.0])
    told = judge(make_curve(10, valid_loss=values), metric="valid_loss", untrained=2.5)
    assert told.kind is VerdictKind.EXPLODED
    assert told.evidence["step"] == 50


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (Outcome.NON_FINITE, VerdictKind.NON_FINITE),
        (Outcome.EXPLODED, VerdictKind.EXPLODED),
        (Outcome.STUCK, VerdictKind.STUCK),
    ],
)
def test_what_the_search_saw_is_believed(outcome: Outcome, kind: VerdictKind) -> None:
    calm = np.linspace(2.0, 1.0, 20)
    assert judge(make_curve(1, valid_loss=calm), metric="valid_loss", outcome=outcome).kind is kind
    assert judge(Curve(), metric="valid_loss", outcome=outcome).kind is kind


def test_advice_leads_to_the_best_learning_rate_that_is_known() -> None:
    lost = judge(
        make_curve(1, valid_loss=np.full(10, 2.3)), metric="valid_loss", untrained=2.3, lr=3.0, best_lr=0.02, edge=0.5
    )
    slow = judge(
        make_curve(1, valid_loss=np.linspace(2.3, 2.2, 20)), metric="valid_loss", untrained=2.3, lr=1e-4, best_lr=0.02
    )
    assert lost.kind is VerdictKind.STUCK
    assert "lower the learning rate to about 0.02" in lost.advice
    assert slow.kind is VerdictKind.STILL_FALLING
    assert "raise the learning rate to about 0.02" in slow.advice


def test_no_advice_leads_beyond_the_edge() -> None:
    values = np.linspace(2.3, 1.5, 40)
    told = judge(make_curve(1, valid_loss=values), metric="valid_loss", lr=0.1, edge=0.15)
    assert told.kind is VerdictKind.STILL_FALLING
    assert "raise" not in told.advice


def test_a_run_that_was_stopped_on_its_way_is_not_told_to_raise_its_learning_rate() -> None:
    told = judge(make_curve(1, valid_loss=np.linspace(2.3, 1.5, 9)), metric="valid_loss", epochs=27, lr=0.1)
    assert told.kind is VerdictKind.STILL_FALLING
    assert "let it train on" in told.advice
    assert "33 %" in told.why


def test_a_maximised_metric_is_told_in_its_own_sign() -> None:
    values = 0.9 - 0.8 * np.exp(-np.arange(40) / 2.0)
    told = judge(make_curve(1, accuracy=values), metric="accuracy", direction="maximize", untrained=0.1)
    assert told.kind is VerdictKind.PLATEAUED
    assert "0.9" in told.why


def test_one_spike_is_an_accident_and_three_are_the_edge() -> None:
    calm = 1 + np.exp(-np.arange(60) / 10.0)
    once, often = calm.copy(), calm.copy()
    once[20] += 1.5
    often[[15, 28, 45]] += 1.5
    assert judge(make_curve(1, valid_loss=once), metric="valid_loss").kind is VerdictKind.SPIKED
    assert judge(make_curve(1, valid_loss=often), metric="valid_loss").kind is VerdictKind.EDGE


floats = st.floats(allow_nan=True, allow_infinity=True, width=64)


@given(
    train=st.lists(floats, max_size=40),
    valid=st.lists(floats, min_size=1, max_size=40),
    direction=st.sampled_from(["minimize", "maximize"]),
    untrained=st.none() | floats,
    outcome=st.none() | st.sampled_from(list(Outcome)),
    lr=st.none() | st.floats(1e-12, 1e6),
    best_lr=st.none() | st.floats(1e-12, 1e6),
    edge=st.none() | st.floats(1e-12, 1e6),
)
def test_whatever_was_recorded_there_is_a_verdict_in_words(
    train: list[float], valid: list[float], **context: Any
) -> None:
    series = {"valid_loss": np.array(valid)} | ({"train_loss": np.array(train)} if train else {})
    with np.errstate(all="ignore"):
        told = judge(make_curve(1, **series), metric="valid_loss", epochs=30, **context)
    assert told.kind in VerdictKind
    assert told.why
    assert told.advice
    if context["outcome"] is None and not np.isfinite([*valid, *train]).all():
        assert told.kind is VerdictKind.NON_FINITE


@given(st.integers(0, 10**6), st.sampled_from(list(MAKERS)), st.floats(1e-3, 1e3))
def test_a_verdict_does_not_depend_on_the_units_of_the_loss(seed: int, kind: VerdictKind, scale: float) -> None:
    item = MAKERS[kind](np.random.default_rng(seed))
    names = item.curve.names
    scaled = make_curve(1, **{name: scale * item.curve.of(name)[1] for name in names})
    untrained = None if item.untrained is None else scale * item.untrained
    again = judge(scaled, metric=item.metric, direction=item.direction, untrained=untrained)
    assert again.kind is judge(item.curve, metric=item.metric, direction=item.direction, untrained=item.untrained).kind
