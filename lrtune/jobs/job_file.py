"""The job file read into frozen data: which study is tuned on which schedule, and what is done with the answer."""

from __future__ import annotations

import datetime as dt
import re
import zoneinfo
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from lrtune.config.toml import TomlTable, read
from lrtune.core.names import short_filename, valid_name
from lrtune.core.options import Option, options
from lrtune.core.recipe import Recipe
from lrtune.errors import StudyFileError
from lrtune.jobs.cron import WORDS, Cron
from lrtune.jobs.schedule import MONDAY, Every, JobSchedule, seconds_of
from lrtune.study.settings import Limits

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["FORMATS", "JobFile", "Keep", "Publishing", "read_job"]

FORMATS = ("json", "toml", "hydra")
OUT_ROOT = "lrtune-out"
LONGEST_NAME = 180  # of 200: the studies' names get a number behind it
MOST_RUNS = 1_000_000
HOOK_SECONDS = 60
CONFIRM = 4  # one run in four without a full training: a month, for a job that runs weekly
CATCH_UP = Option(kind=bool, name="catch_up")
CONFIRM_OPTION = Option(kind=int, name="confirm", high=MOST_RUNS)
FORMAT = Option(kind=str, name="format", choices=FORMATS)
Kept: TypeAlias = tuple[int | None, int | None] | None
"""``(count, None)``, ``(None, seconds)``, or None for all."""

