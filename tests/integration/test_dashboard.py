"""The real dashboard on a real study in a real browser, and beside a search of several workers.

With LRTUNE_PICTURES set to a folder (``docs/img``) the picture of the docs is written there; else it is only taken.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from browsing import DESKTOP, PHONE, Browser, browser, missing
from ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
SMALL = 150_000
HOSTILE = "<img src=http://x.example onerror=alert(1)>|*$x$*"
STUDY = """\
[study]
name = '''NAME'''
metric = '''METRIC'''
direction = "minimize"
epochs = 9

[train]
trainer = "train.py:train"

[space]
lr = [1e-4, 10.0]
batch_size = [16, 64]
schedule = ["constant", "cosine"]

[search]
strategy = "tpe"
trials = 14
"""
TRAIN = """\
import math

def train(recipe):
    for epoch in range(recipe.epochs):
        lost = recipe.lr > 0.7 and epoch > 1
        value = 0.3 * (math.log10(recipe.lr) + 1) ** 2 + 0.1 + 2 * math.exp(-epoch / 3)
        yield {'''METRIC''': math.nan if lost else value, "train_loss": value / 2}
"""

WAITING = """

def wait():
    import os, time

    with open("begun", "a") as file:
        file.write(".")
    while os.path.getsize("begun") > 30 and not os.path.exists("enough"):
        time.sleep(0.01)
"""

pytestmark = pytest.mark.browser
needs_browser = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def lrtune(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lrtune", *arguments]
    return subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, timeout=280)


def study_in(folder: Path, *, name: str, metric: str) -> Path:
    folder.mkdir()
    (folder / "study.toml").write_text(STUDY.replace("NAME", name).replace("METRIC", metric))
    (folder / "train.py").write_text(TRAIN.replace("METRIC", metric))
    return folder


@contextlib.contextmanager
def dashboard(folder: Path, file: Path | str = "study.toml", *options: str) -> Iterator[str]:
    """The real command; gives the address of its first study."""
    command = [sys.executable, "-u", "-m", "lrtune", "dashboard", str(file), "--port", str(free_port()), *options]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip() + "studies/1"
    finally:
        process.terminate()
        process.communicate(timeout=280)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as held:
        yield held


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The dashboard on a study whose every name is hostile."""
    folder = study_in(tmp_path_factory.mktemp("dashboard") / "hostile", name=HOSTILE, metric=HOSTILE)
    ended = lrtune(folder, "optimize", "study.toml", "--quiet")
    assert ended.returncode == 0, ended.stderr
    with dashboard(folder) as url:
        yield url


def visit(chromium: Browser, url: str, ready: str, size: tuple[int, int] = DESKTOP) -> None:
    """Open a page and wait until a script says that it is there."""
    from selenium.webdriver.support.ui import WebDriverWait

    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE}
    chromium.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    chromium.console()
    chromium.requests()
    chromium.driver.get(url)
    WebDriverWait(chromium.driver, 200).until(lambda _: chromium.js(f"return {ready}"))


def elsewhere(chromium: Browser, url: str) -> list[str]:
    home = url.partition("/dashboard/")[0]
    return [asked for asked in chromium.requests() if not asked.startswith((home, "data:", "blob:"))]


def drawings(answer: dict[str, Any]) -> list[str]:
    return [held["graph_object"] for held in answer["plotly_graph_objects"]]


NOTE = "!![...document.querySelectorAll('h1')].find(h => h.textContent.startsWith('Learning rate'))"
CARD = "[...document.querySelectorAll('h1')].find(h => h.textContent.startsWith('Learning rate')).parentElement"
FIGURES = (
    "document.querySelectorAll('[id^=\"user-defined-plot\"] .gtitle').length >= 2"
    " && document.querySelectorAll('[id^=\"user-defined-plot\"] .ytitle').length >= 2"
)


@needs_browser
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_the_note_is_read_at_a_glance_and_what_is_hostile_appears_as_text(
    chromium: Browser, shown: str, size: tuple[int, int]
) -> None:
    visit(chromium, f"{shown}/note", NOTE, size)
    text = chromium.js(f"return {CARD}.innerText")
    assert HOSTILE in text
    for part in (
        "As good, within noise:",
        "Diverges from:",
        "Cost",
        "full trainings",
        "trained to the end",
        "Stopped because",
    ):
        assert part in text
    assert "\\" not in text
    assert "`" not in text
    assert chromium.js(f"return {CARD}.querySelectorAll('img, script, a, mjx-container').length") == 0
    for tag in ("h1", "p", "ul", "table"):
        ends = chromium.js(f"return {CARD}.querySelector(arguments[0]).getBoundingClientRect().right", tag)
        assert ends <= size[0], f"{tag} is wider than the screen"
    assert chromium.js(f"return {CARD}.querySelector('table').getBoundingClientRect().top") < size[1]
    assert chromium.console() == []
    assert elsewhere(chromium, shown) == []


