"""The numerical core of freeze-thaw: what it recovers, and what it must never do."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lrtune.search.freeze_thaw.model import CurveModel, Points


def places(x: list[float], t: list[float], run: list[int] | None = None) -> Points:
    xs, ts = np.array(x, dtype=float), np.array(t, dtype=float)
    runs = np.arange(len(xs)) if run is None else np.array(run)
    return Points(x=xs, t=ts, area=ts, level=np.ones(len(xs)), group=np.zeros(len(xs), dtype=np.int64), run=runs)


def law(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Progress with the summed learning rate, on a floor that rises with it; the best drifts left with time."""
    return 0.1 + 0.9 * (1 + 10**x * t / 3e-4) ** -0.7 + 0.15 * 10 ** (1.0 * (x + 1))


def fitted(x: list[float], t: list[float], run: list[int] | None = None) -> CurveModel:
    points = places(x, t, run)
    y = law(points.x, points.t)
    return CurveModel(points, y, gap=np.zeros(len(y)), rough=np.zeros(len(y)), alike=np.ones((1, 1)))


GRID = np.arange(-4.0, -0.4, 0.1)


def test_short_runs_tell_where_the_best_full_run_is() -> None:
    xs = [x for x in (-4.0, -3.5, -3.0, -2.5, -2.0, -1.5, -1.0, -0.5) for _ in range(3)]
    ts = [0.01, 0.02, 0.04] * 8
    model = fitted(xs, ts, [i // 3 for i in range(24)])
    ends = model.draws(
        places(list(GRID), [1.0] * len(GRID), [-1 - i for i in range(len(GRID))]), 400, np.random.default_rng(0)
    )
    truth = law(GRID, np.ones_like(GRID))
    early = law(GRID, np.full_like(GRID, 0.04))
    pick = int(np.argmin(ends.mean(axis=0)))
    assert GRID[np.argmin(early)] > GRID[np.argmin(truth)] + 0.2  # short runs alone point too high
    assert truth[pick] - truth.min() < 0.02
    assert truth[pick] < truth[np.argmin(early)]


def test_a_run_that_was_seen_to_its_end_is_known_there_and_beside_it_less_so() -> None:
    xs, ts = [-2.0] * 4 + [-3.0] * 3, [0.1, 0.25, 0.5, 1.0, 0.05, 0.1, 0.2]
    model = fitted(xs, ts, [0] * 4 + [1] * 3)
    ends = model.draws(places([-2.0, -3.0, -1.0], [1.0] * 3, [0, 1, -3]), 800, np.random.default_rng(1))
    known, unknown, outside = ends.std(axis=0)
    assert abs(ends[:, 0].mean() - law(np.array([-2.0]), np.array([1.0]))[0]) < 0.02
    assert known < 0.03
    assert unknown > 2 * known
    assert outside > 2 * known


def test_noise_makes_it_less_sure() -> None:
    points = places([-3.0, -2.5, -2.0, -1.5], [0.1] * 4)
    y = law(points.x, points.t)
    query = places([-2.2], [0.1], [-1])
    spreads = [
        CurveModel(points, y, gap=np.zeros(4), rough=np.full(4, rough), alike=np.ones((1, 1)))
        .draws(query, 800, np.random.default_rng(2))
        .std()
        for rough in (0.0, 0.3)
    ]
    assert spreads[1] > 1.5 * spreads[0]


def test_settings_that_are_alike_tell_more_of_each_other() -> None:
    points = places([-3.0, -2.0, -1.0] * 2, [0.1] * 3 + [1.0] * 3, [0, 1, 2, 0, 1, 2])
    y = law(points.x, points.t)
    spreads = []
    for alike in (0.99, 0.2):
        table = np.array([[1.0, alike], [alike, 1.0]])
        early = np.full(1, 0.1)
        query = Points(
            x=np.array([-2.0]), t=early, area=early, level=np.ones(1), group=np.array([1]), run=np.array([-1])
        )
        model = CurveModel(points, y, gap=np.zeros(6), rough=np.zeros(6), alike=table)
        spreads.append(model.draws(query, 800, np.random.default_rng(3)).std())
    assert spreads[1] > 1.5 * spreads[0]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(-8, 3), st.floats(1e-4, 1), st.floats(0, 1.3), st.floats(0, 1)), min_size=1, max_size=25
    ),
    st.integers(0, 2**31),
)
def test_draws_are_finite_whatever_was_seen(rows: list[tuple[float, float, float, float]], seed: int) -> None:
    x, t, y, rough = (list(column) for column in zip(*rows, strict=True))
    values = np.array(y)
    model = CurveModel(places(x, t), values, gap=values - values.min(), rough=np.array(rough), alike=np.ones((1, 1)))
    ends = model.draws(places([-5.0, 0.0, *x], [1.0] * (2 + len(x))), 32, np.random.default_rng(seed))
    assert ends.shape == (32, 2 + len(x))
    assert np.isfinite(ends).all()


def test_the_same_seed_draws_the_same() -> None:
    model = fitted([-3.0, -2.0, -1.0], [0.1] * 3)
    query = places([-2.5, -1.5], [1.0] * 2, [-1, -2])
    one, two = (model.draws(query, 64, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, model.draws(query, 64, np.random.default_rng(8)))
