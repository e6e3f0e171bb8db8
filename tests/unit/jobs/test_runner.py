"""A job's run: done once a period, resumed, caught up once, cheap while nothing moves, published, tidied up."""

from __future__ import annotations

import datetime as dt
import json
import os
import stat
import time
from typing import TYPE_CHECKING

import optuna
import pytest
from jobfolder import STUDY, Folder

from lrtune.core.names import safe_filename
from lrtune.errors import InputError, SearchError, StorageError, UserCodeError
from lrtune.jobs.hook import HookError
from lrtune.jobs.request import state_path
from lrtune.jobs.runner import ATTEMPTS
from lrtune.jobs.state import save
from lrtune.workers.lease import process_start

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path)
    made.write()
    return made


def names(folder: Folder) -> list[str]:
    return sorted(optuna.get_all_study_names(folder.storage))


def test_the_same_period_twice_does_nothing_the_second_time(folder: Folder) -> None:
    first = folder.run()
    trained, published = folder.trained, (folder.path / "lr.json").read_bytes()
    assert first.status == "done"
    assert first.row is not None
    assert first.row.verdict == ""
    again = folder.run()
    assert again.status == "nothing to do"
    assert again.to_json(folder.job)["lr"] == first.row.lr
    assert again.to_json(folder.job)["changed"] is False
    assert folder.trained == trained
    assert (folder.path / "lr.json").read_bytes() == published
    assert names(folder) == ["weekly-0001"]


def test_force_runs_a_period_again_under_a_number_of_its_own(folder: Folder) -> None:
    folder.run()
    assert folder.run(force=True).status == "done"
    assert names(folder) == ["weekly-0001", "weekly-0002"]


def test_a_full_search_can_be_asked_for_at_any_time(folder: Folder) -> None:
    first = folder.run().row
    again = folder.run(search=True).row
    assert first is not None
    assert again is not None
    assert (again.number, again.verdict, again.cost) == (2, "", first.cost)


def test_a_quiet_week_costs_a_test_and_a_week_of_drift_finds_the_moved_learning_rate(folder: Folder) -> None:
    found = folder.run().row
    folder.weeks(1)
    quiet = folder.run().row
    folder.weeks(1)
    folder.data(scale=30.0)
    moved = folder.run().row
    folder.weeks(1)
    after = folder.run().row
    assert found is not None
    assert quiet is not None
    assert moved is not None
    assert after is not None
    assert (quiet.verdict, quiet.lr, quiet.value) == ("unchanged", found.lr, None)
    assert quiet.cost < 0.15 * found.cost
    assert moved.verdict == "moved"
    assert moved.changed
    assert found.lr is not None
    assert moved.lr is not None
    assert moved.lr < found.lr / 5
    assert (after.verdict, after.lr) == ("unchanged", moved.lr)
    assert folder.state.rows[1].changed is False


def test_a_learning_rate_that_stands_is_trained_in_full_as_often_as_asked(folder: Folder) -> None:
    folder.write(job="")
    text = (folder.path / "job.toml").read_text().replace("confirm = 0", "confirm = 2")
    (folder.path / "job.toml").write_text(text)
    rows = []
    for _ in range(5):
        rows.append(folder.run().row)
        folder.weeks(1)
    assert [row is not None and row.value is not None for row in rows] == [True, False, True, False, True]
    assert [row.cost > 1 for row in rows if row is not None] == [True, False, True, False, True]


def test_three_missed_periods_are_caught_up_exactly_once(folder: Folder) -> None:
    folder.run()
    folder.weeks(3.5)
    ended = folder.run()
    assert (ended.status, ended.due.missed) == ("done", 3)
    assert any("3 periods were missed" in line for line in folder.log)
    assert folder.run().status == "nothing to do"
    assert len(folder.state.rows) == 2
    assert folder.state.rows[-1].missed == 3


def test_without_catching_up_missed_periods_are_skipped_and_the_next_one_is_run(folder: Folder) -> None:
    folder.run()
    trained = folder.trained
    folder.weeks(3.5)
    skipped = folder.run(catch_up=False)
    assert skipped.status == "skipped"
    assert folder.trained == trained
    assert folder.run(catch_up=False).status == "nothing to do"
    folder.weeks(0.5)
    assert folder.run(catch_up=False).status == "done"
    assert [row.status for row in folder.state.rows] == ["done", "skipped", "done"]


