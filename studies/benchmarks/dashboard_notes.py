"""What a search pays for the dashboard's note and figures: ``python studies/benchmarks/dashboard_notes.py [SECONDS]``.

A search of so many seconds (60 unless given) in an SQLite file, with a generator whose epoch takes 20 ms, once with the
note kept current. Processor time is counted, so that other work on the machine does not: of writing, of importing what
draws (which the report needs at the end anyway), and of one dashboard's look at the study.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import optuna

import lrtune
from lrtune.integrations import optuna_dashboard

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrtune.core.recipe import Recipe

EPOCH_SECONDS = 0.02


def train(recipe: Recipe) -> Iterator[dict[str, float]]:
    """A basin around 0.1 that takes its time."""
    for epoch in range(recipe.epochs):
        time.sleep(EPOCH_SECONDS)
        yield {"valid_loss": 0.3 * (math.log10(recipe.lr) + 1) ** 2 + 0.1 + 2 * math.exp(-epoch / 4)}


def main(seconds: float) -> None:
    """Search, and print one line for each share."""
    before = time.process_time()
    optuna_dashboard._load()  # noqa: SLF001 -- it is what is measured
    imports = time.process_time() - before
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "study.db"
        notes = optuna_dashboard.Notes(file)
        began, space = time.monotonic(), lrtune.Space(lr=(1e-5, 10.0))
        result = lrtune.tune(
            train, space, epochs=27, strategy="random", timeout=seconds, budget=1e6, storage=file, observer=notes
        )
        took = time.monotonic() - began
        study = optuna.load_study(study_name="lrtune", storage=f"sqlite:///{file}")
        held = study._storage.get_study_system_attrs(study._study_id)  # noqa: SLF001 -- PyTorch has no public kernel
        size = sum(len(str(value)) for key, value in held.items() if key.startswith("dashboard:"))
    trials = sum(result.trials_by_outcome.values())
    print(f"{took:.1f} s, {trials} trials, {size / 1000:.0f} kB of note and figures")
    print(f"writing {notes.spent:.2f} s of processor time: {notes.spent / took:.2%} of the search")
    print(f"imports {imports:.2f} s, once, needed for the report as well")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0)
