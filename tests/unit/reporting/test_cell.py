"""A study in a notebook's output cell: the answer and one still figure, without scripts and without requests."""

from __future__ import annotations

import dataclasses
import itertools
import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hostile import hostile
from recorded import finished, joint_space, simulated

from lrtune.reporting import figures
from lrtune.reporting.figures.theme import OUTCOMES
from lrtune.reporting.html.cell import cell, live_cell
from lrtune.reporting.html.rendering import asset
from lrtune.reporting.html.still import BOTTOM, HEIGHT, LEFT, RIGHT, SYMBOLS, TOP, WIDTH, still

RECORD = finished(simulated(40, space=joint_space()))


def svg(text: str) -> ET.Element:
    return ET.fromstring(re.search(r"<svg viewBox=\"0 0.*?</svg>", text, re.DOTALL)[0])  # type: ignore[index]  # noqa: S314 -- our own


def test_the_answer_and_one_figure() -> None:
    text = cell(RECORD)
    assert RECORD.best is not None
    assert f'<p class="lr">{RECORD.best.recipe.lr:.3g}</p>' in text
    picture = svg(text)
    assert len(picture.findall("path[@transform]")) == len(RECORD.records) + 1, "every trial, and the answer"
    assert "the answer" in text
    assert len(text) < 60_000


def test_the_figure_is_the_reports() -> None:
    shown = still(figures.landscape(RECORD))
    assert [name for _, _, _, name in shown["legend"]] == [t.name for t in figures.landscape(RECORD).data]
    for _, x, y, _, _, _ in shown["points"]:
        assert LEFT <= x <= WIDTH - RIGHT
        assert TOP <= y <= HEIGHT - BOTTOM
    answer = shown["points"][-1]
    best = RECORD.best
    assert best is not None
    worse = [y for _, _, y, _, _, told in shown["points"] if told and best.value is not None]
    assert answer[2] == max(worse), "lower is better, and further down"
    begin, width, _ = shown["areas"][0]
    assert begin < answer[1] < begin + width, "the answer lies in its band"
    places = [x for x, _ in shown["x"][1]]
    assert places == sorted(places)
    gaps = [b - a for a, b in itertools.pairwise(places)]
    assert max(gaps) - min(gaps) < 0.3, "decades are equally wide"


def test_every_symbol_can_be_drawn() -> None:
    for style in [*OUTCOMES.values()]:
        assert style.symbol.removesuffix("-open").removesuffix("-thin") in SYMBOLS


@pytest.mark.parametrize("low", [0.02, 12.0])
def test_a_linear_axis_has_round_ticks(low: float) -> None:
    figure: Any = figures.landscape(RECORD)
    figure.update_layout(yaxis={"type": "linear", "range": [low, 3 * low], "tickvals": None, "ticktext": None})
    texts = [float(text) for _, text in still(figure)["y"][1]]
    assert 2 <= len(texts) <= 6
    assert all(low <= text <= 3 * low for text in texts)
    assert all(len(f"{text:g}".replace("0.", "").strip("0")) <= 2 for text in texts)


class Tags(HTMLParser):
    """The names of all elements, and of their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes.update(name for name, _ in attrs)


def test_nothing_is_run_and_nothing_is_requested() -> None:
    plain, worst = Tags(cell(RECORD)), Tags(cell(hostile(RECORD)))
    assert worst.names == plain.names, "no text of a user's makes an element"
    assert not plain.names & {"script", "img", "image", "link", "iframe", "object", "use", "a", "foreignobject"}
    assert worst.attributes == plain.attributes
    assert not any(name.startswith("on") for name in plain.attributes)
    assert not plain.attributes & {"src", "href", "xlink:href", "srcset", "action"}
    assert not re.search(r"@import|url\(", asset("cell.css"))
    svg(cell(hostile(RECORD)))


def test_without_an_answer() -> None:
    nothing = dataclasses.replace(RECORD, records=(), result={})
    text = cell(nothing)
    assert "None yet: nothing was trained to its end." in text
    assert "<svg viewBox" not in text


def test_the_lines_of_a_live_display() -> None:
    text = live_cell([("lrtune", "<b>digits</b>"), ("cost", "██░░ 1.00 of 2 full trainings")])
    assert "&lt;b&gt;digits&lt;/b&gt;" in text
    assert re.findall(r"<th>(\w+)</th>", text) == ["lrtune", "cost"]