def test_a_run_that_takes_longer_than_its_period_counts_what_it_skipped(folder: Folder) -> None:
    text = (folder.path / "job.toml").read_text().replace('every = "weekly"', 'every = "2s"')
    (folder.path / "job.toml").write_text(text)
    events: list[int] = []

    def observe(_progress: object) -> None:
        events.append(1)
        if len(events) == 3:
            folder.now += dt.timedelta(seconds=5)

    folder.run(observer=observe)
    ended = folder.run()
    assert ended.due.missed == 2  # at 2 s, and at 4 s, which is made up for now
    assert [row.period for row in folder.state.rows] == ["2026-01-05T00:05:00Z", "2026-01-05T00:05:04Z"]


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Auckland", "America/New_York"])
def test_the_machines_zone_is_nothing_to_a_job(folder: Folder, zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (folder.path / "job.toml").read_text()
    cron = 'cron = "30 2 * * *"\ntimezone = "Europe/Berlin"'
    (folder.path / "job.toml").write_text(text.replace('every = "weekly"', cron))
    monkeypatch.setenv("TZ", zone)
    folder.now = dt.datetime(2026, 10, 25, 0, 31, tzinfo=dt.UTC)  # 02:31 in Berlin, summer time
    first = folder.run()
    folder.now += dt.timedelta(hours=1)  # 02:31 again, winter time
    assert folder.run().status == "nothing to do"
    assert first.to_json(folder.job)["period"] == "2026-10-25T00:30:00Z"
    assert first.to_json(folder.job)["next"] == "2026-10-26T01:30:00Z"


def test_an_interrupted_run_goes_on_in_its_period(folder: Folder) -> None:
    seen: list[int] = []

    def stop() -> bool:
        seen.append(1)
        return len(seen) > 60

    ended = folder.run(should_stop=stop)
    assert ended.status == "interrupted"
    assert folder.state.running is not None
    assert not (folder.path / "lr.json").exists()
    folder.now += dt.timedelta(days=1)
    assert folder.run().status == "done"
    assert names(folder) == ["weekly-0001"]
    assert folder.state.running is None


def test_an_interrupted_run_of_an_older_period_is_given_up(folder: Folder) -> None:
    folder.run(should_stop=lambda: True)
    folder.weeks(1)
    folder.run()
    assert [(row.number, row.status) for row in folder.state.rows] == [(1, "abandoned"), (2, "done")]


def test_a_run_that_cannot_go_on_because_the_study_changed_begins_anew(folder: Folder) -> None:
    folder.run(should_stop=lambda: True)
    (folder.path / "study.toml").write_text(STUDY.replace("epochs = 25", "epochs = 30"))
    assert folder.run().status == "done"
    assert [(row.number, row.status) for row in folder.state.rows] == [(1, "abandoned"), (2, "done")]


def test_a_number_whose_study_is_there_already_is_not_taken(folder: Folder) -> None:
    optuna.create_study(study_name="weekly-0001", storage=folder.storage)
    assert folder.run().row is not None
    assert names(folder) == ["weekly-0001", "weekly-0002"]


def test_failed_runs_are_tried_again_a_few_times_and_then_wait_for_the_next_period(folder: Folder) -> None:
    folder.data(fail=True)
    for _ in range(ATTEMPTS):
        with pytest.raises(UserCodeError, match="no data today"):
            folder.run()
    trained = folder.trained
    with pytest.raises(SearchError, match="has failed 3 times in this period"):
        folder.run()
    assert folder.trained == trained
    folder.data()
    folder.weeks(1)
    assert folder.run().status == "done"


def test_what_changes_in_the_space_is_searched_anew(folder: Folder) -> None:
    folder.run()
    (folder.path / "study.toml").write_text(STUDY.replace("lr = [1e-4, 10.0]", "lr = [1e-4, 1e-2]"))
    folder.weeks(1)
    row = folder.run().row
    assert row is not None
    assert row.verdict == "cannot tell"
    assert "no longer in the space" in row.why


# -- state ---------------------------------------------------------------------------------------------------------


def test_the_state_is_private_and_in_utc(folder: Folder) -> None:
    folder.run()
    path = state_path(folder.job)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    told = json.loads(path.read_text())
    assert told["last"] == "2026-01-05T00:00:00Z"
    assert all(row[key].endswith("Z") for row in told["rows"] for key in ("period", "started", "finished"))


def test_the_state_is_read_as_it_was_written(folder: Folder) -> None:
    folder.run()
    state = folder.state
    save(state_path(folder.job), state)
    assert folder.state == state


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "damaged"),
        ("[]", "damaged"),
        ('{"schema": 1}', "damaged"),
        ('{"schema": 99, "job": "weekly"}', "version 99"),
        ('{"schema": 1, "job": "other"}', "the state of job 'other'"),
        ("[" * 100_000, "damaged"),
    ],
)
def test_a_state_that_cannot_be_read_is_refused_and_left_alone(folder: Folder, text: str, said: str) -> None:
    path = state_path(folder.job)
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(StorageError, match=said):
        folder.run()
    assert path.read_text() == text
    assert folder.trained == 0


