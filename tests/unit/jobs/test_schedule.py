"""When a job is due: cron lines, fixed lengths, periods; and what clocks that change do to them."""

from __future__ import annotations

import datetime as dt
import itertools
import zoneinfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrtune.core.timestamps import stamp, utc
from lrtune.errors import StudyFileError
from lrtune.jobs.cron import WORDS, Cron
from lrtune.jobs.schedule import MONDAY, DueKind, Every, due, seconds_of

UTC = zoneinfo.ZoneInfo("UTC")
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo", "Asia/Kathmandu")
LINES = ("0 3 * * 1", "*/20 * * * *", "30 2 * * *", "0 0 1 * *", "15 4,16 * 1-3 mon-fri", "59 23 31 12 *", "0 0 * * 0")

moments = st.datetimes(dt.datetime(1990, 1, 1), dt.datetime(2060, 1, 1), timezones=st.just(dt.UTC))  # noqa: DTZ001
crons = st.builds(Cron, text=st.sampled_from(LINES), zone=st.sampled_from(ZONES).map(zoneinfo.ZoneInfo))
lengths = st.builds(Every, seconds=st.integers(1, 10_000_000))


def at(text: str) -> dt.datetime:
    return utc(text)


def fires(cron: Cron, start: str, count: int) -> list[str]:
    found, now = [], at(start)
    for _ in range(count):
        now = cron.next(now)
        found.append(stamp(now))
    return found


@given(schedule=st.one_of(crons, lengths), moment=moments)
def test_the_previous_time_and_the_next_one_hold_the_moment_between_them(
    schedule: Cron | Every, moment: dt.datetime
) -> None:
    before, after = schedule.previous(moment), schedule.next(moment)
    assert before <= moment < after
    assert schedule.next(before) == after
    assert schedule.previous(after) == after
    assert schedule.previous(after - dt.timedelta(seconds=1)) == before


@given(
    minute=st.sampled_from(["*", "0", "*/7", "3,40", "10-50/20"]),
    hour=st.sampled_from(["*", "4", "*/5", "8-12"]),
    day=st.sampled_from(["*", "1", "31", "10-12"]),
    month=st.sampled_from(["*", "2", "6-8"]),
    moment=moments,
)
def test_a_line_fires_as_another_reader_of_cron_lines_says(
    minute: str, hour: str, day: str, month: str, moment: dt.datetime
) -> None:
    trigger = pytest.importorskip("apscheduler.triggers.cron").CronTrigger
    text = f"{minute} {hour} {day} {month} *"
    if day == "31" and month == "2":
        with pytest.raises(StudyFileError, match="never fires"):
            Cron(text=text, zone=UTC)
        return
    theirs = trigger.from_crontab(text, timezone=dt.UTC).get_next_fire_time(None, moment + dt.timedelta(microseconds=1))
    assert Cron(text=text, zone=UTC).next(moment) == theirs


def test_zero_and_seven_are_sunday_and_two_day_fields_are_joined_by_or() -> None:
    sundays = fires(Cron(text="0 3 * * 0", zone=UTC), "2026-11-22T00:00:00Z", 2)
    assert sundays == ["2026-11-22T03:00:00Z", "2026-11-29T03:00:00Z"]
    assert fires(Cron(text="0 3 * * 7", zone=UTC), "2026-11-22T00:00:00Z", 2) == sundays
    either = fires(Cron(text="0 3 13 * fri", zone=UTC), "2026-10-01T12:00:00Z", 3)
    assert either == ["2026-10-02T03:00:00Z", "2026-10-09T03:00:00Z", "2026-10-13T03:00:00Z"]


def test_a_time_that_the_autumn_repeats_fires_once() -> None:
    nights = fires(Cron(text="30 2 * * *", zone=BERLIN), "2026-10-24T12:00:00Z", 2)
    assert nights == ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]


def test_a_time_that_spring_leaves_out_fires_once_right_after_the_gap() -> None:
    nights = fires(Cron(text="30 2 * * *", zone=BERLIN), "2026-03-28T12:00:00Z", 2)
    assert nights == ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]


CHANGES = [
    ("America/New_York", "2026-11-01"),
    ("America/New_York", "2026-03-08"),
    ("Australia/Lord_Howe", "2027-04-03"),  # by half an hour
    ("Australia/Lord_Howe", "2026-10-03"),
    ("Antarctica/Troll", "2026-10-25"),  # by two hours
    ("Antarctica/Troll", "2026-03-29"),
    ("Africa/Cairo", "2026-04-24"),  # midnight is skipped
    ("Africa/Cairo", "2026-10-29"),
    ("America/Asuncion", "2023-10-01"),
    ("America/St_Johns", "2010-11-07"),  # back over midnight, at 0:01
    ("Pacific/Apia", "2011-12-30"),  # a day is skipped
    ("Antarctica/Casey", "2018-03-10"),  # back by three hours
    ("Asia/Kathmandu", "2026-01-01"),
]
MINUTE = dt.timedelta(minutes=1)


