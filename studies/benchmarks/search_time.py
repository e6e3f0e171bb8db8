"""The time of a whole search by `lrtune optimize` against that of an earlier build, in turn, and both answers.

    git worktree add ../before COMMIT
    python studies/benchmarks/search_time.py ../before [--study digits-mlp] [--rounds 3]

Both run with this Python and its packages, from their own checkout, on the same study file of this one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[2]


def searched(checkout: Path, study: Path) -> tuple[float, float, dict[str, Any]]:
    """Seconds by the clock and of the processors, and the answer."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "lrtune", "optimize", str(study), "--json", "--quiet", "--out", folder]
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        spent, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)  # noqa: S603 -- this Python, on checkouts that were named
        seconds, now = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = now.ru_utime + now.ru_stime - spent.ru_utime - spent.ru_stime
    return seconds, used, json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a checkout of the earlier build")
    parser.add_argument("--study", default="digits-mlp")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    study = HERE / "studies" / options.study / "study.toml"
    sides: dict[Path, list[tuple[float, float, dict[str, Any]]]] = {options.before.resolve(): [], HERE: []}
    for _ in range(options.rounds):
        for checkout, found in sides.items():
            found.append(searched(checkout, study))
    medians = {}
    for name, found in zip(("before", "now"), sides.values(), strict=True):
        seconds, used = (statistics.median(row[place] for row in found) for place in (0, 1))
        medians[name] = seconds
        told = found[-1][2]
        cost = f"{told['cost']:.2f} trainings" + (f" in {told['machine_time']:.2f}" if "machine_time" in told else "")
        answer = f"lr {told['best']['lr']:.4g}, {told['metric']} {told['best']['value']:.5g}"
        print(f"{name:8} {seconds:6.2f} s, {used:6.2f} s of the processors; {cost}; {answer}")
    print(f"now / before, by the clock: {medians['now'] / medians['before']:.2f}")


if __name__ == "__main__":
    main()
