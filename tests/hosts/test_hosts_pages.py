"""The programs of docs/hosts run as they stand, and the pages say what is so."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

import re
import subprocess
import sys
from typing import TYPE_CHECKING

from layering import ROOT

from lrtune.integrations.hugging_face_trainer.arguments import REFUSED, REPLACED

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.hosts

PROGRAMS = ROOT / "docs" / "hosts"
PAGE = (ROOT / "docs" / "howto" / "hugging-face.md").read_text()
FOUND = re.compile(r"learning rate (\S+), valid_loss (\S+)\n")


def ran(name: str, folder: Path) -> re.Match[str]:
    command = [sys.executable, "-W", "error", str(PROGRAMS / name)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = FOUND.search(done.stdout)
    assert found is not None, done.stdout
    return found


@pytest.mark.parametrize("name", ["hugging_face.py", "accelerate_loop.py"])
def test_a_program_finds_a_learning_rate(name: str, tmp_path: Path) -> None:
    assert float(ran(name, tmp_path)[2]) < 0.2, "0.69 is a guess"
    assert [path.name for path in tmp_path.rglob("*")] in ([], ["out"]), "nothing but the empty folder of the Trainer"


def test_the_way_by_hand_runs(tmp_path: Path) -> None:
    ran("hugging_face_by_hand.py", tmp_path)


def test_the_table_counts_lines() -> None:
    counts = {name: lines(name) for name in ("hugging_face_by_hand.py", "hugging_face.py")}
    assert f"| lines | {counts['hugging_face_by_hand.py']} | {counts['hugging_face.py']} |" in PAGE
    assert counts["hugging_face.py"] <= 6


def lines(name: str) -> int:
    """What one writes: neither blank lines nor the import of what is there already."""
    return sum(bool(line.strip()) and "my_training" not in line for line in (PROGRAMS / name).read_text().splitlines())


def test_the_page_names_every_argument() -> None:
    for name in (*REPLACED, *REFUSED):
        assert f"`{name}`" in PAGE
