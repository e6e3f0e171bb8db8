"""The report of a study of 10,000 recorded trials: seconds, megabytes beyond plotly, and memory.

    python studies/benchmarks/report_10000.py [--trials 10000] [--epochs 27]

The study is simulated: joint space, a third pruned or diverged, every curve recorded in full with both losses.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from plotly.offline import get_plotlyjs  # noqa: E402 -- after the path is set
from recorded import simulated  # noqa: E402 -- found beside the tests

from lrtune.reporting import html  # noqa: E402

MOST_SECONDS, MOST_MEGABYTES = 20.0, 8.0


def memory() -> float:
    """Largest resident set so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=27)
    parser.add_argument("--out", type=Path, help="keep the page here")
    options = parser.parse_args()
    study = simulated(options.trials, epochs=options.epochs, seed=1)
    points = sum(len(record.curve) for record in study.records)
    before = memory()
    with tempfile.TemporaryDirectory() as folder:
        path = options.out or Path(folder) / "report.html"
        start, busy = time.perf_counter(), time.process_time()
        html.write(study, path)
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        size = (path.stat().st_size - len(get_plotlyjs().encode())) / 1e6
    print(f"trials                  {options.trials:,} with {points:,} reports; {study.counts()}")
    print(f"written in              {seconds:.1f} s, {busy:.1f} s of them of a processor (allowed: {MOST_SECONDS:g})")
    print(f"page beyond plotly      {size:.2f} MB (allowed: {MOST_MEGABYTES:g})")
    print(f"memory for the report   {memory() - before:.0f} MB above the {before:.0f} MB of the study itself")


if __name__ == "__main__":
    main()
