"""The pictures in docs/: the report of a real study, as Chromium shows it.

With LRTUNE_PICTURES set to a folder (``docs/img``) they are written there; else they are only taken.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from browsing import DESKTOP, PHONE, browser, missing

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "studies" / "digits-mlp" / "study.toml"
PICTURES = ("report", "report-dark", "report-phone")
SMALL = 150_000

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of digits-mlp: a joint space, some of it diverged."""
    out = tmp_path_factory.mktemp("out")
    command = [sys.executable, "-m", "lrtune", "optimize", str(STUDY), "--out", str(out), "--budget", "14", "--quiet"]
    subprocess.run([*command, "--strategy", "tpe"], check=True, cwd=ROOT, capture_output=True, timeout=280)
    return out / "report.html"


def test_the_report_of_a_real_study_as_it_is_seen(page: Path, tmp_path: Path) -> None:
    assert re.search(r"\d+ diverged", page.read_text(encoding="utf-8"))
    folder = Path(os.environ.get("LRTUNE_PICTURES", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    with browser(tmp_path) as chromium:
        for name in PICTURES:
            chromium.open(page, PHONE if "phone" in name else DESKTOP, dark="dark" in name)
            assert chromium.draw_all() >= 10
            chromium.shot(folder / f"{name}.png")
            assert chromium.console() == []
            assert [url for url in chromium.requests() if not url.startswith("file:")] == []
    for name in PICTURES:
        picture = (folder / f"{name}.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert 10_000 < len(picture) < SMALL, f"{name}: {len(picture):,} bytes"


def test_the_pictures_in_the_docs_are_small_and_there() -> None:
    for name in PICTURES:
        file = ROOT / "docs" / "img" / f"{name}.png"
        assert 10_000 < file.stat().st_size < SMALL
        assert file.read_bytes().startswith(b"\x89PNG")
