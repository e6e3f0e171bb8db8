"""What is printed for systemd, cron and Kubernetes; each read back by its own program where it is there."""

from __future__ import annotations

import datetime as dt
import re
import shlex
import shutil
import subprocess
import time
import zoneinfo
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lrtune.core.timestamps import utc
from lrtune.errors import StudyFileError
from lrtune.jobs import read_job, scheduler_templates
from lrtune.jobs.cron import MONTHS, WEEKDAYS, Cron

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from lrtune.jobs import JobFile

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
NOW = utc("2026-11-22T12:00:00Z")
SCHEDULES = [
    'every = "weekly"',
    'every = "monthly"',
    'every = "7d"',
    'every = "2d"',
    'every = "6h"',
    'every = "90s"',
    'cron = "*/20 8-17/3 1,15 jan-mar mon-fri"\ntimezone = "Europe/Berlin"',
    'cron = "30 2 * * 0,6"\ntimezone = "America/New_York"',
    'cron = "5/10 * * */2 7"',
]


def job(folder: Path, schedule: str = SCHEDULES[0], name: str = "weekly", file: str = "job.toml") -> JobFile:
    path = folder / file
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(f'[job]\nname = "{name}"\nstudy = "study.toml"\n[schedule]\n{schedule}\n')
    return read_job(path)


def installed(text: str, folder: Path) -> list[Path]:
    """The unit files, each under the name that the comment above it says."""
    parts = re.split(r"^# /etc/systemd/system/(\S+)\n", text, flags=re.MULTILINE)[1:]
    found = []
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        (folder / name).write_text(body)
        found.append(folder / name)
    return found


@needs_systemd
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_systemd_takes_the_units(tmp_path: Path, schedule: str) -> None:
    made = job(tmp_path, schedule, name="100% <odd> $HOME", file='a b"c$x%h/job.toml')
    files = installed(scheduler_templates.systemd(made), tmp_path)
    assert [path.suffix for path in files] == [".service", ".timer"]
    done = subprocess.run(["systemd-analyze", "verify", *files], capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if "lrtune" in line]
    assert not ours


@needs_systemd
@pytest.mark.parametrize("schedule", [text for text in SCHEDULES if "7d" in text or not re.search(r"\d[dhs]\"", text)])
def test_systemd_fires_when_the_job_says(tmp_path: Path, schedule: str) -> None:
    made = job(tmp_path, schedule)
    lines = re.findall(r"^OnCalendar=(.*)$", scheduler_templates.systemd(made), flags=re.MULTILINE)
    command = ["systemd-analyze", "calendar", "--base-time=2026-11-22 12:00:00 UTC", *lines]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"TZ": "UTC", "PATH": "/usr/bin:/bin"}
    )
    fires = re.findall(r"(?:Next elapse|\(in UTC\)): \w+ (\S+ \S+) UTC", done.stdout)
    assert min(fires) == f"{made.schedule.next(NOW):%Y-%m-%d %H:%M:%S}"


def test_two_day_fields_are_two_lines() -> None:
    lines = scheduler_templates.on_calendar("0 3 13 * 5", "UTC")
    assert lines == ["*-*-13 03:00:00 UTC", "Fri *-*-* 03:00:00 UTC"]


# -- OnCalendar, read by this file: systemd.time(7), as far as it is printed ------------------------------------------


def part(text: str, low: int, high: int) -> frozenset[int]:
    found: set[int] = set() if text != "*" else set(range(low, high + 1))
    for item in text.split(",") if text != "*" else []:
        first, _, last = item.partition("..")
        found |= set(range(int(first), int(last or first) + 1))
    return frozenset(found)


def calendar(line: str) -> tuple[Sequence[str], tuple[frozenset[int], ...]]:
    """Days of the week; and months, days, hours and minutes."""
    match = re.fullmatch(r"(?:([A-Z][\w,]*) )?\*-([^-]+)-(\S+) ([^:]+):([^:]+):00 UTC", line)
    assert match is not None, line
    sizes = ((1, 12), (1, 31), (0, 23), (0, 59))
    given = tuple(part(text, *size) for text, size in zip(match.groups()[1:], sizes, strict=True))
    return (match[1] or "Mon,Tue,Wed,Thu,Fri,Sat,Sun").split(","), given


def field(low: int, high: int, names: Sequence[str] = ()) -> st.SearchStrategy[str]:
    """Any field of a cron line."""
    number = st.integers(low, high)
    spans = st.tuples(number, number).map(sorted).map(lambda pair: f"{pair[0]}-{pair[1]}")
    start = st.one_of(st.just("*"), spans)
    stepped = st.tuples(start, st.integers(1, 9)).map(lambda pair: f"{pair[0]}/{pair[1]}")
    items = st.one_of(number.map(str), spans, stepped, *([st.sampled_from(list(names))] if names else []))
    lists = st.lists(items, min_size=1, max_size=3).map(",".join)
    return st.one_of(st.just("*"), lists)


crons = st.tuples(field(0, 59), field(0, 23), field(1, 31), field(1, 12, MONTHS), field(0, 7, WEEKDAYS)).map(" ".join)


