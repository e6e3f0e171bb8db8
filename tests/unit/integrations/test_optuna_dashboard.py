"""What a study carries for the dashboard: read back by the dashboard's own readers."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from typing import TYPE_CHECKING, Any

import optuna
import optuna_dashboard
import pytest
from hostile import HOSTILE, hostile
from hypothesis import given
from hypothesis import strategies as st
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
from recorded import simulated

from lrtune.core.recipe import Recipe
from lrtune.core.space import Space
from lrtune.errors import InputError
from lrtune.integrations import optuna_dashboard as dashboard
from lrtune.integrations.optuna_dashboard import BAND, CURVES, YOURS, Notes
from lrtune.reporting.html.markdown import as_code, as_markdown, markdown
from lrtune.study.events import Progress
from lrtune.study.tuning import tune

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SPACE = Space(lr=(1e-4, 10.0), schedule=["constant", "cosine"])
READABLE = {"outcome", "verdict", "schedule", "cost"}


def train(recipe: Recipe) -> Iterator[dict[str, float]]:
    """The best learning rate is 0.1; from 0.7 on the loss is no number after the second epoch."""
    for epoch in range(recipe.epochs):
        lost = recipe.lr > 0.7 and epoch > 1
        away = math.log10(recipe.lr) + 1
        yield {"valid_loss": math.nan if lost else 0.3 * away**2 + 0.1 + 2 * math.exp(-epoch / 3), "train_loss": 0.1}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "study.db"


def search(file: Path, **changes: Any) -> Any:
    options: dict[str, Any] = {"epochs": 9, "strategy": "random", "trials": 8, "storage": file, "seed": 3}
    return tune(train, SPACE, **{**options, **changes})


def stored(file: Path) -> tuple[str, dict[str, Any], list[Any]]:
    """The note, the figures and the trials, as the dashboard sees them."""
    study = optuna.load_study(study_name="lrtune", storage=f"sqlite:///{file}")
    held = study._storage.get_study_system_attrs(study._study_id)
    drawn = {name: json.loads(text) for name, text in get_plotly_graph_objects(held).items()}
    return optuna_dashboard.get_note(study), drawn, study.trials


def write_note(file: Path, text: str) -> None:
    optuna_dashboard.save_note(optuna.load_study(study_name="lrtune", storage=f"sqlite:///{file}"), text)


def unescaped(text: str) -> str:
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text).replace("\N{WORD JOINER}", "")


def test_the_dashboards_own_readers_find_note_figures_and_attributes(file: Path) -> None:
    result = search(file, observer=Notes(file))
    note, drawn, trials = stored(file)
    best = result.best_recipe
    assert note.startswith(f"# Learning rate {as_markdown(f'{best.lr:.3g}')}\n")
    assert f"`valid_loss` **{as_markdown(f'{result.best_value:.4g}')}**" in note
    assert as_markdown(result.stopped_because) in note
    assert "Still running" not in note
    assert set(drawn) == {BAND, CURVES}
    assert len({trace["name"] for trace in drawn[BAND]["data"]} & {"completed", "the answer"}) == 2
    assert all(0 < len(json.dumps(figure)) < 60_000 for figure in drawn.values())
    assert all(set(trial.user_attrs) >= READABLE for trial in trials)
    lost = [trial.user_attrs for trial in trials if trial.params["lr"] > 0.7]
    assert lost
    assert all(attributes["verdict"].startswith("diverged") for attributes in lost)


def test_nothing_is_written_before_its_time_nor_under_the_lock(file: Path) -> None:
    search(file)
    patient, eager = Notes(file, every=1e9), Notes(file, every=0.0)
    for notes, event in ((patient, ""), (eager, "trial 3: something has happened")):
        notes(Progress(name="lrtune", event=event))
        assert notes.spent == 0.0
    assert stored(file)[0] == ""
    eager(Progress(name="lrtune", budget=4.0, spent=1.0, elapsed=60.0, best=Recipe(lr=0.5, epochs=9), best_value=0.1))
    note = stored(file)[0]
    assert unescaped(note).splitlines()[-4] == "| Still running | 1.00 of 4 full trainings spent, about 3 min left |"
    assert eager.spent > 0


def test_a_costly_update_is_followed_by_a_long_pause(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search(file)
    clock = [100.0]
    monkeypatch.setattr(dashboard.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(dashboard.time, "thread_time", iter([0.0, 0.5]).__next__)
    notes = Notes(file, every=1.0)
    clock[0] += 2
    notes(Progress(name="lrtune"))
    assert notes.spent == 0.5
    clock[0] += 0.5 / dashboard.MOST_SHARE - 0.1
    notes(Progress(name="lrtune"))  # a third look at the processor's clock would fail
    assert notes.spent == 0.5


def test_a_search_that_ends_without_an_answer_leaves_a_note_too(file: Path) -> None:
    notes = Notes(file)

    def breaks_off(progress: Progress) -> None:
        notes(progress)
        if progress.counts.get("completed", 0) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(file, observer=breaks_off)
    assert stored(file)[0] == ""
    notes.close()
    assert "Still running" in stored(file)[0]


def test_what_people_write_below_the_line_stays(file: Path) -> None:
    search(file)
    mine = "What **I** think. " * 300  # longer than one of the dashboard's pieces
    write_note(file, mine)
    Notes(file).write("lrtune")
    first = stored(file)[0]
    assert first.startswith("# Learning rate")
    assert first.endswith(f"{YOURS}\n{mine}")
    write_note(file, first.replace("**I**", "*you*"))
    Notes(file).write("lrtune")
    assert stored(file)[0] == first.replace("**I**", "*you*")


def test_figures_replace_those_before_and_an_unchanged_note_is_not_written_again(file: Path) -> None:
    search(file, observer=Notes(file))
    study = optuna.load_study(study_name="lrtune", storage=f"sqlite:///{file}")
    version = study._storage.get_study_system_attrs(study._study_id)["dashboard:note_ver"]
    Notes(file).write("lrtune")
    held = study._storage.get_study_system_attrs(study._study_id)
    assert held["dashboard:note_ver"] == version
    search(file, trials=10, observer=Notes(file))
    held = study._storage.get_study_system_attrs(study._study_id)
    assert held["dashboard:note_ver"] > version
    assert set(get_plotly_graph_objects(held)) == {BAND, CURVES}
    assert optuna_dashboard.get_note(study).count("# Learning rate") == 1


def test_the_writers_of_the_dashboard_itself_may_be_used_on_top(file: Path) -> None:
    import plotly.graph_objects as go

    search(file, observer=Notes(file))
    study = optuna.load_study(study_name="lrtune", storage=f"sqlite:///{file}")
    large = go.Figure(go.Scatter(y=list(range(5000))))
    optuna_dashboard.save_plotly_graph_object(study, large, graph_object_id=CURVES)
    Notes(file).write("lrtune")
    assert stored(file)[1][CURVES]["layout"]["title"]["text"] == "Curves"


def test_a_note_that_cannot_be_written_is_said_once_and_the_search_goes_on(file: Path, tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "elsewhere.db").write_bytes(b"no database at all" * 100)
    notes = Notes(tmp_path / "elsewhere.db", every=0.0, warn=said.append)
    assert search(file, observer=notes).best_recipe is not None
    assert len(said) == 1
    assert "the search goes on without it" in said[0]


def test_without_the_dashboard_it_says_what_to_install(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install 'lrtune\[dashboard\]'"):
        Notes(file)


@given(st.text(max_size=60))
def test_text_becomes_text_in_markdown(text: str) -> None:
    shown = as_markdown(text)
    assert re.search(r"(?<!\\)(?:\\\\)*[!-/:-@\[-`{-~]", re.sub(r"\\[!-/:-@\[-`{-~]", "", shown)) is None
    assert unescaped(shown) == "".join(c if c.isprintable() else " " for c in text).replace("\N{WORD JOINER}", "")


@pytest.mark.parametrize("text", ["https://a.example/x", "WWW.a.example", "mailto:me@a.example", "a@b.example"])
def test_no_link_is_made_of_what_looks_like_an_address(text: str) -> None:
    assert re.search(r"(?i)://\w|www\.\w|\w@\w|mailto:\w", as_markdown(text).replace("\\", "")) is None


@given(st.text(alphabet="`|a ", max_size=20))
def test_code_is_fenced_with_more_ticks_than_it_holds(text: str) -> None:
    shown = as_code(text)
    fence = re.match("`+", shown).group()  # type: ignore[union-attr]  # if it is not there, this fails
    inside = shown[len(fence) : -len(fence)]
    assert shown.endswith(fence)
    assert fence not in re.findall("`+", inside)
    assert inside.strip() == text.strip()


def test_hostile_names_leave_no_markup_in_the_note() -> None:
    note = markdown(hostile(simulated(40, seed=2)))
    without_code = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", note)
    assert "<" in note
    assert re.search(r"(?<!\\)[<>&$]", without_code) is None
    assert HOSTILE[:10] in note or as_markdown(HOSTILE)[:10] in note


def test_a_study_without_an_answer_says_so() -> None:
    note = markdown(dataclasses.replace(simulated(3), records=(), result={}))
    assert note.startswith("# No learning rate yet\n")
    assert "**not located**" in note or "**none seen" in unescaped(note)


def test_figures_of_a_large_study_stay_small() -> None:
    figures = dict(dashboard._figures(simulated(1500, seed=1)))
    for name, figure in figures.items():
        assert 5_000 < len(figure.to_json()) < 150_000, name
    stars = [trace for trace in figures[BAND].data if trace.name == "the answer"]
    assert len(stars) == 1
    assert len(figures[CURVES].data) <= dashboard.MOST_CURVES + 10
