"""The range test (Smith 2017, section 3.3): a few hundred steps that say where to search, not what to use.

The learning rate rises by the same factor in every step while the model trains; the loss stays, falls,
and rises again. One such sweep is noisy and short, so the result is an *interval* for the search with a confidence,
or "unreliable here", from several sweeps under several seeds.

Sweeps are runs of a trainer under the ``sweep`` schedule. The weights, optimizers, buffers, random states and data
orders of other runs are not touched, and a run given as `keep` is restored even if the user's model is one shared
object.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from lrtune.core.numpy_errors import own_errstate
from lrtune.core.outcome import Outcome
from lrtune.core.recipe import Recipe
from lrtune.errors import InputError
from lrtune.schedules.sweep import Sweep as SweepSchedule
from lrtune.search.lr_range import curve_reading
from lrtune.search.lr_range.config import CONFIG
from lrtune.training.base import Trainer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lrtune.core.space import Space
    from lrtune.training.base import Report, Run

__all__ = ["RangeSweep", "RangeTest", "central", "check_trainer", "range_test"]

Confidence: TypeAlias = Literal["good", "fair", "unreliable here"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeSweep:
    """One sweep.

    Attributes
    ----------
    seed
        Seed of its weights and its data order.
    lrs, losses
        Learning rate of each step, and the training loss of its minibatch; of equal length. NaN where the
        loss was not finite, or was lost to rounding beside a far larger one before it.
    ended
        Why it ended before its last step, as one sentence; empty if it did not.
    """

    seed: int
    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    ended: str = ""

    @property
    def readings(self) -> dict[str, float | None]:
        """What each reader says of it."""
        return {name: reader(self.lrs, self.losses) for name, reader in curve_reading.READERS.items()}

    def to_json(self) -> dict[str, Any]:
        """The sweep as plain JSON; a loss that is not finite is null."""
        losses = [float(f"{loss:.6g}") if math.isfinite(loss) else None for loss in self.losses]
        lrs = [float(f"{lr:.6g}") for lr in self.lrs]
        return {"seed": self.seed, "lr": lrs, "loss": losses, "ended": self.ended, "readings": self.readings}


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeTest:
    """What a range test found.

    Attributes
    ----------
    interval
        Learning rates (low, high) to search between; None where the test is unreliable.
    confidence
        ``"good"``, ``"fair"`` or ``"unreliable here"``.
    why
        One sentence with the numbers behind the confidence.
    swept
        First and last learning rate of a whole sweep.
    edge
        Where training broke down (median over the seeds), None where it did not.
    sweeps
        The sweeps themselves.
    cost
        Steps trained, in full trainings of the recipe.
    """

    interval: tuple[float, float] | None
    confidence: Confidence
    why: str
    swept: tuple[float, float]
    edge: float | None
    sweeps: tuple[RangeSweep, ...]
    cost: float

    @property
    def reliable(self) -> bool:
        """Whether there is an interval to search in."""
        return self.interval is not None

    def rows(self) -> list[dict[str, float | int]]:
        """The sweeps as one table: seed, step, lr, loss and smoothed loss of each step."""
        return [
            {"seed": sweep.seed, "step": step, "lr": lr, "loss": loss, "smooth": float(level)}
            for sweep in self.sweeps
            for step, (lr, loss, level) in enumerate(
                zip(sweep.lrs, sweep.losses, curve_reading.smooth(sweep.lrs, sweep.losses)[0], strict=True), start=1
            )
        ]

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON."""
        return {
            "interval": None if self.interval is None else dict(zip(("low", "high"), self.interval, strict=True)),
            "confidence": self.confidence,
            "why": self.why,
            "swept": dict(zip(("low", "high"), self.swept, strict=True)),
            "edge": self.edge,
            "cost": self.cost,
            "sweeps": [sweep.to_json() for sweep in self.sweeps],
        }

    def __str__(self) -> str:
        found = "range test: " + (
            "unreliable here" if self.interval is None else "search between {:.2g} and {:.2g}".format(*self.interval)
        )
        sure = "" if self.interval is None else f", confidence {self.confidence}"
        return f"{found}{sure}; {self.why}. Cost: {self.cost:.2g} of a full training."


