"""Full trainings until a fully trained recipe is as good as the dense sweep's best, over several seeds, for real.

    OMP_NUM_THREADS=1 python studies/benchmarks/seeds.py digits-mlp python-lm [--seeds 5] [--budget 4] [--oracle 12]

Each seed is a search of its own with the study's own trainer; beside it stands the recorded sweep
(``dense_sweep.py``). A cost counts all that was trained up to the end of the recipe that reached the threshold.
The best of a sweep is its luckiest training too: ``--oracle`` trains the sweep's own best recipe under so many other
seeds and says how far from the sweep they end, which no search can be expected to beat.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from dense_sweep import recipes, regret, rows, trained

import lrtune
from lrtune.config.study_file import read_study
from lrtune.core.outcome import Outcome
from lrtune.study.trials.study_reader import read

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.core.records import StudyRecord

STUDIES = Path(__file__).parents[1]
THRESHOLDS = (0.02, 0.01, 0.005)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("studies", nargs="+", metavar="STUDY", help="names of folders below studies/")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", type=float, default=4.0)
    parser.add_argument("--oracle", type=int, default=0, help="seeds under which the sweep's best recipe is trained")
    told = parser.parse_args(arguments)
    for name in told.studies:
        if told.oracle:
            oracle(name, told.oracle)
        costs = [searched(name, seed, told.budget) for seed in range(told.seeds)]
        middle = " / ".join(f"{median(column):.2f}" for column in zip(*costs, strict=True))
        print(f"{name}: median of {told.seeds} seeds to {' / '.join(f'{t:.1%}' for t in THRESHOLDS)}: {middle}")


def oracle(name: str, seeds: int) -> None:
    """How far from the sweep's best its own recipe ends under other seeds."""
    study, sweep = read_study(STUDIES / name / "study.toml"), rows(STUDIES / name / "sweep.csv")
    sign = 1.0 if study.settings.direction == "minimize" else -1.0
    best = min((row for row in sweep if row["lr"]), key=lambda row: sign * row["value"])
    settings = (best["batch_size"], best["schedule"], best["warmup"])
    same = (one for one in recipes(study, [float(best["lr"])]) if _settings(one) == settings)
    recipe, trainer = next(same), study.make_trainer()
    lost = sorted(regret(trained(trainer, recipe.with_seed(1 + k), study)[1], sweep, sign) for k in range(seeds))
    within = ", ".join(f"{sum(x <= t for x in lost)} within {t:.1%}" for t in THRESHOLDS)
    print(f"  {name}, the sweep's best recipe under {seeds} other seeds: median regret {median(lost):+.4f}; {within}")


def _settings(recipe: Recipe) -> tuple[str, str, str]:
    return (str(recipe.batch_size or ""), recipe.schedule, f"{recipe.warmup:g}")


def searched(name: str, seed: int, budget: float) -> list[float]:
    """The cost to each threshold under one seed; infinite where it was not reached."""
    study = read_study(STUDIES / name / "study.toml")
    told = study.arguments() | {"seed": seed, "budget": budget}
    result = lrtune.tune(study.make_trainer(), study.space, **told)
    sign = 1.0 if study.settings.direction == "minimize" else -1.0
    sweep = rows(STUDIES / name / "sweep.csv")
    ends = [(cost, regret(value, sweep, sign)) for cost, value in finished(read(result.study))]
    costs = [min((cost for cost, lost in ends if lost <= t), default=math.inf) for t in THRESHOLDS]
    print(f"  {name}, seed {seed}: " + ", ".join(f"{cost:.2f} -> {lost:+.4f}" for cost, lost in ends))
    return costs


def finished(record: StudyRecord) -> list[tuple[float, float]]:
    """(Full trainings paid by then, value) of each complete trial, in the order of their ends."""
    pieces = [(piece.at + piece.seconds, piece.epochs) for one in record.records for piece in one.segments]
    done = [one for one in record.records if one.outcome is Outcome.COMPLETED and one.value is not None]
    ends = [(max(piece.at + piece.seconds for piece in one.segments), float(one.value or 0.0)) for one in done]
    return [(sum(epochs for at, epochs in pieces if at <= end) / record.epochs, value) for end, value in sorted(ends)]


if __name__ == "__main__":
    main()
