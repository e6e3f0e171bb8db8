"""What a scheduler needs to run a job: a systemd service and timer, a line for crontab, a CronJob of Kubernetes.

``lrtune job run`` does only what is due, so where a scheduler cannot express the job file's schedule (a fixed length,
another time zone), it calls the command more often.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import re
import shlex
import shutil
import sys
import zoneinfo
from typing import TYPE_CHECKING

from lrtune.core.names import short_filename
from lrtune.jobs.cron import SUNDAY, Cron
from lrtune.jobs.schedule import Every

if TYPE_CHECKING:
    from lrtune.jobs.job_file import JobFile

__all__ = ["cron", "kubernetes", "on_calendar", "systemd"]

HOUR, DAY = 3600, 86_400
WEEKDAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
DAYS_OF_MONTH = (0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
SHORT_RUN = 2  # values written one by one
NO_RETRY = (2, 3, 5)  # input, nothing completed, another study: a second try ends the same way
BUSY = 6


def systemd(job: JobFile) -> str:
    """A service and its timer, each below a comment that names its file."""
    name = f"lrtune-{_slug(job)}"
    words = " ".join(_quoted(word) for word in _command(job))
    calendar = "\n".join(f"OnCalendar={line}" for line in on_calendar(_calls(job), job.zone))
    return f"""\
# /etc/systemd/system/{name}.service
[Unit]
Description=lrtune: tune {_plain(job.name)}
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
WorkingDirectory={_percent(job.folder)}
# A storage's address that holds a secret goes there, as LRTUNE_STORAGE, with mode 0600.
EnvironmentFile=-/etc/lrtune/{name}.env
ExecStart={words}
TimeoutStartSec=infinity
# A stop is clean within five seconds, and the next start goes on.
TimeoutStopSec=10
SuccessExitStatus={BUSY} 143
Restart=on-failure
RestartSec=10min
RestartPreventExitStatus={" ".join(map(str, NO_RETRY))}
Nice=5
NoNewPrivileges=yes
UMask=0077

# /etc/systemd/system/{name}.timer
[Unit]
Description=lrtune: when to tune {_plain(job.name)}

[Timer]
{calendar}
# After the machine was off, once.
Persistent=true

[Install]
WantedBy=timers.target
"""


def cron(job: JobFile, now: dt.datetime | None = None) -> str:
    """A line for crontab, with a comment; called hourly where this machine's zone is not the job's."""
    expression = _calls(job)
    comment = f"# lrtune: {_plain(job.name)}"
    if not _local(job, now):
        expression = f"{expression.split()[0]} * * * *"
        comment += f", in {job.zone}: called every hour, it runs once a period"
    log = shlex.quote(str(job.out / "cron.log"))
    words = f"mkdir -p {shlex.quote(str(job.out))} && {shlex.join(_command(job))} --quiet >> {log} 2>&1"
    return f"{comment}\n{expression} {words.replace('%', chr(92) + '%')}"


def kubernetes(job: JobFile, *, image: str, claim: str) -> str:
    """A CronJob; the job's folder is a volume that outlives the pods."""
    name = f"lrtune-{_slug(job)}"[:52].rstrip("-")  # a CronJob adds 11 characters, of 63
    folder = json.dumps(str(job.folder))
    return f"""\
apiVersion: batch/v1
kind: CronJob
metadata:
  name: {name}
spec:
  schedule: {json.dumps(_calls(job))}
  timeZone: {json.dumps(job.zone)}
  concurrencyPolicy: Forbid
  startingDeadlineSeconds: 3600
  successfulJobsHistoryLimit: 3
  failedJobsHistoryLimit: 3
  jobTemplate:
    spec:
      backoffLimit: 3
      # What a second try cannot mend is not tried again; an evicted pod goes on from its checkpoints.
      podFailurePolicy:
        rules:
          - action: FailJob
            onExitCodes: {{ operator: In, values: {list(NO_RETRY)} }}
          - action: Ignore
            onPodConditions: [{{ type: DisruptionTarget }}]
      template:
        spec:
          restartPolicy: Never
          terminationGracePeriodSeconds: 30
          containers:
            - name: lrtune
              image: {json.dumps(image)}
              workingDir: {folder}
              command: {json.dumps(["lrtune", "job", "run", str(job.path), "--quiet"])}
              envFrom:
                - secretRef: {{ name: {name}, optional: true }}  # LRTUNE_STORAGE
              volumeMounts:
                - {{ name: job, mountPath: {folder} }}
          volumes:
            - name: job
              persistentVolumeClaim: {{ claimName: {json.dumps(claim)} }}
"""


