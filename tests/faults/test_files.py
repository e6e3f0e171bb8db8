"""Storage files that are full, read-only, damaged, foreign, gone or locked."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from faults.checker import check, load
from faults.driver import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from faults.driver import Lab

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


def can_mount() -> bool:
    """Whether this process may mount a file system in a name space of its own."""
    script = 'mount -t tmpfs t "$0"'
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(["unshare", "-rm", "sh", "-c", script, folder], capture_output=True, check=False)
        except FileNotFoundError:
            return False
    return done.returncode == 0


needs_mount = pytest.mark.skipif(not can_mount(), reason="no name space to mount a small file system in")


def within(lab: Lab, options: str, script: str, **given: str) -> list[str]:
    """Run a script in a name space with a small file system mounted on `m`; what it printed, by lines."""
    (lab.folder / "m").mkdir(exist_ok=True)
    whole = f"mount -t tmpfs -o {options} t m && {script}"
    running = lab.start(words=["unshare", "-rm", "sh", "-c", whole, "sh", *lab.words(*given.values())])
    assert running.wait() == 0, running.err
    return running.out.split()


@needs_mount
@pytest.mark.row(13)
def test_disk_full(lab: Lab, saw: Callable[..., None]) -> None:
    lab.study(search={"trials": 60})
    lab.storage = str(lab.folder / "m" / "s.db")
    out = within(
        lab,
        "size=400k",
        '"$@" >j1; echo $?; sqlite3 m/s.db "pragma integrity_check"; cp m/s.db* .; mount -o remount,size=40m m;'
        '"$@" >j2; echo $?; rm s.db*; cp m/s.db* .',
    )
    assert out == ["4", "ok", "0"]
    said = next(line for line in lab.calls[-1].err.splitlines() if line.startswith("lrtune: error"))
    assert "no space left on device" in said
    assert "trials kept" in said
    lab.storage = ""
    check(lab, trials=60)
    saw(f"exit 4, {said.partition('error: ')[2]!r}, integrity ok; with room again exit 0, 60 of 60")


@needs_mount
@pytest.mark.row(16)
def test_disk_full_while_the_report_is_written(lab: Lab, saw: Callable[..., None]) -> None:
    lab.study(search={"trials": 2})
    database = str(lab.database)
    out = within(
        lab,
        "size=200k",
        f'echo old >m/report.html; "$@" --storage {database} --out m >j1; echo $?; cat m/report.html',
    )
    assert out == ["4", "old"]
    check(lab, trials=2, result=False)
    said = lab.calls[-1].last
    assert "Traceback" not in lab.calls[-1].err
    saw(f"exit 4, {said.partition('error: ')[2]!r}, the old report intact, trials kept")


@needs_mount
@pytest.mark.row(17)
def test_no_inodes_left(lab: Lab, saw: Callable[..., None]) -> None:
    lab.storage = str(lab.folder / "m" / "s.db")
    out = within(lab, "nr_inodes=2", '"$@" >j1; echo $?')
    assert out == ["4"]
    said = lab.calls[-1].last
    assert "no space left" in said
    saw(f"exit 4, {said.partition('error: ')[2]!r}")


@pytest.mark.row(15)
def test_file_size_limit(lab: Lab, saw: Callable[..., None]) -> None:
    lab.study(search={"trials": 60})
    running = lab.run(words=["sh", "-c", 'ulimit -f 500; exec "$@"', "sh", *lab.words()], expect=4)
    assert "no space left" in running.last
    load(lab.database)
    lab.run()
    check(lab, trials=60)
    saw(f"exit 4, {running.last.partition('error: ')[2]!r}; without the limit 60 of 60")


@pytest.fixture
def open_lab(lab: Lab) -> Iterator[Lab]:
    """A folder that another user may enter."""
    with tempfile.TemporaryDirectory(prefix="lrtune-faults-") as folder:
        Path(folder).chmod(0o755)
        yield type(lab)(Path(folder) / "lab")


@pytest.mark.row(18)
def test_read_only(open_lab: Lab, saw: Callable[..., None]) -> None:
    lab = open_lab
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    if user and shutil.which("setpriv") is None:
        pytest.skip("root may write anywhere, and setpriv is not here")
    for path in lab.folder.rglob("*"):
        path.chmod(0o644)
    shut, free = lab.folder / "shut", lab.folder / "free"
    shut.mkdir(mode=0o555)
    free.mkdir()
    free.chmod(0o777)
    storage = shut / "s.db"
    words = [*lab.words("--storage", str(storage), "--out", str(free))]
    words[words.index("--json-log") + 1] = str(free / "log")
    fresh = lab.start(words=[*user, *words], env={"HOME": str(free)})
    assert fresh.wait() == 4, fresh.err
    assert "not writable" in fresh.last
    assert str(storage) in fresh.last
    assert lab.count("begin") == 0
    lab.study(search={"trials": 1})
    lab.run(expect=0)
    shut.chmod(0o755)
    shutil.copy(lab.database, storage)
    storage.chmod(0o444)
    shut.chmod(0o555)
    before = _digest(storage)
    again = lab.start(words=[*user, *words], env={"HOME": str(free), "OBJ_LOG": str(free / "books")})
    assert again.wait() == 4, again.err
    assert "not writable" in again.last
    assert _digest(storage) == before
    lab.close()
    saw(f"folder: exit 4, {fresh.last.partition('error: ')[2]!r}; file: the same")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _foreign(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(statement)


@pytest.mark.row(19)
def test_what_is_no_file(lab: Lab, saw: Callable[..., None]) -> None:
    lab.study(search={"trials": 1})
    (lab.folder / "folder.db").mkdir()
    (lab.folder / "dangling.db").symlink_to(lab.folder / "nowhere")
    os.mkfifo(lab.folder / "pipe.db")
    paths = ["folder.db", "missing/s.db", "dangling.db", "pipe.db"]
    calls = [lab.start("--storage", path) for path in paths]
    for path, call in zip(paths, calls, strict=True):
        assert call.wait() == 4, f"{path}: {call.err}"
        assert path in call.last
    assert not (lab.folder / "nowhere").exists()
    assert lab.count("begin") == 0
    saw("; ".join(call.last.partition("error: ")[2] for call in calls))


@pytest.mark.row(20, 21, 27, 66)
def test_damaged_foreign_and_other_files_are_refused_untouched(lab: Lab, saw: Callable[..., None]) -> None:
    lab.study(search={"trials": 3})
    lab.run()
    check(lab, trials=3)
    with closing(sqlite3.connect(lab.database)) as connection:
        connection.execute("pragma journal_mode = delete")
    whole = lab.database.read_bytes()
    cases = {
        "header.db": b"\xff" * 100 + whole[100:],
        "short.db": whole[:60_000],
        "page.db": whole[: 4096 * 3] + random.Random(0).randbytes(4096) + whole[4096 * 4 :],
        "table.csv": b"x,y\n1,2\n",
    }
    for name, data in cases.items():
        (lab.folder / name).write_bytes(data)
    _foreign(lab.folder / "foreign.db", "create table songs (id integer); insert into songs values (1)")
    for name, version in {"newer.db": "v99.0.0", "older.db": "v2.6.0.a"}.items():
        (lab.folder / name).write_bytes(whole)
        _foreign(lab.folder / name, f"update alembic_version set version_num = '{version}'")  # noqa: S608 -- ours
    names = [*cases, "foreign.db", "newer.db", "older.db"]
    before = {name: _digest(lab.folder / name) for name in names}
    (lab.folder / "empty.db").touch()
    lab.study(file="direction.toml", study={"direction": "maximize"})
    lab.study(file="metric.toml", study={"metric": "other"})
    lab.study(file="range.toml", space={"lr": [1e-3, 10.0]})
    lab.study(search={"trials": 3})
    refused = [lab.start("--storage", name) for name in names]
    for name, call in zip(names, refused, strict=True):
        assert call.wait() == 4, f"{name}: {call.err}"
        assert name in call.last
        assert _digest(lab.folder / name) == before[name], name
    others = [lab.start(words=lab.words(file=f"{name}.toml")) for name in ("direction", "metric", "range")]
    for call, both in zip(others, ("minimize -> maximize", "valid_loss -> other", "lr: "), strict=True):
        assert call.wait() == 5, call.err
        assert both in call.last
    empty = lab.run("--storage", "empty.db", "--out", "elsewhere")
    assert "is empty" in empty.err
    assert "optuna storage upgrade" in refused[-1].last
    said = dict(zip(names, (call.last.partition("error: ")[2] for call in refused), strict=True))
    for row, some in {20: names[:3], 21: names[3:5], 27: names[5:]}.items():
        saw("exit 4, file unchanged: " + "; ".join(said[name] for name in some), row)
    saw("an empty file is taken as new, with a warning", 21)
    saw("exit 5: " + "; ".join(call.last.partition("error: ")[2] for call in others), 66)


@pytest.mark.row(26)
@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_the_storage_goes_away_within_the_run(lab: Lab, saw: Callable[..., None], how: str) -> None:
    running = lab.start(sleep=0.05, hold=24)
    lab.trained(20)
    if how == "removed":
        lab.database.unlink()
    else:
        other = lab.folder / "other.db"
        other.write_bytes(lab.database.read_bytes())
        other.replace(lab.database)
    lab.go()
    assert running.wait() == 4, running.err
    assert "storage disappeared" in running.last
    assert lab.log.read_text().count("completed") >= 1
    saw(f"exit 4, {running.last.partition('error: ')[2]!r}, what had ended is in the JSON log")


@pytest.mark.row(28)
@pytest.mark.parametrize("turns", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_two_starts_on_a_fresh_file(lab: Lab, saw: Callable[..., None], turns: int) -> None:
    lab.study(search={"trials": 2})
    for turn in range(turns):
        storage = lab.folder / f"{turn}.db"
        calls = [lab.start("--storage", str(storage), "--out", f"out{turn}{i}") for i in range(2)]
        for call in calls:
            assert call.wait() == 0, call.err
        assert len(load(storage).trials) == 2
    saw(f"{turns} times 2 starts at once: all exit 0, 2 of 2 trials")


@pytest.mark.slow
@pytest.mark.row(30)
@pytest.mark.parametrize("commands", [1, 8])
def test_eight_workers_on_one_file(lab: Lab, saw: Callable[..., None], commands: int) -> None:
    """Eight workers of one command, or eight commands: 40 trials, each with 20 reports."""
    lab.study(study={"epochs": 20}, search={"trials": 40})
    calls = [
        lab.start("--workers", str(8 // commands), "--out", f"out{number}", "--json-log", f"log{number}", sleep=0.02)
        for number in range(commands)
    ]
    for call in calls:
        assert call.wait() == 0, call.err
        assert "locked" not in call.err
    study = check(lab, trials=40, result=False)
    assert all(trial.state.name == "COMPLETE" for trial in study.trials)
    assert len({trial.params["lr"] for trial in study.trials}) == 40
    assert lab.count("begin") == 40
    saw(f"{commands} command{'s' * (commands > 1)}, 8 workers: exit 0, 40 of 40 complete, each once, never locked")


HOLD = """\
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
connection.execute("begin exclusive")
print("held", flush=True)
sys.stdin.read()
connection.execute("rollback")
"""


@pytest.mark.row(32)
@pytest.mark.parametrize("seconds", [7, pytest.param(20, marks=pytest.mark.slow)])
def test_somebody_locks_the_file(lab: Lab, saw: Callable[..., None], seconds: int) -> None:
    running = lab.start(sleep=0.05, hold=14)
    lab.trained(10)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD, lab.database], **pipes) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdout.readline()
        done = lab.count("end")
        lab.go()
        lab.stuck()
        time.sleep(seconds)
        holder.stdin.close()
        assert holder.wait() == 0
        assert running.process.poll() is None, "it did not wait"
        assert lab.count("end") <= done + 1, "what it trains meanwhile is at most what it had begun"
        assert running.wait() == 0, running.err
    assert running.err.count("storage back after") == 1
    check(lab, trials=6)
    saw(f"locked for {seconds} s: waited, one warning, exit 0, 6 of 6")


@pytest.mark.slow
@pytest.mark.row(81)
@pytest.mark.parametrize("harm", ["cut off", "noise", "empty", "swapped", "gone", "a pipe"])
def test_checkpoints_that_are_damaged_are_trained_anew(lab: Lab, saw: Callable[..., None], harm: str) -> None:
    lab.study(
        study={"metric": "accuracy", "direction": "maximize", "epochs": 40},
        train={"trainer": "", "estimator": "sklearn.linear_model:SGDClassifier", "data": "digits"},
        search={"strategy": "freeze-thaw", "trials": "", "budget": 3.0},
    )
    folder = lab.out / "checkpoints"
    lab.start()
    until(lambda: len(list(folder.glob("*.npz"))) >= 2 or lab._died(), "two checkpoints")
    lab.calls[-1].kill()
    saved = sorted(folder.glob("*.npz"))
    wholes = [path.read_bytes() for path in saved]
    noise = random.Random(0).randbytes(4000)
    for path, whole, other in zip(saved, wholes, wholes[1:] + wholes[:1], strict=True):
        path.unlink()
        if harm == "a pipe":
            os.mkfifo(path)
        elif harm != "gone":
            path.write_bytes({"cut off": whole[:-200], "noise": noise, "empty": b"", "swapped": other}[harm])
    if harm == "gone":
        shutil.rmtree(folder)
    lab.run()
    check(lab, once=False)
    saw(f"checkpoints {harm}: trained anew, exit 0")


@pytest.mark.slow
@pytest.mark.row(81)
def test_checkpoints_that_are_cleared_away_during_the_run(lab: Lab) -> None:
    lab.study(
        study={"metric": "accuracy", "direction": "maximize", "epochs": 40},
        train={"trainer": "", "estimator": "sklearn.linear_model:SGDClassifier", "data": "digits"},
        search={"strategy": "freeze-thaw", "trials": "", "budget": 4.0},
    )
    folder = lab.out / "checkpoints"
    running = lab.start()
    until(lambda: list(folder.glob("*.npz")) or lab._died(), "a checkpoint")
    shutil.rmtree(folder, ignore_errors=True)
    assert running.wait() == 0, running.err
    check(lab, once=False)
