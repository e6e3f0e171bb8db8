"""docs/cli.md is the command's own help, and names every key of a study file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lrtune.config.study_file import schema

ROOT = Path(__file__).parents[2]


def test_the_page_is_current() -> None:
    ran = subprocess.run(
        [sys.executable, "docs/generate_cli.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_the_page_names_every_key() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    assert [option.name for option in schema() if option.table and f"`{option.name}`" not in page] == []
