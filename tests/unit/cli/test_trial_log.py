"""The log of trials: a line for each, once, whatever stands in the file already and whoever wrote it."""

from __future__ import annotations

import json
import os
import resource
import threading
from typing import TYPE_CHECKING, Any

import pytest

from lrtune.cli.trial_log import trial_log
from lrtune.core.outcome import Outcome
from lrtune.core.recipe import Recipe
from lrtune.core.records import TrialRecord
from lrtune.errors import StorageError
from lrtune.study.events import Progress

if TYPE_CHECKING:
    from pathlib import Path


def told(*numbers: int, started: float = 1.5, name: str = "bowl") -> Progress:
    trials = (
        TrialRecord(
            number=n,
            recipe=Recipe(lr=0.1, epochs=3),
            outcome=Outcome.COMPLETED,
            value=0.25,
            trained=3.0,
            started=started,
        )
        for n in numbers
    )
    return Progress(name=name, ended=tuple(trials))


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def numbers(path: Path) -> list[int]:
    return [row["trial"] for row in rows(path)]


def test_a_successor_adds_what_is_missing_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with trial_log(path) as log:
        log(told(0, 1))
        log(told())
    with trial_log(path) as log:
        log(told(0, 1, 2))
        log(told(3))
    assert numbers(path) == [0, 1, 2, 3]
    assert rows(path)[0] == {"study": "bowl", "trial": 0, "outcome": "completed", "value": 0.25, "trained": 3.0,
                             "recipe": Recipe(lr=0.1, epochs=3).to_json(), "started": 1.5}  # fmt: skip
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_study_that_started_anew_is_another_one(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with trial_log(path) as log:
        log(told(0))
        log(told(0, name="other"))
    with trial_log(path) as log:
        log(told(0, started=2.5))
    assert [(row["study"], row["started"]) for row in rows(path)] == [("bowl", 1.5), ("other", 1.5), ("bowl", 2.5)]


def test_a_line_of_an_earlier_version_counts(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text('{"study": "bowl", "trial": 0, "outcome": "completed", "value": 0.25}\n')
    with trial_log(path) as log:
        log(told(0, 1))
    assert numbers(path) == [0, 1]


@pytest.mark.parametrize("torn", ['{"st', '{"study": "bowl", "trial": 1, "val'])
def test_what_was_cut_off_is_written_anew(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "log"
    with trial_log(path) as log:
        log(told(0))
    with path.open("a") as file:
        file.write(torn)
    with trial_log(path) as log:
        log(told(0, 1))
    assert numbers(path) == [0, 1]


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text('notes\n[1]\n"text"\n{"study": ["x"], "trial": {}}\nno end')
    with trial_log(path) as log:
        log(told(0))
    kept, line = path.read_text().rstrip("\n").rsplit("\n", 1)
    assert kept == 'notes\n[1]\n"text"\n{"study": ["x"], "trial": {}}\nno end'
    assert json.loads(line)["trial"] == 0


def test_several_at_once_write_each_line_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    together = threading.Barrier(4)

    def work() -> None:
        with trial_log(path) as log:
            together.wait()
            for number in range(50):
                log(told(number))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers(path)) == list(range(50))


def test_a_pipe_gets_what_ends_from_now_on(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with trial_log(path, lambda: {0, 1}) as log:
            log(told(0, 1, 2))
            log(told(3))
        lines = os.read(reader, 65_536).splitlines()
    finally:
        os.close(reader)
    assert [json.loads(line)["trial"] for line in lines] == [2, 3]


def test_a_log_that_cannot_grow_is_left_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with trial_log(path) as log:
        log(told(0))
        size = path.stat().st_size
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
        try:
            with pytest.raises(StorageError, match="the log of trials cannot be written"):
                log(told(1))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.stat().st_size == size
    with trial_log(path) as log:
        log(told(0, 1))
    assert numbers(path) == [0, 1]


def test_a_log_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="give another --json-log"), trial_log(tmp_path / "missing" / "log"):
        pass
