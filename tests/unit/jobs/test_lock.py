"""Two schedulers at once, and one that was killed with the lock: the real command."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from jobfolder import Folder

from lrtune.errors import LockedError
from lrtune.jobs.request import RunLock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(os.name != "posix", reason="flock")
SLOW = 0.5  # seconds an epoch: it would take minutes to its end


def command(folder: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "lrtune", "job", "run", str(folder / "job.toml"), "--quiet", *options]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.delenv("LRTUNE_STORAGE", raising=False)
    made = Folder(tmp_path)
    made.write()
    return made


@pytest.fixture
def started(folder: Folder) -> Iterator[Any]:
    """Starts the command in a session of its own; returns once training has begun in it, long before it ends."""
    processes: list[subprocess.Popen[str]] = []

    def start(*options: str) -> subprocess.Popen[str]:
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command(folder.path, *options), start_new_session=True, **pipes)
        processes.append(process)
        until(lambda: folder.trained or process.poll() is not None)
        return process

    yield start
    for process in processes:
        with process:  # closes its pipes and waits for it
            process.kill()


def until(condition: Callable[[], object], seconds: float = 250.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def waits_for(process: subprocess.Popen[str], file: Path) -> bool:
    """Whether a process has a file open."""
    try:
        return any(entry.samefile(file) for entry in Path(f"/proc/{process.pid}/fd").iterdir())
    except FileNotFoundError:  # one that was closed between two looks
        return False


def ran(folder: Folder, *options: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the line of JSON, and what stood on stderr."""
    done = subprocess.run(command(folder.path, *options), capture_output=True, text=True, timeout=280, check=False)
    lines = done.stdout.splitlines()
    assert len(lines) == 1, done.stderr
    return done.returncode, json.loads(lines[0]), done.stderr


def test_one_runs_and_the_other_says_since_when_and_by_whom(folder: Folder, started: Any) -> None:
    folder.data(held=True)
    first = started()
    code, line, said = ran(folder)
    (folder.path / "go").touch()
    assert (code, line["status"], line["exit_code"]) == (6, "locked", 6)
    found = re.search(r"already running since (\S+Z) \(pid (\d+)\)", said)
    assert found is not None
    assert int(found[2]) == first.pid
    out, _ = first.communicate(timeout=280)
    assert first.returncode == 0
    assert json.loads(out)["status"] == "done"


def test_who_waits_finds_nothing_left_to_do(folder: Folder, started: Any) -> None:
    folder.data(held=True)
    first = started()
    second = subprocess.Popen([*command(folder.path), "--wait"], stdout=subprocess.PIPE, text=True)
    until(lambda: waits_for(second, folder.job.out / "lock"))
    (folder.path / "go").touch()
    out, _ = second.communicate(timeout=280)
    first.communicate(timeout=280)
    line = json.loads(out)
    assert (second.returncode, line["status"], first.returncode) == (0, "nothing to do", 0)
    assert line["run"] == 1


def test_who_waits_can_be_stopped(folder: Folder) -> None:
    folder.job.out.mkdir()
    with RunLock(folder.job.out / "lock", "job").hold(0):
        waiting = subprocess.Popen(
            [*command(folder.path), "--wait"], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        # a signal before its handlers are there would end it too, but with no line of JSON
        until(lambda: waits_for(waiting, folder.job.out / "lock"))
        waiting.terminate()
        out, _ = waiting.communicate(timeout=280)
    assert (waiting.returncode, json.loads(out)["status"]) == (143, "interrupted")


def test_who_was_killed_with_the_lock_is_gone_on_from_at_once(folder: Folder, started: Any) -> None:
    folder.data(sleep=SLOW)
    first = started()
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert folder.state.running is not None
    folder.data()
    code, line, said = ran(folder)
    assert (code, line["status"], line["run"]) == (0, "done", 1)
    assert "run 1 was interrupted and goes on" in said
    assert [(row.number, row.status) for row in folder.state.rows] == [(1, "done")]


def test_a_signal_ends_a_run_cleanly_and_the_next_call_goes_on(folder: Folder, started: Any) -> None:
    folder.data(sleep=SLOW)
    first = started()
    first.terminate()
    out, said = first.communicate(timeout=280)
    line = json.loads(out)
    assert (first.returncode, line["status"], line["exit_code"]) == (143, "interrupted", 143)
    assert said.rstrip().rpartition("\n")[2].startswith("lrtune: error: stopped by SIGTERM")
    folder.data()
    assert ran(folder)[1]["run"] == 1


def test_a_child_that_outlives_the_holder_does_not_keep_the_lock(tmp_path: Path) -> None:
    code = (
        "import os, sys, time, pathlib\nfrom lrtune.jobs.request import RunLock\n"
        "with RunLock(pathlib.Path(sys.argv[1]), 'job').hold(0):\n"
        "    child = os.fork()\n"
        "    if not child:\n        os.closerange(0, 3); time.sleep(60); os._exit(0)\n"
        "    print(child, flush=True)\n    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "lock"], capture_output=True, text=True, check=False)
    child = int(done.stdout)
    try:
        with RunLock(tmp_path / "lock", "job").hold(0):
            assert done.returncode == -signal.SIGKILL
    finally:
        os.kill(child, signal.SIGKILL)


def test_the_lock_is_free_after_an_error_and_its_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with pytest.raises(ZeroDivisionError), RunLock(path, "job").hold(0):
        _ = 1 / 0
    assert path.exists()
    with (
        RunLock(path, "job").hold(0),
        pytest.raises(LockedError, match=f"pid {os.getpid()}"),
        RunLock(path, "job").hold(0),
    ):
        pass


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"pid": "x", "since": 1}'])
def test_a_note_in_the_lock_that_cannot_be_read_costs_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lock"
    with RunLock(path, "job").hold(0):
        path.write_text(text)
        with pytest.raises(LockedError, match="since a moment ago"), RunLock(path, "job").hold(0):
            pass


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    from lrtune.errors import StorageError

    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="cannot be opened"), RunLock(tmp_path / "lock", "job").hold(0):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_an_error_is_one_line_of_json_and_its_exit_code(folder: Folder) -> None:
    (folder.path / "job.toml").write_text("[job]\nstudi = 1\n")
    code, line, said = ran(folder)
    assert (code, line["status"], line["exit_code"]) == (2, "failed", 2)
    assert line["error"] in said
