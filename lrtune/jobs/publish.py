"""The answer as a file for the training pipeline: JSON, TOML or a line of Hydra overrides, replaced atomically."""

from __future__ import annotations

import json
import os
import re
import stat
from typing import TYPE_CHECKING, Any

from lrtune.core.files import make_folder, write_atomically
from lrtune.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

    from lrtune.jobs.job_file import Publishing
    from lrtune.jobs.state import JobRun

__all__ = ["publish", "rendered", "settings_of"]

LEFT_OUT = ("epochs", "seed")  # of the search, not of the answer
BARE = re.compile(r"[A-Za-z0-9_-]+")


def publish(publishing: Publishing, job: str, row: JobRun) -> None:
    """Write the answer.

    Raises
    ------
    lrtune.errors.StorageError
        If it cannot be written; an older file is left as it was.
    """
    make_folder(publishing.file.parent)
    mode = _mode(publishing.file)
    beside = publishing.file.with_name(f".{publishing.file.name}.new")
    write_atomically(beside, rendered(publishing, job, row))
    try:
        beside.chmod(mode)  # it holds no secret, and the pipeline may be another user's
        beside.replace(publishing.file)
    except OSError as error:
        msg = f"{publishing.file}: cannot be published ({error.strerror}); mend that and run the same command again"
        raise StorageError(msg) from None


def _mode(file: Path) -> int:
    """The mode of an existing file, else that of the umask."""
    try:
        return stat.S_IMODE(file.stat().st_mode)
    except OSError:
        mask = os.umask(0o077)
        os.umask(mask)
        return 0o666 & ~mask


def settings_of(row: JobRun) -> dict[str, Any]:
    """The recipe's fields that have a value."""
    recipe = row.recipe or {}
    return {name: value for name, value in recipe.items() if name not in LEFT_OUT and value is not None}


def rendered(publishing: Publishing, job: str, row: JobRun) -> str:
    """The text of the file."""
    settings = {publishing.keys.get(name, name): value for name, value in settings_of(row).items()}
    if publishing.format == "hydra":
        return " ".join(f"{key}={_override(value)}" for key, value in settings.items()) + "\n"
    about: dict[str, Any] = {
        "job": job,
        "study": row.study,
        "period": row.period,
        "finished": row.finished,
        "verdict": row.verdict or "searched",
        "metric": row.metric,
        "value": row.value,
        "band": None if row.band is None else list(row.band),
    }
    if publishing.format == "json":
        return json.dumps({**settings, "found": about}, indent=2, allow_nan=False) + "\n"
    lines = [f"{_key(key)} = {_toml(value)}" for key, value in settings.items()]
    lines += ["", "[found]", *(f"{key} = {_toml(value)}" for key, value in about.items() if value is not None)]
    return "\n".join(lines) + "\n"


def _key(text: str) -> str:
    """Dotted keys stay dotted: ``optimizer.lr`` is the key ``lr`` of the table ``optimizer``."""
    return text if all(BARE.fullmatch(part) for part in text.split(".")) else _toml(text)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        return json.dumps(value)  # a basic string of TOML's; control characters are escaped the same way
    return repr(value)


def _override(value: Any) -> str:
    """A value of Hydra's grammar of overrides: what is not a plain word is quoted."""
    if isinstance(value, str) and not re.fullmatch(r"[A-Za-z_][\w.-]*", value):
        return json.dumps(value.replace(", ", ","))  # without spaces, so that $(cat FILE) does not cut it
    return repr(value) if isinstance(value, float) else str(value)