@settings(max_examples=40)
@given(text=crons)
@example(text="0 3 */2 * *")
@example(text="0 3 1,*/10 * *")
@example(text="0 3 */2 * 1")
@example(text="0 3 1-31 * 0-7")
@example(text="0 3 30 2 1")
@example(text="0 0 29 2 *")
@example(text="*/7 8-17/3 1,15 jan-mar/2 mon-fri")
def test_the_calendar_lines_elapse_when_the_cron_line_fires(text: str) -> None:
    try:
        cron = Cron(text=text, zone=zoneinfo.ZoneInfo("UTC"))
    except StudyFileError as error:
        assert "never fires" in str(error)  # noqa: PT017 -- such as a 30 February
        return
    read = [calendar(line) for line in scheduler_templates.on_calendar(text, "UTC")]
    minutes, hours, *_ = cron.values
    assert {given[2:] for _, given in read} == {(hours, minutes)}
    for count in range(366 * 4):
        day = dt.date(2024, 1, 1) + dt.timedelta(days=count)
        elapses = [f"{day:%a}" in names and day.month in given[0] and day.day in given[1] for names, given in read]
        assert any(elapses) == cron._on(day), day


def systemd(lines: Iterable[str], start: str, count: int) -> list[str]:
    """When the first of the lines elapse, as systemd itself says."""
    command = ["systemd-analyze", "calendar", f"--base-time={start}", f"--iterations={count}", *lines]
    given = {"TZ": "UTC", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=given)
    assert done.returncode == 0, (lines, done.stderr)
    return sorted(set(re.findall(r"(?:Next elapse|Iter\. #\d+|\(in UTC\)): \w+ (\S+ \S+) UTC", done.stdout)))[:count]


@needs_systemd
@settings(max_examples=30)
@given(text=crons, zone=st.sampled_from(["UTC", "Asia/Kathmandu", "Asia/Tokyo"]))
@example(text="0 3 */2 * *", zone="UTC")
@example(text="0 3 1,*/10 * sun", zone="UTC")
@example(text="0 0 30 2 1", zone="UTC")
def test_systemd_elapses_when_the_cron_line_fires(text: str, zone: str) -> None:
    try:
        cron = Cron(text=text, zone=zoneinfo.ZoneInfo(zone))
    except StudyFileError:
        return
    found, moment = [], NOW
    for _ in range(4):
        moment = cron.next(moment)
        found.append(f"{moment:%Y-%m-%d %H:%M:%S}")
    assert systemd(scheduler_templates.on_calendar(text, zone), "2026-11-22 12:00:00 UTC", 4) == found


@needs_systemd
@pytest.mark.parametrize("text", ["0 * * * *", "*/30 * * * *"])
def test_the_hour_that_autumn_repeats_is_not_left_out(text: str) -> None:
    cron, moment, found = Cron(text=text, zone=zoneinfo.ZoneInfo("America/New_York")), utc("2026-11-01T03:59:00Z"), []
    for _ in range(6):
        moment = cron.next(moment)
        found.append(f"{moment:%Y-%m-%d %H:%M:%S}")
    assert systemd(scheduler_templates.on_calendar(text, "America/New_York"), "2026-11-01 03:59:00 UTC", 6) == found


def test_a_crontab_line_is_the_jobs_own_where_the_zones_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = job(tmp_path, 'cron = "30 2 * * 0"\ntimezone = "Europe/Berlin"', file="100% of it/job.toml")
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        *_, line = scheduler_templates.cron(made, NOW).splitlines()
        assert line.startswith("30 2 * * 0 ")
        monkeypatch.setenv("TZ", "UTC")
        time.tzset()
        comment, line = scheduler_templates.cron(made, NOW).splitlines()
        assert line.startswith("30 * * * * ")
        assert "called every hour" in comment
    finally:
        monkeypatch.undo()
        time.tzset()
    command = line.removeprefix("30 * * * * ")
    assert "%" not in command.replace("\\%", "")
    assert str(made.path) in shlex.split(command.replace("\\%", "%"))


def test_kubernetes_reads_the_manifest(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    made = job(tmp_path, 'cron = "0 3 * * 1"\ntimezone = "Europe/Berlin"', name="Weekly: LR #1 'x' " + "n" * 60)
    told = yaml.safe_load(scheduler_templates.kubernetes(made, image='registry/x:"1"', claim="jobs"))
    assert (told["kind"], told["spec"]["schedule"], told["spec"]["timeZone"]) == (
        "CronJob",
        "0 3 * * 1",
        "Europe/Berlin",
    )
    assert told["spec"]["concurrencyPolicy"] == "Forbid"
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?", told["metadata"]["name"])
    inner = told["spec"]["jobTemplate"]["spec"]
    assert inner["podFailurePolicy"]["rules"][0]["onExitCodes"] == {"operator": "In", "values": [2, 3, 5]}
    container = inner["template"]["spec"]["containers"][0]
    assert container["image"] == 'registry/x:"1"'
    assert container["command"][:3] == ["lrtune", "job", "run"]
    assert container["workingDir"] == str(tmp_path)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_period_passes_without_a_call(tmp_path: Path, schedule: str) -> None:
    """The expression that schedulers are given fires in every period of the job's."""
    from lrtune.jobs.cron import Cron
    from lrtune.jobs.job_file import read_job as read

    made = job(tmp_path, schedule)
    expression = re.search(r'schedule: "(.*)"', scheduler_templates.kubernetes(made, image="i", claim="c"))
    assert expression is not None
    path = tmp_path / "calls.toml"
    path.write_text(f'[job]\nstudy = "s.toml"\n[schedule]\ncron = "{expression[1]}"\ntimezone = "{made.zone}"\n')
    calls = read(path).schedule
    assert isinstance(calls, Cron)
    now = NOW
    for _ in range(20):
        period = made.schedule.next(now)
        if (made.schedule.next(period) - period).total_seconds() >= 120:
            assert calls.previous(made.schedule.next(period)) >= period
        now = period
