"""Tables: what the simulation put in has to come out."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from recorded import EPOCHS, UNTRAINED, finished, joint_space, simulated, study

from lrtune.core.curve import Curve, Point
from lrtune.core.divergence import Baseline
from lrtune.core.outcome import Outcome
from lrtune.core.recipe import Recipe
from lrtune.core.records import Segment, StudyRecord, TrialRecord
from lrtune.core.space import Space
from lrtune.reporting import tables

PLAIN = Space(lr=(1e-4, 1.0))


@pytest.fixture(scope="module")
def record() -> StudyRecord:
    return simulated(90, seed=2)


def trained(
    number: int, lr: float, value: float | None, outcome: Outcome | None = Outcome.COMPLETED, **more: object
) -> TrialRecord:
    end = 10 if outcome is Outcome.COMPLETED else 2
    last = math.nan if value is None else value
    curve = Curve(
        Point(step=i, epoch=float(i), values={"valid_loss": 2.0 if i < end else last}) for i in range(1, end + 1)
    )
    settings = {k: v for k, v in more.items() if k in {"batch_size", "schedule"}}
    rest = {k: v for k, v in more.items() if k not in settings}
    return TrialRecord(
        **{
            "number": number,
            "recipe": Recipe(lr=lr, epochs=10, **settings),
            "params": {"lr": lr, **settings},
            "curve": curve,
            "outcome": outcome,
            "value": value if outcome is Outcome.COMPLETED else None,
            "trained": float(end),
            **rest,
        }
    )  # type: ignore[arg-type]


def plain_study(*records: TrialRecord, **fields: object) -> StudyRecord:
    return study(records, **{"space": PLAIN, "epochs": 10, **fields})


# --- trials, curves, costs


def test_a_row_for_every_trial_with_its_settings_and_its_verdict(record: StudyRecord) -> None:
    table = tables.trials(record)
    assert table["number"].tolist() == [r.number for r in record.records]
    assert table["lr"].tolist() == [r.recipe.lr for r in record.records]
    assert {"batch_size", "schedule", "warmup", "verdict", "evidence", "advice", "why"} <= set(table.columns)
    assert "weight_decay" not in table.columns
    assert table["group"].value_counts().to_dict() == record.counts()
    assert table["cost"].sum() == pytest.approx(record.cost)
    assert table["value"].notna().tolist() == [r.value is not None for r in record.records]
    assert str(table["started"].dtype).endswith("UTC]")


def test_an_empty_study_has_empty_tables_with_their_columns() -> None:
    empty = study()
    assert list(tables.trials(empty).columns)[:4] == ["number", "outcome", "group", "lr"]
    for make in (tables.curves, tables.timeline, tables.costs, tables.regret, tables.worth):
        table = make(empty)
        assert len(table) == 0
        assert len(table.columns)
    assert len(tables.importance(empty)) == len(tables.sensitivity(empty)) == len(tables.batch_exponent(empty)) == 0


def test_curves_hold_every_number_that_was_measured(record: StudyRecord) -> None:
    table = tables.curves(record)
    assert len(table) == sum(2 * len(r.curve) for r in record.records)
    one = table[(table["number"] == 3) & (table["name"] == "valid_loss")]
    assert one["value"].to_numpy() == pytest.approx(record.records[3].curve.of("valid_loss")[1], nan_ok=True)
    assert set(tables.curves(record, numbers=[1, 4])["number"]) == {1, 4}
    assert len(tables.curves(record, most=5)) < len(table)


def test_a_number_that_was_not_measured_at_a_report_has_no_row() -> None:
    points = [
        Point(step=1, epoch=0.5, values={"train_loss": 1.0}),
        Point(step=2, epoch=1.0, values={"valid_loss": 2.0}),
    ]
    table = tables.curves(plain_study(dataclasses.replace(trained(0, 0.1, 1.0), curve=Curve(points))))
    assert table[["name", "step"]].to_numpy().tolist() == [["train_loss", 1], ["valid_loss", 2]]


def test_the_bill_adds_up(record: StudyRecord) -> None:
    table = tables.costs(record)
    assert table["cost"].sum() == pytest.approx(record.cost)
    assert table["share"].sum() == pytest.approx(1.0)
    assert table["trials"].sum() == len(record.records)
    assert table["epochs"].is_monotonic_decreasing


def test_the_timeline_is_in_the_order_of_time_and_knows_what_was_trained_again() -> None:
    pieces = (
        Segment(at=100.0, seconds=5, begin=0, end=4, worker="a"),
        Segment(at=120.0, seconds=5, begin=2, end=6, worker="a"),
        Segment(at=110.0, seconds=5, begin=0, end=1, worker="b"),
    )
    first = trained(0, 0.1, 1.0, segments=pieces[:2])
    table = tables.timeline(plain_study(first, trained(1, 0.2, 1.0, segments=pieces[2:])))
    assert table["second"].tolist() == [0, 10, 20]
    assert table["again"].tolist() == [0, 0, 2]
    assert table["worker"].tolist() == ["a", "b", "a"]


def test_findings_see_noise_between_reports_where_nothing_was_repeated() -> None:
    rng, records = np.random.default_rng(0), []
    for number in range(20):
        values = 0.5 + 0.02 * rng.normal(size=10)
        points = [Point(step=i, epoch=float(i), values={"valid_loss": float(v)}) for i, v in enumerate(values, start=1)]
        schedule = ("constant", "cosine")[number % 2]
        one = trained(number, 10 ** rng.uniform(-3, -1), float(values[-1]), schedule=schedule)
        records.append(dataclasses.replace(one, curve=Curve(points)))
    space = Space(lr=(1e-4, 1.0), schedule=["constant", "cosine"])
    told = {f.kind.name.lower(): f for f in tables.findings(study(records, space=space, epochs=10))}
    assert told["schedule_irrelevant"].evidence["noise"] == pytest.approx(0.02, rel=0.4)
    assert "within_noise" in told


# --- the learning rate


def test_sensitivity_is_nothing_where_every_learning_rate_is_as_good() -> None:
    flat = plain_study(*(trained(i, lr, 0.5) for i, lr in enumerate(np.geomspace(1e-4, 1, 12))))
    assert tables.sensitivity(flat)["sensitivity"].tolist() == [0, 0]


def test_sensitivity_counts_a_diverged_trial_as_the_untrained_model() -> None:
    lrs = np.geomspace(1e-4, 1, 25)
    half = plain_study(
        *(trained(i, lr, 0.3) if lr < 0.0101 else trained(i, lr, None, Outcome.NON_FINITE) for i, lr in enumerate(lrs))
    )
    row = tables.sensitivity(half).iloc[0]
    assert row["sensitivity"] == pytest.approx((UNTRAINED - 0.3) / 2, rel=0.1)
    assert row["normalised"] == pytest.approx(0.5, rel=0.1)
    assert row["low"] <= row["sensitivity"] <= row["high"]


def test_sensitivity_does_not_depend_on_the_direction() -> None:
    down, up = (tables.sensitivity(simulated(60, seed=3, direction=d)) for d in ("minimize", "maximize"))
    assert up["normalised"].to_numpy() == pytest.approx(down["normalised"].to_numpy(), rel=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_where_lr_matters_only_through_divergence_it_comes_first_and_the_disagreement_is_said(seed: int) -> None:
    cliff = simulated(120, seed=seed, only_divergence=True, prune=False)
    table = tables.importance(cliff)
    assert table["setting"].iloc[0] == "lr"
    assert table["share"].iloc[0] > 3 * table["share"].iloc[1]
    others = table[table["setting"] != "lr"]
    if others["optuna"].max() > float(table["optuna"].iloc[0]):
        assert "Optuna's importance counts completed trials only" in table.attrs["warning"]


def test_the_disagreement_is_said_on_most_such_studies() -> None:
    warned = [
        tables.importance(simulated(120, seed=s, only_divergence=True, prune=False)).attrs["warning"] for s in range(5)
    ]
    assert sum(map(bool, warned)) >= 3


def test_importance_has_intervals_and_optunas_own_sums_to_one(record: StudyRecord) -> None:
    table = tables.importance(record)
    assert set(table["setting"]) == set(record.space.names)
    assert ((table["low"] <= table["share"]) & (table["share"] <= table["high"])).all()
    assert table["share"].between(0, 1).all()
    assert table["optuna"].sum() == pytest.approx(1.0)


def test_a_setting_that_does_nothing_explains_nothing() -> None:
    rng = np.random.default_rng(0)
    space = Space(lr=(1e-4, 1.0), schedule=["constant", "cosine"])
    records = [
        trained(i, lr, abs(math.log10(lr) + 2) + 0.01 * rng.normal(), schedule=str(rng.choice(["constant", "cosine"])))
        for i, lr in enumerate(10 ** rng.uniform(-4, 0, 200))
    ]
    table = tables.importance(study(records, space=space, epochs=10)).set_index("setting")
    assert table["share"]["lr"] > 0.8
    assert table["share"]["schedule"] < 0.05


# --- the other settings


def test_worth_finds_the_schedule_that_is_better(record: StudyRecord) -> None:
    table = tables.worth(simulated(300, seed=4, noise=0.003)).set_index(["setting", "level"])
    assert table.loc[("schedule", "cosine"), "loss"] == 0
    worse = table.loc[("schedule", "constant")]
    assert worse["low"] > 0
    assert worse["loss"] == pytest.approx(0.03, abs=0.015)
    assert set(tables.worth(record)["setting"]) == {"batch_size", "schedule", "warmup"}


def test_a_level_does_not_win_by_being_tried_more_often() -> None:
    rng = np.random.default_rng(1)
    records = [
        trained(i, 0.01, float(rng.normal(1, 0.1)), schedule="constant" if i % 20 else "cosine") for i in range(400)
    ]
    table = tables.worth(study(records, space=Space(lr=(1e-4, 1.0), schedule=["constant", "cosine"]), epochs=10))
    assert table["trials"].tolist() == [380, 20]
    assert (table["low"] <= 0).all()


def test_a_range_is_cut_into_levels() -> None:
    space = joint_space(weight_decay=(1e-6, 1e-1))
    table = tables.worth(simulated(200, seed=1, space=space))
    assert (table["setting"] == "weight_decay").sum() == 3


@pytest.mark.parametrize(
    ("exponent", "rule", "other"), [(1.0, "linear", "square root"), (0.5, "square root", "linear")]
)
def test_the_exponent_of_the_scaling_rule_is_found(exponent: float, rule: str, other: str) -> None:
    table = tables.batch_exponent(simulated(400, seed=5, exponent=exponent, prune=False, noise=0.003)).set_index("rule")
    assert table["p"]["fitted"] == pytest.approx(exponent, abs=0.2)
    assert table["low"]["fitted"] <= table["p"]["fitted"] <= table["high"]["fitted"]
    assert table["agrees"][rule]
    assert not table["agrees"][other]


def test_one_batch_size_has_no_exponent() -> None:
    assert len(tables.batch_exponent(simulated(40, space=joint_space(batch_size=64)))) == 0


# --- regret


def test_regret_falls_to_nothing_and_costs_what_was_paid(record: StudyRecord) -> None:
    table = tables.regret(record)
    assert table["regret"].is_monotonic_decreasing
    assert table["regret"].iloc[-1] == 0
    assert table["cost"].is_monotonic_increasing
    assert table["cost"].iloc[-1] <= record.cost + 1e-9
    assert len(table) == record.counts()["completed"]


def test_regret_to_a_better_value_known_is_never_nothing(record: StudyRecord) -> None:
    assert record.best is not None
    assert record.best.value is not None
    table = tables.regret(record, best=record.best.value - 0.1)
    assert table["regret"].iloc[-1] == pytest.approx(0.1)
    assert table["normalised"].iloc[-1] == pytest.approx(0.1 / (UNTRAINED - record.best.value + 0.1))


def test_without_pieces_the_order_of_the_trials_is_the_order_of_costs() -> None:
    table = tables.regret(
        plain_study(trained(0, 0.1, 1.0), trained(1, 0.2, None, Outcome.PRUNED), trained(2, 0.3, 0.5))
    )
    assert table["cost"].tolist() == pytest.approx([1.0, 2.2])
    assert table["best"].tolist() == [1.0, 0.5]


def test_of_two_levels_of_knowing_nothing_the_better_one_counts() -> None:
    held = plain_study(trained(0, 0.1, 1.0), baseline=Baseline(untrained=2.6, chance=2.3))
    assert held.untrained == 2.3
    assert dataclasses.replace(held, direction="maximize").untrained == 2.6
    assert dataclasses.replace(held, baseline=Baseline(untrained=math.nan)).untrained is None


# --- the record itself


def test_the_best_is_the_one_that_the_result_names_else_the_best_completed() -> None:
    held = plain_study(trained(0, 0.1, 1.0), trained(1, 0.2, 0.5), trained(2, 0.3, None, Outcome.NON_FINITE))
    assert held.best is held.records[1]
    named = finished(held, best={**held.records[0].recipe.to_json(), "value": 1.0})
    assert named.best is named.records[0]
    unknown = finished(held, best={"lr": 0.77})
    assert unknown.best is unknown.records[1]
    assert plain_study(trained(0, 0.3, None, Outcome.NON_FINITE)).best is None


def test_pandas_frames_are_what_comes_out(record: StudyRecord) -> None:
    for name in tables.__all__:
        made = getattr(tables, name)(record)
        assert isinstance(made, pd.DataFrame | list)
    assert record.epochs == EPOCHS
