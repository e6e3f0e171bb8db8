"""A job on disk that is quick to run: a bowl whose best learning rate a test can move, and a clock of its own."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lrtune.core.timestamps import utc
from lrtune.jobs import read_job
from lrtune.jobs.request import JobOutcome, JobRequest, state_path
from lrtune.jobs.runner import run
from lrtune.jobs.state import State, load
from lrtune.storage import open_storage

if TYPE_CHECKING:
    from pathlib import Path

    from optuna.storages import BaseStorage

    from lrtune.jobs import JobFile

MONDAY = utc("2026-01-05T00:05:00Z")
STUDY = """\
[study]
epochs = 25
[train]
trainer = "train.py:train"
[space]
lr = [1e-4, 10.0]
[search]
strategy = "grid"
points = 6
"""
TRAIN = """\
import json, math, pathlib, time
HERE = pathlib.Path(__file__).parent
def train(recipe):
    told = json.loads((HERE / "data.json").read_text())
    with (HERE / "trained.txt").open("a") as log:
        log.write(f"{recipe.lr!r}\\n")
    slow, fast = 1.0, 1.0
    for epoch in range(recipe.epochs):
        if told.get("fail"):
            raise RuntimeError("no data today")
        while told.get("held") and not (HERE / "go").exists():
            time.sleep(0.01)
        if told.get("sleep"):
            time.sleep(told["sleep"])
        slow *= 1 - recipe.lr * told["scale"] * 0.1
        fast *= 1 - recipe.lr * told["scale"]
        loss = slow * slow + fast * fast + 0.01
        yield {"valid_loss": loss if loss < 1e6 else math.nan}
"""
JOB = """\
[job]
name = "weekly"
study = "study.toml"
storage = "studies.db"
out = "out"
confirm = 0
{job}
[schedule]
every = "weekly"
{schedule}
[publish]
file = "lr.json"
{publish}
{more}
"""


@dataclass(slots=True)
class Folder:
    """The job's folder, its clock, and short ways to run it; its studies are in memory, the command's on disk."""

    path: Path
    now: dt.datetime = MONDAY
    log: list[str] = field(default_factory=list)
    storage: BaseStorage = field(default_factory=lambda: open_storage(None))

    def write(
        self, *, job: str = "", schedule: str = "", publish: str = "", more: str = "", study: str = STUDY
    ) -> None:
        """Write the three files."""
        (self.path / "study.toml").write_text(study)
        (self.path / "train.py").write_text(TRAIN)
        (self.path / "job.toml").write_text(JOB.format(job=job, schedule=schedule, publish=publish, more=more))
        self.data()

    def data(self, **told: Any) -> None:
        """What the data are like from now on."""
        (self.path / "data.json").write_text(json.dumps({"scale": 1.0, **told}))

    @property
    def job(self) -> JobFile:
        """The job."""
        return read_job(self.path / "job.toml")

    @property
    def state(self) -> State:
        """Its state on disk."""
        return load(state_path(self.job), self.job.name)

    @property
    def trained(self) -> int:
        """Runs that the user's code was asked for, ever."""
        file = self.path / "trained.txt"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def weeks(self, count: float) -> None:
        """Let time go by."""
        self.now += dt.timedelta(weeks=count)

    def run(self, **asked: Any) -> JobOutcome:
        """One run."""
        told = JobRequest(now=lambda: self.now, log=self.log.append, **asked)
        return run(self.job, lambda: self.storage, told)
