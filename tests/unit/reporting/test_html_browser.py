"""The page in a real browser: it draws, it answers to its buttons, it says nothing to the console, it asks nobody."""

from __future__ import annotations

import csv
import dataclasses
import time
from typing import TYPE_CHECKING

import pytest
from browsing import DESKTOP, PHONE, Browser, browser, missing
from hostile import HOSTILE, hostile
from recorded import simulated

from lrtune.reporting import html

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.browser, pytest.mark.skipif(missing() is not None, reason=str(missing()))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def chromium(folder: Path) -> Iterator[Browser]:
    with browser(folder) as held:
        yield held


@pytest.fixture(scope="module")
def page(folder: Path) -> Path:
    path = folder / "report.html"
    html.write(simulated(150, seed=2), path)
    return path


def settled(condition: Callable[[], object]) -> bool:
    """Whether it comes true in time."""
    end = time.monotonic() + 200
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


def opened(chromium: Browser, page: Path, size: tuple[int, int] = DESKTOP, *, dark: bool = False) -> None:
    chromium.console()
    chromium.requests()
    chromium.open(page, size, dark=dark)


@pytest.mark.parametrize(("size", "dark"), [(DESKTOP, False), (DESKTOP, True), (PHONE, False), (PHONE, True)])
def test_every_figure_is_drawn_without_an_error_and_without_a_request(
    chromium: Browser, page: Path, tmp_path: Path, size: tuple[int, int], *, dark: bool
) -> None:
    opened(chromium, page, size, dark=dark)
    assert chromium.draw_all() == 11
    assert chromium.console() == []
    assert chromium.requests() == [page.resolve().as_uri()]
    assert chromium.js("return document.documentElement.dataset.theme") == ("dark" if dark else "light")
    chromium.shot(tmp_path / "page.png", whole=True)
    assert (tmp_path / "page.png").stat().st_size > 50_000


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_nothing_is_wider_than_the_screen_and_the_answer_is_on_the_first(
    chromium: Browser, page: Path, size: tuple[int, int]
) -> None:
    opened(chromium, page, size)
    chromium.draw_all()
    assert chromium.js("return document.documentElement.scrollWidth") <= size[0]
    for part in (".lr", "svg.ruler", ".facts", ".verdicts li", ".paste .bar"):
        assert chromium.js("return document.querySelector(arguments[0]).getBoundingClientRect().bottom", part) < size[1]


def test_the_policy_forbids_scripts_and_requests_that_are_not_ours(chromium: Browser, page: Path) -> None:
    opened(chromium, page)
    chromium.js(
        "const s = document.createElement('script'); s.textContent = 'window.broken = 1'; document.body.appendChild(s);"
        "const i = document.createElement('img'); i.src = 'http://127.0.0.1:9/x.png'; document.body.appendChild(i);"
    )
    said: list[str] = []
    assert settled(lambda: said.extend(chromium.console()) or len(said) > 1)
    assert sum("Content Security Policy" in message for message in said) == 2
    assert chromium.js("return window.broken === undefined")