def test_a_folder_that_cannot_be_written_to_is_said_before_anything_is_trained(folder: Folder) -> None:
    (folder.path / "out").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="not writable"):
        folder.run()
    assert folder.trained == 0


def test_names_that_are_no_file_names_stay_in_their_folder(folder: Folder) -> None:
    text = (
        (folder.path / "job.toml")
        .read_text()
        .replace('"weekly"\nstudy', '"../../x <b>"\nstudy')
        .replace('out = "out"\n', "")
    )
    (folder.path / "job.toml").write_text(text)
    assert folder.job.out == folder.path / "lrtune-out" / safe_filename("../../x <b>")
    assert folder.run().status == "done"
    assert names(folder) == ["../../x <b>-0001"]


# -- publishing ----------------------------------------------------------------------------------------------------


def test_the_answer_is_published_for_others_to_read(folder: Folder) -> None:
    mask = os.umask(0o022)
    try:
        row = folder.run().row
    finally:
        os.umask(mask)
    assert row is not None
    told = json.loads((folder.path / "lr.json").read_text())
    assert told["lr"] == row.lr
    assert told["found"]["study"] == "weekly-0001"
    assert stat.S_IMODE((folder.path / "lr.json").stat().st_mode) == 0o644
    assert {"report.html", "result.json"} <= {path.name for path in (folder.path / "out" / "0001").iterdir()}


HOOK = """\
#!/bin/sh
printf '%s|%s|%s|%s\\n' "$LRTUNE_LR" "$LRTUNE_STUDY" "$LRTUNE_PREVIOUS_LR" "$1" >> hooked.txt
echo "printed by the hook"
exit "$(cat code.txt)"
"""


def hooked(folder: Folder, code: int = 0) -> list[list[str]]:
    (folder.path / "code.txt").write_text(str(code))
    file = folder.path / "hooked.txt"
    return [line.split("|") for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def with_hook(folder: Folder) -> Folder:
    folder.write(publish='hook = ["./hook.sh", "a b; $(touch no)"]')
    (folder.path / "hook.sh").write_text(HOOK)
    (folder.path / "hook.sh").chmod(0o755)
    hooked(folder)
    return folder


def test_the_hook_is_run_on_change_alone_and_without_a_shell(with_hook: Folder) -> None:
    first = with_hook.run().row
    with_hook.weeks(1)
    with_hook.run()
    assert first is not None
    assert hooked(with_hook) == [[repr(first.lr), "weekly-0001", "", "a b; $(touch no)"]]
    assert not (with_hook.path / "no").exists()
    with_hook.weeks(1)
    with_hook.data(scale=30.0)
    moved = with_hook.run().row
    assert moved is not None
    assert hooked(with_hook)[1:] == [[repr(moved.lr), "weekly-0003", repr(first.lr), "a b; $(touch no)"]]
    assert [row.hook for row in with_hook.state.rows] == [0, None, 0]


def test_a_hook_that_fails_is_run_again_without_a_search(with_hook: Folder) -> None:
    hooked(with_hook, code=7)
    with pytest.raises(HookError, match="ended with code 7") as caught:
        with_hook.run()
    assert caught.value.exit_code == 4
    assert with_hook.state.rows[-1].hook == 7
    trained = with_hook.trained
    hooked(with_hook, code=0)
    assert with_hook.run().status == "nothing to do"
    assert with_hook.trained == trained
    assert len(hooked(with_hook)) == 2
    assert with_hook.run().status == "nothing to do"
    assert len(hooked(with_hook)) == 2
    assert with_hook.state.rows[-1].hook == 0


def test_a_hook_that_hangs_is_ended_with_its_children(with_hook: Folder) -> None:
    with_hook.write(publish='hook = ["/bin/sh", "-c", "sleep 300 & echo $! > pid.txt; wait"]\nhook_timeout = "5s"')
    with pytest.raises(HookError, match="code 124"):
        with_hook.run()
    pid = int((with_hook.path / "pid.txt").read_text())
    deadline = time.monotonic() + 200
    while process_start(pid) is not None:  # the kernel ends it in its own time
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.02)


