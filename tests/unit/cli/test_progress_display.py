"""What the terminal shows of a search, and what it says in few characters."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from lrtune.cli.progress_display import Display, watching
from lrtune.core.recipe import Recipe
from lrtune.search.base import TrialView
from lrtune.study import progress_text
from lrtune.study.events import Progress

NONE = np.array([])
RECIPE = Recipe(lr=0.03162, epochs=27, batch_size=64, schedule="cosine", warmup=0.1, weight_decay=1e-4)


def progress(**changes: object) -> Progress:
    told = {
        "event": "trial 3: at epoch 9",
        "name": "digits",
        "epochs": 27,
        "budget": 4.0,
        "spent": 1.0,
        "elapsed": 60.0,
        "counts": {"open": 2, "completed": 1, "out_of_memory": 0},
        "best": RECIPE,
        "best_value": 0.1234567,
        "best_curve": ((1.0, 0.9), (2.0, 0.4), (3.0, 0.1)),
        "band": (0.01, 0.1),
        "training": tuple(
            TrialView(number=n, recipe=RECIPE, epochs=NONE, values=NONE, reached=3.0, until=9.0) for n in range(6)
        ),
        "warnings": ("mind the step",),
    }
    return Progress(**{**told, **changes})


def shown(snapshot: Progress | None, *, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding=encoding), width=90)
    display = Display()
    if snapshot is not None:
        display.update(snapshot)
    console.print(display)
    console.file.flush()
    return raw.getvalue().decode(encoding)


def test_the_display_shows_all_that_is_known() -> None:
    got = shown(progress())
    for part in (
        "digits",
        "1.00 of 4 full trainings",
        "1:00, about ",
        "valid_loss 0.1235 at lr 0.0316, batch 64, cosine, warmup 0.1, weight decay 0.0001",
        "0.9 █▄▁ 0.1  epoch 3",
        "0.01 to 0.1 look as good",
        "trial 0",
        "and 2 more",
        "2 open, 1 completed",
        "mind the step",
    ):
        assert part in got
    assert "out of memory" not in got


def test_the_display_says_nothing_that_is_not_known() -> None:
    assert "starting" in shown(None)
    bare = shown(Progress(name="digits"))
    assert "None" not in bare
    assert "best" not in bare


def test_a_terminal_without_blocks_gets_ascii() -> None:
    assert shown(progress(), encoding="ascii").isascii()


def test_names_cannot_move_the_cursor_or_style_the_display() -> None:
    got = shown(progress(name="a\x1b[2Jb [red]c", warnings=("\x1b]0;x\x07",)))
    assert "\x1b" not in got
    assert "[red]c" in got


def test_lines_go_to_stderr_and_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with watching(quiet=False, json_log=None) as observer:
        observer(progress(event="trial 1:\n fine"))
        observer(progress(event=""))
    assert capsys.readouterr() == ("", "[1:00] 1.00  trial 1:  fine\n")
    with watching(quiet=True, json_log=None) as observer:
        observer(progress())
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({}, 180.0),
        ({"budget": None}, None),
        ({"timeout": 90.0}, 30.0),
        ({"budget": None, "trials_limit": 3}, 120.0),
        ({"spent": 0.0}, None),
        ({"spent": 5.0}, 0.0),
    ],
)
def test_the_time_left_follows_the_pace_and_the_limits(changes: dict[str, object], left: float | None) -> None:
    assert progress(**changes).seconds_left == left


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=300), st.booleans())
def test_a_sparkline_is_one_line_of_at_most_40(values: list[float], ascii_only: bool) -> None:
    line = progress_text.sparkline(values, ascii_only=ascii_only)
    assert len(line) <= 40
    assert set(line) <= set(progress_text.ASCII_BLOCKS if ascii_only else progress_text.BLOCKS) | {" "}
    if len(values) <= 40 and any(map(math.isfinite, values)):
        assert [character == " " for character in line] == [not math.isfinite(value) for value in values]


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40, unique=True))
def test_a_sparkline_has_its_ends_where_the_values_have(values: list[float]) -> None:
    line = progress_text.sparkline(values)
    assert line[values.index(min(values))] == progress_text.BLOCKS[0]
    assert line[values.index(max(values))] == progress_text.BLOCKS[-1]


def test_clocks() -> None:
    assert [progress_text.clock(seconds) for seconds in (0.9, 65, 3725)] == ["0:00", "1:05", "1:02:05"]