@needs_browser
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_the_study_shows_its_own_figures(chromium: Browser, shown: str, size: tuple[int, int]) -> None:
    points = "document.querySelectorAll('[id$=\"learning-rates\"] .points path').length"
    visit(chromium, shown, f"{FIGURES} && {points} >= 15", size)  # every trial, and the answer
    titles = "[...document.querySelectorAll('[id^=\"user-defined-plot\"] .gtitle')].map(t => t.textContent).sort()"
    assert chromium.js(f"return {titles}") == ["Curves", "Learning rates"]
    labels = "[...document.querySelectorAll('[id^=\"user-defined-plot\"] .ytitle')].map(t => t.textContent)"
    assert set(chromium.js(f"return {labels}")) == {HOSTILE}
    assert chromium.js("return document.querySelectorAll('[id^=\"user-defined-plot\"] image').length") == 0
    assert chromium.console() == []
    assert elsewhere(chromium, shown) == []


@needs_browser
def test_a_trial_says_how_it_ended_in_words(chromium: Browser, shown: str) -> None:
    visit(chromium, f"{shown}/trials", "document.body.innerText.includes('User Attributes')")
    text = chromium.js("return document.body.innerText")
    for name in ("outcome", "verdict", "schedule", "cost"):
        assert name in text
    assert chromium.console() == []


def test_the_dashboard_reads_while_workers_write_and_nobody_is_locked_out(tmp_path: Path) -> None:
    folder = study_in(tmp_path / "crowd", name="crowd", metric="valid_loss")
    first = lrtune(folder, "optimize", "study.toml", "--trials", "1", "--quiet")
    assert first.returncode == 0, first.stderr
    train = (folder / "train.py").read_text().replace("    for epoch", "    wait()\n    for epoch") + WAITING
    (folder / "train.py").write_text(train)  # the last quarter waits until there were answers enough
    answers: list[dict[str, Any]] = []
    failures: list[str] = []
    ended = threading.Event()
    with dashboard(folder) as url:
        address = url.replace("/dashboard/", "/api/")

        def look() -> None:
            while not ended.is_set():
                try:
                    with urllib.request.urlopen(address, timeout=280) as answer:  # noqa: S310 -- our own
                        answers.append(json.load(answer))
                    if len(answers) > 10:
                        (folder / "enough").touch()
                except OSError as error:
                    failures.append(str(error))
                ended.wait(0.05)  # an answer takes the dashboard as much processor time as a trial takes the search

        looking = threading.Thread(target=look)
        looking.start()
        try:
            crowd = lrtune(folder, "optimize", "study.toml", "--trials", "40", "--workers", "4")
        finally:
            ended.set()
            looking.join()
    assert crowd.returncode == 0, crowd.stderr
    assert "locked" not in crowd.stderr
    assert "warning" not in crowd.stderr
    assert failures == []
    assert len(answers) > 10
    assert all(answer["note"]["body"].startswith("# ") for answer in answers)
    for answer in answers:  # whoever reads in between finds a whole figure
        assert all({"data", "layout"} <= set(json.loads(drawn)) for drawn in drawings(answer))
    file = next(folder.rglob("study.db"))
    trials = optuna.load_study(study_name="crowd", storage=f"sqlite:///{file}").trials
    assert len(trials) == 40
    assert all(trial.state.is_finished() for trial in trials)


@needs_browser
@pytest.mark.slow
def test_the_picture_of_the_docs(tmp_path: Path, chromium: Browser) -> None:
    folder = Path(os.environ.get("LRTUNE_PICTURES", tmp_path))
    study = ROOT / "studies" / "digits-mlp" / "study.toml"
    options = ("--strategy", "tpe", "--budget", "10", "--quiet", "--out", str(tmp_path / "out"))
    assert lrtune(ROOT, "optimize", str(study), *options).returncode == 0
    with dashboard(ROOT, study, "--out", str(tmp_path / "out")) as url:
        visit(chromium, f"{url}/note", NOTE)
        chromium.shot(folder / "dashboard.png")
        visit(chromium, f"{url}/note", NOTE, PHONE)
        chromium.shot(folder / "dashboard-phone.png")
        visit(chromium, url, FIGURES)
        plot = "document.querySelector('[id^=\"user-defined-plot\"]')"
        chromium.js(f"{plot}.scrollIntoView({{block: 'center'}})")
        time.sleep(1)
        chromium.shot(folder / "dashboard-figures.png")
        assert chromium.console() == []
        assert elsewhere(chromium, url) == []
    for name in ("dashboard", "dashboard-phone", "dashboard-figures"):
        assert 10_000 < (folder / f"{name}.png").stat().st_size < SMALL


def test_the_pictures_in_the_docs_are_small_and_there() -> None:
    for name in ("dashboard", "dashboard-phone", "dashboard-figures"):
        file = ROOT / "docs" / "img" / f"{name}.png"
        assert file.read_bytes().startswith(b"\x89PNG")
        assert 10_000 < file.stat().st_size < SMALL
