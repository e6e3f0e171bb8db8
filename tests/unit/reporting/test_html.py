"""The page and the text: complete in themselves, nothing unescaped, written whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import recorded
from hostile import HOSTILE, hostile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jinja2 import UndefinedError
from recorded import finished, joint_space, simulated, study

import lrtune
from lrtune.core.files import write_public
from lrtune.core.space import Space
from lrtune.errors import InputError, StorageError
from lrtune.reporting import html
from lrtune.reporting.html.rendering import environment

if TYPE_CHECKING:
    from lrtune.core.curve import Direction
    from lrtune.core.records import StudyRecord

OURS = {"h1": 1, "main": 1, "title": 1}
SHARP = [
    *("<", ">", "&", '"', "'", "=", "/", "`", "</", "/>", "&lt;", "&#60;", "<!--", "-->", "<![CDATA[", "]]>"),
    *("<script>", "</script>", "</title>", "</style>", "</pre>", "</svg>", "<img src=x onerror=alert(1)>"),
    *(" onload=", "javascript:", "{{ 7 * 7 }}", "{% raw %}", "{#", "\0", "\x1b]0;x\x07", "\ud800", "\u2028", "\n"),
]
sharp_texts = st.lists(st.sampled_from(SHARP) | st.text(max_size=5), max_size=12).map("".join)


class Page(HTMLParser):
    """What an HTML parser makes of the page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.data: dict[str, Any] = {}
        self.words: list[str] = []
        self._inside: list[str] = []
        self._id: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside.append(tag)
        self._id = dict(attrs).get("id") if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        where = self._inside[-1] if self._inside else ""
        if where == "script":
            if self._id:
                self.data[self._id] = json.loads(data)
        elif where != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


@pytest.fixture(scope="module")
def record() -> StudyRecord:
    return simulated(60, seed=2)


@pytest.fixture(scope="module")
def page(record: StudyRecord) -> Page:
    return Page(html.page(record))


# --- the page


def test_the_first_screen_is_the_answer(record: StudyRecord, page: Page) -> None:
    assert record.best is not None
    first = page.text[: page.text.index("Learning rate and result")]
    assert f"{record.best.recipe.lr:.3g}" in first
    assert f"{record.result['band']['low']:.3g} to {record.result['band']['high']:.3g}" in first
    assert "Diverges from" in first
    assert f"{record.cost:.2f}".rstrip("0") in first
    assert "torch.optim.lr_scheduler" in first
    assert "model.set_params" in first
    assert any(word in first for word in ("A clear answer", "A likely answer", "The winner is at the edge"))


