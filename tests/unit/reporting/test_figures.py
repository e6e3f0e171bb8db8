"""Figures: what is drawn, where it stands, and that every name appears as it is."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import UNTRAINED, finished, joint_space, simulated, study

from lrtune.core.curve import Curve, Point
from lrtune.core.outcome import Outcome
from lrtune.core.space import Space
from lrtune.reporting import figures
from lrtune.reporting.figures import theme

if TYPE_CHECKING:
    from lrtune.core.records import StudyRecord

HOSTILE = "<a href=javascript:alert(1)>%{x}</a>&<b>\x1b[31m"
NAMELESS = {"costs", "schedule", "importance"}  # these hold no text that a user gave
DRAWN = (
    "contour",
    "costs",
    "curves",
    "importance",
    "landscape",
    "parallel",
    "regret",
    "schedule",
    "slices",
    "timeline",
    "worth",
)


@pytest.fixture(scope="module")
def record() -> StudyRecord:
    return simulated(90, seed=2)


def strings(data: Any) -> list[str]:
    if isinstance(data, str):
        return [data]
    if isinstance(data, dict):
        return [text for value in data.values() for text in strings(value)]
    if isinstance(data, list | tuple):
        return [text for value in data for text in strings(value)]
    return []


def hostile(record: StudyRecord) -> StudyRecord:
    """The same study under the worst of names."""
    records = [
        dataclasses.replace(
            trial,
            why=HOSTILE,
            segments=tuple(dataclasses.replace(p, worker=HOSTILE, why=HOSTILE) for p in trial.segments),
            curve=Curve(
                dataclasses.replace(
                    p, values={HOSTILE: p.values["valid_loss"], "train" + HOSTILE: p.values["train_loss"]}
                )
                for p in trial.curve
            ),
        )
        for trial in record.records
    ]
    return dataclasses.replace(record, name=HOSTILE, metric=HOSTILE, strategy=HOSTILE, records=tuple(records))


@pytest.mark.parametrize("name", DRAWN)
def test_every_figure_is_valid_json_and_has_something_to_show(record: StudyRecord, name: str) -> None:
    figure = getattr(figures, name)(record)
    assert len(figure.data)
    assert json.loads(figure.to_json())["layout"]["height"] >= 100


@pytest.mark.parametrize("name", DRAWN)
def test_no_figure_renders_markup_from_a_name(record: StudyRecord, name: str) -> None:
    drawn = json.loads(getattr(figures, name)(hostile(record)).to_json())
    told = strings(drawn)
    assert any("&lt;" in text for text in told) or name in NAMELESS
    for text in told:
        assert "<a" not in text
        assert "<b>" not in text
        assert "%{x}</a>" not in text
        assert "\x1b" not in text


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_study_of_hardly_anything_makes_a_figure_or_none(name: str, direction: Any) -> None:
    draw = getattr(figures, name)
    for count in (0, 1, 2, 5):
        held = simulated(count, direction=direction, open_trials=min(count, 1)) if count else study()
        figure = draw(held)
        assert figure is None or json.loads(figure.to_json())


# --- the landscape


def test_every_trial_is_drawn_once_by_its_outcome(record: StudyRecord) -> None:
    figure = figures.landscape(record)
    counted = {trace.name: len(trace.x) for trace in figure.data}
    assert sum(counted.values()) == len(record.records) + 1
    assert counted["completed"] == record.counts()["completed"]
    assert counted["the answer"] == 1


def test_band_and_edge_are_drawn_where_they_are(record: StudyRecord) -> None:
    shapes = figures.landscape(record).layout.shapes
    spans = [(shape.x0, shape.x1) for shape in shapes]
    assert (record.result["band"]["low"], record.result["band"]["high"]) in spans
    assert (record.result["edge"]["low"], record.result["edge"]["high"]) in spans
    assert (record.result["edge"]["lr"],) * 2 in spans
    bare = figures.landscape(dataclasses.replace(record, result={}))
    assert not bare.layout.shapes


def test_what_diverged_stands_on_the_rim_inside_the_axis(record: StudyRecord) -> None:
    figure = figures.landscape(record)
    low, high = (10**end for end in figure.layout.yaxis.range)
    for trace in figure.data:
        if trace.name.startswith("diverged"):
            assert set(trace.y) == {max(trace.y)}
            assert UNTRAINED < max(trace.y) < high
        assert all(low < y < high for y in trace.y)


def test_a_metric_that_is_maximised_has_its_rim_below() -> None:
    figure = figures.landscape(simulated(60, seed=2, direction="maximize"))
    lost = [y for trace in figure.data if trace.name.startswith("diverged") for y in trace.y]
    kept = [y for trace in figure.data if trace.name == "completed" for y in trace.y]
    assert max(lost) < min(kept)


def test_a_crowd_is_thinned_and_says_so() -> None:
    crowd = simulated(3500, epochs=4, open_trials=0)
    figure = figures.landscape(crowd)
    assert sum(len(trace.x) for trace in figure.data) == 3001
    assert "3,000 of 3,500" in figure.layout.meta["note"]
    best = min(r.value for r in crowd.records if r.value is not None)
    assert float(f"{best:.6g}") in {y for trace in figure.data for y in trace.y}


# --- curves


def exploding(record: StudyRecord) -> StudyRecord:
    points = [
        Point(step=i, epoch=float(i), values={"valid_loss": 10.0 ** (3 * i), "train_loss": 10.0 ** (3 * i)})
        for i in range(1, 7)
    ]
    first = dataclasses.replace(record.records[0], curve=Curve(points), outcome=Outcome.EXPLODED, value=None)
    return dataclasses.replace(record, records=(first, *record.records[1:]))


def test_one_exploded_trial_flattens_nothing(record: StudyRecord) -> None:
    before, after = (figures.curves(held).layout.yaxis.range for held in (record, exploding(record)))
    assert after == pytest.approx(before, abs=0.1)
    assert 10 ** after[1] < 2 * UNTRAINED


def test_curves_carry_their_colour_their_verdict_and_the_marks_of_their_ends(record: StudyRecord) -> None:
    figure = figures.curves(record)
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    ends = {trace.name: len(trace.x) for trace in figure.data if trace.mode == "markers" and trace.name}
    assert len({trace.line.color for trace in lines}) > 20
    assert ends["stopped early"] == record.counts()["pruned"]
    assert any("stuck at chance" in trace.hovertemplate for trace in lines)
    thick = [trace for trace in lines if trace.line.width == 3]
    assert len(thick) == 2
    assert all("the answer" in trace.hovertemplate for trace in thick)


def test_the_buttons_move_every_trace_to_the_other_axis(record: StudyRecord) -> None:
    figure = figures.curves(record)
    axes, series = figure.layout.updatemenus
    assert [button.label for button in axes.buttons] == ["epoch", "samples seen", "optimizer steps"]
    for button in axes.buttons:
        places = button.args[0]["x"]
        assert [len(place) for place in places] == [len(trace.x) for trace in figure.data]
    assert list(axes.buttons[0].args[0]["x"][0]) == list(figure.data[0].x)
    held, train, both = (list(button.args[0]["visible"]) for button in series.buttons)
    assert [bool(trace.visible) or trace.visible is None for trace in figure.data] == held
    assert [a or b for a, b in zip(held, train, strict=True)] == both


def test_samples_that_were_not_counted_have_no_button(record: StudyRecord) -> None:
    uncounted = [
        dataclasses.replace(r, curve=Curve(dataclasses.replace(p, samples=0) for p in r.curve)) for r in record.records
    ]
    figure = figures.curves(dataclasses.replace(record, records=tuple(uncounted)))
    assert [b.label for b in figure.layout.updatemenus[0].buttons] == ["epoch", "optimizer steps"]


def test_many_curves_are_thinned_and_the_best_stays(record: StudyRecord) -> None:
    many = simulated(400, seed=3)
    figure = figures.curves(many)
    assert sum(trace.mode == "lines" for trace in figure.data) <= 240
    assert many.best is not None
    assert any(
        f"trial {many.best.number} (the answer)" in (t.hovertemplate or "") for t in figure.data if t.mode == "lines"
    )
    assert "120 of 400" in figure.layout.meta["note"]
    assert figures.curves(record).layout.meta["note"] == ""


def test_a_schedule_is_drawn_as_it_was_applied(record: StudyRecord) -> None:
    figure = figures.schedule(record)
    assert record.best is not None
    thick = next(trace for trace in figure.data if trace.line.width > 3)
    known = [lr for lr in record.best.curve.lrs if lr > 0]
    assert [y for y in thick.y if y is not None] == pytest.approx(known, rel=1e-3)


# --- joint settings, spending


def test_the_contour_has_the_fitted_line_between_the_two_rules(record: StudyRecord) -> None:
    names = [trace.name for trace in figures.contour(record).data if getattr(trace, "mode", "") == "lines"]
    assert names[0].startswith("fitted: lr ~ batch^")
    assert names[1:] == ["linear", "square root"]


def test_one_setting_alone_has_no_joint_figures() -> None:
    alone = simulated(30, space=Space(lr=(1e-5, 10.0)))
    assert figures.contour(alone) is figures.slices(alone) is figures.parallel(alone) is figures.worth(alone) is None


def test_ranges_and_choices_share_the_slices() -> None:
    wide = simulated(80, space=joint_space(weight_decay=(1e-6, 1e-1), batch_size=(8, 512)))
    figure = figures.slices(wide)
    assert {axis for axis in figure.layout if axis.startswith("xaxis")} >= {"xaxis", "xaxis2", "xaxis3", "xaxis4"}
    assert figures.contour(wide) is not None
    assert figures.parallel(wide) is not None


def test_several_studies_share_one_regret(record: StudyRecord) -> None:
    figure = figures.compared({"tpe": [record], "random": [simulated(40, seed=9)]}, best=0.0, end=1.0)
    assert [trace.name for trace in figure.data] == ["tpe", "random"]
    assert figure.layout.showlegend
    for trace in figure.data:
        assert list(trace.y) == sorted(trace.y, reverse=True)
        assert trace.x[-1] >= trace.x[0]


def test_strategies_are_drawn_to_the_end_of_the_budget_with_the_median_of_their_searches(record: StudyRecord) -> None:
    others = [simulated(40, seed=seed) for seed in (7, 8, 9)]
    best = min(one.best.value for one in [record, *others] if one.best is not None and one.best.value is not None)
    end = 2 * max(one.cost for one in [record, *others])
    figure = figures.compared({"one": [record], "three": others}, best=best, end=end)
    assert [(trace.name, trace.showlegend) for trace in figure.data] == [
        ("one", True),
        *[("three", False)] * 3,
        ("three", True),
    ]
    assert all(trace.x[-1] == pytest.approx(end) for trace in figure.data)
    *singles, median = figure.data[1:]
    for place in (0.3 * end, 0.6 * end, end):
        held = sorted(trace.y[max(i for i, x in enumerate(trace.x) if x <= place)] for trace in singles)
        assert median.y[max(i for i, x in enumerate(median.x) if x <= place)] == pytest.approx(held[1], rel=1e-3)


def test_a_search_that_found_nothing_counts_as_worst(record: StudyRecord) -> None:
    empty = dataclasses.replace(record, records=())
    drawn = figures.compared({"half": [record, empty], "most": [record, record, empty]}, best=0.0, end=9.0)
    assert [trace.name for trace in drawn.data if trace.showlegend] == ["most"]
    assert len(figures.compared({"none": [empty]}, best=0.0, end=9.0).data) == 0


def test_the_timeline_has_a_bar_for_every_piece(record: StudyRecord) -> None:
    figure = figures.timeline(record)
    assert sum(len(trace.x) for trace in figure.data) == sum(len(r.segments) for r in record.records)
    assert figure.layout.barmode == "overlay"


# --- what they share


@given(st.text(max_size=200))
def test_a_label_never_holds_markup_and_never_grows_without_end(text: str) -> None:
    shown = theme.label(text)
    assert "<" not in shown
    assert ">" not in shown
    assert "%{" not in shown
    assert len(shown) <= 80 * 5
    shown.encode("utf-8")


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=30),
    st.sampled_from([1.0, -1.0]),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
)
def test_a_range_holds_what_is_clipped_into_it(values: list[float], sign: float, worst: float | None) -> None:
    with np.errstate(all="ignore"):
        shown = theme.robust(np.array(values, dtype=float), sign=sign, worst=worst)
        inside = shown.clip(np.array(values, dtype=float))
    assert shown.low < shown.high
    assert all(shown.low <= value <= shown.high for value in inside)
    assert not shown.log or shown.low > 0


@given(st.integers(0, 5000), st.integers(2, 300), st.lists(st.integers(0, 4999), max_size=400))
def test_thinning_keeps_what_it_is_told_and_no_more_than_it_may(count: int, most: int, keep: list[int]) -> None:
    wanted = [index for index in keep if index < count]
    kept = theme.thinned(count, most, wanted)
    assert len(kept) <= max(most, 0)
    assert kept == sorted(set(kept))
    assert set(wanted[: most // 2]) <= set(kept)


@pytest.mark.parametrize(
    ("value", "text"), [(1e-5, "1e-5"), (0.001, "0.001"), (10, "10"), (20000, "20000"), (1e6, "1e6")]
)
def test_ticks_read_as_people_write(value: float, text: str) -> None:
    assert theme.plain_tick(value) == text


def test_colours_run_over_the_log_of_the_learning_rate() -> None:
    slow, middle, fast = theme.colours([1e-4, 1e-2, 1.0], (1e-4, 1.0))
    assert theme.colours([1e-9, 1e9], (1e-4, 1.0)) == [slow, fast]
    assert middle == theme.colours([math.sqrt(1e-4)], (1e-4, 1.0))[0]
    assert len({slow, middle, fast}) == 3


def test_the_picture_of_a_finished_study_does_not_need_its_answer() -> None:
    held = finished(simulated(30), band=None, edge=None)
    assert figures.landscape(held).data
