"""An option is declared once: the command line, study files, job files and `tune` know it, with the same bounds."""

from __future__ import annotations

import dataclasses
import inspect
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrtune.cli import optimize
from lrtune.config.study_file import WORKERS, read_study, schema
from lrtune.core.options import Option, option, options
from lrtune.errors import InputError, StudyFileError
from lrtune.jobs import read_job
from lrtune.study.settings import Limits, Settings
from lrtune.study.tuning import tune

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SEARCH = options(Settings)
NUMBERS = [name for name, option in SEARCH.items() if option.kind in {int, float, bool} and option.table]
OF_THE_CALL = {"checkpoints", "limits", "spent"}


def train(recipe: Any) -> Any:
    yield {"valid_loss": recipe.lr}


def edges(option: Option) -> list[Any]:
    """Values at the bounds of an option, beside them, and of other kinds."""
    found: list[Any] = [True, False, "3", 1.5, float("nan"), float("inf"), -1, 0]
    for bound in (option.low, option.high):
        found += [bound, bound - 1, bound + 1, bound * 2]
    return found


def file_takes(folder: Path, option: Option, value: Any) -> bool:
    study = {"metric": "valid_loss", **({option.name: value} if option.table == "study" else {})}
    search = {option.name: value} if option.table == "search" else {}
    tables = {"study": study, "train": {"trainer": "train.py:train"}, "space": {"lr": [0.01, 0.1]}, "search": search}
    path = folder / "study.toml"
    path.write_text("\n".join(f"[{name}]\n{toml(table)}" for name, table in tables.items()))
    return refusal(lambda: read_study(path), f"[{option.table}] {option.name} must be ") is None


def toml(table: dict[str, Any]) -> str:
    shown = {float: repr, str: json.dumps, bool: json.dumps, int: str, list: json.dumps}
    return "".join(f"{name} = {shown[type(value)](value)}\n" for name, value in table.items())


def job_takes(folder: Path, option: Option, value: Any) -> bool:
    path = folder / "job.toml"
    path.write_text(f'[job]\nstudy = "study.toml"\n[schedule]\nevery = "daily"\n[limits]\n{toml({option.name: value})}')
    return refusal(lambda: read_job(path), f"[limits] {option.name}") is None


def call_takes(name: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr("lrtune.study.tuning.conduct", lambda *_, **__: None)
    call = {"epochs": 3, name: value}
    return refusal(lambda: tune(train, {"lr": (0.01, 0.1)}, **call), f"{name} must be ") is None


def refusal(call: Callable[[], object], said: str) -> str | None:
    """The message of the InputError that the call ends with, which has to say so; None where it ends well."""
    try:
        call()
    except InputError as error:
        found = str(error)
    else:
        return None
    assert said in found
    return found


@pytest.mark.parametrize("name", NUMBERS)
def test_files_and_calls_take_the_same_values(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    option = SEARCH[name]
    for value in edges(option):
        if option.switch and isinstance(value, bool):
            continue  # a file's true and false stand for the default and no decades at all
        taken = option.accepts(value)
        assert file_takes(tmp_path, option, value) is taken, value
        assert call_takes(name, value, monkeypatch) is taken, value
        if name in options(Limits) and not (name == "timeout" and isinstance(value, str)):
            assert job_takes(tmp_path, option, value) is taken, value


@pytest.mark.parametrize("option", schema(), ids=lambda option: option.name)
def test_the_command_line_has_each_option_that_has_a_help(option: Option) -> None:
    found = {parameter.name: parameter for parameter in command().params}
    assert (option.name in found) == bool(option.help) or option.name == "storage"  # LRTUNE_STORAGE comes in between
    if option.help:
        assert found[option.name].help == option.help
        assert option.shown in found[option.name].opts


@pytest.mark.parametrize("option", [o for o in schema() if o.help and o.kind in {int, float}], ids=lambda o: o.name)
@given(value=st.one_of(st.integers(-3, 300), st.floats()))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_command_line_takes_the_values_of_a_file(tmp_path: Path, option: Option, value: Any) -> None:
    (tmp_path / "study.toml").write_text('[train]\ntrainer = "train.py:train"\n[space]\nlr = [0.01, 0.1]\n')
    said = refusal(lambda: read_study(tmp_path / "study.toml", {option.name: value}), f"{option.shown} must be ")
    assert (said is None) == option.accepts(value)


def test_the_call_names_no_option_that_the_schema_has_not() -> None:
    parameters = inspect.signature(tune).parameters
    ours = {"trainer", "space", "storage", "observer", "should_stop", "place", "prior", "options", "checkpoints"}
    assert set(parameters) - ours <= set(SEARCH)
    fields = {field.name: field.default for field in dataclasses.fields(Settings) + dataclasses.fields(Limits)}
    for name in set(parameters) - ours - {"epochs", "value"}:
        assert parameters[name].default == fields[name]


def test_an_option_that_is_declared_is_known_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Wider(Settings):
        shrink: float = option(float, 0.5, low=0, high=2, help="How much of it.")

        def __post_init__(self) -> None:
            Settings.__post_init__(self)

    monkeypatch.setattr("lrtune.study.settings.Settings", Wider)
    monkeypatch.setattr("lrtune.study.tuning.Settings", Wider)
    made: list[Any] = []
    monkeypatch.setattr("lrtune.study.tuning.conduct", lambda _trainer, _space, settings, **_: made.append(settings))
    path = tmp_path / "study.toml"
    path.write_text('[train]\ntrainer = "t.py:t"\n[space]\nlr = [0.01, 0.1]\n[search]\nshrink = 1.5\n')

    read = read_study(path)
    tune(train, read.space, **read.arguments())
    assert (read.settings.shrink, made[0].shrink) == (1.5, 1.5)  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"^shrink must be a number, of at least 0 and at most 2 \(got 3\)"):
        tune(train, read.space, epochs=3, shrink=3)
    with pytest.raises(StudyFileError, match=r"^--shrink must be a number of at least 0 and at most 2"):
        read_study(path, {"shrink": 3.0})
    found = {parameter.name: parameter for parameter in command().params}
    assert found["shrink"].help == "How much of it."


def test_what_a_schema_does_not_hold_is_no_option_of_a_study_file() -> None:
    assert OF_THE_CALL.isdisjoint(option.name for option in schema() if option.table)
    assert WORKERS in schema()


def command() -> Any:
    """The command ``optimize``, made anew."""
    app = typer.Typer()
    optimize.register(app)
    return typer.main.get_command(app)
