"""CONTRIBUTING.md's recipes are true: each is followed in a copy of the package, and what it made is used.

The files to write and the lists to add to are read from the page; here stands only what goes into them.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from layering import PACKAGE, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

PAGE = (ROOT / "CONTRIBUTING.md").read_text()
WRITE = re.compile(r"Write `([^`]*NAME[^`]*)`")
ADD = re.compile(r"to\s+((?:`\w+`(?:,\s+|\s+and\s+)?)+)\s+in\s+`([\w./]+)`")
PATH = re.compile(r"`((?:lrtune|tests|docs)/[\w./]+)`")


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What the recipe of one kind is filled in with.

    Attributes
    ----------
    files
        Texts of the files to write, by their paths in the page.
    entries
        What is added, by the name of the list: an import (indented where it is for type checkers; or nothing), and
        the entry.
    """

    name: str
    files: Mapping[str, str]
    entries: Mapping[str, tuple[str, str]] = field(default_factory=dict)


TRAINER = '''
"""Gradient descent on half the square of x."""

from lrtune.core.curve import Point
from lrtune.core.outcome import Outcome
from lrtune.errors import InputError
from lrtune.training.base import Baseline, Report

__all__ = ["BowlTrainer"]


class BowlRun:
    def __init__(self, recipes):
        self.recipes, self.at, self.out = tuple(recipes), [[0, 1.0] for _ in recipes], set()

    @property
    def alive(self):
        left = [m for m, r in enumerate(self.recipes) if m not in self.out and self.at[m][0] < r.epochs]
        return tuple(left)

    def advance(self, steps, /, *, evaluate=True):
        return [self._train(member, steps) for member in self.alive]

    def _train(self, member, steps):
        recipe, place = self.recipes[member], self.at[member]
        for _ in range(min(steps, recipe.epochs - place[0])):
            place[0], place[1] = place[0] + 1, place[1] * (1 - recipe.lr)
        step, values = place[0], {"valid_loss": place[1] ** 2}
        point = Point(step=step, epoch=step, samples=step, lr=recipe.lr, values=values)
        return Report(member=member, point=point, outcome=Outcome.COMPLETED if step == recipe.epochs else None)

    def drop(self, members, /):
        self.out |= set(members)

    def state(self):
        return {"seeds": [r.seed for r in self.recipes], "at": [list(p) for p in self.at], "out": sorted(self.out)}

    def restore(self, state, /):
        if state.get("seeds") != [recipe.seed for recipe in self.recipes]:
            raise InputError("this state is of other recipes")
        self.at, self.out = [list(place) for place in state["at"]], set(state["out"])

    def suspend(self):
        pass

    def close(self):
        self.out |= set(range(len(self.recipes)))


class BowlTrainer:
    saves, notices = True, ()

    def start(self, recipes, /):
        return BowlRun(recipes)

    def steps_per_epoch(self, recipe, /):
        return 1

    def baseline(self, recipe, metric, /):
        return Baseline(untrained=1.0)

    def fingerprint(self):
        return {"work": "a bowl"}
'''

TRAINER_TEST = """
from trainer_contract import SavingContract, TrainerContract

import lrtune


class TestBowl(SavingContract, TrainerContract):
    recipes = (lrtune.Recipe(lr=0.1, epochs=7, seed=1), lrtune.Recipe(lr=0.01, epochs=9, seed=2))

    def trainer(self):
        return lrtune.BowlTrainer()


def test_it_is_searched_with():
    result = lrtune.tune(lrtune.BowlTrainer(), lrtune.Space(lr=(1e-3, 1.0)), epochs=9, budget=3.0)
    assert result.best_recipe.lr > 0.1
"""

STRATEGY = '''
"""The middle of the range, once."""

import math
from dataclasses import dataclass

from lrtune.search.base import Finish, Start

__all__ = ["Middle"]


@dataclass(frozen=True, kw_only=True)
class Middle:
    name: str = "middle"

    def next(self, context, /):
        if context.trials:
            return Finish(why="the middle is trained")
        return Start(params={"lr": math.sqrt(math.prod(context.space.lr_range))}, until=float(context.epochs))
'''

SCHEDULE = '''
"""Half of the peak from half of the run on."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lrtune.schedules.base import Schedule, number

__all__ = ["Halving"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Halving(Schedule):
    name: ClassVar[str] = "halving"
    left: float = number(0.5, 0.0, 1.0)

    def _multiplier(self, p):
        return np.where(p < 0.5, 1.0, self.left)

    def describe(self):
        return "is halved half-way"
'''

