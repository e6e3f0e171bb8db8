"""The verdict on a study: the rules that find a clear answer, a likely one, or what is wrong with it.

The words ("a clear answer") are those of :class:`.findings.FindingKind`; :mod:`lrtune.reporting.answer_text` makes the
sentence.

They look at the range, the noise between seeds, the edge of divergence and the settings. Each finding carries its
numbers and a next step; the most serious one comes first.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from lrtune.core.effect import alike
from lrtune.core.numpy_errors import own_errstate
from lrtune.core.outcome import Ending, Outcome
from lrtune.reporting.diagnosis import features
from lrtune.reporting.diagnosis.findings import Finding, FindingKind, percent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.core.records import StudyRecord, TrialRecord

__all__ = ["findings"]

END_DECADES = 0.15  # a best this close to an end of the range may have a better one beyond it
ENOUGH_TRAININGS = 3  # full trainings; two agree by accident, three show which way it goes
MOSTLY = 0.5  # of all trials
NOISE_SIGMAS = 2.0  # two values this many standard deviations of their difference apart do differ
EDGE_FACTOR = 2.0  # a batch, a seed or a longer run move the edge by as much (Cohen et al. 2021)
DOUBLE = (1.6, 2.6)  # what counts as "twice its learning rate"
WIDER_DECADES = 0.2  # a factor of 1.6 in the highest usable learning rate
MIN_EITHER = 2  # of two kinds that are compared
MIN_EACH = 3  # trials on either side of a comparison
FEWEST_FOR_NOISE = 8  # reports
CLEAR, LIKELY = 0.9, 0.6  # probability of being as good as the best from which an answer is called so
NEIGHBOURHOOD = 0.5  # decades beside the best within which others show that it is the best
JUDGING = 0.05  # of a full training, from which a run shows so; as the band's (freeze_thaw.config: judging_from)


class _Study:
    """What the rules read of a study."""

    def __init__(self, record: StudyRecord, done: list[TrialRecord], noise: float | None) -> None:
        self.trials, self.done, self.sign, self.lr_range = record.records, done, record.sign, record.space.lr_range
        self.metric, self.epochs = record.metric, record.epochs
        given = record.result.get("probability")
        self.probability = None if given is None else float(given)
        self.best = min(done, key=self.value)
        self.best_lr = self.best.recipe.lr
        repeats = _repeat_noise(done)
        self.noise = repeats or _report_noise(record) or repeats if noise is None else noise
        self.settled = record.result.get("ending") == Ending.SETTLED.key
        self.edge, self.edge_low, _ = record.interval("edge")
        if self.edge is None and self.edge_low is None:  # given alone, edge_low says that no edge was found
            above = (t.recipe.lr for t in self.trials if t.diverged and t.recipe.lr > self.best_lr)
            self.edge = min(above, default=None)

    def value(self, trial: TrialRecord) -> float:
        """Smaller is better."""
        return self.sign * float(trial.value or 0.0)


@own_errstate()
def findings(record: StudyRecord, noise: float | None = None) -> list[Finding]:
    """What a study shows as a whole, the most serious first; never empty.

    Parameters
    ----------
    record
        The study.
    noise
        Standard deviation of a result under another seed. By default that between trials which differ in nothing else,
        where there are any, else that between the last reports of a trial, which is a lower bound.
    """
    if record.result.get("ending") == Ending.NO_EFFECT.key:
        runs = [(trial.recipe, trial.curve, trial.outcome is Outcome.COMPLETED) for trial in record.records]
        same = alike(runs, record.metric, record.space.lr_range)
        if same is not None:
            evidence = {"runs": same.runs, "low": same.low, "high": same.high}
            kind = FindingKind.NO_EFFECT if same.moving else FindingKind.NOTHING_LEARNED
            return [Finding(kind=kind, evidence=evidence, why=same.why, advice=same.advice)]
    done = [trial for trial in record.records if trial.completed]
    if not done:
        return [_nothing(record.records)]
    study = _Study(record, done, noise)
    if (equal := _all_equal(study)) is not None:
        return [equal]
    found = [finding for rule in RULES if (finding := rule(study)) is not None]
    beside = {FindingKind.WARMUP_WIDENS, FindingKind.SCHEDULE_IRRELEVANT}
    return found if any(f.kind not in beside for f in found) else [_sure(study), *found]


def _repeat_noise(trials: Sequence[TrialRecord]) -> float | None:
    """Standard deviation within groups of trials that differ in their seed only, pooled; None without repeats."""
    groups: dict[Recipe, list[float]] = defaultdict(list)
    for trial in trials:
        groups[trial.recipe.with_seed(0)].append(float(trial.value or 0.0))
    repeated = [np.array(values) for values in groups.values() if len(values) > 1]
    freedom = sum(len(values) - 1 for values in repeated)
    if freedom == 0:
        return None
    return math.sqrt(sum(float(((values - values.mean()) ** 2).sum()) for values in repeated) / freedom)


def _report_noise(record: StudyRecord) -> float | None:
    """Standard deviation from report to report at the end of training: a lower bound for that under another seed.

    Only the last third of a curve counts: a schedule that decays takes the noise with it.
    """
    series = (t.curve.of(record.metric)[1] for t in record.records if t.outcome is Outcome.COMPLETED)
    found = [features.noise(values[-max(len(values) // 3, FEWEST_FOR_NOISE) :]) for values in series]
    finite = [value for value in found if math.isfinite(value) and value > 0]
    return float(np.median(finite)) if finite else None


def _nothing(trials: Sequence[TrialRecord]) -> Finding:
    diverged = [trial.recipe.lr for trial in trials if trial.diverged]
    advice = (
        f"lower the low end of the range below {min(diverged):.1g}"
        if diverged and len(diverged) == len(trials)
        else "give the search a larger budget, at least one full training"
    )
    return Finding(
        kind=FindingKind.NOTHING_COMPLETED,
        evidence={"trials": len(trials), "diverged": len(diverged)},
        why=f"of {len(trials)} trials none was trained to its end, {len(diverged)} diverged",
        advice=advice,
    )


def _at_end(study: _Study) -> Finding | None:
    low, high = study.lr_range
    from_low, from_high = math.log10(study.best_lr / low), math.log10(high / study.best_lr)
    span = math.log10(high / low)
    reach = min(END_DECADES, span / 10)
    if min(from_low, from_high) >= reach:
        return None
    at_low = from_low < from_high
    end, other = (low, low / 10) if at_low else (high, high * 10)
    return Finding(
        kind=FindingKind.BEST_AT_LOW_END if at_low else FindingKind.BEST_AT_HIGH_END,
        evidence={"lr": study.best_lr, "end": end},
        why=f"the best learning rate, {study.best_lr:.3g}, lies at the {'low' if at_low else 'high'} end of the range "
        f"({low:g} to {high:g})",
        advice=f"search again under another name, with the range widened to {other:.3g}",
    )


def _mostly_diverged(study: _Study) -> Finding | None:
    closed = [trial for trial in study.trials if trial.outcome is not None]
    diverged = [trial for trial in closed if trial.diverged]
    if len(closed) < 2 * MIN_EACH or len(diverged) <= MOSTLY * len(closed):
        return None
    edge = study.edge or min(trial.recipe.lr for trial in diverged)
    return Finding(
        kind=FindingKind.MOSTLY_DIVERGED,
        evidence={"diverged": len(diverged), "trials": len(closed), "edge": edge},
        why=f"{len(diverged)} of {len(closed)} trials diverged, from a learning rate of about {edge:.2g} on",
        advice=f"lower the high end of the range to about {2 * edge:.1g}",
    )


def _all_equal(study: _Study) -> Finding | None:
    """Results that are the same number, under learning rates that are not."""
    lrs = [trial.recipe.lr for trial in study.done]
    if len({trial.value for trial in study.done}) > 1 or len(set(lrs)) == 1:
        return None
    return Finding(
        kind=FindingKind.ALL_EQUAL,
        evidence={"completed": len(study.done), "low": min(lrs), "high": max(lrs)},
        why=f"the {len(lrs)} trials trained to the end, at learning rates from {min(lrs):.3g} to {max(lrs):.3g}, all "
        f"reached {study.best.value:.4g}: nothing was learned about which of them is best",
        advice="take any of them, or let a metric decide that tells them apart, such as a loss",
    )


def _within_noise(study: _Study) -> Finding | None:
    if study.noise is None or len(study.done) < MIN_EACH:
        return None
    values = np.array([study.value(trial) for trial in study.done])
    lrs = np.log10([trial.recipe.lr for trial in study.done])
    spread = float(np.ptp(values))
    # The range of n normal draws is about 3 sigma at n = 10; below that nothing tells them apart.
    usual = 2.0 * math.sqrt(2.0 * math.log(max(len(values), 2)))
    if spread > max(usual, NOISE_SIGMAS * math.sqrt(2.0)) * study.noise or np.ptp(lrs) == 0:
        return None
    return Finding(
        kind=FindingKind.WITHIN_NOISE,
        evidence={"spread": spread, "noise": study.noise},
        why=f"the {len(values)} completed trials all ended at {values[0]:.4g}"
        if spread == 0
        else f"the {len(values)} completed trials lie within {spread:.2g} of each other, where chance alone moves a "
        f"result by {study.noise:.2g}",
        advice="take any of them; what there is to gain lies elsewhere, or needs repeats to be seen",
    )


def _too_few(study: _Study) -> Finding | None:
    n = len(study.done)
    if n >= ENOUGH_TRAININGS or study.settled:
        return None
    return Finding(
        kind=FindingKind.TOO_FEW,
        evidence={"completed": n},
        why=f"only {n} trial{'s' if n > 1 else ''} of {len(study.trials)} trained to the end",
        advice="run the same command again with a larger budget: it goes on from here",
    )


def _winner_at_edge(study: _Study) -> Finding | None:
    best = study.best
    if study.edge is None or study.edge > EDGE_FACTOR * best.recipe.lr:
        return None
    twice = _at_double(study)
    return Finding(
        kind=FindingKind.WINNER_AT_EDGE,
        evidence={"lr": best.recipe.lr, "edge": study.edge},
        why=f"runs diverge from a learning rate of about {study.edge:.2g}, "
        f"{study.edge / best.recipe.lr:.1f} times the best; {twice}",
        advice=f"take about {best.recipe.lr / 2:.1g} where the data or the batch will change, or warm up",
    )


def _at_double(study: _Study) -> str:
    best = study.best
    same = [
        trial
        for trial in study.trials
        if DOUBLE[0] <= trial.recipe.lr / best.recipe.lr <= DOUBLE[1] and (trial.diverged or trial.completed)
    ]
    if not same:
        return "at twice its learning rate nothing was trained"
    near = min(same, key=lambda trial: (_differs(trial, best), abs(math.log(trial.recipe.lr / best.recipe.lr / 2.0))))
    if near.diverged or near.value is None:
        return f"at {near.recipe.lr:.2g}, {near.recipe.lr / best.recipe.lr:.1f} times it, the run diverged"
    times = near.recipe.lr / best.recipe.lr
    return f"at {near.recipe.lr:.2g}, {times:.1f} times it, the result was {near.value:.3g} instead of {best.value:.3g}"


def _differs(trial: TrialRecord, other: TrialRecord) -> int:
    """In how many settings beside learning rate and seed two trials differ."""
    one, another = trial.recipe.to_json(), other.recipe.to_json()
    return sum(one[name] != another[name] for name in one if name not in {"lr", "seed"})


def _warmup(study: _Study) -> Finding | None:
    """Compare the highest learning rate that did not diverge, with and without warmup."""
    with_it = [t for t in study.trials if t.recipe.warmup > 0 and t.outcome is not None]
    without = [t for t in study.trials if t.recipe.warmup == 0 and t.outcome is not None]
    if min(len(with_it), len(without)) < 2 * MIN_EACH:
        return None
    high, low = _usable(with_it), _usable(without)
    if high is None or low is None or math.log10(high / low) < WIDER_DECADES:
        return None
    return Finding(
        kind=FindingKind.WARMUP_WIDENS,
        evidence={"with": high, "without": low},
        why=f"with warmup half of the runs survive up to a learning rate of {high:.2g}, without it up to {low:.2g}",
        advice="keep the warmup: it buys room above the best learning rate",
    )


def _usable(trials: Sequence[TrialRecord]) -> float | None:
    """The learning rate that best parts survivors from diverged runs; None where one kind is missing."""
    lrs = np.log10([trial.recipe.lr for trial in trials])
    diverged = np.array([trial.diverged for trial in trials])
    if min(diverged.sum(), (~diverged).sum()) < MIN_EITHER:
        return None
    order = np.argsort(lrs)
    lrs, diverged = lrs[order], diverged[order]
    wrong = np.concatenate(([0], np.cumsum(diverged))) + np.concatenate((np.cumsum((~diverged)[::-1])[::-1], [0]))
    cut = int(np.argmin(wrong))
    inner = lrs[max(cut - 1, 0) : cut + 1]
    return float(10 ** inner.mean())


def _schedule(study: _Study) -> Finding | None:
    groups: dict[str, list[float]] = defaultdict(list)
    for trial in study.done:
        groups[trial.recipe.schedule].append(study.value(trial))
    by_schedule = {name: sorted(values) for name, values in groups.items() if len(values) >= MIN_EACH}
    if len(by_schedule) < MIN_EITHER or study.noise is None:
        return None
    bests = {name: float(np.mean(values[:2])) for name, values in by_schedule.items()}
    gap = max(bests.values()) - min(bests.values())
    if gap > NOISE_SIGMAS * study.noise:
        return None
    return Finding(
        kind=FindingKind.SCHEDULE_IRRELEVANT,
        evidence={"gap": gap, "noise": study.noise},
        why=f"the best under {len(by_schedule)} schedules differ by {gap:.2g}, "
        f"chance alone moves a result by {study.noise:.2g}",
        advice=f"take the simplest of {', '.join(by_schedule)}",
    )


def _sure(study: _Study) -> Finding:
    """A clear answer, a likely one, or none to rely on yet: by its probability and by what was trained beside it."""
    probability = study.probability
    beside = {side: _beside(study, side) for side in (-1, 1)}
    between = all(beside.values())
    if probability is None:  # an answer that an older version stored
        kind = FindingKind.LIKELY
    elif probability >= CLEAR and between:
        kind = FindingKind.CLEAR
    else:
        kind = FindingKind.LIKELY if probability >= LIKELY else FindingKind.UNSURE
    chance = "" if probability is None else f", with a probability of {percent(probability)} within 2 % of the best"
    place = ", between worse ones" if between else f", though no run {_side(beside)} it is known to be worse"
    return Finding(
        kind=kind,
        evidence={"completed": len(study.done), "lr": study.best_lr}
        | ({} if probability is None else {"probability": probability})
        | ({} if study.noise is None else {"noise": study.noise}),
        why=f"{_best_of(study)}{chance}{place}{_edge(study)}",
        advice=_advice(study, kind),
    )


def _side(beside: Mapping[int, bool]) -> str:
    missing = [name for side, name in ((-1, "below"), (1, "above")) if not beside[side]]
    return " or ".join(missing)


def _beside(study: _Study, side: int) -> bool:
    """Whether a run within half a decade on that side of the best diverged, or was worse as far as it was trained."""
    for trial in study.trials:
        apart = side * math.log10(trial.recipe.lr / study.best_lr)
        if 0 < apart <= NEIGHBOURHOOD and not _differs(trial, study.best) and _worse(study, trial):
            return True
    return False


def _worse(study: _Study, trial: TrialRecord) -> bool:
    if trial.diverged:
        return True
    if trial.completed:
        return study.value(trial) > study.value(study.best)
    epochs, values = trial.curve.of(study.metric)
    best_epochs, best_values = study.best.curve.of(study.metric)
    if not len(epochs) or not len(best_epochs) or epochs[-1] < JUDGING * study.epochs:
        return False
    return bool(study.sign * values[-1] > study.sign * np.interp(epochs[-1], best_epochs, best_values))


def _edge(study: _Study) -> str:
    if not study.edge:
        return "; no edge was located"
    edge = f"; {study.edge / study.best_lr:.1f} times below the edge"
    return f"{edge}, which may be as near as {study.edge_low:.2g}" if _near_edge(study) else edge


def _near_edge(study: _Study) -> bool:
    return study.edge_low is not None and study.edge_low < EDGE_FACTOR * study.best_lr


def _advice(study: _Study, kind: FindingKind) -> str:
    if kind is FindingKind.UNSURE:
        return "run the same command again with a larger budget: it goes on from here"
    if kind is FindingKind.CLEAR and _near_edge(study) and study.edge:
        return "use it; a repeat with another seed would show how far the edge is"
    return "use it" if kind is FindingKind.CLEAR else "use it; a repeat with another seed would show how sure it is"


def _best_of(study: _Study) -> str:
    done, rest, at = len(study.done), len(study.trials) - len(study.done), f"at {study.best_lr:.3g}"
    if done >= ENOUGH_TRAININGS:
        return f"the best of {done} full trainings, {at}"
    trained = "the one full training" if done == 1 else f"the better of {done} full trainings"
    shorter = f", expected to end better than the {rest} shorter run{'' if rest == 1 else 's'} would" if rest else ""
    return f"{trained}, {at}{shorter}"


RULES: tuple[Callable[[_Study], Finding | None], ...] = (
    *(_at_end, _mostly_diverged, _within_noise, _too_few, _winner_at_edge, _warmup, _schedule),
)
