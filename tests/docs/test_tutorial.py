"""The tutorial's programs run as they stand, in an empty folder, with warnings as errors."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from layering import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PROGRAMS = sorted((ROOT / "docs" / "tutorial").glob("*.py"))
SAID = {
    "learning_rate_search": r"eta0 0\.\d+.*\nthree folds: 0\.9.*\ngrid: .*'l[12]'.* accuracy 0\.9",
    "own_loop": r"learning rate 0\.\d+, loss 0\.0",
    "optuna_objective": r"[1-9]\d* pruned, 0 failed",
    "pytorch": r"the same answer: True\n\d+ trials in digits\.db",
    "range_test": r"search between",
    "scikit_learn": r"accuracy 0\.9",
}


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_a_program_of_the_tutorial_runs(program: Path, tmp_path: Path) -> None:
    told = [sys.executable, "-W", "error", str(program)]
    done = subprocess.run(told, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(SAID[program.stem], done.stdout), done.stdout


def test_the_pages_show_every_program() -> None:
    pages = "".join(page.read_text() for page in (ROOT / "docs").rglob("*.md"))
    shown = re.findall(r'--8<-- "tutorial/(\w+)\.py"', pages)
    assert sorted(shown) == [program.stem for program in PROGRAMS] == sorted(SAID)
