"""What it takes to repeat a study: versions and hardware, read without importing anything heavy."""

from __future__ import annotations

import functools
import os
import platform
from importlib import metadata

__all__ = ["environment"]

PACKAGES = ("lrtune", "optuna", "torch", "scikit-learn", "numpy", "scipy", "pandas")


def environment() -> dict[str, str]:
    """Name to readable text: versions of Python and of what trains, the machine's kind and its cores."""
    return dict(_found())


@functools.cache
def _found() -> dict[str, str]:  # what is installed does not change while it is in use
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    found["system"] = f"{platform.system()} {platform.release()} on {platform.machine()}"
    found["cores"] = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    return found