def test_the_table_sorts_filters_pages_and_downloads(chromium: Browser, page: Path, folder: Path) -> None:
    opened(chromium, page)
    cells = "return [...document.querySelectorAll('#trials tbody tr')].map(r => r.cells[arguments[0]].textContent)"
    heads: list[str] = chromium.js("return [...document.querySelectorAll('#trials th')].map(h => h.textContent)")
    lr = heads.index("learning rate")
    assert len(chromium.js(cells, 0)) == 50
    click = "document.querySelectorAll('#trials th button')[arguments[0]].click()"
    chromium.js(click, lr)
    up = [float(x) for x in chromium.js(cells, lr)]
    chromium.js(click, lr)
    down = [float(x) for x in chromium.js(cells, lr)]
    assert up == sorted(up)
    assert down == sorted(down, reverse=True)
    assert down[0] > up[-1]
    chromium.js("document.getElementById('after').click()")
    assert "page 2 of 3" in chromium.js("return document.getElementById('where').textContent")
    value = heads.index("valid_loss")
    chromium.js(click, value)
    assert "" not in chromium.js(cells, value)[:5]
    chromium.js("const f = document.getElementById('filter'); f.value = 'COSINE'; f.dispatchEvent(new Event('input'))")
    chromium.js("const o = document.getElementById('only'); o.value = 'pruned'; o.dispatchEvent(new Event('change'))")
    shown = int(chromium.js("return document.getElementById('count').textContent").split()[0])
    assert 0 < shown < 150
    chromium.js("document.getElementById('csv').click()")
    file = folder / "trials.csv"
    assert settled(lambda: file.exists() and file.stat().st_size), "Chromium keeps its place with an empty file"
    with file.open(newline="", encoding="utf-8") as text:
        rows = list(csv.DictReader(text))
    assert len(rows) == shown
    assert {(row["outcome"], row["schedule"]) for row in rows} == {("pruned", "cosine")}
    assert all(float(row["lr"]) > 0 for row in rows)
    assert chromium.console() == []


def test_buttons_choose_axis_series_theme_and_lines_to_paste(chromium: Browser, page: Path) -> None:
    opened(chromium, page)
    chromium.draw_all()
    press = "[...document.querySelectorAll(arguments[0])].find(b => b.textContent.includes(arguments[1])).click()"
    title = "return document.querySelector('#curves .figure').layout.xaxis.title.text"
    chromium.js(press, "#curves .choices button", "samples seen")
    assert settled(lambda: chromium.js(title) == "samples seen")
    chromium.js(press, "#curves .choices button", "train")
    visible = (
        "return document.querySelector('#curves .figure').data"
        ".filter(t => t.visible !== false).map(t => (t.line || {}).dash)"
    )
    assert settled(lambda: "solid" not in chromium.js(visible) and "dot" in chromium.js(visible))
    chromium.js(press, "#landscape .legend button", "stopped early")
    hidden = (
        "return document.querySelector('#landscape .figure').data.filter(t => t.visible === false).map(t => t.name)"
    )
    assert settled(lambda: chromium.js(hidden) == ["stopped early"])
    chromium.js(press, ".paste [role=tab]", "scikit-learn")
    assert "set_params" in chromium.js("return document.querySelector('.paste pre:not([hidden])').textContent")
    before = chromium.js("return getComputedStyle(document.body).backgroundColor")
    chromium.js("document.getElementById('theme').click()")
    assert chromium.js("return getComputedStyle(document.body).backgroundColor") != before
    assert chromium.console() == []


def test_hostile_names_appear_as_text_in_page_and_figures(chromium: Browser, folder: Path) -> None:
    path = folder / "hostile.html"
    html.write(hostile(simulated(40, seed=2)), path)
    opened(chromium, path)
    chromium.draw_all()
    assert chromium.js("return document.querySelector('h1').textContent").startswith(HOSTILE[:60])
    assert chromium.js("return document.querySelectorAll('a, img[src^=http]').length") == 0
    title = chromium.js("return document.querySelector('#landscape .ytitle').textContent")
    assert title.startswith('</title></script><script>alert("1")')
    assert chromium.console() == []
    assert chromium.requests() == [path.resolve().as_uri()]


def test_a_page_without_an_answer_breaks_nothing(chromium: Browser, folder: Path) -> None:
    path = folder / "nothing.html"
    html.write(dataclasses.replace(simulated(3), records=(), result={}), path)
    opened(chromium, path, PHONE)
    chromium.draw_all()
    assert "None yet" in chromium.js("return document.querySelector('.lr').textContent")
    assert chromium.console() == []


def test_printing_shows_every_figure_on_white(chromium: Browser, page: Path) -> None:
    opened(chromium, page, dark=True)
    chromium.js("window.dispatchEvent(new Event('beforeprint'))")
    assert settled(lambda: chromium.js("return document.querySelectorAll('.figure .main-svg').length") >= 11)
    assert chromium.js("return document.documentElement.dataset.theme") == "light"
