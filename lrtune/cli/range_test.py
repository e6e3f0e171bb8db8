"""``lrtune range-test``: a range of learning rates to search, from sweeps of a few hundred steps."""

from __future__ import annotations

import json as jsonlib
import os
from typing import TYPE_CHECKING, Annotated

import typer

from lrtune.cli.console import note, own_stdout, say, say_json
from lrtune.cli.options import Out, StudyPath, add_command, default_out, here
from lrtune.core.files import clean, make_folder, write_atomically

if TYPE_CHECKING:
    from lrtune.search.lr_range.lr_range import RangeTest

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, "range-test", range_test)


def range_test(
    study: StudyPath,
    *,
    low: Annotated[float, typer.Option(help="Learning rate at which a sweep starts.")] = 1e-7,
    high: Annotated[float, typer.Option(help="Learning rate at which it ends.")] = 10.0,
    steps: Annotated[
        int | None, typer.Option(help="Optimizer steps of a sweep; at most 150, by the length of a full training.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Sweeps, each under a seed of its own.")] = 3,
    out: Out = None,
    json: Annotated[bool, typer.Option("--json", help="Print the range test as JSON, and nothing else.")] = False,
) -> None:
    """Sweep the learning rate over a few hundred steps: an interval to search, or that it is unreliable here."""
    from lrtune.config.study_file import read_study
    from lrtune.reporting.figures import sweeps
    from lrtune.search.lr_range.lr_range import central
    from lrtune.search.lr_range.lr_range import range_test as test

    file, start = read_study(study), here()
    recipe = central(file.space, epochs=file.settings.epochs, seed=file.settings.seed)
    with own_stdout():
        trainer = file.make_trainer()
        folder = out or default_out(file.settings.name)
        os.chdir(start)  # the user's code may have changed it while it was loaded
        make_folder(folder)
        found = test(trainer, low=low, high=high, steps=steps, seeds=seeds, recipe=recipe)
        os.chdir(start)  # or while it was trained
        page, numbers = folder / "range-test.html", folder / "range-test.json"
        write_atomically(page, sweeps(found).to_html(include_plotlyjs=True, full_html=True))
        write_atomically(numbers, jsonlib.dumps(clean(found.to_json()), indent=2, allow_nan=False) + "\n")
    if json:
        say_json(found.to_json())
        return
    for line in trainer.notices:
        note(f"lrtune: note: {line}")
    say(_text(found))
    say(f"figure   {page}\nnumbers  {numbers}")


def _text(found: RangeTest) -> str:
    """The answer in a few lines."""
    lines = [str(found)]
    if found.interval is not None:
        low, high = found.interval
        lines.append(f"In a study file: lr = [{low:.2g}, {high:.2g}]")
    lines += [f"seed {sweep.seed}: {sweep.ended}" for sweep in found.sweeps if sweep.ended]
    return "\n".join(lines)
