"""The pages are one book: all are in its contents, the reference names all that is public, what is shown is true."""

from __future__ import annotations

import json
import re
import tomllib
from typing import TYPE_CHECKING

import pytest
from layering import PACKAGE, ROOT

import lrtune
from lrtune.config.study_file import read_study
from lrtune.jobs.job_file import read_job
from lrtune.reporting.snippets import KINDS, TITLES, snippet
from lrtune.schedules import SCHEDULES
from lrtune.study.result import Result

if TYPE_CHECKING:
    from pathlib import Path

DOCS = ROOT / "docs"
CONTENTS = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
REFERENCE = (DOCS / "reference" / "python.md").read_text()


def test_every_page_is_in_the_contents_once() -> None:
    listed = re.findall(r": ([\w/-]+\.md)$", CONTENTS, re.MULTILINE)
    assert sorted(listed) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


def test_the_reference_names_every_public_name() -> None:
    shown = set(re.findall(r"^::: lrtune\.(\w+)$", REFERENCE, re.MULTILINE))
    assert shown | {"__version__"} == set(lrtune.__all__)
    assert "lrtune.__version__" in REFERENCE


def test_what_the_reference_names_is_there_and_described() -> None:
    for dotted in re.findall(r"^::: ([\w.]+)$", REFERENCE, re.MULTILINE):
        module, _, name = dotted.rpartition(".")
        try:
            found = getattr(__import__(module, fromlist=[name]), name)
        except AttributeError:
            found = __import__(dotted, fromlist=["x"])
        assert found.__doc__, dotted


def test_every_schedule_is_in_the_reference() -> None:
    """All that a page of a module shows; the one that sweeps is the range test's own."""
    homes = {kind.__module__ for name, kind in SCHEDULES.items() if name not in {"sweep", "plateau"}}
    assert homes <= set(re.findall(r"^::: ([\w.]+)$", REFERENCE, re.MULTILINE))


def test_where_it_is_decided_is_a_place_that_there_is() -> None:
    table = (DOCS / "architecture.md").read_text().partition("## Where is it decided?")[2]
    places = re.findall(r"`([\w/]+)`", table)
    assert len(places) > 12
    assert [place for place in places if not any((PACKAGE / f"{place}{end}").exists() for end in ("", ".py"))] == []


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.name)
def test_the_parts_of_the_project_that_a_page_names_are_there(page: Path) -> None:
    named = re.findall(r"`((?:lrtune|tests|studies|docs)/[\w/.-]+)`", page.read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_result_that_is_shown_is_the_one_of_the_study() -> None:
    shown = json.loads(re.findall(r"```json\n(\{.*?)```", (DOCS / "files.md").read_text(), re.DOTALL)[0])
    recorded = json.loads((ROOT / "studies" / "digits-sgd" / "result.json").read_text())
    assert shown.keys() >= recorded.keys()
    assert json.dumps(Result.from_json(shown).to_json()) == json.dumps(shown)
    assert shown["best"]["lr"] == pytest.approx(recorded["best"]["lr"])


def test_the_lines_to_paste_are_those_that_are_written() -> None:
    page = (DOCS / "howto" / "paste.md").read_text()
    recipe = lrtune.Recipe(lr=0.0642, epochs=30, batch_size=64, schedule="cosine", warmup=0.1, optimizer="adamw")
    assert snippet(recipe).strip() in page
    assert set(KINDS) == set(TITLES)
    assert all(title in page for title in TITLES.values() if title != "Your function")


def _toml() -> list[tuple[str, str]]:
    pages = sorted(DOCS.rglob("*.md"))
    blocks = re.compile(r"```toml\n(.*?)```", re.DOTALL)
    return [(page.name, body) for page in pages for body in blocks.findall(page.read_text())]


@pytest.mark.parametrize("body", [body for _, body in _toml()], ids=[name for name, _ in _toml()])
def test_the_files_that_are_shown_can_be_read(body: str, tmp_path: Path) -> None:
    study = "[study]\nepochs = 3\n[train]\ntrainer = 'train.py:trainer'\n[space]\nlr = [1e-3, 1.0]\n"
    (tmp_path / "study.toml").write_text(study)
    (tmp_path / "train.py").write_text("def trainer(recipe):\n    yield 1.0\n")
    (tmp_path / "shown.toml").write_text(body)
    if "job" in tomllib.loads(body):
        assert read_job(tmp_path / "shown.toml").study == tmp_path / "study.toml"
    else:
        read_study(tmp_path / "shown.toml")
