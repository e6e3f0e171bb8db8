"""What a study shows: one small study for each finding, and none of them for a study that is well."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import study

from lrtune.core.curve import Curve, Point
from lrtune.core.outcome import Ending, Outcome
from lrtune.core.recipe import Recipe
from lrtune.core.records import TrialRecord
from lrtune.core.space import Space
from lrtune.reporting.diagnosis import Finding, FindingKind, study_verdict
from lrtune.reporting.diagnosis import findings as findings_of
from lrtune.search.freeze_thaw.config import CONFIG

if TYPE_CHECKING:
    from lrtune.core.curve import Direction

RANGE = (1e-4, 10.0)


def trial(lr: float, outcome: Outcome | None = None, value: float | None = None, **settings: Any) -> TrialRecord:
    return TrialRecord(number=0, recipe=Recipe(lr=lr, **settings), outcome=outcome, value=value)


def done(lr: float, value: float, **settings: Any) -> TrialRecord:
    return trial(lr, Outcome.COMPLETED, value, **settings)


def lost(lr: float, **settings: Any) -> TrialRecord:
    return trial(lr, Outcome.NON_FINITE, **settings)


def bowl(best: float = 0.03, *, times: tuple[float, ...] = (0.05, 0.2, 0.5, 1, 2, 5, 20)) -> list[TrialRecord]:
    return [done(best * t, 0.1 + 0.1 * abs(t - 1) / (1 + t)) for t in times]


def reported(first: float, last: float, epochs: int) -> Curve:
    values = np.linspace(first, last, epochs)
    return Curve(Point(step=i, epoch=i, samples=i, values={"valid_loss": v}) for i, v in enumerate(values.tolist(), 1))


def kinds(trials: list[TrialRecord], **options: Any) -> list[FindingKind]:
    return [finding.kind for finding in findings(trials, **options)]


def findings(
    trials: list[TrialRecord],
    *,
    direction: Direction = "minimize",
    noise: float | None = None,
    settled: bool = False,
    edge: float | None = None,
    edge_low: float | None = None,
    probability: float | None = 0.95,
) -> list[Finding]:
    ending = Ending.SETTLED.key if settled else None
    result = {"edge": {"lr": edge, "low": edge_low}, "ending": ending, "probability": probability}
    return findings_of(study(trials, space=Space(lr=RANGE), direction=direction, result=result), noise)


def test_a_study_that_is_well_has_a_clear_answer() -> None:
    found = findings([*bowl(), lost(5.0)])
    assert [finding.kind for finding in found] == [FindingKind.CLEAR]
    assert "0.03" in found[0].why


def test_where_the_answer_saw_no_edge_what_died_under_other_settings_makes_none() -> None:
    (unknown, *_), (none, *_) = (findings([*bowl(), lost(5.0)], edge_low=low) for low in (None, 0.2))
    assert "times below the edge" in unknown.why
    assert "no edge was located" in none.why


def test_an_edge_that_may_be_near_is_said_and_one_that_is_far_is_not() -> None:
    near, far = (findings([*bowl(), lost(5.0)], edge=0.3, edge_low=low)[0] for low in (0.04, 0.2))
    assert near.kind is far.kind is FindingKind.CLEAR
    assert "95 %" in near.why
    assert "as near as 0.04" in near.why
    assert "as near" not in far.why


@pytest.mark.parametrize(
    ("probability", "kind"),
    [(0.95, FindingKind.CLEAR), (0.8, FindingKind.LIKELY), (0.3, FindingKind.UNSURE), (None, FindingKind.LIKELY)],
)
def test_the_words_go_by_the_probability(probability: float | None, kind: FindingKind) -> None:
    assert kinds([*bowl(), lost(5.0)], probability=probability) == [kind]


def test_a_clear_answer_has_worse_neighbours_within_half_a_decade_on_both_sides() -> None:
    far = [done(0.03, 0.1), done(0.3, 0.2), done(0.003, 0.2), done(0.02, 0.12)]
    found = findings(far)[0]
    assert found.kind is FindingKind.LIKELY
    assert "no run above it is known to be worse" in found.why
    for beside in (lost(0.08), done(0.05, 0.11)):
        assert kinds([*far, beside]) == [FindingKind.CLEAR]
    assert kinds([*far, done(0.05, 0.11, schedule="cosine")]) == [FindingKind.LIKELY]


@pytest.mark.parametrize(("epochs", "last", "kind"), [(1, 0.9, "LIKELY"), (9, 0.9, "CLEAR"), (9, 0.3, "LIKELY")])
def test_a_shorter_run_is_a_neighbour_where_it_came_far_enough_and_was_worse(
    epochs: int, last: float, kind: str
) -> None:
    best = dataclasses.replace(done(0.03, 0.1), curve=reported(1, 0.1, 27))
    paused = dataclasses.replace(trial(0.05), curve=reported(1, last, epochs))
    assert kinds([best, done(0.02, 0.2), done(0.01, 0.3), paused]) == [FindingKind[kind]]


def test_what_can_judge_for_the_band_can_judge_for_the_verdict() -> None:
    assert CONFIG.judging_from == study_verdict.JUDGING


def test_nothing_completed() -> None:
    found = findings([lost(1.0), lost(5.0), lost(0.3)])
    assert [finding.kind for finding in found] == [FindingKind.NOTHING_COMPLETED]
    assert "below 0.3" in found[0].advice
    assert findings([])[0].kind is FindingKind.NOTHING_COMPLETED
    assert "budget" in findings([trial(0.1)])[0].advice


@pytest.mark.parametrize(
    ("best", "kind", "wider"),
    [(1.1e-4, FindingKind.BEST_AT_LOW_END, "1e-05"), (9.0, FindingKind.BEST_AT_HIGH_END, "100")],
)
def test_the_best_at_an_end_of_the_range(best: float, kind: FindingKind, wider: str) -> None:
    found = findings([done(best, 0.1), done(0.02, 0.5), done(0.1, 0.6)])
    assert found[0].kind is kind
    assert wider in found[0].advice


def test_mostly_diverged() -> None:
    found = findings([*bowl(1e-3), *(lost(lr) for lr in (0.5, 0.7, 1, 2, 3, 4, 5, 6))])
    assert found[0].kind is FindingKind.MOSTLY_DIVERGED
    assert found[0].evidence["edge"] == 0.5


def test_within_noise_is_seen_from_repeats() -> None:
    same = [done(lr, 0.1 + 0.001 * i, seed=i) for lr in (0.01, 0.02, 0.04) for i in (0, 1)]
    apart = [done(lr, 0.1 + lr + 0.001 * i, seed=i) for lr in (0.01, 0.02, 0.04) for i in (0, 1)]
    assert FindingKind.WITHIN_NOISE in kinds(same)
    assert FindingKind.WITHIN_NOISE not in kinds(apart)


def test_too_few_full_trainings() -> None:
    assert kinds([done(0.01, 0.1), done(0.02, 0.2)]) == [FindingKind.TOO_FEW]


@pytest.mark.parametrize(
    ("neighbour", "words"),
    [(lost(0.06), "the run diverged"), (done(0.06, 0.9), "0.9 instead of 0.1"), (lost(0.04), "nothing was trained")],
)
def test_the_winner_at_the_edge_and_what_happens_at_twice_its_learning_rate(neighbour: TrialRecord, words: str) -> None:
    trials = [*bowl(times=(0.1, 0.3, 0.7, 1)), neighbour]
    found = findings(trials, edge=0.05)
    assert found[0].kind is FindingKind.WINNER_AT_EDGE
    assert words in found[0].why


def test_warmup_that_widens_the_usable_range() -> None:
    lrs = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    trials = [
        lost(lr, warmup=w) if lr > edge else done(lr, 0.1 + lr, warmup=w)
        for w, edge in ((0.0, 0.05), (0.1, 0.5))
        for lr in lrs
    ]
    found = [f for f in findings(trials) if f.kind is FindingKind.WARMUP_WIDENS]
    assert found
    assert found[0].evidence["with"] > 5 * found[0].evidence["without"]
    alike = [lost(lr, warmup=w) if lr > 0.05 else done(lr, 0.1 + lr, warmup=w) for w in (0.0, 0.1) for lr in lrs]
    assert FindingKind.WARMUP_WIDENS not in kinds(alike)


def test_a_schedule_that_does_not_matter() -> None:
    lrs = (0.01, 0.02, 0.03, 0.05, 0.1)
    for gap, seen in ((0.0, True), (0.5, False)):
        trials = [done(lr, 0.1 + lr + gap * (s == "cosine"), schedule=s) for s in ("constant", "cosine") for lr in lrs]
        assert (FindingKind.SCHEDULE_IRRELEVANT in kinds(trials, noise=0.01)) is seen


trials = st.builds(
    trial,
    lr=st.floats(1e-4, 10.0),
    value=st.none() | st.floats(allow_nan=True),
    outcome=st.none() | st.sampled_from(list(Outcome)),
    warmup=st.sampled_from([0.0, 0.1]),
    schedule=st.sampled_from(["a", "b"]),
)


@given(st.lists(trials, max_size=30), st.sampled_from(["minimize", "maximize"]), st.none() | st.floats(0, 1))
def test_whatever_was_recorded_something_is_found_once_and_in_words(
    held: list[TrialRecord], direction: Any, noise: float | None
) -> None:
    found = findings(held, direction=direction, noise=noise)
    assert found
    assert len({finding.kind for finding in found}) == len(found)
    assert all(finding.why and finding.advice for finding in found)


def test_a_search_that_had_nothing_left_to_gain_is_not_asked_for_a_larger_budget() -> None:
    two = [done(0.01, 0.1), done(0.02, 0.2), trial(0.1, Outcome.PRUNED)]
    found = findings(two, settled=True)
    assert [finding.kind for finding in found] == [FindingKind.LIKELY], "two trainings make no clear answer"
    assert "the better of 2 full trainings" in found[0].why
    assert "1 shorter run " in found[0].why
    assert "the one full training" in findings(two[:1], settled=True)[0].why


@given(st.lists(st.floats(1e-4, 10.0), min_size=2, max_size=6, unique=True), st.booleans())
def test_equal_results_are_said_to_be_equal_and_nothing_else(lrs: list[float], settled: bool) -> None:
    found = findings([done(lr, 0.25) for lr in lrs], settled=settled, noise=0.1)
    assert [finding.kind for finding in found] == [FindingKind.ALL_EQUAL]
    assert "nothing was learned" in found[0].why
    assert FindingKind.ALL_EQUAL not in kinds([done(lr, i * 0.1) for i, lr in enumerate(lrs)])
