"""The job file: what it may say, and that whatever else it says is refused in one sentence with its place."""

from __future__ import annotations

import datetime as dt
import json
import re
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrtune.core.timestamps import stamp, utc
from lrtune.errors import InputError
from lrtune.jobs import read_job
from lrtune.jobs.hook import environment
from lrtune.jobs.job_file import Keep, Publishing
from lrtune.jobs.publish import rendered
from lrtune.jobs.schedule import Every
from lrtune.jobs.state import JobRun

if TYPE_CHECKING:
    from pathlib import Path

    from lrtune.jobs import JobFile

WHOLE = """\
[job]
name = "weekly lr"
study = "studies/a.toml"
storage = "sqlite:///x.db"
out = "somewhere"
confirm = 2
[schedule]
cron = "0 3 * * mon"
timezone = "Europe/Berlin"
late = "6h"
catch_up = false
[limits]
budget = 4.5
trials = 30
timeout = "2h"
[publish]
file = "conf/lr.override"
format = "hydra"
hook = ["./deploy.sh", "--now"]
hook_timeout = "5m"
[publish.keys]
lr = "optimizer.lr"
[keep]
studies = 12
checkpoints = "3d"
reports = "90d"
"""
LEAST = '[job]\nstudy = "study.toml"\n[schedule]\nevery = "weekly"\n'


def job(folder: Path, text: str) -> JobFile:
    path = folder / "nightly.toml"
    path.write_text(text)
    return read_job(path)


def test_all_that_it_can_say(tmp_path: Path) -> None:
    told = job(tmp_path, WHOLE)
    assert (told.name, told.confirm, told.catch_up, told.late) == ("weekly lr", 2, False, 21_600)
    assert (told.study, told.out) == (tmp_path / "studies/a.toml", tmp_path / "somewhere")
    assert dict(told.limits) == {"budget": 4.5, "trials": 30, "timeout": 7200}
    assert (told.expression, told.zone) == ("0 3 * * mon", "Europe/Berlin")
    assert told.publish == Publishing(
        file=tmp_path / "conf/lr.override",
        format="hydra",
        keys={"lr": "optimizer.lr"},
        hook=("./deploy.sh", "--now"),
        hook_seconds=300,
    )
    assert told.keep == Keep(studies=(12, None), checkpoints=(None, 259_200), reports=(None, 7_776_000))
    assert told.study_name(7) == "weekly lr-0007"


def test_the_least_that_it_has_to_say(tmp_path: Path) -> None:
    told = job(tmp_path, LEAST)
    assert (told.name, told.storage, told.zone, told.confirm, told.catch_up) == ("nightly", None, "UTC", 4, True)
    assert told.out == tmp_path / "lrtune-out/nightly"
    assert told.publish.file == told.out / "lr.json"
    assert told.limits == {}
    assert stamp(told.schedule.previous(utc("2026-11-22T12:00:00Z"))) == "2026-11-16T00:00:00Z"


def test_a_length_begins_where_it_is_told_to(tmp_path: Path) -> None:
    told = job(tmp_path, LEAST.replace('"weekly"', '"36h"\nstart = 2026-01-01T05:00:00+02:00'))
    assert told.schedule == Every(seconds=129_600, start=dt.datetime(2026, 1, 1, 3, tzinfo=dt.UTC))
    assert stamp(told.schedule.next(utc("2026-01-01T03:00:00Z"))) == "2026-01-02T15:00:00Z"


