"""The job file: what is tuned by the clock, and what is done with the answer; as frozen data, read with suspicion."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lrtune.config.toml import TomlTable, read
from lrtune.core.names import safe_filename, valid_name
from lrtune.errors import InputError, StudyFileError
from lrtune.jobs.cron import WORDS, Cron
from lrtune.jobs.schedule import MONDAY, Every, JobSchedule, seconds_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from zoneinfo import ZoneInfo

__all__ = ["FORMATS", "JobFile", "Keep", "Publishing", "read_job", "short_filename"]

FORMATS = ("json", "toml", "hydra")
OUT_ROOT = "lrtune-out"
LONGEST_NAME = 180  # of 200: the studies' names get a number behind it
MOST_RUNS = 1_000_000
HOOK_SECONDS = 60
CONFIRM = 4  # one in four quiet runs: a month, for a job that runs weekly
KEY = re.compile(r"[+~]{0,2}[A-Za-z_][\w.@/-]{0,199}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Publishing:
    """The table ``[publish]``: what is done with the answer.

    Attributes
    ----------
    file
        Where it is written; None writes ``lr.json`` into the job's folder.
    format
        One of :data:`FORMATS`.
    keys
        What a setting is called there, e.g. ``{"lr": "optimizer.lr"}``.
    hook
        Command and arguments that are run when the answer has changed; empty for none.
    hook_seconds
        After which it is ended.
    """

    file: Path
    format: str = "json"
    keys: Mapping[str, str] = field(default_factory=dict)
    hook: tuple[str, ...] = ()
    hook_seconds: int = HOOK_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """The table ``[keep]``: how many, or how long; ``(count, None)``, ``(None, seconds)`` or None for all.

    Attributes
    ----------
    studies, checkpoints, reports
        Of the runs that have ended; the newest ones are kept, and always the one whose answer stands.
    """

    studies: tuple[int | None, int | None] | None = None
    checkpoints: tuple[int | None, int | None] | None = (1, None)
    reports: tuple[int | None, int | None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFile:
    """All that a job file says.

    Attributes
    ----------
    path
        The file; its paths count from its folder.
    name
        Of the job: its studies are called NAME-0001 and so on.
    study
        The study file.
    out
        Folder of its state, reports and checkpoints.
    storage
        Where its studies are kept, as the file says it; None leaves it to the study file.
    schedule
        When it is due.
    expression, zone
        The schedule as a cron expression and the name of its time zone; an empty expression for a fixed length.
    late
        Seconds after which a period counts as missed; None for a tenth of it.
    catch_up
        Whether missed periods are made up for, once.
    confirm
        After how many runs without a full training last time's learning rate, found unchanged, is trained in full
        to learn its result: 1 for always, 0 for never.
    limits
        ``budget``, ``trials`` and ``timeout`` of a run, over the study file's.
    publish, keep
        What is done with the answer, and what is kept.
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
        """From where its paths count."""
        return self.path.parent

    def study_name(self, number: int) -> str:
        """``"weekly-0001"``."""
        return f"{self.name}-{number:04d}"

    def run_folder(self, number: int) -> Path:
        """Where the report, the result and the checkpoints of a run are."""
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
    job = tables["job"]
    name = _name(job, path)
    out = path.parent / (job.text("out", "a path") or f"{OUT_ROOT}/{short_filename(name)}")
    schedule, expression, zone = _schedule(tables["schedule"])
    late, catch_up = _duration(tables["schedule"], "late"), tables["schedule"].flag("catch_up")
    made = JobFile(
        path=path,
        name=name,
        study=_study(job, path),
        out=out,
        storage=job.text("storage", "a path or a URL"),
        schedule=schedule,
        expression=expression,
        zone=zone,
        late=late,
        catch_up=catch_up is not False,
        confirm=_confirm(job),
        limits=_limits(tables["limits"]),
        publish=_publishing(tables["publish"], path.parent, out),
        keep=_keep(tables["keep"]),
    )
    for table in tables.values():
        table.done()
    return made


def short_filename(name: str) -> str:
    """A file name for a name: itself if plain, else as :func:`lrtune.core.names.safe_filename` makes it."""
    safe = safe_filename(name)
    return name if name == name.lower() and safe.rpartition("-")[0] == name else safe


