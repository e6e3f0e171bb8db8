"""The answer as text: what the top of the page says, and what terminals and logs get."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lrtune.core.numpy_errors import own_errstate
from lrtune.core.outcome import Ending
from lrtune.reporting.diagnosis import findings
from lrtune.reporting.diagnosis.findings import percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.core.records import StudyRecord
    from lrtune.reporting.diagnosis import Finding

__all__ = ["AnswerText", "answer", "number", "plain", "sentence", "text"]

DIGITS = 3
SIGMAS = 2.0
"""Standard deviations of a difference beyond which it is none by chance (the 5 % level)."""

SETTINGS = ("batch_size", "schedule", "warmup", "optimizer", "momentum", "weight_decay", "layer_decay", "epochs")
COUNTED = {
    "completed": "trained to the end",
    "pruned": "stopped early",
    "diverged": "diverged",
    "out_of_memory": "out of memory",
    "interrupted": "interrupted",
    "failed": "failed",
    "open": "paused or running",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerText:
    """The answer, each part as text without markup; None or empty where there is nothing to say.

    Attributes
    ----------
    lr, value
        The learning rate to use, and what it reached.
    nothing
        Why there is no learning rate to use, where there is none.
    settings
        The rest of the recipe: name and text.
    band, edge
        From where to where it is as good; from where on runs diverge.
    sure
        The probability that it is as good as the best there is, and how far chance alone moves a result; None where
        nothing was compared.
    cost, trials
        What was paid, and how the trials ended.
    findings
        What the study shows, the most serious first.
    warnings
        Of the search and of the trainer.
    """

    lr: str | None
    nothing: str
    value: str | None
    settings: Sequence[tuple[str, str]]
    band: str
    edge: str
    sure: str | None
    cost: str
    trials: str
    findings: Sequence[Finding]
    warnings: Sequence[str]


def answer(record: StudyRecord) -> AnswerText:
    """The parts of the answer."""
    best = record.best
    counts = record.counts()
    inert = record.result.get("ending") == Ending.NO_EFFECT.key
    found = findings(record)
    cost = round(float(record.result.get("cost") or record.cost), 2)
    warnings = [*(str(w) for w in record.result.get("warnings") or ()), *record.notices]
    return AnswerText(
        lr=None if best is None or inert else number(best.recipe.lr),
        nothing="any: all runs are equal" if inert else "none yet: nothing was trained to its end",
        value=None if best is None else number(best.value, 4),
        settings=[] if best is None else settings(best.recipe),
        band=_band(record),
        edge=_edge(record),
        sure=_sure(record),
        cost=_cost(cost, record),
        trials=", ".join(f"{counts[key]:,} {word}" for key, word in COUNTED.items() if counts.get(key)) or "none yet",
        findings=found,
        warnings=[w for w in dict.fromkeys(warnings) if not any(w.startswith(f.kind.value) for f in found)],
    )


def settings(recipe: Recipe) -> list[tuple[str, str]]:
    """The recipe but for its learning rate, as names and texts."""
    values = {name: getattr(recipe, name) for name in SETTINGS} | {"warmup": _warmup(recipe.warmup)}
    shown = [(name.replace("_", " "), value) for name, value in values.items() if value is not None]
    return [(name, f"{value:g}" if isinstance(value, float) else str(value)) for name, value in shown]


def _warmup(warmup: float) -> str | None:
    if warmup == 0:
        return None
    return f"{warmup:g} steps" if warmup >= 1 else f"{100 * warmup:g} % of the steps"


def _cost(cost: float, record: StudyRecord) -> str:
    """Full trainings, and the time of how many they took, where runs were trained side by side."""
    shown = f"{cost:g} full training{'' if cost == 1 else 's'}"
    saved = record.cost - record.machine_time
    return shown if round(saved, 2) <= 0 else f"{shown}, in the time of {round(cost - saved, 2):g}"


def _band(record: StudyRecord) -> str:
    _, low, high = record.interval("band")
    return "not known yet" if low is None or high is None else f"{number(low)} to {number(high)}"


def _sure(record: StudyRecord) -> str | None:
    probability, noise = (record.result.get(name) for name in ("probability", "noise"))
    if probability is None:
        return None
    moved = "" if not noise else f"; chance alone moves a result by {number(float(noise), 2)} or more"
    return f"{percent(float(probability))} that it is within 2 % of the best there is{moved}{_tied(record)}"


def _tied(record: StudyRecord) -> str:
    """That the best learning rate and the next best cannot be told apart, where chance explains their difference."""
    best, noise = record.best, record.result.get("noise")
    others = [r for r in record.records if r.completed and best is not None and r.recipe.lr != best.recipe.lr]
    if best is None or not noise or not others:
        return ""
    next_best = min(others, key=lambda other: record.sign * float(other.value or 0.0))
    apart = record.sign * (float(next_best.value or 0.0) - float(best.value or 0.0))
    if apart > SIGMAS * math.sqrt(2) * float(noise):
        return ""
    return f"; {number(best.recipe.lr)} and {number(next_best.recipe.lr)} cannot be told apart by one run of each"


def _edge(record: StudyRecord) -> str:
    lr, low, high = record.interval("edge")
    if lr is None:
        return "not located" if low is None else f"not located: none up to {number(low)} did"
    if low is None or high is None:
        return f"about {number(lr)}"
    return f"about {number(lr, 2)} ({number(low, 2)} to {number(high, 2)})"


def number(value: float | None, digits: int = DIGITS) -> str:
    """A number as people write it: 0.0312, 5e-05."""
    if value is None or not math.isfinite(value):
        return "none"
    return f"{value:.{digits}g}"


def sentence(words: str) -> str:
    """These words with a capital letter and an end."""
    shown = f"{words[:1].upper()}{words[1:]}".strip()
    return shown if not shown or shown.endswith((".", "!", "?")) else f"{shown}."


def plain(value: object, most: int = 300, kept: str = "") -> str:
    """Text that a terminal can be trusted with: no control characters but those kept, not without end."""
    shown = "".join(c if c.isprintable() or c in kept else " " for c in str(value))
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


@own_errstate()
def text(record: StudyRecord) -> str:
    """The answer as a few lines, for terminals and logs; ends without a newline."""
    shown = answer(record)
    value = (record.metric, f"{shown.value} ({record.direction}d)")
    if shown.lr is None:
        rows = [("learning rate", shown.nothing), *([] if shown.value is None else [value])]
    else:
        settings = ", ".join(f"{name} {value}" for name, value in shown.settings)
        rows = [("learning rate", shown.lr), ("with", settings), value, ("as good", shown.band)]
        rows += [] if shown.sure is None else [("how sure", shown.sure)]
    rows += [("diverges from", shown.edge), ("cost", shown.cost), ("trials", shown.trials)]
    stopped = record.result.get("stopped_because")
    rows += [("stopped", str(stopped))] if stopped else []
    rows += [("" if i else "verdict", f"{f.kind.value}: {f.why}; {f.advice}") for i, f in enumerate(shown.findings)]
    rows += [("warning", warning) for warning in shown.warnings]
    rows = [(plain(name, 24), plain(value)) for name, value in rows]
    width = max(len(name) for name, _ in rows)
    return "\n".join([plain(record.name, 80), *(f"  {name.ljust(width)}  {value}" for name, value in rows)])
