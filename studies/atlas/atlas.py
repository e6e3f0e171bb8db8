"""Trains the tables of the atlas, by default all of them, and writes one file for each family.

    python studies/atlas/atlas.py [--families cnn,gru] [--processes 2] [--out studies/atlas/tables]

A family that has its file already is left out; delete the file to train it anew.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from plan import FAMILIES, Training, trainings
from rich.console import Console
from rich.progress import track
from train import table


def made(training: Training) -> tuple[dict[str, Any], float]:
    """The table and the seconds that it took, on one thread."""
    torch.set_num_threads(1)
    begun = time.perf_counter()
    return table(training), time.perf_counter() - begun


def main() -> None:
    """Train, family by family, the tables of each side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", default=",".join([*FAMILIES, "joint"]))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "tables")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(options.processes) as pool:
        for family in options.families.split(","):
            target = options.out / f"{family}.npz"
            if target.exists():
                continue
            plan = trainings(family)
            jobs = pool.map(made, plan)
            tables = list(track(jobs, total=len(plan), description=family, console=Console(stderr=True)))
            specs = {one.name: one.spec for one in plan}
            arrays = {
                f"{one.name}/{name}": values
                for one, (found, _) in zip(plan, tables, strict=True)
                for name, values in found.items()
            }
            np.savez_compressed(target, specs=json.dumps(specs), **arrays)
            print(f"{family}: {len(plan)} tables, {sum(seconds for _, seconds in tables):.0f} s of one core")


if __name__ == "__main__":
    main()