def _name(table: TomlTable, path: Path) -> str:
    name = table.text("name") or path.stem
    try:
        valid_name(name, what="job name")
    except InputError as error:
        msg = f"{table.where('name')}: {error}"
        raise StudyFileError(msg) from None
    if len(name) > LONGEST_NAME:
        raise table.refused("name", f"at most {LONGEST_NAME} characters long")  # noqa: EM101 -- the key's name
    return name


def _confirm(table: TomlTable) -> int:
    if isinstance(table.raw("confirm"), bool):
        return int(table.flag("confirm") or False)
    given = table.whole("confirm", least=0, most=MOST_RUNS)
    return CONFIRM if given is None else given


def _study(table: TomlTable, path: Path) -> Path:
    text = table.text("study", 'the path of a study file, such as "study.toml"')
    if text is None:
        msg = f'{table.where("study")} is missing; name the study file, e.g. study = "study.toml"'
        raise StudyFileError(msg)
    return path.parent / text


# -- when ---------------------------------------------------------------------------------------------


def _schedule(table: TomlTable) -> tuple[JobSchedule, str, str]:
    every, cron = table.text("every", 'a text such as "weekly" or "7d"'), table.text("cron", "a cron expression")
    if (every is None) == (cron is None):
        both = "both are given; keep one" if every else "neither is given"
        msg = f'{table.where("every")} or cron is needed ({both}); e.g. every = "weekly" or cron = "0 3 * * 1"'
        raise StudyFileError(msg)
    zone = _zone(table)
    key = "every" if cron is None else "cron"
    try:
        if cron is not None or every in WORDS:
            return _cron(table, cron or WORDS[every or ""], zone)
        return Every(seconds=seconds_of(every or ""), start=_start(table)), "", "UTC"
    except StudyFileError as error:
        known = f" or {', '.join(WORDS)}" if key == "every" else ""
        msg = f"{table.where(key)}: {error}{known}"
        raise StudyFileError(msg) from None


def _cron(table: TomlTable, text: str, zone: ZoneInfo) -> tuple[JobSchedule, str, str]:
    if "start" in table:
        msg = f'{table.where("start")} goes with a length such as every = "7d"; leave it out'
        raise StudyFileError(msg)
    cron = Cron(text=text, zone=zone)
    return cron, " ".join(cron.fields), zone.key


def _zone(table: TomlTable) -> ZoneInfo:
    import zoneinfo

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
    if text is None:
        return None
    try:
        return seconds_of(text)
    except StudyFileError as error:
        msg = f"{table.where(key)}: {error}"
        raise StudyFileError(msg) from None


# -- how much, what then ------------------------------------------------------------------------------


def _limits(table: TomlTable) -> dict[str, float]:
    from lrtune.study import settings

    timeout: float | None
    if isinstance(table.raw("timeout"), str):
        timeout = _duration(table, "timeout")
    else:
        timeout = table.number("timeout", high=settings.MOST_TIMEOUT, above=True)
    told = {
        "budget": table.number("budget", low=1, high=settings.MOST_BUDGET),
        "trials": table.whole("trials", least=1, most=settings.MOST_TRIALS),
        "timeout": timeout,
    }
    return {name: value for name, value in told.items() if value is not None}


def _publishing(table: TomlTable, folder: Path, out: Path) -> Publishing:
    text, kind = table.text("file", "a path"), table.choice("format", FORMATS)
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
    import dataclasses

    from lrtune.core.recipe import Recipe

    found = {}
    for spec in dataclasses.fields(Recipe):
        name = table.text(spec.name, 'a key such as "optimizer.lr"')
        if name is not None and not KEY.fullmatch(name):
            raise table.refused(spec.name, 'a key of letters, digits, "_", ".", "-", "/" or "@"')
        if name is not None:
            found[spec.name] = name
    table.done()
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


def _keep(table: TomlTable) -> Keep:
    usual = Keep()
    return Keep(
        studies=_kept(table, "studies", usual.studies),
        checkpoints=_kept(table, "checkpoints", usual.checkpoints),
        reports=_kept(table, "reports", usual.reports),
    )


def _kept(
    table: TomlTable, key: str, usual: tuple[int | None, int | None] | None
) -> tuple[int | None, int | None] | None:
    value = table.raw(key)
    if value is None:
        return usual
    if isinstance(value, str):
        return None, _duration(table, key)
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_RUNS:
        return value, None
    allowed = f'a whole number of runs from 1 to {MOST_RUNS}, or an age such as "90d"'
    raise table.refused(key, allowed)