def naive(moment: dt.datetime, zone: dt.tzinfo) -> dt.datetime:
    return moment.astimezone(zone).replace(tzinfo=None)


def counted(cron: Cron, start: dt.datetime, end: dt.datetime) -> list[dt.datetime]:
    """What cron(8) says, counted minute by minute."""
    minute, hour, day, _, weekday = cron.text.split()
    minutes, hours, days, months, week = cron.values

    def on(clock: dt.datetime) -> bool:
        dates = (clock.day in days, clock.isoweekday() % 7 in week)
        good = all(dates) if day.startswith("*") or weekday.startswith("*") else any(dates)
        return good and clock.month in months and clock.hour in hours and clock.minute in minutes

    rhythm, found, now = minute.startswith("*") or hour.startswith("*"), [], start
    while now < end:
        moment = now.astimezone(cron.zone)
        clock, before = moment.replace(tzinfo=None), naive(now - MINUTE, cron.zone)
        fires = on(clock) and (rhythm or not moment.fold)
        if not rhythm and MINUTE < clock - before <= dt.timedelta(hours=3, minutes=1):
            fires = fires or any(on(before + count * MINUTE) for count in range(1, (clock - before) // MINUTE))
        late = rhythm and len(hours) == 24 and found and now - found[-1] == dt.timedelta(hours=1)
        found += [now] if fires or (late and on(clock.replace(hour=min(hours), minute=min(minutes)))) else []
        now += MINUTE
    return found


fields = st.tuples(
    st.sampled_from(["*", "0", "*/15", "*/7", "30", "5,45", "1-59/20"]),
    st.sampled_from(["*", "0", "1", "2", "3", "*/2", "*/3", "0-3", "1,23", "0-23"]),
    st.sampled_from(["*", "*/2", "1-31", "30"]),
    st.just("*"),
    st.sampled_from(["*", "sun", "1-6"]),
).map(" ".join)


@settings(max_examples=30)
@given(change=st.sampled_from(CHANGES), text=fields)
def test_where_clocks_change_a_line_fires_as_counted_minute_by_minute(change: tuple[str, str], text: str) -> None:
    zone, day = change
    cron = Cron(text=text, zone=zoneinfo.ZoneInfo(zone))
    start = dt.datetime.fromisoformat(f"{day}T00:00+00:00") - dt.timedelta(hours=12)
    end = start + dt.timedelta(hours=36)
    wanted = [fire for fire in counted(cron, start - dt.timedelta(hours=2), end) if fire >= start]
    found, moment = [], cron.next(start - MINUTE)
    while moment < end:
        found.append(moment)
        moment = cron.next(moment)
    assert found == wanted
    for moment in found[:: max(1, len(found) // 100)]:
        assert cron.previous(moment) == moment
        assert cron.next(moment - dt.timedelta(seconds=1)) == moment


@pytest.mark.parametrize("line", [WORDS["hourly"], "*/15 * * * *", "7 * * * *"])
@pytest.mark.parametrize(("zone", "day"), CHANGES)
def test_a_line_for_all_hours_never_waits_longer_than_one(zone: str, day: str, line: str) -> None:
    cron, moment = Cron(text=line, zone=zoneinfo.ZoneInfo(zone)), at(f"{day}T00:00:00Z") - dt.timedelta(days=1)
    for _ in range(150 if "/" in line else 50):
        assert cron.next(moment) - moment <= dt.timedelta(minutes=15 if "/" in line else 60)
        moment = cron.next(moment)


@pytest.mark.parametrize("text", ["@daily", "@midnight", "@DAILY "])
def test_the_short_words_of_crontab_are_lines(text: str) -> None:
    assert Cron(text=text, zone=UTC).fields == ("0", "0", "*", "*", "*")
    assert fires(Cron(text="@weekly", zone=UTC), "2026-11-22T00:00:00Z", 1) == ["2026-11-29T00:00:00Z"]  # Sunday


@pytest.mark.parametrize("zone", ZONES)
def test_a_daily_job_runs_once_a_day_through_every_change_of_a_year(zone: str) -> None:
    cron = Cron(text="30 2 * * *", zone=zoneinfo.ZoneInfo(zone))
    found = [utc(text) for text in fires(cron, "2026-01-01T00:00:00Z", 366)]
    days = [moment.astimezone(cron.zone).date() for moment in found]
    assert len(set(days)) == len(days)
    assert all(b - a == dt.timedelta(days=1) for a, b in itertools.pairwise(days))


def test_a_year_with_a_leap_day_is_waited_for() -> None:
    assert fires(Cron(text="0 0 29 2 *", zone=UTC), "2026-01-01T00:00:00Z", 1) == ["2028-02-29T00:00:00Z"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0 3 * *", "4 fields"),
        ("0 0 3 * * *", "6 fields"),
        ("@reboot", "'@reboot' is no cron expression; known are @hourly"),
        ("0 0 L * *", "day of the month 'l'"),
        ("0 0 * * mon#2", "day of the week 'mon#2'"),
        ("60 3 * * *", "minute '60'"),
        ("0 24 * * *", "hour '24'"),
        ("0 3 0 * *", "day of the month '0'"),
        ("0 3 * 13 *", "month '13'"),
        ("0 3 * * 8", "day of the week '8'"),
        ("0 3 * * mun", "day of the week 'mun'"),
        ("*/0 * * * *", "minute '\\*/0'"),
        ("5-1 * * * *", "minute '5-1'"),
        ("1,,2 * * * *", "minute ''"),
        ("-1 * * * *", "minute '-1'"),
        ("\N{ARABIC-INDIC DIGIT ONE} * * * *", "minute"),
        ("0 0 30 2 *", "never fires"),
    ],
)
def test_what_is_no_cron_line_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(StudyFileError, match=said):
        Cron(text=text, zone=UTC)


def test_the_words_are_lines() -> None:
    week = Cron(text=WORDS["weekly"], zone=BERLIN)
    assert stamp(week.previous(at("2026-11-22T12:00:00Z"))) == "2026-11-15T23:00:00Z"  # Monday 0:00 in Berlin
    assert set(WORDS) == {"hourly", "daily", "weekly", "monthly"}


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("12 h", 43_200), ("7d", 604_800), ("2w", 1_209_600)]
)
def test_lengths_of_time(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "0d", "-1d", "1.5h", "7d ", "99999d", "1y", "7D"])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(StudyFileError, match="no length of time"):
        seconds_of(text)