@pytest.mark.parametrize(("said", "kept"), [("true", 1), ("false", 0), ("0", 0), ("12", 12)])
def test_how_often_what_stands_is_confirmed(tmp_path: Path, said: str, kept: int) -> None:
    assert job(tmp_path, LEAST.replace("[job]", f"[job]\nconfirm = {said}")).confirm == kept


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[job]", "[job]\nstudie = 1", "nightly.toml:2: [job] studie is not known; did you mean 'study'?"),
        ('study = "study.toml"\n', "", "[job] study is missing"),
        ("[job]", '[job]\nname = "a\\u0000b"', "[job] name: job name: it holds the control character"),
        ("[job]", f'[job]\nname = "{"n" * 190}"', "[job] name must be at most 180 characters"),
        ("[job]", "[job]\nconfirm = -1", "[job] confirm must be a whole number"),
        ("[job]", "[job]\nconfirm = 1.5", "[job] confirm must be a whole number"),
        ('every = "weekly"', "", "[schedule] every or cron is needed (neither is given)"),
        ('"weekly"', '"weekly"\ncron = "0 0 * * *"', "both are given"),
        ('"weekly"', '"fortnightly"', "'fortnightly' is no length of time"),
        ('"weekly"', "7", 'every must be a text such as "weekly" or "7d" (got 7)'),
        ('every = "weekly"', 'cron = "0 25 * * *"', "nightly.toml:4: [schedule] cron: the hour '25'"),
        ('"weekly"', '"weekly"\ntimezone = "Mars/Olympus"', "timezone must be a time zone that this machine knows"),
        ('"weekly"', '"weekly"\ntimezone = "../../etc/passwd"', "timezone must be a time zone that this machine knows"),
        ('"weekly"', '"weekly"\nlate = "soon"', "[schedule] late: 'soon' is no length of time"),
        ('"weekly"', '"weekly"\ncatch_up = "no"', "catch_up must be true or false"),
        ('"weekly"', '"weekly"\nstart = 2026-01-01T00:00:00Z', "start goes with a length"),
        ('"weekly"', '"7d"\nstart = 2026-01-01T00:00:00', "start must be a date and time with its zone"),
        ('"weekly"', '"weekly"\n[limits]\nbudget = 0.5', "[limits] budget must be a number of at least 1"),
        ('"weekly"', '"weekly"\n[limits]\ntimeout = nan', "[limits] timeout must be a number above 0"),
        ('"weekly"', '"weekly"\n[limits]\nepochs = 3', "[limits] epochs is not known"),
        ('"weekly"', '"weekly"\n[publish]\nfile = "lr.yaml"', "[publish] format is missing: 'lr.yaml' does not tell"),
        ('"weekly"', '"weekly"\n[publish]\nformat = "yaml"', 'format must be "json" or "toml" or "hydra"'),
        ('"weekly"', '"weekly"\n[publish]\nhook = "rm -rf /"', "hook must be a command and its arguments as an array"),
        ('"weekly"', '"weekly"\n[publish]\nhook = []', "hook must be a command"),
        ('"weekly"', '"weekly"\n[publish]\nhook = ["a\\u0000"]', "hook must be a command"),
        ('"weekly"', '"weekly"\n[publish.keys]\nlearning = "x"', "[publish.keys] learning is not known"),
        ('"weekly"', '"weekly"\n[publish.keys]\nlr = "a b; rm"', "lr must be a key of letters"),
        ('"weekly"', '"weekly"\n[keep]\nstudies = 0', "[keep] studies must be a whole number of runs from 1"),
        ('"weekly"', '"weekly"\n[keep]\nstudies = true', "[keep] studies must be a whole number of runs from 1"),
        ('"weekly"', '"weekly"\n[keep]\nreports = "old"', "[keep] reports: 'old' is no length of time"),
        ('"weekly"', '"weekly"\n[job2]', "job2 is not known; did you mean 'job'?"),
        ("[job]", "[job", "nightly.toml:1: "),
    ],
)
def test_whatever_else_it_says_is_refused_with_its_place(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in LEAST
    with pytest.raises(InputError) as caught:
        job(tmp_path, LEAST.replace(old, new, 1))
    assert said in str(caught.value)
    assert "nightly.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_job_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        read_job(tmp_path / "no.toml")


# -- what is published ---------------------------------------------------------------------------------------------


def row(**recipe: Any) -> JobRun:
    told = {"lr": 0.0316, "epochs": 27, "batch_size": None, "schedule": "constant", "warmup": 0.1, "seed": 3, **recipe}
    times = dict.fromkeys(("period", "started", "finished"), "2026-01-05T00:00:00Z")
    return JobRun(number=1, study="w-0001", status="done", recipe=told, band=(0.01, 0.1), metric="valid_loss", **times)


def published(folder: Path, kind: str, made: JobRun, **keys: str) -> str:
    return rendered(Publishing(file=folder / "lr", format=kind, keys=keys), "w", made)


@given(
    lr=st.floats(1e-300, 1e300),
    batch=st.one_of(st.none(), st.integers(1, 10**6)),
    schedule=st.sampled_from(["cosine", "plateau(factor=0.1, patience=10)", 'odd "name"\n\\']),
)
def test_json_and_toml_hold_what_was_found(tmp_path_factory: Any, lr: float, batch: int | None, schedule: str) -> None:
    folder = tmp_path_factory.getbasetemp()
    made = row(lr=lr, batch_size=batch, schedule=schedule)
    for kind, parse in (("json", json.loads), ("toml", tomllib.loads)):
        told = parse(published(folder, kind, made, lr="base_lr"))
        assert told["base_lr"] == lr
        assert told["schedule"] == schedule
        assert told.get("batch_size") == batch
        assert not {"epochs", "seed"} & set(told)
        assert told["found"]["band"] == [0.01, 0.1]


def test_dotted_keys_are_tables_in_toml(tmp_path: Path) -> None:
    told = tomllib.loads(published(tmp_path, "toml", row(), lr="optimizer.lr", warmup="a/b"))
    assert told["optimizer"] == {"lr": 0.0316}
    assert told["a/b"] == 0.1


def test_hydra_overrides_are_words_of_one_line(tmp_path: Path) -> None:
    made = row(batch_size=64, schedule="plateau(factor=0.1, patience=10)")
    text = published(tmp_path, "hydra", made, lr="optimizer.lr", batch_size="+data.batch")
    assert text.split() == [
        "optimizer.lr=0.0316",
        "+data.batch=64",
        'schedule="plateau(factor=0.1,patience=10)"',
        "warmup=0.1",
    ]
    assert text.count("\n") == 1


def test_the_environment_of_a_hook_is_text(tmp_path: Path) -> None:
    told = environment(Publishing(file=tmp_path / "lr.json"), "w", row(batch_size=64), previous_lr=0.1)
    assert (told["LRTUNE_LR"], told["LRTUNE_BATCH_SIZE"], told["LRTUNE_SCHEDULE"]) == ("0.0316", "64", "constant")
    assert (told["LRTUNE_PREVIOUS_LR"], told["LRTUNE_BAND"], told["LRTUNE_VALUE"]) == ("0.1", "0.01,0.1", "")
    assert all(re.fullmatch(r"LRTUNE_[A-Z_]+", name) and isinstance(text, str) for name, text in told.items())