HOST = '''
"""Lines in a file, in place of a tool."""

from lrtune.integrations.trackers import Tracker

__all__ = ["DiaryTracker"]


class DiaryTracker(Tracker):
    def __init__(self, where, *, warn=print):
        super().__init__(warn)
        self.file = open(where, "a", buffering=1)

    def _trial(self, progress, ended):
        print(ended.number, file=self.file)

    def _answer(self, progress, result):
        print(result.best_recipe.lr, file=self.file)
        self.file.close()
'''

FIGURE = '''
"""How many epochs each trial trained."""

import plotly.graph_objects as go

__all__ = ["effort"]


def effort(record):
    return go.Figure(go.Bar(y=[trial.trained for trial in record.records]))
'''

MADE = {
    "A trainer": Made(
        name="bowl",
        files={"lrtune/training/NAME.py": TRAINER, "tests/unit/training/test_NAME.py": TRAINER_TEST},
        entries={
            "_HOMES": ("    from lrtune.training.bowl import BowlTrainer", '"training.bowl": ("BowlTrainer",)'),
            "__all__": ("", '"BowlTrainer"'),
        },
    ),
    "A strategy": Made(
        name="middle",
        files={"lrtune/search/baselines/NAME.py": STRATEGY},
        entries={"STRATEGIES": ("", '"middle": "baselines.middle:Middle"')},
    ),
    "A schedule": Made(
        name="halving",
        files={"lrtune/schedules/NAME.py": SCHEDULE},
        entries={
            "SCHEDULES": ("from lrtune.schedules.halving import Halving", "Halving"),
            "FORMULAS": (
                "from lrtune.schedules.halving import Halving",
                'Halving: lambda s: [f"return 1.0 if p < 0.5 else {s.left!r}"]',
            ),
            "SAME": ("", '("halving", lambda o, t: torch_schedulers.MultiStepLR(o, [t // 2], gamma=0.5))'),
        },
    ),
    "A host": Made(
        name="diary",
        files={"lrtune/integrations/NAME.py": HOST},
        entries={
            "NAMES": ("", '"diary": "Diary"'),
            "OptimizeCommand": ("", 'diary: Annotated[str | None, typer.Option(help="A file of lines.")] = None'),
        },
    ),
    "A figure": Made(
        name="effort",
        files={"lrtune/reporting/figures/NAME.py": FIGURE},
        entries={
            "__all__": ("from lrtune.reporting.figures.effort import effort", '"effort"'),
            "FIGURES": ("", '("effort", "Effort", "Epochs of each trial.", figures.effort)'),
        },
    ),
}

USES = r"""
import pytest

import lrtune


def train(recipe):
    for epoch in range(recipe.epochs):
        yield abs(recipe.lr - 0.01) / (1 + epoch)


SPACE = lrtune.Space(lr=(1e-3, 0.1))


def test_a_strategy_searches():
    result = lrtune.tune(train, SPACE, epochs=3, strategy="middle")
    assert len(result.study.trials) == 1
    assert abs(result.best_recipe.lr - 0.01) < 1e-9
    assert result.stopped_because == "the middle is trained"


def test_a_schedule_parses_is_listed_and_is_written_as_code():
    from lrtune.reporting.snippets import snippet
    from lrtune.schedules import SCHEDULES, parse

    assert "halving" in SCHEDULES
    assert parse("halving(left=0.25)")(0.75) == 0.25
    recipe = lrtune.Recipe(lr=0.1, epochs=4, schedule="halving", warmup=0.1)
    assert "return 1.0 if p < 0.5 else 0.5" in snippet(recipe)


def test_a_host_is_called(tmp_path):
    from lrtune.errors import InputError
    from lrtune.integrations.diary import DiaryTracker
    from lrtune.integrations.trackers import check

    with pytest.raises(InputError, match="Diary is not installed; install it with"):
        check("diary")
    diary = tmp_path / "diary.txt"
    result = lrtune.tune(train, SPACE, epochs=3, budget=2.0, observer=DiaryTracker(diary))
    *numbers, lr = diary.read_text().splitlines()
    assert float(lr) == result.best_recipe.lr
    assert sorted(map(int, numbers)) == list(range(len(result.study.trials)))


def test_a_host_has_its_option(tmp_path, monkeypatch):
    from lrtune import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "diary.py").write_text("")  # the package that it needs
    command = ("optimize", "--estimator", "sklearn.linear_model:SGDClassifier", "--data", "iris", "--epochs", "3")
    assert cli.run((*command, "--strategy", "random", "--trials", "1", "--quiet", "--diary", "lines.txt")) == 0
    assert len((tmp_path / "lines.txt").read_text().splitlines()) == 2


def test_a_figure_stands_in_the_report(tmp_path):
    from lrtune.reporting.figures import effort

    lrtune.tune(train, SPACE, epochs=3, strategy="middle").report(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Epochs of each trial." in page
    assert 'id="figure-effort"' in page
"""


