"""Files are whole or not there, and what a killed writer leaves is swept away: its own, and never a living one's."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lrtune.core.files import make_folder, passing_folder, replace, sweep, write_atomically, write_public
from lrtune.errors import StorageError

DYING = """
import os, signal, sys
from pathlib import Path
from lrtune.core import files
def wait(descriptor):
    print("within", flush=True)
    sys.stdin.read()
os.fsync = wait
files.replace(Path(sys.argv[1]), b"new")
"""


@contextlib.contextmanager
def writing(target: Path) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:  # type: ignore[misc]  # a generator
    """Another process that is in the middle of writing."""
    with subprocess.Popen(
        [sys.executable, "-c", DYING, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield process
        process.kill()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_living_writers_part_stays_and_a_dead_ones_goes(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    target.write_bytes(b"old")
    foreign = tmp_path / ".result.json.abcdefgh.part~"
    foreign.touch()
    with writing(target) as process:
        (part,) = [path for path in tmp_path.iterdir() if path.suffix == ".part"]
        sweep(tmp_path)
        assert part.exists(), "it is being written"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert part.exists(), "nobody could remove it"
        sweep(tmp_path)
        assert names(tmp_path) == [foreign.name, "result.json"]
    assert target.read_bytes() == b"old"


def test_a_part_that_was_swept_away_too_early_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the making of a part and its lock somebody may find it unlocked."""
    opened = os.open
    swept = []

    def opening(path: Path, *given: int) -> int:
        descriptor = opened(path, *given)
        if str(path).endswith(".part") and not swept:
            swept.append(Path(path).unlink())
        return descriptor

    monkeypatch.setattr(os, "open", opening)
    replace(tmp_path / "file", b"content")
    assert swept
    assert (tmp_path / "file").read_bytes() == b"content"
    assert names(tmp_path) == ["file"]


def test_whoever_writes_into_a_folder_tidies_it(tmp_path: Path) -> None:
    left = tmp_path / ".result.json.lrtune-00112233.part"
    for tidies in (make_folder, lambda folder: write_public(folder / "page.html", "<p>")):
        left.touch()
        tidies(tmp_path)
        assert not left.exists()


def test_nothing_is_left_where_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"(?i)no space left"):
        write_atomically(tmp_path / "result.json", "{}")
    with pytest.raises(StorageError, match="no space left"):
        write_public(tmp_path / "report.html", "<p>")
    assert names(tmp_path) == []


def test_a_folder_or_a_link_in_a_parts_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".a.lrtune-00112233.part").mkdir()
    (tmp_path / "kept").touch()
    (tmp_path / ".b.lrtune-00112233.part").symlink_to(tmp_path / "kept")
    sweep(tmp_path)
    sweep(tmp_path / "nowhere")
    assert (tmp_path / ".a.lrtune-00112233.part").is_dir()
    assert (tmp_path / "kept").exists()


PASSING = """
import sys
from lrtune.core.files import passing_folder
with passing_folder() as folder:
    (folder / "0.npz").touch()
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_passing_folders_of_the_dead_go_and_those_of_the_living_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with subprocess.Popen(
        [sys.executable, "-c", PASSING],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        text=True,
    ) as process:
        assert process.stdout is not None
        theirs = Path(process.stdout.readline().strip())
        with passing_folder() as mine:
            assert theirs.exists()
            assert mine.parent == tmp_path
        assert not mine.exists()
        process.kill()
        process.wait()
        assert theirs.exists()
        with passing_folder():
            assert not theirs.exists()


def test_a_folder_that_another_search_swept_away_before_it_was_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    make = tempfile.mkdtemp

    def swept_once(**given: str) -> str:
        made.append(Path(make(**given)))
        if len(made) == 1:
            made[0].rmdir()  # what the other one does
        return str(made[-1])

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(tempfile, "mkdtemp", swept_once)
    with passing_folder() as mine:
        assert mine == made[1]
        assert mine.is_dir()
