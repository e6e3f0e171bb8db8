"""docs/cli.md is the command's own help, and docs/files.md names every key of a study file."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from lrtune.config.study_file import Question, SearchTable, TrainTable

ROOT = Path(__file__).parents[2]


def test_the_page_is_current() -> None:
    ran = subprocess.run(
        [sys.executable, "docs/generate_cli.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("table", [Question, TrainTable, SearchTable])
def test_the_page_names_every_key(table: type) -> None:
    page = (ROOT / "docs" / "files.md").read_text()
    assert [field.name for field in dataclasses.fields(table) if f"`{field.name}`" not in page] == []
