"""Workers and the light parent above them, as real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked")

PROGRAM = """
import os, signal, subprocess, sys, time
from pathlib import Path
from lrtune.workers import supervise

HOW, COUNT, FOLDER = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])

def told(name, text=""):
    (FOLDER / f".{name}").write_text(str(text))
    (FOLDER / f".{name}").rename(FOLDER / name)

def forever():
    while True:
        time.sleep(0.05)

def body(place):
    place.ready()
    told(f"began-{place.index}-{len(place.deaths)}", os.getpid())
    place.working()
    again = any(True for death in place.deaths)
    if HOW == "exits" and not again:
        os._exit(7)
    if HOW == "killed" and not again:
        os.kill(os.getpid(), signal.SIGKILL)
    if HOW == "stalls" and not again:
        forever()
    if HOW == "waits":
        forever()
    if HOW == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        told("deaf")
        forever()
    if HOW == "leaves" and not again:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
        told("child", child.pid)
        os._exit(7)
    if HOW == "holds" and not again:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], process_group=0)
        nowhere = subprocess.DEVNULL  # the test reads stderr until nobody holds it
        gone = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], process_group=0, stderr=nowhere)
        place.holds(child.pid)
        place.holds(gone.pid)
        place.released(gone.pid)
        told("released", gone.pid)
        told("child", child.pid)
        os._exit(7)
    if again:
        death = place.deaths[-1]
        told("death", f"{death.why}|{death.stalled}|{death.exited}")
    place.idle()
    return 3 if HOW == "code" else 0

stall = 10 if HOW == "stalls" else None
code = supervise(body, count=COUNT, stall_timeout=stall, note=lambda line: print(line, file=sys.stderr, flush=True))
sys.exit(code)
"""


class Crew:
    def __init__(self, how: str, folder: Path, count: int = 1) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, how, str(count), str(folder)], stderr=subprocess.PIPE, text=True
        )

    def wait(self, name: str) -> str:
        """What a worker has told under a name; waits for it."""
        until((self.folder / name).exists)
        return (self.folder / name).read_text()

    def end(self) -> tuple[int, str]:
        _, err = self.process.communicate(timeout=280)
        return self.process.returncode, err


@pytest.fixture
def crews() -> Iterator[list[Crew]]:
    made: list[Crew] = []
    yield made
    for crew in made:
        crew.process.kill()
        crew.process.communicate()


def until(condition: Callable[[], bool], seconds: float = 200.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123 -- a zombie counts as gone
            return file.read().rpartition(")")[2].split()[0] in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return True


def made(crews: list[Crew], how: str, folder: Path, count: int = 1) -> Crew:
    crews.append(Crew(how, folder, count))
    return crews[-1]


def test_the_first_workers_code_is_the_commands(crews: list[Crew], tmp_path: Path) -> None:
    assert made(crews, "code", tmp_path).end() == (3, "")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("exits", "the training code ended the process (exit code 7)|False|True"),
        ("killed", "killed by SIGKILL|False|False"),
        ("stalls", "no progress for 10 s|True|False"),
    ],
)
def test_a_worker_that_dies_is_replaced_and_its_successor_told(
    crews: list[Crew], tmp_path: Path, how: str, said: str
) -> None:
    crew = made(crews, how, tmp_path)
    code, err = crew.end()
    assert code == 0
    assert crew.wait("death") == said
    assert "a worker died" in err
    assert crew.wait("began-0-0") != crew.wait("began-0-1")


def test_several_workers_start_and_end_together(crews: list[Crew], tmp_path: Path) -> None:
    crew = made(crews, "works", tmp_path, count=3)
    assert crew.end()[0] == 0
    assert (tmp_path / "began-0-0").exists()


@pytest.mark.parametrize("count", [1, 3])
def test_a_signal_ends_all(crews: list[Crew], tmp_path: Path, count: int) -> None:
    crew = made(crews, "waits", tmp_path, count)
    pids = [int(crew.wait(f"began-{index}-0")) for index in range(count)]
    crew.process.send_signal(signal.SIGTERM)
    assert crew.end()[0] == 143
    assert all(gone(pid) for pid in pids)


def test_a_worker_that_does_not_hear_is_ended_after_the_grace(crews: list[Crew], tmp_path: Path) -> None:
    crew = made(crews, "deaf", tmp_path)
    pid = int(crew.wait("began-0-0"))
    crew.wait("deaf")
    crew.process.send_signal(signal.SIGTERM)
    code, err = crew.end()
    assert code == 143
    assert "in the middle of a step" in err
    until(lambda: gone(pid))


def test_a_second_signal_ends_at_once(crews: list[Crew], tmp_path: Path) -> None:
    crew = made(crews, "deaf", tmp_path)
    pid = int(crew.wait("began-0-0"))
    crew.wait("deaf")
    crew.process.send_signal(signal.SIGTERM)
    time.sleep(0.6)  # what comes sooner is taken for an echo
    crew.process.send_signal(signal.SIGTERM)
    code, err = crew.end()
    assert code == 143
    assert "at once" in err
    until(lambda: gone(pid))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_a_worker_does_not_outlive_its_parent(crews: list[Crew], tmp_path: Path) -> None:
    crew = made(crews, "waits", tmp_path, count=2)
    pids = [int(crew.wait(f"began-{index}-0")) for index in range(2)]
    crew.process.kill()
    crew.process.wait()
    until(lambda: all(gone(pid) for pid in pids))


def test_what_a_worker_leaves_behind_goes_with_it(crews: list[Crew], tmp_path: Path) -> None:
    crew = made(crews, "leaves", tmp_path)
    assert crew.end()[0] == 0
    child = int(crew.wait("child"))
    until(lambda: gone(child))


def test_a_group_that_a_worker_holds_goes_with_it_and_one_that_it_released_does_not(
    crews: list[Crew], tmp_path: Path
) -> None:
    crew = made(crews, "holds", tmp_path)
    assert crew.end()[0] == 0
    released = int(crew.wait("released"))
    try:
        until(lambda: gone(int(crew.wait("child"))))
        assert not gone(released), "its number may be another's by now"
    finally:
        os.kill(released, signal.SIGKILL)
