"""Every learning rate of a dense grid, trained in full: what lrtune's answer is held to.

    python studies/benchmarks/dense_sweep.py studies/digits-sgd/study.toml
    python studies/benchmarks/dense_sweep.py studies/digits-sgd/study.toml --compare lrtune-out/digits-sgd/result.json

The first command trains the grid with the study's own trainer, under each combination of its other settings,
and writes ``sweep.csv`` beside the study file, a row at a time: the same command again goes on. The second
reads it and prints what is lost by using the answer: (final - best) / (knowing nothing - best), where knowing
nothing is the untrained model or the best constant prediction, whichever is better.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrtune.config.study_file import read_study
from lrtune.core.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lrtune.config.study_file import StudyFile
    from lrtune.training.base import Trainer

CLOSE = 0.02
"""Normalised regret up to which an answer counts as found."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("study", type=Path, help="the study file")
    parser.add_argument("--points-per-decade", type=int, default=8)
    parser.add_argument("--lr", type=float, nargs=2, metavar=("LOW", "HIGH"), help="the space's range unless given")
    parser.add_argument("--out", type=Path, help="where the table is, sweep.csv beside the study file unless given")
    parser.add_argument("--compare", type=Path, nargs="+", metavar="RESULT", help="result.json files; trains nothing")
    told = parser.parse_args(arguments)
    study = read_study(told.study)
    table = told.out or told.study.parent / "sweep.csv"
    if told.compare:
        for path in told.compare:
            print(comparison(study, table, json.loads(path.read_text("utf-8"))))
        return
    low, high = told.lr or study.space.lr_range
    sweep(study, grid(low, high, told.points_per_decade), table)


def grid(low: float, high: float, points_per_decade: int) -> list[float]:
    """From `low` to `high`, both included, evenly on a log scale, rounded to four digits."""
    count = round(math.log10(high / low) * points_per_decade) + 1
    return [float(f"{lr:.4g}") for lr in np.geomspace(low, high, count)]


def recipes(study: StudyFile, lrs: Sequence[float]) -> Iterator[Recipe]:
    """Each learning rate under each combination of the other settings, all of one seed."""
    space = study.space
    choices = [_choices(name, space.distributions()[name]) for name in space.names if name != "lr"]
    others = [name for name in space.names if name != "lr"]
    for combination in itertools.product(*choices):
        for lr in lrs:
            params = {"lr": lr, **dict(zip(others, combination, strict=True))}
            yield space.recipe(params, epochs=study.settings.epochs, seed=study.settings.seed)


def _choices(name: str, distribution: Any) -> Sequence[Any]:
    if hasattr(distribution, "choices"):
        return list(distribution.choices)
    msg = f"{name} is a range; a sweep needs choices: give the study an array for it"
    raise SystemExit(msg)


def sweep(study: StudyFile, lrs: Sequence[float], table: Path) -> None:
    """Train what the table does not hold yet, and add it."""
    trainer = study.make_trainer()
    done = {row["key"] for row in rows(table)} if table.exists() else set()
    with table.open("a", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        if not done:
            out.writerow(["lr", "batch_size", "schedule", "warmup", "outcome", "value"])
            base = trainer.baseline(Recipe(lr=lrs[0]), study.settings.metric)
            for name, value in (("untrained", base.untrained), ("chance", base.chance)):
                out.writerow(["", "", "", "", name, "" if value is None else f"{value:.6g}"])
        for recipe in recipes(study, lrs):
            if _key(recipe) not in done:
                outcome, value = trained(trainer, recipe, study)
                out.writerow([*_key(recipe), outcome, f"{value:.6g}"])
                file.flush()


def _key(recipe: Recipe) -> tuple[str, ...]:
    return (f"{recipe.lr:.4g}", str(recipe.batch_size or ""), recipe.schedule, f"{recipe.warmup:g}")


def rows(table: Path) -> list[dict[str, Any]]:
    """The table, with the key of each recipe."""
    with table.open(encoding="utf-8", newline="") as file:
        return [
            {**row, "value": float(row["value"] or "nan"), "key": tuple(list(row.values())[:4])}
            for row in csv.DictReader(file)
        ]


def trained(trainer: Trainer, recipe: Recipe, study: StudyFile) -> tuple[str, float]:
    """How a full training ended, and the number that the study asks for; infinite where there is none."""
    rule, question = study.settings.value, study.settings
    run, values = trainer.start([recipe]), []
    outcome = ""
    try:
        while run.alive:
            for report in run.advance(trainer.steps_per_epoch(recipe)):
                values.append(report.point.values.get(question.metric, math.nan))
                outcome = report.outcome.key if report.outcome else ""
    finally:
        run.close()
    value = rule.of(np.array(values), "minimize" if question.direction == "minimize" else "maximize")
    return outcome, math.inf if value is None else value


def comparison(study: StudyFile, table: Path, result: dict[str, Any]) -> str:
    """One line: the answer, the sweep's best, and what is lost."""
    held = rows(table)
    sign = 1.0 if study.settings.direction == "minimize" else -1.0
    lost = regret(result["best"]["value"], held, sign)
    best = min((row for row in held if row["lr"]), key=lambda row: sign * row["value"])
    verdict = "within" if lost <= CLOSE else "NOT within"
    return (
        f"{result['study']}: lr {result['best']['lr']:.3g} gives {result['best']['value']:.5g} for "
        f"{result['cost']:.2f} full trainings; best of {sum(bool(row['lr']) for row in held)}: lr {best['lr']} gives "
        f"{best['value']:.5g}; normalised regret {lost:.4f}, {verdict} {CLOSE:.0%}"
    )


def regret(final: float, held: Sequence[dict[str, Any]], sign: float = 1.0) -> float:
    """What is lost by a final value: 0 at the sweep's best, 1 at knowing nothing."""
    best = min(sign * row["value"] for row in held if row["lr"])
    nothing = min(sign * row["value"] for row in held if not row["lr"] and not math.isnan(row["value"]))
    return (sign * final - best) / (nothing - best)


if __name__ == "__main__":
    main()
