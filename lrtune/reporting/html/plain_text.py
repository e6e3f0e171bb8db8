"""The answer in words: what the first screen of the page says, and what terminals and logs get."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lrtune.core.numpy_errors import own_errstate
from lrtune.core.outcome import Outcome
from lrtune.reporting.tables.trials import findings, has_no_effect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.core.records import StudyRecord, TrialRecord
    from lrtune.reporting.diagnosis import Finding

__all__ = ["AnswerText", "answer", "number", "plain", "sentence", "text"]

DIGITS = 3
CLEARLY_MORE = 1.05  # times a learning rate: less is the same one, rounded
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
    """What the first screen says, each part as text without markup; None or empty where there is nothing to say.

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
    cost, trials
        What was paid, and how the trials ended.
    findings
        What the study shows, the gravest first.
    warnings
        Of the search and of the trainer.
    """

    lr: str | None
    nothing: str
    value: str | None
    settings: Sequence[tuple[str, str]]
    band: str
    edge: str
    cost: str
    trials: str
    findings: Sequence[Finding]
    warnings: Sequence[str]


def answer(record: StudyRecord) -> AnswerText:
    """The parts of the answer."""
    best = record.best
    counts = record.counts()
    inert = has_no_effect(record)
    found = findings(record)
    said = [*(str(w) for w in record.result.get("warnings") or ()), *record.notices]
    return AnswerText(
        lr=None if best is None or inert else number(best.recipe.lr),
        nothing="any: all runs are equal" if inert else "none yet: nothing was trained to its end",
        value=None if best is None else number(best.value, 4),
        settings=[] if best is None else settings(best.recipe),
        band=_band(record),
        edge=_edge(record),
        cost=_plural(round(float(record.result.get("cost") or record.cost), 2), "full training"),
        trials=", ".join(f"{counts[key]:,} {word}" for key, word in COUNTED.items() if counts.get(key)) or "none yet",
        findings=found,
        warnings=[w for w in dict.fromkeys(said) if not any(w.startswith(f.kind.value) for f in found)],
    )


def settings(recipe: Recipe) -> list[tuple[str, str]]:
    """The recipe but for its learning rate, as names and texts."""
    found: list[tuple[str, Any]] = [
        ("batch size", recipe.batch_size),
        ("schedule", recipe.schedule),
        ("warmup", _warmup(recipe.warmup)),
    ]
    found += [(name.replace("_", " "), getattr(recipe, name)) for name in ("optimizer", "momentum", "weight_decay")]
    found += [("layer decay", recipe.layer_decay), ("epochs", recipe.epochs)]
    return [(name, f"{v:g}" if isinstance(v, float) else str(v)) for name, v in found if v is not None]


def _warmup(warmup: float) -> str | None:
    if warmup == 0:
        return None
    return f"{warmup:g} steps" if warmup >= 1 else f"{100 * warmup:g} % of the steps"


def _band(record: StudyRecord) -> str:
    band = record.result.get("band") or {}
    low, high = band.get("low"), band.get("high")
    if low is None or high is None:
        return "not known yet"
    return f"{number(float(low))} to {number(float(high))}"


def _edge(record: StudyRecord) -> str:
    edge = record.result.get("edge") or {}
    at, low, high = (edge.get(name) for name in ("lr", "low", "high"))
    if at is None:
        return "not located" if low is None else f"none seen{_lived(record, float(low))}"
    if low is None or high is None:
        return f"about {number(float(at))}"
    return f"about {number(float(at), 2)} ({number(float(low), 2)} to {number(float(high), 2)})"


def _lived(record: StudyRecord, low: float) -> str:
    """Up to where full trainings live, and up to where others at the best one's batch size were tried and live, too."""
    size = (record.result.get("best") or {}).get("batch_size")
    alive = [r.recipe.lr for r in record.records if r.recipe.batch_size == size and r.curve and not _died(r)]
    most = max(alive, default=low)
    if most <= CLEARLY_MORE * low:
        return f" up to {number(low)}"
    return f": full trainings up to {number(low)}, shorter or other runs up to {number(most)}"


def _died(record: TrialRecord) -> bool:
    return record.outcome is not None and record.outcome.diverged


def number(value: float | None, digits: int = DIGITS) -> str:
    """A number as people write it: 0.0312, 5e-05."""
    if value is None or not math.isfinite(value):
        return "none"
    return f"{value:.{digits}g}"


def _plural(amount: float, word: str) -> str:
    return f"{amount:g} {word}{'' if amount == 1 else 's'}"


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
    said = answer(record)
    if said.lr is None:
        head = [("learning rate", said.nothing)]
        head += [] if said.value is None else [(record.metric, f"{said.value} ({record.direction}d)")]
    else:
        head = [
            ("learning rate", f"{said.lr}"),
            ("with", ", ".join(f"{name} {value}" for name, value in said.settings)),
            (record.metric, f"{said.value} ({record.direction}d)"),
            ("as good", said.band),
        ]
    body = [("diverges from", said.edge), ("cost", said.cost), ("trials", said.trials)]
    stopped = record.result.get("stopped_because")
    body += [("stopped", str(stopped))] if stopped else []
    body += [
        (("verdict" if i == 0 else ""), f"{f.kind.value}: {f.why}; {f.advice}") for i, f in enumerate(said.findings)
    ]
    body += [("warning", warning) for warning in said.warnings]
    rows = [(plain(name, 24), plain(value)) for name, value in [*head, *body]]
    width = max(len(name) for name, _ in rows)
    return "\n".join([plain(record.name, 80), *(f"  {name.ljust(width)}  {value}" for name, value in rows)])


def completed(record: StudyRecord) -> int:
    """Trials that were trained to their end."""
    return sum(r.outcome is Outcome.COMPLETED for r in record.records)
