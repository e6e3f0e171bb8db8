"""``lrtune compare``: several strategies on one study, at equal budget."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path  # noqa: TC003 -- typer reads the annotations at run time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lrtune.cli.console import note, own_stdout, say, say_json
from lrtune.cli.options import Out, Quiet, Storage, StudyPath, add_command, default_out, here
from lrtune.config.study_file import schema
from lrtune.core.files import clean, make_folder, write_atomically
from lrtune.core.outcome import Outcome

if TYPE_CHECKING:
    import pandas as pd

    from lrtune.core.records import StudyRecord
    from lrtune.study.comparison import Comparison
    from lrtune.study.events import Observer, Progress

__all__ = ["register"]

SHOWN = "freeze-thaw,tpe,random,grid,top-k,optuna, and prodigy,schedule-free-adamw where they can train the study"


def register(app: typer.Typer) -> None:
    """Add the command."""
    options = {option.name: option for option in schema()}
    budget = dataclasses.replace(options["budget"], help="Full trainings that each may spend; 6 unless given.")
    add_command(app, "compare", compare, seeds=[budget, options["epochs"]])


def compare(
    study: StudyPath,
    *,
    strategies: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Strategies to compare.", show_default=SHOWN)
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Searches of each.")] = 3,
    given: dict[str, Any],
    storage: Storage = None,
    out: Out = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the figures as JSON, and nothing else, on stdout.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Compare strategies on one study; the same command again goes on where it stopped."""
    from lrtune.config.study_file import read_study
    from lrtune.storage import open_storage, resolve_storage
    from lrtune.study.comparison import compare as run

    file, start = read_study(study, given), here()
    folder = out or default_out(file.settings.name)
    make_folder(folder)
    names = None if strategies is None else [name.strip() for name in strategies.split(",") if name.strip()]
    question = {k: v for k, v in file.arguments().items() if k not in {"strategy", "trials", "timeout", "name"}}
    with own_stdout():
        trainer = file.make_trainer()
        os.chdir(start)  # the user's code may have gone elsewhere while it was loaded
        found = run(
            trainer,
            file.space,
            strategies=names,
            seeds=seeds,
            storage=open_storage(resolve_storage(storage) or str(folder / "compare.db")),
            name=file.settings.name,
            observer=None if quiet else _watch,
            **question,
        )
        os.chdir(start)  # or while it was trained
        page = _write(found, file.settings.name, folder)
    if not quiet:
        for sentence in found.left_out:
            note(f"left out: {sentence}")
    if json:
        say_json(clean(_plain(found)))
        return
    say(_table(found.table()))
    say(f"\n{found.verdict()}\n\nfigure   {page}\nnumbers  {folder / 'compare.json'}")


def _watch(strategy: str, seed: int) -> Observer:
    note(f"{strategy}, seed {seed}")

    def watch(progress: Progress) -> None:
        for ended in progress.ended:
            outcome = ended.outcome or Outcome.INTERRUPTED
            value = "" if ended.value is None else f", {progress.metric} {ended.value:.5g}"
            note(f"  {progress.spent:.2f}  lr {ended.recipe.lr:.3g}: {outcome.value}{value}")

    return watch


def _plain(found: Comparison) -> dict[str, Any]:
    return {
        "budget": found.budget,
        "best": found.best,
        "verdict": found.verdict(),
        "left_out": list(found.left_out),
        "table": _rows(found.table()),
        "runs": _rows(found.runs()),
    }


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as JSON; never reached is null."""
    return [
        {str(k): None if v == float("inf") else v for k, v in row.items()} for row in table.to_dict(orient="records")
    ]


def _write(found: Comparison, name: str, folder: Path) -> Path:
    """``compare.json``, and the page of the comparison."""
    import json

    from lrtune.reporting import html

    write_atomically(folder / "compare.json", json.dumps(clean(_plain(found)), indent=2, allow_nan=False) + "\n")
    searches: dict[str, list[StudyRecord]] = {}
    for (strategy, _), record in found.records.items():
        searches.setdefault(strategy, []).append(record)
    page = folder / "compare.html"
    compared = html.Compared(
        name=name,
        searches=searches,
        best=found.best,
        budget=found.budget,
        verdict=found.verdict(),
        rows=_cells(found.table()),
        notes=found.left_out,
    )
    html.write_comparison(compared, page)
    return page


def _cells(table: pd.DataFrame) -> list[list[str]]:
    """The table as text, its head first."""
    rows = [["strategy", "spent", "regret", *[str(name) for name in table.columns if name.startswith("cost to")]]]
    for _, row in table.iterrows():
        costs = [f"{row[name]:.2f}" if row[name] < float("inf") else "never" for name in rows[0][3:]]
        regret = f"{row['regret']:.4f}" if row["regret"] < float("inf") else "none"
        rows.append([str(row["strategy"]), f"{row['cost']:.2f}", regret, *costs])
    return rows


def _table(table: pd.DataFrame) -> str:
    rows = _cells(table)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