KEY = re.compile(r"[+~]{0,2}[A-Za-z_][\w.@/-]{0,199}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Publishing:
    """The table ``[publish]``: what is done with the answer.

    Attributes
    ----------
    file
        The file that it is written to.
    format
        One of :data:`FORMATS`.
    keys
        Keys of that file by name of the recipe's field, e.g. ``{"lr": "optimizer.lr"}``.
    hook
        Command and arguments that are run when the answer has changed; empty for none.
    hook_seconds
        Seconds after which the hook is killed.
    """

    file: Path
    format: str = "json"
    keys: Mapping[str, str] = field(default_factory=dict)
    hook: tuple[str, ...] = ()
    hook_seconds: int = HOOK_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """The table ``[keep]``: what is kept of the runs that have ended.

    The newest `count` runs, those of the last `seconds`, or all (None); in any case the run that gave the current
    answer.
    """

    studies: Kept = None
    checkpoints: Kept = (1, None)
    reports: Kept = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFile:
    """A job file.

    Attributes
    ----------
    path
        The file; relative paths in it count from its folder.
    name
        Of the job; its studies are called NAME-0001 and so on.
    study, out
        The study file, and the folder of the job's state, reports and checkpoints.
    storage
        Path or URL of the storage as the file has it; None for the study file's.
    schedule, expression, zone
        When the job is due; also as a cron expression and the name of its time zone, or an empty expression for a
        fixed interval.
    late, catch_up
        Seconds from a period's beginning after which it counts as missed, None for a tenth of the period; and whether
        one run makes up for missed periods.
    confirm
        Every how many runs a learning rate that the drift test found unchanged is trained in full, to measure its
        result: 1 for each run, 0 for none.
    limits
        ``budget``, ``trials`` and ``timeout`` of a run; they replace the study file's.
    publish, keep
        What is done with the answer, and what is kept of old runs.
    """

    path: Path
    name: str
    study: Path
    out: Path
    storage: str | None
    schedule: JobSchedule
    expression: str
    zone: str
    late: float | None
    catch_up: bool
    confirm: int
    limits: Mapping[str, float]
    publish: Publishing
    keep: Keep

    @property
    def folder(self) -> Path:
        """The folder from which relative paths count."""
        return self.path.parent

    def study_name(self, number: int) -> str:
        """``"weekly-0001"``."""
        return f"{self.name}-{number:04d}"

    def run_folder(self, number: int) -> Path:
        """Folder of a run's report, result and checkpoints."""
        return self.out / f"{number:04d}"


def read_job(path: Path) -> JobFile:
    """The job of a file.

    Raises
    ------
    lrtune.errors.InputError
        If it cannot be read, or asks for something that cannot be done; names the file, the line and the key.
    """
    try:
        path = path.absolute()
    except FileNotFoundError:
        msg = f"{path}: the folder that this was started in is gone; change to one that exists"
        raise StudyFileError(msg) from None
    top = read(path)
    tables = {name: top.table(name) for name in ("job", "schedule", "limits", "publish", "keep")}
    top.done()
    job, times = tables["job"], tables["schedule"]
    name = _name(job, path)
    study = job.text("study", 'the path of a study file, such as "study.toml"')
    if study is None:
        msg = f'{job.where("study")} is missing; name the study file, e.g. study = "study.toml"'
        raise StudyFileError(msg)
    out = path.parent / (job.text("out", "a path") or f"{OUT_ROOT}/{short_filename(name)}")
    schedule, expression, zone = _schedule(times)
    made = JobFile(
        path=path,
        name=name,
        study=path.parent / study,
        out=out,
        storage=job.text("storage", "a path or a URL"),
        schedule=schedule,
        expression=expression,
        zone=zone,
        late=_duration(times, "late"),
        catch_up=times.option(CATCH_UP) is not False,
        confirm=_confirm(job),
        limits=_limits(tables["limits"]),
        publish=_publishing(tables["publish"], path.parent, out),
        keep=Keep(**{kind: _kept(tables["keep"], kind, usual) for kind, usual in asdict(Keep()).items()}),
    )
    for table in tables.values():
        table.done()
    return made


def _name(table: TomlTable, path: Path) -> str:
    name = table.text("name") or path.stem
    table.converted("name", partial(valid_name, what="job name"), name)
    if len(name) > LONGEST_NAME:
        raise table.refused("name", f"at most {LONGEST_NAME} characters long")  # noqa: EM101 -- the key's name
    return name


def _confirm(table: TomlTable) -> int:
    value = table.raw("confirm")
    if isinstance(value, bool):
        return int(value)
    return CONFIRM if value is None else int(table.option(CONFIRM_OPTION))


# -- when ---------------------------------------------------------------------------------------------


def _schedule(table: TomlTable) -> tuple[JobSchedule, str, str]:
    every, cron = table.text("every", 'a text such as "weekly" or "7d"'), table.text("cron", "a cron expression")
    if (every is None) == (cron is None):
        both = "both are given; keep one" if every else "neither is given"
        msg = f'{table.where("every")} or cron is needed ({both}); e.g. every = "weekly" or cron = "0 3 * * 1"'
        raise StudyFileError(msg)
    zone, usual = _zone(table), WORDS.get(every or "")
    if "start" in table and (usual or cron):
        msg = f'{table.where("start")} goes with a length such as every = "7d"; leave it out'
        raise StudyFileError(msg)
    try:
        if every is not None and usual is None:
            return Every(seconds=seconds_of(every), start=_start(table)), "", "UTC"
        fires = Cron(text=cron or usual or "", zone=zone)
    except StudyFileError as error:
        where, known = (table.where("cron"), "") if every is None else (table.where("every"), f" or {', '.join(WORDS)}")
        msg = f"{where}: {error}{known}"
        raise StudyFileError(msg) from None
    return fires, " ".join(fires.fields), zone.key


def _zone(table: TomlTable) -> zoneinfo.ZoneInfo:
    name = table.text("timezone", 'a time zone such as "Europe/Berlin"') or "UTC"
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        allowed = 'a time zone that this machine knows, such as "UTC" or "Europe/Berlin"'
        raise table.refused("timezone", allowed) from None  # noqa: EM101 -- the key's name


def _start(table: TomlTable) -> dt.datetime:
    value = table.raw("start")
    if value is None:
        return MONDAY
    if isinstance(value, dt.datetime) and value.tzinfo is not None:
        return value.astimezone(dt.UTC).replace(microsecond=0)
    allowed = "a date and time with its zone, such as 2026-01-05T03:00:00Z"
    raise table.refused("start", allowed)  # noqa: EM101 -- the key's name


def _duration(table: TomlTable, key: str) -> int | None:
    text = table.text(key, 'a length of time such as "6h"')
    return None if text is None else table.converted(key, seconds_of, text)


# -- how much, what then ------------------------------------------------------------------------------


def _limits(table: TomlTable) -> dict[str, float]:
    """The options of :class:`lrtune.study.settings.Limits`; a time limit also as a length of time such as "2h"."""
    found = {
        name: _duration(table, name) if name == "timeout" and isinstance(table.raw(name), str) else table.option(option)
        for name, option in options(Limits).items()
    }
    return {name: value for name, value in found.items() if value is not None}


def _publishing(table: TomlTable, folder: Path, out: Path) -> Publishing:
    text, kind = table.text("file", "a path"), table.option(FORMAT)
    file = out / "lr.json" if text is None else folder / text
    if kind is None:
        kind = file.suffix.lstrip(".")
        if kind not in FORMATS:
            msg = f'{table.where("format")} is missing: {file.name!r} does not tell; say "json", "toml" or "hydra"'
            raise StudyFileError(msg)
    return Publishing(
        file=file,
        format=kind,
        keys=_keys(table.table("keys")),
        hook=_hook(table),
        hook_seconds=_duration(table, "hook_timeout") or HOOK_SECONDS,
    )


def _keys(table: TomlTable) -> dict[str, str]:
    given = ((spec.name, table.text(spec.name, 'a key such as "optimizer.lr"')) for spec in fields(Recipe))
    found = {name: key for name, key in given if key is not None}
    table.done()
    for name, key in found.items():
        if not KEY.fullmatch(key):
            raise table.refused(name, 'a key of letters, digits, "_", ".", "-", "/" or "@"')
    return found


def _hook(table: TomlTable) -> tuple[str, ...]:
    value: Any = table.raw("hook")
    if value is None:
        return ()
    good = isinstance(value, list) and value and all(isinstance(part, str) and "\0" not in part for part in value)
    if not good or not value[0]:
        allowed = 'a command and its arguments as an array, such as ["./deploy.sh", "--now"]'
        raise table.refused("hook", allowed)  # noqa: EM101 -- the key's name
    return tuple(value)


def _kept(table: TomlTable, key: str, usual: Kept) -> Kept:
    value = table.raw(key)
    if value is None:
        return usual
    if isinstance(value, str):
        return None, _duration(table, key)
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_RUNS:
        return value, None
    allowed = f'a whole number of runs from 1 to {MOST_RUNS}, or an age such as "90d"'
    raise table.refused(key, allowed)