KEPT = (
    "tests/support/layering.py",
    "tests/docs/test_hygiene.py",
    "tests/docs/test_layering.py",
    "tests/unit/schedules/test_schedules.py",
)
"""What the project says of the whole package, or of the whole of a list, said of the copy too."""


def recipes() -> Iterator[tuple[str, list[str]]]:
    """Title and lines of each recipe; a line that is broken in the page is one."""
    section = PAGE.partition("## Where something new goes")[2].partition("\n## ")[0]
    for title, text in re.findall(r"^### ([^\n]+)\n(.*?)(?=^### |\Z)", section, re.MULTILINE | re.DOTALL):
        yield title, [" ".join(line.split()) for line in re.split(r"^\d\. ", text, flags=re.MULTILINE)[1:]]


RECIPES = dict(recipes())


def test_there_is_a_recipe_of_three_lines_for_each_kind() -> None:
    assert list(RECIPES) == list(MADE)
    assert {title: len(lines) for title, lines in RECIPES.items()} == dict.fromkeys(MADE, 3)


@pytest.mark.parametrize("title", MADE)
def test_the_lines_name_what_is_there(title: str) -> None:
    paths = [path for line in RECIPES[title] for path in PATH.findall(line) if "NAME" not in path]
    assert len(paths) >= 2
    assert [path for path in paths if not (ROOT / path).exists()] == []


def added(text: str, symbol: str, entry: str, imported: str) -> str:
    """The source of a module with an entry more in a list, tuple or dict, or a field in a class, and an import more."""
    tree = ast.parse(text)
    lines = text.splitlines()
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == symbol:
            lines.insert(node.body[1].lineno - 1, f"    {entry}")  # the first is the docstring
            return "\n".join(lines) + "\n"
        names = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        if [getattr(name, "id", None) for name in names] == [symbol]:
            break
    else:
        pytest.fail(f"there is no {symbol}")
    literal = next(part for part in ast.walk(node.value) if isinstance(part, ast.Tuple | ast.List | ast.Dict))
    last = lines[literal.end_lineno - 1]
    before, after = last[: literal.end_col_offset - 1], last[literal.end_col_offset - 1 :]
    whole = "\n".join([*lines[: literal.end_lineno - 1], before]).rstrip()
    comma = "" if whole.endswith((",", "[", "{", "(")) else ","
    lines[: literal.end_lineno] = [*(whole + comma).splitlines(), f"    {entry},", after]
    if imported:
        top = next(node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module != "__future__")
        first = lines.index("if TYPE_CHECKING:") + 1 if imported.startswith(" ") else top.lineno - 1
        lines.insert(first, imported)
    return "\n".join(lines) + "\n"


def follow(title: str, folder: Path) -> None:
    """Do what the lines of a recipe say, in a copy of the project."""
    made = MADE[title]
    text = "\n".join(RECIPES[title])
    written, lists = WRITE.findall(text), ADD.findall(text)
    assert set(written) == set(made.files)
    named = {symbol: path for symbols, path in lists for symbol in re.findall(r"`(\w+)`", symbols)}
    assert set(named) == set(made.entries)
    for path, source in made.files.items():
        place = folder / path.replace("NAME", made.name)
        place.parent.mkdir(parents=True, exist_ok=True)
        assert not place.exists()
        place.write_text(source.lstrip())
    for symbol, path in named.items():
        imported, entry = made.entries[symbol]
        (folder / path).write_text(added((folder / path).read_text(), symbol, entry, imported))


def test_what_the_lines_say_is_all_there_is_to_do(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "lrtune", ignore=shutil.ignore_patterns("__pycache__"))
    for path in KEPT:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    for title in MADE:
        follow(title, tmp_path)
    (tmp_path / "tests" / "test_uses.py").write_text(USES)
    paths = [tmp_path, tmp_path / "tests" / "support", ROOT / "tests" / "contracts"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    made = " or ".join(made.name for made in MADE.values())
    quick = f"test_uses or Bowl or searched or every_schedule_is_compared or type_checkers or has_a_row or {made}"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "-k", quick]
    ran = subprocess.run(
        [*command, "--import-mode=importlib", "--rootdir", str(tmp_path), str(tmp_path / "tests")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr
    passed = re.search(r"(\d+) passed", ran.stdout)
    assert passed is not None
    assert int(passed[1]) > 25
