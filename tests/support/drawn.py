"""Hypothesis strategies for curves and recipes."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from lrtune.core.curve import Curve, Point
from lrtune.core.recipe import MAX_SEED, Recipe

__all__ = ["curves", "recipes"]


FLOAT32 = st.floats(allow_nan=True, allow_infinity=True, width=16)
NAMES = st.sampled_from(["train_loss", "valid_loss", "accuracy"])
NUMBERS = st.floats(0, 1e3)


@st.composite
def curves(draw: Any, least: int = 0) -> Curve:
    steps = draw(st.lists(st.integers(1, 50), min_size=least, max_size=30))
    curve, step = Curve(), 0
    for gap in steps:
        step += gap
        values = draw(st.dictionaries(NAMES, FLOAT32, max_size=3))
        lr = draw(st.none() | st.floats(0, 1, width=16))
        curve.append(Point(step=step, epoch=step / 4, samples=step * 32, values=values, lr=lr))
    return curve


recipes = st.builds(
    Recipe,
    lr=st.floats(1e-12, 1e6),
    epochs=st.integers(1, 10**6),
    batch_size=st.none() | st.integers(1, 10**6),
    schedule=st.sampled_from(["constant", "cosine(floor=0.1)"]),
    warmup=NUMBERS,
    optimizer=st.none() | st.just("adam"),
    momentum=st.none() | NUMBERS,
    weight_decay=st.none() | NUMBERS,
    layer_decay=st.none() | NUMBERS,
    seed=st.integers(0, MAX_SEED),
)
