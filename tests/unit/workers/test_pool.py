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
from lrtune.workers import pool as workers
from lrtune.workers.pool import supervise

workers._cores = lambda: 8  # whatever machine this is
HOW, COUNT, FOLDER, AHEAD = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4] == "True"

def told(name, text=""):
    (FOLDER / f".{name}").write_text(str(text))
    (FOLDER / f".{name}").rename(FOLDER / name)

def forever():
    while True:
        time.sleep(0.05)

def wait(name):
    while not (FOLDER / name).exists():
        time.sleep(0.02)

def ahead():
    told(f"ahead-{os.getpid()}")
    told("ahead", os.getpid())
    if HOW == "dies ahead":
        os._exit(7)
    if HOW == "leaves ahead":
        sys.exit(7)
    if HOW == "raises ahead":
        raise ImportError("no such library")

def first(place):
    wait("ahead")
    while HOW in ("dies ahead", "leaves ahead") and Path(f"/proc/{(FOLDER / 'ahead').read_text()}").exists():
        time.sleep(0.02)
    if HOW == "first dies" and not place.deaths:
        os._exit(7)
    if HOW == "never ready":
        os._exit(7)
    if HOW == "refused":
        os._exit(place._say(workers.DONE) or 2)
    if HOW == "waits unready":
        told("unready")
        forever()
    told("ready")

def body(place):
    if AHEAD and place.index == 0:
        first(place)
    if AHEAD and place.index and not (FOLDER / "ready").exists():
        told("too early")
    place.ready()
    told(f"began-{place.index}-{len(place.deaths)}", os.getpid())
    for other in range(1, COUNT) if AHEAD and place.index == 0 else ():
        wait(f"began-{other}-0")
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
        place.add_group(child.pid)
        place.add_group(gone.pid)
        place.remove_group(gone.pid)
        told("released", gone.pid)
        told("child", child.pid)
        os._exit(7)
    if again:
        death = place.deaths[-1]
        told("death", f"{death.why}|{death.stalled}|{death.exited}")
    place.idle()
    return 3 if HOW == "code" else 0

def note(line):
    print(line, file=sys.stderr, flush=True)

stall = 10 if HOW == "stalls" else None
sys.exit(supervise(body, count=COUNT, stall_timeout=stall, preload=ahead if AHEAD else None, note=note))
"""


class Crew:
    def __init__(self, how: str, folder: Path, count: int = 1, *, ahead: bool = False) -> None:
        self.folder = folder
        told = [how, str(count), str(folder), str(ahead)]
        self.process = subprocess.Popen([sys.executable, "-c", PROGRAM, *told], stderr=subprocess.PIPE, text=True)

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


def made(crews: list[Crew], how: str, folder: Path, count: int = 1, *, ahead: bool = False) -> Crew:
    crews.append(Crew(how, folder, count, ahead=ahead))
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


# -- while the first one gets ready ------------------------------------------------------------------------


def test_the_others_load_ahead_and_begin_once_the_first_is_ready(crews: list[Crew], tmp_path: Path) -> None:
    crew = made(crews, "works", tmp_path, 3, ahead=True)
    assert crew.end() == (0, "")
    assert {f"ahead-{crew.wait(f'began-{index}-0')}" for index in (1, 2)} == {p.name for p in tmp_path.glob("ahead-*")}
    assert not (tmp_path / "too early").exists()


def test_whoever_waits_goes_on_waiting_where_the_first_one_dies(crews: list[Crew], tmp_path: Path) -> None:
    crew = made(crews, "first dies", tmp_path, 2, ahead=True)
    code, err = crew.end()
    assert (code, err.count("a worker died")) == (0, 1)
    assert crew.wait("began-1-0") == crew.wait("ahead"), "the same process"
    assert (tmp_path / "began-0-1").exists()
    assert not (tmp_path / "too early").exists()


@pytest.mark.parametrize(("how", "code"), [("never ready", 3), ("refused", 2)])
def test_where_the_first_one_cannot_begin_the_others_do_not(
    crews: list[Crew], tmp_path: Path, how: str, code: int
) -> None:
    crew = made(crews, how, tmp_path, 2, ahead=True)
    found, err = crew.end()
    assert found == code
    assert ("3 workers in a row died before they could begin" in err) == (how == "never ready")
    assert not list(tmp_path.glob("began-*"))
    assert gone(int(crew.wait("ahead")))


@pytest.mark.skipif(sys.platform != "linux", reason="the program looks into /proc")
@pytest.mark.parametrize("how", ["dies ahead", "leaves ahead", "raises ahead"])
def test_what_goes_wrong_ahead_is_left_to_the_body_to_say(crews: list[Crew], tmp_path: Path, how: str) -> None:
    crew = made(crews, how, tmp_path, 2, ahead=True)
    assert crew.end() == (0, "")
    assert (crew.wait("began-1-0") == crew.wait("ahead")) == (how == "raises ahead")
    assert not (tmp_path / "too early").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_those_that_wait_for_their_turn(crews: list[Crew], tmp_path: Path, number: int) -> None:
    crew = made(crews, "waits unready", tmp_path, 3, ahead=True)
    crew.wait("unready")
    until(lambda: len(list(tmp_path.glob("ahead-*"))) == 2)
    crew.process.send_signal(number)
    assert crew.end()[0] == 128 + number
    assert all(gone(int(path.name.removeprefix("ahead-"))) for path in tmp_path.glob("ahead-*"))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_whoever_waits_for_its_turn_does_not_outlive_the_parent(crews: list[Crew], tmp_path: Path) -> None:
    crew = made(crews, "waits unready", tmp_path, 2, ahead=True)
    crew.wait("unready")
    waiting = int(crew.wait("ahead"))
    crew.process.kill()
    crew.process.wait()
    until(lambda: gone(waiting))
