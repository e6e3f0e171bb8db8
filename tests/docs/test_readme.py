"""What the README shows is what happens: its numbers are recorded, its program runs, its commands exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from layering import ROOT

from lrtune.config.user_code import load

if TYPE_CHECKING:
    from pathlib import Path

README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<body>.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = [(found["language"], found["body"]) for found in BLOCK.finditer(README)]
PICTURE = re.compile(r"!\[(?P<words>[^\]]*)\]\((?P<path>[^)]+)\)")


def record(name: str) -> Any:
    return load(f"studies/record.py:{name}", ROOT, where="test")


def test_what_is_generated_is_up_to_date() -> None:
    """The first study's answer and the table of studies; if not: python studies/record.py --out OUT."""
    assert record("front")(README) == README
    assert "lost" in README.partition("<!-- studies -->")[2]
    assert "learning rate" in README.partition("<!-- answer -->")[2]


def test_the_table_says_what_the_studies_say() -> None:
    shown = re.findall(r"^\| \[(?P<name>[\w-]+)\].* (?P<lost>-?[\d.]+)% \|$", README, re.MULTILINE)
    assert [name for name, _ in shown] == ["digits-sgd", "digits-mlp", "diabetes-sgd-regressor", "python-lm", "hf-bert"]
    assert all(float(lost) <= 2.0 for _, lost in shown)
    for name, lost in shown:
        told = re.search(r"normalised regret (-?[\d.]+)", (ROOT / "studies" / name / "README.md").read_text())
        assert told is not None
        assert float(lost) == pytest.approx(100 * float(told[1]), abs=0.051)


def test_the_python_program_runs(tmp_path: Path) -> None:
    programs = [body for language, body in BLOCKS if language == "python"]
    assert len(programs) == 1
    told = [sys.executable, "-W", "error", "-c", programs[0]]
    done = subprocess.run(told, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    assert re.match(r"[\d.e-]+ [\d.]+ ", done.stdout), done.stdout
    assert (tmp_path / "report.html").stat().st_size > 0


def test_every_lrtune_command_is_one_that_there_is() -> None:
    """Its subcommand and its options, from its own help."""
    commands = [re.sub(r"^.*(?=\.venv/bin/lrtune )\.venv/bin/", "", line) for _, body in shell() for line in body]
    ours = [shlex.split(line) for line in commands if line.startswith("lrtune ")]
    assert len(ours) >= 2
    for _, subcommand, *rest in ours:
        helped = subprocess.run(
            [sys.executable, "-m", "lrtune", subcommand, "--help"],
            capture_output=True,
            text=True,
            check=True,
            env={"COLUMNS": "200", "PATH": "", "NO_COLOR": "1"},
        ).stdout
        assert all(word in helped for word in rest if word.startswith("--"))


def shell() -> list[tuple[str, list[str]]]:
    return [(language, body.strip().splitlines()) for language, body in BLOCKS if language == "sh"]


def test_two_commands_stand_where_the_build_looks_for_them() -> None:
    section = README.partition("## Two commands")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("python3 -m venv")]
    assert len(lines) == 2
    assert lines[0].endswith("lrtune optimize studies/digits-sgd/study.toml")
    assert "python -m pytest" in lines[1]


def test_pictures_are_there_and_described() -> None:
    pictures = list(PICTURE.finditer(README))
    assert pictures
    for picture in pictures:
        assert (ROOT / picture["path"]).stat().st_size < 60_000
        assert len(picture["words"]) > 20
