"""What is installed is all that there is: modules, and the files that they read."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import pytest
from layering import PACKAGE, ROOT

if TYPE_CHECKING:
    from pathlib import Path


def test_every_file_of_the_package_is_in_the_wheel(tmp_path: Path) -> None:
    builder = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed").WheelBuilder
    (wheel,) = builder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as packed:
        names = {name for name in packed.namelist() if name.startswith("lrtune/")}
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert names == {path.relative_to(ROOT).as_posix() for path in files}
    assert "lrtune/reporting/html/templates/page.html.jinja" in names
