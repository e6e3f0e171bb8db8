"""Versions and hardware, recorded with a study to repeat it; read without importing the packages."""

from __future__ import annotations

import functools
import os
import platform
from importlib import metadata

__all__ = ["environment"]

PACKAGES = ("lrtune", "optuna", "torch", "scikit-learn", "numpy", "scipy", "pandas")


@functools.cache
def environment() -> dict[str, str]:
    """Versions of Python and of the packages that train, operating system and number of cores, as texts by name."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    found["system"] = f"{platform.system()} {platform.release()} on {platform.machine()}"
    found["cores"] = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    return found
