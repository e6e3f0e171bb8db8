"""One damaged value in a storage: exit 4, which trial, and ``lrtune storage check`` finds it."""

from __future__ import annotations

import copy
import json
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lrtune
from lrtune import cli
from lrtune.cli.study_lookup import load
from lrtune.core.json_shapes import NOTHING, NUMBER, TEXT, Each, FixedList, Named, wrong
from lrtune.errors import LrtuneError, MismatchError, StorageError
from lrtune.study.trials.stored_trial import RECORD, damage, decode, encode, parse
from lrtune.study.trials.study_reader import BASELINE, NOTICES, RANGE, RESULT, SEARCHES, SETTINGS, SPACE, read

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TRIAL = 2
SET_RECORD = (
    "update trial_user_attributes set value_json = ? where key = ? "
    "and trial_id = (select trial_id from trials where number = ?)"
)
SET_STUDY = "update study_user_attributes set value_json = ? where key = ?"


def train(recipe: lrtune.Recipe) -> Iterator[float]:
    for epoch in range(recipe.epochs):
        yield (recipe.lr - 0.1) ** 2 + 1 / (epoch + 1)


def search(where: Path, trials: int) -> lrtune.Result:
    space = lrtune.Space(lr=(1e-3, 1.0))
    return lrtune.tune(train, space, epochs=2, trials=trials, strategy="random", storage=where)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "s.db"
    search(path, 3)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma journal_mode = delete")
    return path


@pytest.fixture(scope="module")
def record(sound: Path) -> dict[str, Any]:
    with closing(sqlite3.connect(sound)) as connection:
        query = "select value_json from trial_user_attributes where key = ? limit 1"
        found: dict[str, Any] = json.loads(connection.execute(query, (RECORD,)).fetchone()[0])
    return found


def changed(sound: Path, folder: Path, statement: str, values: tuple[Any, ...] = ()) -> Path:
    path = folder / "s.db"
    shutil.copy(sound, path)
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(statement, values).rowcount
    return path