def range_test(
    trainer: Trainer,
    *,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int | None = None,
    seeds: int = 3,
    recipe: Recipe | None = None,
    keep: Run | None = None,
) -> RangeTest:
    """Find the interval of learning rates worth searching.

    Parameters
    ----------
    trainer
        A trainer that drives the learning rate in minibatches (scikit-learn or PyTorch).
    low, high
        Ends of the sweep.
    steps
        Optimizer steps of one sweep, at least 20. None: 150, fewer where all sweeps together would cost more
        than a quarter of a full training, but at least 40.
    seeds
        Sweeps, under the recipe's seed and those after it; one alone can never be "good".
    recipe
        Batch size, optimizer and the other settings; its learning rate, schedule and warmup are the sweep's.
        Its epochs are what the cost is counted in. None: one epoch under the trainer's own settings.
    keep
        A run in progress that is put back to where it stood, whatever the user's model shares with it.

    Raises
    ------
    InputError
        If the settings make no sweep, or the trainer is none or does not apply the schedule. What the user's code
        raises while it trains does not come out: that sweep ends, and says why.
    """
    check_trainer(trainer)
    _check(low, high, steps, seeds)
    recipe = Recipe(lr=high) if recipe is None else recipe
    per_epoch = trainer.steps_per_epoch(recipe)
    if steps is None:
        steps = min(CONFIG.most_steps, max(CONFIG.least_steps, int(CONFIG.share * recipe.epochs * per_epoch / seeds)))
    kept = None if keep is None else keep.state()
    try:
        recipes = [_recipe(recipe.with_seed(recipe.seed + k), low, high, steps, per_epoch) for k in range(seeds)]
        sweeps = tuple(_swept(trainer, one, steps, per_epoch) for one in recipes)
    finally:
        if keep is not None and kept is not None:
            keep.restore(kept)
    cost = sum(len(sweep.losses) for sweep in sweeps) / (recipe.epochs * per_epoch)
    interval, confidence, why = _verdict(sweeps, (low, high))
    edges = [edge for sweep in sweeps if (edge := sweep.readings["edge"]) is not None]
    return RangeTest(
        interval=interval,
        confidence=confidence,
        why=why,
        swept=(low, high),
        edge=float(10 ** np.median(np.log10(edges))) if 2 * len(edges) > len(sweeps) else None,
        sweeps=sweeps,
        cost=cost,
    )


def check_trainer(trainer: object) -> None:
    """Refuse a trainer whose learning rate cannot be changed at every step.

    Raises
    ------
    InputError
        If it is a training function: its learning rate is set once, for a whole run.
    """
    if isinstance(trainer, Trainer) and not isinstance(trainer, type):
        return
    msg = (
        "a range test changes the learning rate at every step, and a training function of one's own "
        f"({getattr(trainer, '__name__', type(trainer).__name__)}) is told one for a whole run; use "
        "lrtune.TorchTrainer or lrtune.SklearnTrainer, or give the range of learning rates"
    )
    raise InputError(msg)


def central(space: Space, *, epochs: int, seed: int = 0) -> Recipe:
    """The recipe in the middle of a space, with which a range test of that space trains but for the learning rate."""
    return space.recipe({name: axis.middle for name, axis in space.axes.items()}, epochs=epochs, seed=seed)


def _check(low: float, high: float, steps: int | None, seeds: int) -> None:
    if not 0 < low < high < math.inf:
        msg = f"range test: low must be positive and below a finite high (got {low:g} and {high:g})"
        raise InputError(msg)
    if steps is not None and steps < CONFIG.fewest_steps:
        usual = f"{CONFIG.most_steps} are usual"
        msg = f"range test: a sweep needs at least {CONFIG.fewest_steps} steps (got {steps}); {usual}"
        raise InputError(msg)
    if seeds < 1:
        msg = f"range test: at least one seed is needed (got {seeds}); 3 are usual"
        raise InputError(msg)


def _recipe(recipe: Recipe, low: float, high: float, steps: int, per_epoch: int) -> Recipe:
    """The same recipe as one sweep: whole epochs, of which the first `steps` steps are swept."""
    epochs = math.ceil(steps / per_epoch)
    schedule = SweepSchedule(ratio=high / low, over=steps / (epochs * per_epoch))
    return dataclasses.replace(recipe, lr=high, schedule=str(schedule), warmup=0.0, epochs=epochs)


def _swept(trainer: Trainer, recipe: Recipe, steps: int, per_epoch: int) -> RangeSweep:
    """Run one sweep; whatever the user's code raises ends it and nothing else."""
    lrs: list[float] = []
    losses: list[float] = []
    ended = ""
    run: Run | None = None
    try:
        run = trainer.start([recipe])
        for lr, loss, end in _steps(run, recipe, per_epoch):
            lrs.append(lr)
            losses.append(loss)
            ended = end or (_lost(losses) if len(losses) < steps else "")
            if ended or len(losses) >= steps:
                break
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 -- the user's own code may raise anything
        ended = f"the training code raised {type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
    finally:
        if run is not None:
            run.close()
    return RangeSweep(seed=recipe.seed, lrs=tuple(lrs), losses=tuple(losses), ended=ended)


