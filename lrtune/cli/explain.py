"""``lrtune explain``: the learning rate that a schedule sets at every update, drawn; nothing is trained."""

from __future__ import annotations

import json as jsonlib
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lrtune.cli.console import own_stdout, say, say_json
from lrtune.cli.options import Name, Out, Storage, add_command, here
from lrtune.errors import InputError

if TYPE_CHECKING:
    from lrtune.reporting.explain import AppliedSchedule

__all__ = ["register"]

WIDEST = 90
NEAR = 0.25  # of the peak: what differs by more is no help
MARGIN = 12


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, "explain", explain)


def explain(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[WHAT]",
            help="A DeepSpeed configuration, TrainingArguments, a trainer_state.json or a result.json of lrtune's; a "
            "Python file and a name in it, as train.py:make_scheduler, for a scheduler, a schedule, an optimizer, or a "
            "function that makes one; or a study file, for its best trial.",
        ),
    ] = None,
    *,
    schedule: Annotated[
        str | None, typer.Option(help="A schedule of lrtune's, e.g. cosine or cosine(floor=0.1), in place of WHAT.")
    ] = None,
    warmup: Annotated[
        float, typer.Option(help="Its linear warmup: a fraction of the updates, or from 1 on a number of them.")
    ] = 0.0,
    lr: Annotated[
        float | None, typer.Option(help="The learning rate that is scheduled, where WHAT does not say.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer updates of the run, where WHAT does not say.")] = None,
    every: Annotated[
        int | None, typer.Option(help="Updates between two steps of the scheduler: those of an epoch, usually.")
    ] = None,
    accumulate: Annotated[
        int | None, typer.Option(help="Micro-batches to an update, where the schedule is asked or stepped for each.")
    ] = None,
    name: Name = None,
    storage: Storage = None,
    out: Out = None,
    json: Annotated[bool, typer.Option("--json", help="Print every rate as JSON, and nothing else.")] = False,
) -> None:
    """Draw the learning rate that a schedule really sets at every update, and say what is odd about it."""
    if (what is None) == (schedule is None):
        msg = "explain: give a file or a name, or a schedule of lrtune's with --schedule, and not both"
        raise InputError(msg)
    from lrtune.reporting.explain import schedule_of

    with own_stdout():
        if schedule is not None:
            from lrtune.core.recipe import Recipe

            used: Any = Recipe(lr=1.0 if lr is None else lr, schedule=schedule, warmup=warmup)
        elif warmup:
            msg = "explain: --warmup belongs to --schedule; a file says its own"
            raise InputError(msg)
        elif str(what).endswith(".toml"):
            used, counted = _best(Path(str(what)), name, storage, out)
            steps = counted if steps is None else steps
        else:
            used = _given(str(what))
        found = schedule_of(used, steps=steps, lr=lr, every=every, accumulate=accumulate)
    if json:
        say_json(found.to_json())
    else:
        say(_text(found))


def _given(what: str) -> Any:
    """A configuration in JSON, or what a name in the user's code names."""
    if ":" in what and not what.endswith(".json"):
        from lrtune.config.user_code import load_made

        return load_made(what, here(), where="explain")
    path = Path(what)
    if path.suffix != ".json":
        msg = f"explain: WHAT is a .json or .toml file, or like train.py:make_scheduler (got {what!r}); change it"
        raise InputError(msg)
    try:
        found = jsonlib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        msg = f"explain: {what} cannot be read as JSON ({reason}); give a file that holds one object"
        raise InputError(msg) from None
    if not isinstance(found, dict):
        msg = f"explain: {what} holds a {type(found).__name__}; give a file that holds one object"
        raise InputError(msg)
    return found


def _best(file: Path, name: str | None, storage: str | None, out: Path | None) -> tuple[Any, int | None]:
    """The best recipe of a stored study, and the updates of its run."""
    from lrtune.cli.study_lookup import load, located
    from lrtune.study.trials.study_reader import read

    place = located(file, name=name, storage=storage, out=out)
    best = read(load(place.storage, place.name)).best
    if best is None:
        msg = f"study {place.name!r} has no trial that completed; search on, or give --schedule"
        raise InputError(msg)
    return best.recipe, best.setup.get("steps")


def _text(found: AppliedSchedule) -> str:
    from lrtune.cli.chart import area
    from lrtune.reporting.explain.remarks import highest
    from lrtune.schedules import describe, parse
    from lrtune.study.progress_text import recipe

    top = highest(found.rates)
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower()
    width = min(shutil.get_terminal_size().columns, WIDEST) - MARGIN
    drawn = area(
        found.updates.tolist(),
        found.rates.tolist(),
        found.steps,
        width=max(width, 10),
        ascii_only=not encoding.startswith("utf"),
    )
    facts = [
        ("highest", f"{found.rates[top]:.4g} at update {found.updates[top]:,}"),
        ("first", f"{found.rates[0]:.4g}"),
        ("last", f"{found.rates[-1]:.4g} at update {found.updates[-1]:,}"),
    ]
    if found.recipe is not None:
        facts.append(("recipe", recipe(found.recipe)))
        facts.append(("", describe(parse(found.recipe.schedule))))
    else:
        facts.append(("recipe", "no schedule of lrtune's gives these rates"))
        if found.deviation < NEAR:
            off = f"off by up to {100 * found.deviation:.3g} % of the peak"
            facts.append(("nearest", f"{recipe(found.nearest)}: {off}"))
    lines = [f"{found.source}, {found.steps:,} updates", "", *drawn, ""]
    lines += [f"{key:<8} {value}" for key, value in facts]
    lines += [f"{'note' if not n else '':<8} {remark}" for n, remark in enumerate(found.remarks)]
    return "\n".join(lines)