def test_a_week_of_168_hours_begins_on_monday_whatever_the_clocks_do() -> None:
    every = Every(seconds=604_800)
    assert every.start == MONDAY
    assert stamp(every.previous(at("2026-10-28T00:00:00Z"))) == "2026-10-26T00:00:00Z"


# -- what is due ---------------------------------------------------------------------------------------------------

WEEK = Every(seconds=604_800)


def test_the_first_run_is_due_at_once() -> None:
    task = due(WEEK, at("2026-11-19T10:00:00Z"))
    assert (task.kind, stamp(task.period), task.missed) == (DueKind.RUN, "2026-11-16T00:00:00Z", 0)


def test_the_same_period_twice_is_done_once() -> None:
    task = due(WEEK, at("2026-11-19T10:00:00Z"), last=at("2026-11-16T00:00:00Z"))
    assert task.kind is DueKind.DONE
    assert stamp(task.next) == "2026-11-23T00:00:00Z"


def test_an_interrupted_run_of_this_period_goes_on_and_one_of_an_older_period_does_not() -> None:
    now, last = at("2026-11-19T10:00:00Z"), at("2026-11-02T00:00:00Z")
    assert due(WEEK, now, last=last, running=at("2026-11-16T00:00:00Z")).kind is DueKind.RESUME
    assert due(WEEK, now, last=last, running=at("2026-11-09T00:00:00Z")).kind is DueKind.RUN


@pytest.mark.parametrize(("now", "missed"), [("2026-11-16T00:01:00Z", 2), ("2026-11-19T10:00:00Z", 3)])
def test_missed_periods_are_caught_up_once(now: str, missed: int) -> None:
    task = due(WEEK, at(now), last=at("2026-10-26T00:00:00Z"))
    assert (task.kind, stamp(task.period), task.missed) == (DueKind.RUN, "2026-11-16T00:00:00Z", missed)


def test_without_catching_up_a_late_period_is_skipped_and_a_punctual_one_is_not() -> None:
    last = at("2026-10-26T00:00:00Z")
    assert due(WEEK, at("2026-11-19T10:00:00Z"), last=last, catch_up=False).kind is DueKind.SKIP
    assert due(WEEK, at("2026-11-16T00:05:00Z"), last=last, catch_up=False).kind is DueKind.RUN
    assert due(WEEK, at("2026-11-16T00:05:00Z"), last=last, catch_up=False, late=60).kind is DueKind.SKIP


def test_a_clock_that_was_set_back_repeats_nothing() -> None:
    last = at("2026-11-16T00:00:00Z")
    task = due(WEEK, last - dt.timedelta(days=30), last=last)
    assert task.kind is DueKind.DONE
    assert task.next > last


@given(schedule=st.one_of(crons, lengths), moment=moments, steps=st.integers(0, 40))
def test_every_period_is_run_or_counted_as_missed(schedule: Cron | Every, moment: dt.datetime, steps: int) -> None:
    last = at_last = schedule.previous(moment)
    for _ in range(steps):
        at_last = schedule.next(at_last)
    task = due(schedule, at_last, last=last)
    if steps == 0:
        assert task.kind is DueKind.DONE
    else:
        assert (task.kind, task.period, task.missed) == (DueKind.RUN, at_last, steps - 1)


@given(moment=moments)
def test_times_are_written_and_read_in_utc(moment: dt.datetime) -> None:
    whole = moment.replace(microsecond=0)
    assert utc(stamp(whole.astimezone(BERLIN))) == whole
    assert stamp(whole).endswith("Z")