def test_the_page_asks_nobody_for_anything(page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base", "img", "form"}
        assert not {"src", "href", "action", "srcset"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
    policy = next(a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "http" not in policy
    assert "unsafe-eval" not in policy


def test_every_figure_of_the_page_has_its_data(page: Page) -> None:
    wanted = [a["data-source"] for _, a in page.tags if a.get("class") == "figure"]
    assert len(wanted) == 11
    for name in wanted:
        assert name is not None
        assert page.data[name]["data"]
        assert "template" not in page.data[name]["layout"]


def test_the_table_holds_every_trial_and_what_it_takes_to_read_it(record: StudyRecord, page: Page) -> None:
    table = page.data["trials-data"]
    columns = {column["name"]: column for column in table["columns"]}
    assert columns["number"]["values"] == [r.number for r in record.records]
    assert record.best is not None
    assert table["best"] == record.best.number
    outcome = columns["outcome"]
    assert [outcome["words"][i] for i in outcome["values"]] == [
        "open" if r.outcome is None else r.outcome.key for r in record.records
    ]
    assert columns["value"]["label"] == "valid_loss"
    assert columns["value"]["values"].count(None) == sum(r.value is None for r in record.records)
    assert table["columns"][columns["verdict"]["hint"]]["name"] == "evidence"
    assert not columns["evidence"]["shown"]


def test_a_setting_that_never_changes_is_in_the_file_but_not_in_the_table() -> None:
    page = Page(html.page(simulated(20, space=joint_space(batch_size=64))))
    columns = {column["name"]: column for column in page.data["trials-data"]["columns"]}
    assert not columns["batch_size"]["shown"]
    assert columns["schedule"]["shown"]


def test_what_it_takes_to_repeat_it_is_there(page: Page) -> None:
    for words in (
        "freeze-thaw",
        "seed",
        "1e-05 to 10",
        "16, 64, 256",
        "torch",
        "cpu (2 cores)",
        "last value of the curve",
    ):
        assert words in page.text


@pytest.mark.parametrize("make", ["record", "empty", "lost"])
def test_hostile_texts_appear_as_text(record: StudyRecord, make: str) -> None:
    base = {"record": record, "empty": study(), "lost": simulated(20, space=Space(lr=(5.0, 10.0)))}[make]
    written = html.page(hostile(base))
    parsed, calm = Page(written), Page(html.page(base))
    assert parsed.count("script") == calm.count("script") == 2 + len(calm.data)
    for tag in ("script", "img", "title", "h1", "style", "meta"):
        assert parsed.count(tag) == calm.count(tag)
    plain = HOSTILE.replace("\x1b", " ").replace("\x07", " ")[:-1]
    assert plain in parsed.text
    assert '<script>alert("1")' not in written
    assert "onerror=alert(1)>" not in re.sub(r"onerror=alert\(1\)(&gt;|\\u003e)", "", written)
    assert "\x1b" not in written


def outline(text: str) -> list[tuple[str, dict[str, str | None]]]:
    """The elements and attributes of a comparison of studies in which every text, schedules included, is this one."""
    found = hostile(simulated(5, seed=1, epochs=3, open_trials=0, space=Space(lr=(1e-3, 10.0))), text)
    schedule = text.replace("\ud800", "")  # pandas keeps no column with half of a surrogate pair
    odd = tuple(dataclasses.replace(r, recipe=dataclasses.replace(r.recipe, schedule=schedule)) for r in found.records)
    found = dataclasses.replace(found, records=odd)
    rows = [["strategy", "regret"], [text, text]]
    made = compared(found, searches={text: [found]}, name=text, verdict=text, notes=[text], rows=rows)
    return Page(html.page(found, compared=made)).tags


@pytest.fixture(scope="module")
def calm() -> list[tuple[str, dict[str, str | None]]]:
    return outline("plain")


@settings(max_examples=6)
@given(text=sharp_texts)
@example(text=HOSTILE)
@example(text="")
def test_no_text_makes_an_element_or_an_attribute(calm: list[tuple[str, dict[str, str | None]]], text: str) -> None:
    assert outline(text) == calm


def test_a_study_without_an_answer_has_a_page_that_says_so() -> None:
    for base in (study(), simulated(20, space=Space(lr=(5.0, 10.0)))):
        page = Page(html.page(base))
        assert "None yet" in page.text
        assert "torch.optim" not in page.text
    assert "diverged" in Page(html.page(simulated(20, space=Space(lr=(5.0, 10.0))))).text


def compared(record: StudyRecord, **changes: Any) -> html.Compared:
    searches = {"freeze-thaw": [record, simulated(40, seed=8)], HOSTILE: [simulated(40, seed=9)]}
    rows = [["strategy", "spent", "regret"], ["freeze-thaw", "2.00", "0.0100"], [HOSTILE, "1.00", "0.0200"]]
    found: dict[str, Any] = {"verdict": f"it cannot be told whether {HOSTILE} is", "notes": [f"no {HOSTILE}"]}
    found |= {"name": HOSTILE, "searches": searches, "best": 0.1, "budget": 4.0, "rows": rows}
    return html.Compared(**{**found, **changes})


def test_a_comparison_stands_above_the_first_study(record: StudyRecord) -> None:
    made = compared(record)
    page = Page(html.page(made.first, compared=made))
    assert made.first is record
    assert {tag: sum(t == tag for t, _ in page.tags) for tag in OURS} == OURS
    lines = [trace for trace in page.data["figure-compared"]["data"] if trace["showlegend"]]
    assert [trace["name"][:11] for trace in lines] == ["freeze-thaw", "&lt;/title&"]
    order = [
        page.text.index(words) for words in ("It cannot be told whether", "0.0200", "freeze-thaw, seed 0.", "As good")
    ]
    assert order == sorted(order)
    assert not any(attributes.get("src", "") for _, attributes in page.tags)


def test_a_schedule_that_lrtune_does_not_know_costs_the_lines_and_nothing_else(record: StudyRecord) -> None:
    odd = [dataclasses.replace(r, recipe=dataclasses.replace(r.recipe, schedule="my own")) for r in record.records]
    page = Page(html.page(dataclasses.replace(record, records=tuple(odd), result={})))
    assert "torch.optim" not in page.text
    assert "my own" in page.text


# --- writing


def test_a_report_is_written_whole_and_leaves_nothing_beside_it(tmp_path: Path, record: StudyRecord) -> None:
    path = tmp_path / "new folder" / "report.html"
    html.write(record, path)
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


FULL = """
import resource, signal, sys
from lrtune.errors import StorageError
from lrtune.core.files import write_public
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_public(sys.argv[1], "x" * 1_000_000)
except StorageError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def test_where_there_is_no_room_the_old_report_stays(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("the old one", encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    assert str(path) in done.stdout
    assert path.read_text(encoding="utf-8") == "the old one"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_place_that_cannot_be_written_is_an_error_in_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "a file"
    file.touch()
    with pytest.raises(StorageError, match="cannot be written"):
        write_public(file / "report.html", "x")
    with pytest.raises(StorageError, match="is a directory"):
        write_public(tmp_path, "x")
    assert [p.name for p in tmp_path.parent.iterdir() if p.name.endswith(".part")] == []


# --- escaping


def filled(template: str, value: Any) -> Page:
    return Page(environment().from_string(template).render(value=value))


@given(sharp_texts)
def test_text_comes_back_as_text_from_any_parser(text: str) -> None:
    page = filled('<p id="{{ value }}">{{ value }}</p>{{ value }}', text)
    shown = "".join(c if c.isprintable() or c in "\n\t" else " " for c in text)
    assert page.tags == [("p", {"id": shown})]
    assert "".join(page.words) == 2 * shown


def test_a_value_that_was_not_given_is_an_error_and_not_an_empty_place() -> None:
    with pytest.raises(UndefinedError, match="'nothing' is undefined"):
        filled("<p>{{ nothing }}</p>", "")


def test_only_files_of_ours_are_let_through_as_they_are() -> None:
    loader = environment().loader
    assert loader is not None
    names = loader.list_templates()
    assert "page.html.jinja" in names
    texts = [loader.get_source(environment(), name)[0] for name in names]
    assert re.findall(r"\w+\s*\|\s*safe|autoescape", "".join(texts)) == ["style|safe", "style|safe", "script|safe"]


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    return [finite(value) for value in data] if isinstance(data, list) else data


@given(json_values)
@example([math.nan, {"x": -math.inf}])
def test_json_in_the_page_can_neither_end_its_element_nor_hold_a_nan(data: Any) -> None:
    page = filled('<script id="held">{{ value|tojson }}</script>', {"<!--": data, "</script>": [HOSTILE]})
    assert page.tags == [("script", {"id": "held"})]
    assert page.data["held"] == {"<!--": finite(data), "</script>": [HOSTILE]}


# --- the text


def test_the_text_says_what_the_first_screen_says(record: StudyRecord) -> None:
    assert record.best is not None
    found = html.text(record)
    assert found.splitlines()[0] == "digits-mlp"
    for words in (f"{record.best.recipe.lr:.3g}", "as good", "diverges from", "full trainings", "verdict", "diverged"):
        assert words in found
    assert all(line.startswith("  ") for line in found.splitlines()[1:])


def test_the_text_of_a_hostile_study_moves_no_cursor(record: StudyRecord) -> None:
    found = html.text(hostile(record))
    assert all(c.isprintable() or c == "\n" for c in found)


def test_where_no_edge_was_seen_the_text_says_how_far_runs_live(record: StudyRecord) -> None:
    edges = {"lr": None, "low": 1e-5, "high": None}
    said = html.text(dataclasses.replace(record, result={**record.result, "edge": edges}))
    assert "not located: none up to 1e-05 did" in said
    nowhere = html.text(dataclasses.replace(record, result={**record.result, "edge": {**edges, "low": None}}))
    assert "not located" in nowhere


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_two_learning_rates_that_chance_explains_are_said_to_be_one(direction: Direction) -> None:
    record = simulated(60, seed=2, direction=direction)
    best = record.best
    assert best is not None
    others = [r for r in record.records if r.completed and r.recipe.lr != best.recipe.lr]
    second = min(others, key=lambda r: record.sign * float(r.value or 0))
    apart = abs(float(second.value or 0) - float(best.value or 0))

    def sure(noise: float) -> str:
        return html.text(dataclasses.replace(record, result={**record.result, "probability": 0.9, "noise": noise}))

    assert f"{best.recipe.lr:.3g} and {second.recipe.lr:.3g} cannot be told apart" in sure(apart / 2)
    assert "told apart" not in sure(apart / 3)


def test_time_that_stacking_saved_stands_beside_the_cost(record: StudyRecord) -> None:
    first, *rest = record.records
    assert "in the time of" not in html.text(record)
    saved = dataclasses.replace(record, records=(dataclasses.replace(first, saved_epochs=record.epochs), *rest))
    assert f"{record.cost:.4g} full trainings, in the time of {record.cost - 1:.4g}" in html.text(saved)


def test_the_text_without_an_answer_says_so() -> None:
    found = html.text(finished(study(), warnings=["look here"]))
    assert "none yet" in found
    assert "look here" in found


# --- images


def test_without_the_image_writer_there_is_a_sentence(tmp_path: Path, record: StudyRecord) -> None:
    with pytest.raises(InputError, match="must be one of png, svg, pdf"):
        html.images(record, tmp_path, "bmp")
    code = (
        "import sys; sys.modules['kaleido'] = None\n"
        "from lrtune.reporting import html as report\n"
        "from lrtune.errors import InputError\nfrom recorded import simulated\n"
        "try:\n    report.images(simulated(10), sys.argv[1])\nexcept InputError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": f"{Path(recorded.__file__).parent}:{Path(lrtune.__file__).parents[1]}", "PATH": ""},
    )
    assert "pip install 'lrtune[images]'" in done.stdout
    assert list(tmp_path.iterdir()) == []
