"""Jobs by the clock: locks, what was missed, and the hours that a zone leaves out or has twice."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from faults.driver import COMMAND, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from faults.driver import Lab

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

ONCE = 'every = "3650d"'
"""One period for as long as a test lasts, at whatever hour it is run."""


def write_job(lab: Lab, schedule: str) -> list[str]:
    """A job file; the words that run it once."""
    lab.study(search={"trials": 1, "storage": "jobs.db"})
    (lab.folder / "job.toml").write_text(
        f'[job]\nname = "j"\nstudy = "study.toml"\nout = "job"\n[schedule]\n{schedule}\n'
    )
    return [*COMMAND, "job", "run", "job.toml", "--quiet"]


def rows(lab: Lab) -> list[dict[str, Any]]:
    return list(json.loads((lab.folder / "job" / "state.json").read_text())["rows"])


@pytest.mark.row(40)
@pytest.mark.parametrize(
    ("moments", "periods"),
    [
        (
            ["2027-03-27T12:00", "2027-03-28T00:59", "2027-03-28T01:01", "2027-03-28T01:31", "2027-03-28T12:00"],
            ["2027-03-27T01:30:00Z", "2027-03-28T01:00:00Z"],
        ),
        (
            ["2026-10-24T12:00", "2026-10-25T00:29", "2026-10-25T00:31", "2026-10-25T01:31", "2026-10-25T12:00"],
            ["2026-10-24T00:30:00Z", "2026-10-25T00:30:00Z"],
        ),
    ],
    ids=["spring-leaves-it-out", "autumn-has-it-twice"],
)
def test_a_change_of_the_clocks(
    lab: Lab, saw: Callable[..., None], shim: Path, moments: list[str], periods: list[str]
) -> None:
    words = write_job(lab, 'cron = "30 2 * * *"\ntimezone = "Europe/Berlin"')
    (lab.folder / "now").touch()
    told = []
    for number, moment in enumerate(moments):
        ahead = datetime.fromisoformat(f"{moment}:00+00:00").timestamp() - time.time()
        env = {"LD_PRELOAD": str(shim), "JUMP_FILE": "now", "JUMP_SECS": f"{ahead:.0f}",
               "TZ": ("UTC", "America/New_York", "Asia/Tokyo")[number % 3]}  # fmt: skip
        told.append(lab.run(words=words, env=env).json["status"])
    found = rows(lab)
    assert [row["period"] for row in found] == periods
    assert [row["status"] for row in found] == ["done", "done"]
    assert all(datetime.fromisoformat(row["started"]).tzinfo == UTC for row in found)
    saw(f"02:30 in Berlin, asked at {', '.join(moments)} UTC under three TZ: ran for {' and '.join(periods)} only")


@pytest.mark.row(57, 58, 60)
def test_one_runs_at_a_time_and_a_killed_one_leaves_no_lock(lab: Lab, saw: Callable[..., None]) -> None:
    words = write_job(lab, ONCE)
    first = lab.start(words=words, obj="hang@1")
    lab.began()
    second = lab.run(words=words, expect=6)
    assert second.json["status"] == "locked"
    assert str(first.process.pid) in second.last
    first.kill()
    assert lab.run(words=words).json["status"] == "done"
    (row,) = rows(lab)
    assert row["status"] == "done"
    assert lab.run(words=words).json["status"] != "done"
    assert len(rows(lab)) == 1
    saw(f"exit 6, {second.last.partition('error: ')[2]!r}", 57)
    saw("killed with the lock: the next call went on at once, and the one after it had nothing to do", 58, 60)


@pytest.mark.row(59)
@pytest.mark.parametrize("catch_up", [True, False])
def test_the_machine_was_off(lab: Lab, saw: Callable[..., None], shim: Path, catch_up: bool) -> None:
    words = write_job(lab, 'every = "1h"')
    (lab.folder / "now").touch()

    def at(moment: str) -> dict[str, str]:
        ahead = datetime.fromisoformat(moment).timestamp() - time.time()
        return {"LD_PRELOAD": str(shim), "JUMP_FILE": "now", "JUMP_SECS": f"{ahead:.0f}"}

    word = "--catch-up" if catch_up else "--no-catch-up"
    lab.run(words=words, env=at("2027-03-01T08:10+00:00"))
    for _ in range(2):  # half past, four hours on: that hour's run is late too
        lab.run(words=[*words, word], env=at("2027-03-01T12:30+00:00"))
    first, second = rows(lab)
    assert (first["missed"], second["missed"]) == (0, 4)
    assert second["status"] == ("done" if catch_up else "skipped")
    saw(f"off for 4 periods, {word}: one run {second['status']}, {second['missed']} counted as missed, once")


@pytest.mark.row(57)
def test_a_damaged_state_is_refused_untouched(lab: Lab, saw: Callable[..., None]) -> None:
    words = write_job(lab, ONCE)
    lab.run(words=words)
    state = lab.folder / "job" / "state.json"
    whole = state.read_text()
    for odd in (
        whole[: len(whole) // 2],
        "",
        "null",
        whole.replace('"done"', "[]"),
        whole.replace('"verdict": ""', '"verdict": 7'),
    ):
        state.write_text(odd)
        refused = lab.run(words=words, expect=4)
        assert "state is damaged" in refused.last
        assert lab.run(words=[*COMMAND, "job", "status", "job.toml"], expect=4).out == ""
        assert state.read_text() == odd
    until(lambda: not lab.calls[-1].family(), "nothing left")
    saw("a state cut off, empty, or of other types: exit 4, untouched")