def _steps(run: Run, recipe: Recipe, per_epoch: int) -> Iterator[tuple[float, float, str]]:
    """Learning rate and loss of each step, and why the run ended there if it did.

    A run reports the mean over the minibatches since the last full epoch; differences of sums give the loss
    of each, unless a far larger one before it has swallowed its digits.
    """
    total = 0.0
    while run.alive:
        reports = run.advance(1, evaluate=False)
        if not reports:
            return
        report = reports[-1]
        value = report.point.values.get("train_loss", math.nan)
        if report.outcome is not None and report.outcome is not Outcome.COMPLETED:
            exploded = report.outcome is Outcome.EXPLODED  # then the value is that of the step alone
            yield _applied(report, recipe), value if exploded else math.nan, report.why
            return
        within = (report.point.step - 1) % per_epoch
        before = total if within else 0.0
        total = value * (within + 1)
        loss = total - before
        swallowed = within > 0 and abs(loss) < CONFIG.lost_digits * abs(before)
        yield _applied(report, recipe), math.nan if swallowed or not math.isfinite(loss) else loss, ""


def _applied(report: Report, recipe: Recipe) -> float:
    """The learning rate of the step just taken.

    Raises
    ------
    InputError
        If the trainer does not say, or did not follow the schedule.
    """
    lr = report.point.lr
    if lr is None or not 0 < lr <= recipe.lr * (1 + 1e-6):
        msg = (
            f"range test: the trainer must drive the learning rate itself, in minibatches (it reported {lr} at step "
            f"{report.point.step}); a generator function cannot be swept, give SklearnTrainer or TorchTrainer"
        )
        raise InputError(msg)
    return lr


@own_errstate()
def _lost(losses: Sequence[float]) -> str:
    """Why there is nothing more to learn from a sweep; empty while there is."""
    if len(losses) < CONFIG.fewest_steps:
        return ""
    seen = np.array(losses)
    held = seen[np.isfinite(seen)]
    if len(held) < CONFIG.lost_steps:
        return "the losses were not finite"
    first = held[: CONFIG.fewest_steps // 2]
    origin = float(np.median(first))
    limit = origin + max(3 * (origin - float(held.min())), 10 * float(first.std()))
    lost = not (seen[-CONFIG.lost_steps :] <= limit).any()  # true for NaN
    return f"the loss stayed above {limit:.4g}, having started at {origin:.4g}" if lost else ""


def _verdict(
    sweeps: Sequence[RangeSweep], swept: tuple[float, float]
) -> tuple[tuple[float, float] | None, Confidence, str]:
    """The interval, the confidence and the sentence with its reasons."""
    read = [sweep.readings for sweep in sweeps]
    falls = [(r["valley"], 10 * r["minimum / 10"]) for r in read if r["valley"] and r["minimum / 10"]]
    if 2 * len(falls) <= len(sweeps):
        ends = "; ".join(sorted({sweep.ended for sweep in sweeps if sweep.ended}))
        why = f"the loss fell by more than its noise in {len(falls)} of {len(sweeps)} sweeps"
        return None, "unreliable here", why + (f" ({ends})" if ends else "")
    spread = _decades([middle for middle, _ in falls])
    if spread > CONFIG.apart:
        return None, "unreliable here", f"the seeds disagree by {spread:.1f} decades on where the loss falls"
    edges = [edge for r in read if (edge := r["edge"]) is not None]
    reached = len(edges) == len(sweeps)
    low = max(min(middle for middle, _ in falls) / CONFIG.below_middle, swept[0])
    high = min(max(minimum for _, minimum in falls) * CONFIG.above_minimum, swept[1])
    if reached:
        high = min(max(edges) * CONFIG.above_edge, high)
    good = reached and len(falls) == len(sweeps) > 1 and max(spread, _decades(edges)) <= CONFIG.apart / 2
    why = f"{len(falls)} of {len(sweeps)} sweeps fell, and agree within {spread:.1f} decades"
    if not reached:
        why += f"; {len(sweeps) - len(edges)} did not break down up to {swept[1]:g}"
    return (low, high), "good" if good else "fair", why


def _decades(values: Sequence[float]) -> float:
    return math.log10(max(values) / min(values)) if values else 0.0