def assert_named(path: Path | str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert cli.run(["storage", "check", "--storage", str(path)]) == StorageError.exit_code
    last = capsys.readouterr().err.rstrip().rpartition("\n")[2]
    assert last.startswith("lrtune: error: ")
    assert told in last


BROKEN = {
    "empty": "{}",
    "null": "null",
    "list": "[]",
    "text": '"x"',
    "number": "5",
    "cut": '{"recipe": {"lr"',
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_damaged_record_names_its_trial(
    sound: Path, tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = changed(sound, tmp_path, SET_RECORD, (BROKEN[how], RECORD, TRIAL))
    with pytest.raises(StorageError, match=f"the record of trial {TRIAL} is damaged"):
        search(path, 4)
    with pytest.raises(StorageError, match=f"damaged.*trial {TRIAL}|trial {TRIAL} is damaged"):
        read(load(str(path), "lrtune"))
    assert_named(path, f"trial {TRIAL}", capsys)


CURVE = {"step": [1, 2], "epoch": [1, 2], "samples": [0, 0], "lr": [None, None], "values": {}}
WRONG: dict[str, dict[str, Any]] = {
    "trained is a text": {"trained": "much"},
    "value is not finite": {"value": float("nan")},
    "an outcome that there is not": {"outcome": "strange"},
    "a curve that runs back": {
        "curve": {"step": [2, 1], "epoch": [1, 2], "samples": [0, 0], "lr": [None] * 2, "values": {}}
    },
    "columns of two lengths": {"curve": {"step": [1, 2], "epoch": [1], "samples": [0], "lr": [None], "values": {}}},
    "a piece that is cut": {"pieces": [[0, 1]]},
    "a negative learning rate": {"recipe": {"lr": -1}},
}


@pytest.mark.parametrize("how", WRONG)
def test_a_record_of_wrong_content_is_damaged_too(record: dict[str, Any], how: str) -> None:
    assert damage(record) == ""
    assert damage({**record, **WRONG[how]})
    with pytest.raises(StorageError, match="the record of trial 7 is damaged"):
        parse(7, {**record, **WRONG[how]})


ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(width=16) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", max_size=1), inner, max_size=2),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_stands_in_a_record_it_is_read_or_called_damaged(record: dict[str, Any], data: st.DataObject) -> None:
    mutated: Any = copy.deepcopy(record)
    *above, last = data.draw(st.sampled_from([path for path in places(record) if path]))
    inner = mutated
    for key in above:
        inner = inner[key]
    if data.draw(st.booleans()) and isinstance(inner, dict):
        del inner[last]
    else:
        inner[last] = data.draw(ANY)
    try:
        entry = parse(0, mutated)
    except StorageError as error:
        assert "the record of trial 0 is damaged" in str(error)  # noqa: PT017 -- either way is right
    else:
        assert decode(0, json.loads(json.dumps(encode(entry)))) == entry


@pytest.mark.parametrize("how", ["null", "number", "text", "cut"])
@pytest.mark.parametrize("name", [SETTINGS, SPACE, BASELINE, NOTICES, RANGE, RESULT, SEARCHES])
def test_a_damaged_attribute_of_a_study_is_named(
    sound: Path, tmp_path: Path, name: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = changed(sound, tmp_path, SET_STUDY, (BROKEN[how], name))
    with pytest.raises(StorageError, match="is damaged"):
        search(path, 4)
    with pytest.raises(StorageError, match="is damaged"):
        read(load(str(path), "lrtune"))
    assert_named(path, name, capsys)


@pytest.mark.parametrize("name", [SPACE, RANGE])
def test_an_attribute_that_is_missing_is_named(
    sound: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = changed(sound, tmp_path, "delete from study_user_attributes where key = ?", (name,))
    with pytest.raises(StorageError, match=f"its attribute {name} is missing"):
        search(path, 4)
    assert_named(path, f"its attribute {name} is missing", capsys)


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("update trials set state = 'STRANGE' where number = 2", "trial 2 is in the state 'STRANGE'"),
        ("update trial_params set distribution_json = '{}'", "the range of 'lr' of trial 0"),
        ("update study_directions set direction = 'UP'", "its direction is 'UP'"),
        ("update trial_user_attributes set value_json = '{' where key = 'outcome'", "trial 0: the attribute outcome"),
        ("update study_system_attributes set value_json = '{'", "study:metric_names is no JSON"),
    ],
)
def test_what_optuna_keeps_is_looked_at_too(
    sound: Path, tmp_path: Path, statement: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = changed(sound, tmp_path, statement)
    assert_named(path, told, capsys)
    try:
        search(path, 4)
        read(load(str(path), "lrtune"))
    except LrtuneError as error:
        assert error.exit_code == StorageError.exit_code  # noqa: PT017 -- what a search needs not, it may do without


def test_a_copy_without_its_settings_is_not_called_damaged(sound: Path, tmp_path: Path) -> None:
    path = changed(sound, tmp_path, "delete from study_user_attributes where key like 'lrtune:%'")
    with pytest.raises(MismatchError, match="holds trials of lrtune's without their settings"):
        search(path, 4)


def test_a_record_that_is_damaged_can_be_started_anew(sound: Path, tmp_path: Path) -> None:
    from lrtune.cli.archive_study import set_aside
    from lrtune.storage import open_storage

    path = changed(sound, tmp_path, SET_RECORD, ("{}", RECORD, TRIAL))
    set_aside(open_storage(path), "lrtune")
    assert search(path, 2).best_recipe is not None


@pytest.mark.postgres
def test_a_damaged_record_on_a_server_is_named(postgres_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    from lrtune.storage import open_storage

    where = open_storage(postgres_url)
    lrtune.tune(train, lrtune.Space(lr=(1e-3, 1.0)), epochs=2, trials=2, strategy="random", storage=where)
    study = optuna.load_study(study_name="lrtune", storage=where)
    trial = where.create_new_trial(where.get_study_id_from_name("lrtune"))
    where.set_trial_user_attr(trial, RECORD, {})
    with pytest.raises(StorageError, match="the record of trial 2 is damaged"):
        read(study)
    assert_named(postgres_url, "trial 2", capsys)


def test_a_sound_storage_is_sound(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["storage", "check", "--storage", str(sound)]) == 0
    assert "sound" in capsys.readouterr().out


def test_a_study_of_others_with_odd_attributes_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    optuna.create_study(study_name="theirs", storage=storage, directions=["minimize", "maximize"]).set_user_attr(
        "x", [1]
    )
    storage.engine.dispose()
    assert cli.run(["storage", "check", "--storage", str(path)]) == 0


@pytest.mark.parametrize(
    ("value", "shape", "told"),
    [
        ({}, {"a": NUMBER}, "a is missing"),
        ({"a": None}, {"a": NUMBER}, "a is null, not a finite number"),
        ({"a": True}, {"a": NUMBER}, "a is true, not a finite number"),
        ({"a": {"b": [1, "x"]}}, {"a": Named(Each(NUMBER))}, "a.b[1] is a text, not a finite number"),
        ([1], FixedList((NUMBER, TEXT)), "it is a list of 1, not a list of 2"),
        ("x", (NOTHING, NUMBER), "it is a text, not a finite number"),
        ({}, {"a?": NUMBER}, ""),
        ([1, "x"], FixedList((NUMBER, TEXT)), ""),
    ],
)
def test_what_does_not_fit_is_named_by_its_place(value: Any, shape: Any, told: str) -> None:
    assert wrong(value, shape) == told