def test_a_hook_that_is_not_there_is_said(with_hook: Folder) -> None:
    with_hook.write(publish='hook = ["./nowhere.sh"]')
    with pytest.raises(HookError, match=r"'\./nowhere\.sh' ended with code 127"):
        with_hook.run()


def test_the_storages_address_is_not_handed_to_the_hook(with_hook: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRTUNE_STORAGE", "postgresql://tuner:geheim@db/x")
    with_hook.write(publish='hook = ["/bin/sh", "-c", "env > env.txt"]')
    with_hook.run()
    assert "geheim" not in (with_hook.path / "env.txt").read_text()


# -- retention -----------------------------------------------------------------------------------------------------


def test_old_studies_and_reports_go_by_number_and_nothing_else_does(folder: Folder) -> None:
    folder.write(more="[keep]\nstudies = 2\nreports = 1")
    optuna.create_study(study_name="weekly-9999", storage=folder.storage)
    for _ in range(4):
        folder.run()
        (folder.path / "out" / f"{folder.state.highest:04d}" / "notes.txt").write_text("mine")
        folder.weeks(1)
    assert names(folder) == ["weekly-0003", "weekly-0004", "weekly-9999"]
    reports = sorted(path.parent.name for path in (folder.path / "out").glob("*/report.html"))
    assert reports == ["0004"]
    assert len(list((folder.path / "out").glob("*/notes.txt"))) == 4
    assert [row.removed for row in folder.state.rows][:1] == [("checkpoints", "report", "study")]


def test_old_runs_go_by_age(folder: Folder) -> None:
    folder.write(more='[keep]\nstudies = "10d"\nreports = "3d"')
    for _ in range(3):
        folder.run()
        folder.weeks(1)
    assert names(folder) == ["weekly-0002", "weekly-0003"]
    assert [path.name for path in sorted((folder.path / "out").glob("0*"))] == ["0003"]


def test_a_run_folder_that_was_replaced_by_a_link_is_not_followed(folder: Folder, tmp_path: Path) -> None:
    folder.write(more="[keep]\nreports = 1")
    folder.run()
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "report.html").write_text("not the job's")
    made = folder.path / "out" / "0001"
    made.rename(tmp_path / "moved")
    made.symlink_to(other)
    folder.weeks(1)
    folder.run()
    assert (other / "report.html").read_text() == "not the job's"


def test_a_job_file_of_another_job_does_not_take_over_the_state(folder: Folder) -> None:
    folder.run()
    text = (folder.path / "job.toml").read_text().replace('name = "weekly"', 'name = "other"')
    (folder.path / "job.toml").write_text(text)
    with pytest.raises(StorageError, match="own folder"):
        folder.run()


def test_the_study_file_is_read_with_the_same_suspicion(folder: Folder) -> None:
    (folder.path / "study.toml").write_text("[study]\nepoch = 3\n")
    with pytest.raises(InputError, match=r"study\.toml"):
        folder.run()
    assert folder.state.running is None
