"""What a second worker is worth: epochs a second of ``lrtune optimize --workers 2`` against one, on digits-mlp.

    python studies/benchmarks/workers.py [--rounds 3] [--budget 16] [--workers 2] [--strategy freeze-thaw]

Both are the real command, at the same budget and seed, each in a folder of its own, in turn, and the other way round
every second time; each process computes on one thread. The first ratio is of epochs trained over the time that the
whole command took, start-up, checkpoints and report included. The second is without start-up: of the same epochs
over the time from the beginning of the first segment of training to the end of the last, as the study has recorded
them. The machine should have nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import optuna

from lrtune.storage import open_storage
from lrtune.study.trials.study_reader import read

if TYPE_CHECKING:
    from collections.abc import Sequence

STUDY = Path(__file__).parents[1] / "digits-mlp" / "study.toml"
TARGET = 1.7
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass(frozen=True, slots=True)
class Throughput:
    """Epochs a second: of the whole command, and from the first segment of training to the last."""

    whole: float
    training: float


def searched(workers: int, *, budget: float, seed: int, strategy: str) -> Throughput:
    """One search through the command line."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"workers": workers, "budget": budget, "seed": seed, "strategy": strategy, "out": folder}
        flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "lrtune", "optimize", str(STUDY), "--json", "--quiet", *flags]
        began = time.perf_counter()
        done = subprocess.run(command, env=os.environ | ONE_THREAD, stdout=subprocess.PIPE, check=True)  # noqa: S603 -- our own
        took = time.perf_counter() - began
        epochs = float(json.loads(done.stdout)["epochs_trained"])
        result = Throughput(epochs / took, epochs / trained_for(Path(folder) / "study.db", workers))
    print(
        f"  {workers} worker{'s' * (workers > 1)}, seed {seed}: {epochs:.0f} epochs in {took:.1f} s, "
        f"{result.whole:.1f} epochs/s; without start-up {result.training:.1f} epochs/s"
    )
    return result


def trained_for(path: Path, workers: int) -> float:
    """Seconds from the beginning of the first segment of training to the end of the last."""
    study = optuna.load_study(study_name=None, storage=open_storage(path))
    segments = [segment for record in read(study).records for segment in record.segments]
    names = {segment.worker for segment in segments}
    if len(names) != workers:
        print(f"  {len(names)} of {workers} workers have trained")
    return max(segment.at + segment.seconds for segment in segments) - min(segment.at for segment in segments)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--budget", type=float, default=16.0, help="full trainings")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--strategy", default="freeze-thaw")
    options: Any = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print(f"digits-mlp, {options.strategy}, {options.budget:g} full trainings, {os.cpu_count()} cores")
    ratios = []
    for number in range(options.rounds):
        order = (1, options.workers) if number % 2 == 0 else (options.workers, 1)
        same = {"budget": options.budget, "seed": number, "strategy": options.strategy}
        found = {workers: searched(workers, **same) for workers in order}
        one, many = found[1], found[options.workers]
        ratios.append((many.whole / one.whole, many.training / one.training))
        print(f"round {number + 1}: {ratios[-1][0]:.2f} times the throughput, {ratios[-1][1]:.2f} without start-up")
    whole, training = (median(column) for column in zip(*ratios, strict=True))
    print(
        f"{options.workers} workers: {whole:.2f} times the throughput of one, {training:.2f} without start-up "
        f"(medians of {options.rounds}; wanted: {TARGET})"
    )


if __name__ == "__main__":
    main()
