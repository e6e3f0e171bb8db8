"""Where CI is set nothing is left untried: what it installs is no reason to skip."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from layering import ROOT

if TYPE_CHECKING:
    from pathlib import Path

TESTS = """\
import pytest

@pytest.mark.skipif(True, reason="systemd-analyze is not installed")
def test_program(): ...

@pytest.mark.skipif(True, reason="no CUDA device")
def test_device(): ...

def test_package():
    pytest.importorskip("pyarrow.nonesuch")

def test_optional():
    pytest.importorskip("mlflow.nonesuch")
"""


@pytest.mark.parametrize(("ci", "failed"), [("true", 2), ("", 0)])
def test_a_missing_program_fails_where_ci_installs_it(tmp_path: Path, ci: str, failed: int) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "test_it.py").write_text(TESTS)
    environment = {
        **os.environ,
        "CI": ci,
        "PYTHONPATH": os.pathsep.join(str(ROOT / "tests" / part) for part in ("", "support", "contracts")),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert f"{4 - failed} skipped" in ran.stdout
    assert ran.returncode == bool(failed), ran.stdout
    assert ran.stdout.count("CI installs it") >= failed
