"""``job run`` under the light parent: workers, stalls, dead workers and isolated trials, with real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from jobfolder import STUDY, Folder

from lrtune.storage import open_storage

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="workers are forked")

TRAIN = """\
import fcntl, os, pathlib, time
HERE = pathlib.Path(__file__).parent
def train(recipe):
    descriptor = os.open(HERE / "begun", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # no two runs have one number
    number = os.fstat(descriptor).st_size // 10  # lines of ten characters
    os.write(descriptor, f"{os.getpid():9d}\\n".encode())
    os.close(descriptor)
    for epoch in range(recipe.epochs):
        if epoch == 2 and WHEN:
            HOW
        time.sleep(0.02)
        yield {"valid_loss": 1 / recipe.lr + 1 / (epoch + 1)}
"""


def command(folder: Folder) -> list[str]:
    return [sys.executable, "-m", "lrtune", "job", "run", str(folder.path / "job.toml"), "--quiet"]


def write(folder: Folder, *, how: str = "pass", at: str = "number == 1", search: str = "") -> None:
    folder.write(study=STUDY.replace("epochs = 25", "epochs = 5") + search)
    (folder.path / "train.py").write_text(TRAIN.replace("HOW", how).replace("WHEN", at))


def begun(folder: Folder) -> list[int]:
    """The processes in which runs began."""
    file = folder.path / "begun"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def ran(folder: Folder) -> tuple[int, dict[str, Any], str]:
    """Exit code, the one line of JSON, and what stood on stderr."""
    done = subprocess.run(command(folder), capture_output=True, text=True, timeout=280, check=False)
    lines = done.stdout.splitlines()
    assert len(lines) == 1, done.stdout + done.stderr
    return done.returncode, json.loads(lines[0]), done.stderr


def outcomes(folder: Folder, name: str = "weekly-0001") -> list[str]:
    storage = open_storage(str(folder.path / "studies.db"))
    study = optuna.load_study(study_name=name, storage=storage)
    return [trial.user_attrs["lrtune:record"]["outcome"] for trial in study.trials]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.delenv("LRTUNE_STORAGE", raising=False)
    return Folder(tmp_path)


@pytest.fixture
def started(folder: Folder) -> Iterator[subprocess.Popen[str]]:
    """The command within its first two runs, neither of which comes to its end, in a session of its own."""
    write(folder, how="time.sleep(600)", at="True", search="workers = 2\n")
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command(folder), start_new_session=True, **pipes) as process:
        until(lambda: len(set(begun(folder))) == 2 or process.poll() is not None)
        yield process
        process.kill()


def until(condition: Any, seconds: float = 250.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_training_code_that_ends_its_process_ends_its_trial_and_not_the_job(folder: Folder) -> None:
    write(folder, how="os._exit(9)")
    code, line, said = ran(folder)
    assert (code, line["status"], line["exit_code"], line["run"]) == (0, "done", 0, 1)
    assert outcomes(folder).count("failed") == 1
    assert "a worker died (the training code ended the process (exit code 9))" in said
    assert "was interrupted and goes on" not in said, "nobody interrupted it"
    assert [(row.number, row.status) for row in folder.state.rows] == [(1, "done")]
    assert len(set(begun(folder))) == 2


def test_a_run_that_hangs_is_ended_where_the_study_file_says_so(folder: Folder) -> None:
    write(folder, how="time.sleep(600)", search="stall_timeout = 15\n")
    code, line, _ = ran(folder)
    assert (code, line["status"]) == (0, "done")
    assert outcomes(folder).count("stalled") == 1


@pytest.mark.parametrize("isolate", ["false", "true"])
def test_the_study_files_workers_train_side_by_side(folder: Folder, isolate: str) -> None:
    wait = "while len(set((HERE / 'begun').read_text().split())) < 2: time.sleep(0.02)"
    write(folder, how=wait, at="number == 0", search=f"workers = 2\nisolate = {isolate}\n")
    code, line, said = ran(folder)
    assert (code, line["status"], said) == (0, "done", "")
    assert not (folder.path / "studies.db-wal").exists(), "a copy of the file alone is whole"
    made = len(outcomes(folder))
    assert len(begun(folder)) == made, "nothing is trained twice"
    assert len(set(begun(folder))) == (2 if isolate == "false" else made)
    assert [(row.number, row.status) for row in folder.state.rows] == [(1, "done")]
    assert json.loads((folder.path / "lr.json").read_text())["lr"] == line["lr"]


def test_an_isolated_trial_that_ends_its_process_takes_no_worker_with_it(folder: Folder) -> None:
    write(folder, how="os._exit(9)", search="isolate = true\n")
    code, line, said = ran(folder)
    assert (code, line["status"], said) == (0, "done", "")
    assert outcomes(folder).count("failed") == 1


def test_the_parent_holds_the_lock_loads_nothing_heavy_and_ends_all_on_a_signal(
    folder: Folder, started: subprocess.Popen[str]
) -> None:
    workers = set(begun(folder))
    assert started.pid not in workers
    holder = json.loads((folder.job.out / "lock").read_text())
    assert holder["pid"] == started.pid
    loaded = {pid: Path(f"/proc/{pid}/maps").read_text() for pid in (started.pid, *workers)}
    assert ["sqlalchemy" in loaded[pid] for pid in (started.pid, *workers)] == [False, True, True]
    again, line, _ = ran(folder)
    assert (again, line["status"]) == (6, "locked")
    started.terminate()
    out, said = started.communicate(timeout=280)
    assert started.returncode == 143
    assert all(json.loads(text)["status"] == "interrupted" for text in out.splitlines())
    assert "SIGTERM" in said
    until(lambda: all(map(gone, workers)))


def test_the_next_call_goes_on_where_workers_were_stopped(folder: Folder, started: subprocess.Popen[str]) -> None:
    started.terminate()
    started.communicate(timeout=280)
    write(folder, search="workers = 2\n")
    code, line, said = ran(folder)
    assert (code, line["status"], line["run"]) == (0, "done", 1)
    assert "run 1 was interrupted and goes on" in said


def test_whoever_is_killed_takes_its_workers_along(folder: Folder, started: subprocess.Popen[str]) -> None:
    workers = set(begun(folder))
    os.kill(started.pid, 9)
    until(lambda: all(map(gone, workers)))


def test_a_mistake_in_the_first_trial_is_told_once(folder: Folder) -> None:
    write(folder, how="pass")
    (folder.path / "train.py").write_text("def train(recipe):\n    raise RuntimeError('no data today')\n    yield\n")
    code, line, said = ran(folder)
    assert (code, line["status"], line["exit_code"]) == (3, "failed", 3)
    assert "no data today" in line["error"]
    assert said.count("lrtune: error:") == 1
    assert 'train.py"' in said
