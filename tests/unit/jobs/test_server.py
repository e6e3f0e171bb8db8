"""Serving several jobs on APScheduler, and how a job's standing is shown."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from jobfolder import Folder

from lrtune import cli
from lrtune.cli.job_status import text
from lrtune.errors import InputError
from lrtune.jobs import server
from lrtune.jobs.status import job_status, points
from lrtune.reporting.figures.history import history

if TYPE_CHECKING:
    from pathlib import Path

    from lrtune.jobs import JobFile


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.delenv("LRTUNE_STORAGE", raising=False)
    made = Folder(tmp_path)
    made.write()
    return made


def shift(
    job: JobFile, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[server.Shift, list[str], list[str]]:
    said: list[str] = []
    logged: list[str] = []
    monkeypatch.setattr(server, "command", lambda _job: command)
    return server.Shift(job=job, say=said.append, log=logged.append), said, logged


def test_a_run_that_falls_due_while_one_is_going_on_is_counted(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    made, said, logged = shift(folder.job, ["/bin/sh", "-c", "read line < gate; echo done"], monkeypatch)
    gate = folder.path / "gate"
    subprocess.run(["mkfifo", gate], check=True)
    monkeypatch.chdir(folder.path)
    thread = threading.Thread(target=made.run)
    thread.start()
    while not made.running:
        time.sleep(0.01)
    made.run()
    made.run()
    gate.write_text("go\n")
    thread.join(200)
    assert (made.runs, made.skipped, said) == (1, 2, ["done"])
    assert "2 skipped so far" in logged[-1]


@pytest.mark.parametrize(("code", "skipped", "warned"), [(0, 0, False), (6, 1, False), (3, 0, True)])
def test_how_a_run_ended_is_told(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, code: int, skipped: int, *, warned: bool
) -> None:
    made, _, logged = shift(folder.job, ["/bin/sh", "-c", f"exit {code}"], monkeypatch)
    made.run()
    assert made.skipped == skipped
    assert any(f"exit code {code}" in line for line in logged) == warned
    made.stop()
    made.run()
    assert made.runs == 1


def test_a_run_that_is_just_being_started_ends_too(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _, logged = shift(folder.job, [], monkeypatch)

    def starting(_job: JobFile) -> list[str]:
        made.stop()
        return ["/bin/sleep", "600"]

    monkeypatch.setattr(server, "command", starting)
    made.run()
    assert "ended with exit code -15" in logged[-1]


def test_two_jobs_in_one_folder_are_refused(folder: Folder) -> None:
    pytest.importorskip("apscheduler")
    with pytest.raises(InputError, match="another job writes into"):
        server.serve([folder.job, folder.job], should_stop=lambda: True, say=print, log=print)


def test_without_apscheduler_a_sentence_says_what_to_install(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apscheduler.schedulers.background", None)
    with pytest.raises(InputError, match=r"pip install 'lrtune\[serve\]'"):
        server.serve([folder.job], should_stop=lambda: True, say=print, log=print)


def test_the_trigger_fires_when_the_job_is_due_and_at_no_time_twice(folder: Folder) -> None:
    pytest.importorskip("apscheduler")
    trigger, job = server._trigger(folder.job), folder.job
    first = trigger.get_next_fire_time(None, folder.now)
    assert first == job.schedule.next(folder.now)
    assert trigger.get_next_fire_time(first, first) == job.schedule.next(first)


def test_jobs_are_served_until_a_signal_and_their_lines_printed(folder: Folder) -> None:
    pytest.importorskip("apscheduler")
    other = folder.path / "other"
    other.mkdir()
    second = Folder(other)
    second.write()
    command = [sys.executable, "-m", "lrtune", "job", "serve", str(folder.path / "job.toml"), str(other / "job.toml")]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, start_new_session=True, **pipes)
    try:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGTERM)
        _, logged = process.communicate(timeout=280)
    finally:
        with process:  # closes its pipes and waits for it
            process.kill()
    assert [line["status"] for line in lines] == ["done", "done"]
    assert process.returncode == 143
    assert "is next due at" in logged
    assert folder.state.last is not None
    assert second.state.last is not None


# -- how a job stands ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def history_of(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Three runs, of which the last one found another learning rate; tests only read it."""
    folder = Folder(tmp_path_factory.mktemp("job"))
    folder.write()
    folder.run()
    folder.weeks(1)
    folder.run()
    folder.weeks(1)
    folder.data(scale=30.0)
    folder.run()
    folder.weeks(2.5)
    return folder


def test_how_it_stands(history_of: Folder) -> None:
    told = job_status(history_of.job, history_of.now)
    assert told.due
    assert told.task.missed == 2
    assert told.next == "2026-02-09T00:00:00Z"
    assert [row.verdict for row in told.state.rows] == ["", "unchanged", "moved"]
    shown = text(told)
    for word in ("searched", "unchanged", "moved", "2026-01-12T00:00:00Z", "due now (2 missed)"):
        assert word in shown
    assert json.loads(json.dumps(told.to_json()))["answer"]["number"] == 3


def test_a_job_that_has_never_run_stands_too(folder: Folder) -> None:
    shown = text(job_status(folder.job, folder.now))
    assert "last     never" in shown
    assert "due now" in shown


def test_the_figure_holds_each_run(history_of: Folder) -> None:
    figure = history(points(history_of.state.rows))
    by_name = {trace.name: trace for trace in figure.data}
    assert list(by_name["learning rate"].y) == [row.lr for row in history_of.state.rows]
    assert list(by_name["cost in full trainings"].y) == [row.cost for row in history_of.state.rows]
    assert history([]).data == ()


def test_the_command_shows_it_and_writes_the_page(history_of: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    page = history_of.path / "history.html"
    assert cli.run(["job", "status", str(history_of.path / "job.toml"), "--figure", str(page)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^job +weekly$", out, re.MULTILINE)
    assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=", page.read_text())
    assert cli.run(["job", "status", str(history_of.path / "job.toml"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 3


@pytest.mark.parametrize("kind", ["--systemd", "--cron", "--kubernetes"])
def test_the_command_prints_what_to_install(folder: Folder, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    assert cli.run(["job", "install", kind, str(folder.path / "job.toml")]) == 0
    assert str(folder.path / "job.toml") in capsys.readouterr().out


def test_which_scheduler_has_to_be_said(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["job", "install", str(folder.path / "job.toml")]) == 2
    assert "--systemd, --cron and --kubernetes" in capsys.readouterr().err