def on_calendar(expression: str, zone: str) -> list[str]:
    """A cron expression as lines of systemd.time(7) that together elapse when it fires.

    Two lines where cron joins its day fields by "or", since systemd joins them by "and". A line that fires every hour
    of every day is given in UTC: systemd leaves out the hour that autumn repeats, and UTC has none.
    """
    parsed = Cron(text=expression, zone=zoneinfo.ZoneInfo(zone))
    minutes, hours, days, months, week = parsed.values
    every = (len(hours), len(days), len(months), len(week)) == (24, 31, 12, 7)
    clock = f"{_listed(hours, 24)}:{_listed(minutes, 60)}:00 {'UTC' if every and _same_in_utc(parsed) else zone}"
    dates = frozenset(day for day in days if day <= max(DAYS_OF_MONTH[month] for month in months))
    month, date = _listed(months, 12), _listed(dates, 31)
    names = "" if len(week) == SUNDAY else ",".join(WEEKDAYS[day] for day in sorted(week)) + " "
    if parsed.either_day and len(days) < 31 and len(week) < SUNDAY:  # noqa: PLR2004 -- a month's days
        lines = [f"*-{month}-{date} {clock}"] if dates else []
        return [*lines, f"{names}*-{month}-* {clock}"]
    return [f"*-{month}-* {clock}" if parsed.either_day else f"{names}*-{month}-{date} {clock}"]


def _listed(values: frozenset[int], size: int) -> str:
    """Values of a field of so many, as systemd takes them: all, or a list with runs of three or more as ranges."""
    if len(values) == size:
        return "*"
    parts = []
    for _, group in itertools.groupby(enumerate(sorted(values)), lambda pair: pair[1] - pair[0]):
        run = [f"{value:02}" for _, value in group]
        parts += [f"{run[0]}..{run[-1]}"] if len(run) > SHORT_RUN else run
    return ",".join(parts)


def _same_in_utc(parsed: Cron) -> bool:
    """Whether its minutes are the same ones in UTC, in every month of this year: zones may be off by half an hour."""
    year, minutes = dt.datetime.now(tz=dt.UTC).year, parsed.values[0]
    moments = [dt.datetime(year, month, day, tzinfo=parsed.zone) for month in range(1, 13) for day in (1, 15)]
    shifts = {int((moment.utcoffset() or dt.timedelta()).total_seconds() // 60) for moment in moments}
    return all({(minute - shift) % 60 for minute in minutes} == minutes for shift in shifts)


def _calls(job: JobFile) -> str:
    """When it is to be called: its own expression, or often enough for its fixed length."""
    if job.expression:
        return job.expression
    if not isinstance(job.schedule, Every) or job.schedule.seconds % HOUR:
        return "* * * * *"
    seconds, start = job.schedule.seconds, job.schedule.start
    if seconds % DAY:
        return "0 * * * *"
    return f"{start.minute} {start.hour} * * {'*' if seconds % (7 * DAY) else start.isoweekday() % 7}"


def _local(job: JobFile, now: dt.datetime | None) -> bool:
    """Whether this machine's clock shows what the job's zone shows, in summer and in winter."""
    now = now or dt.datetime.now(tz=dt.UTC)
    zone = zoneinfo.ZoneInfo(job.zone)
    moments = (now, now + dt.timedelta(days=182))
    return all(at.astimezone().utcoffset() == at.astimezone(zone).utcoffset() for at in moments)


def _command(job: JobFile) -> list[str]:
    found = shutil.which("lrtune")
    return [*([found] if found else [sys.executable, "-m", "lrtune"]), "job", "run", str(job.path)]


def _slug(job: JobFile) -> str:
    return re.sub(r"[^a-z0-9-]+", "-", short_filename(job.name).lower()).strip("-")


def _percent(text: object) -> str:
    """The text with systemd's specifiers escaped."""
    return str(text).replace("%", "%%")


def _plain(text: str) -> str:
    """The text on one line, without special characters."""
    return re.sub(r"[^\w .,:/@+-]", "_", text)


def _quoted(word: str) -> str:
    """A word of ExecStart (systemd.service(5)): specifiers, variables and quotes mean nothing."""
    escaped = _percent(word).replace("$", "$$").replace("\\", "\\\\").replace('"', '\\"')
    return escaped if re.fullmatch(r"[\w./%$@:+-]+", escaped) else f'"{escaped}"'
