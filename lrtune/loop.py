"""The one loop: ask, advance, judge, tell.

Under the study's lock a piece of work is decided and claimed; outside of it the run is trained; under
the lock again what came of it is written. Any number of processes may run this loop on one study.
"""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from lrtune import schedules
from lrtune.divergence import learned
from lrtune.errors import InputError, StorageError
from lrtune.outcome import Outcome
from lrtune.piece import PieceEnd, Watch, failed, train
from lrtune.reading import SPACE
from lrtune.records import Piece
from lrtune.search.base import Action, Continue, Finish, Seen, Situation, Start, Stop, Wait
from lrtune.space import Space
from lrtune.storage import exclusive
from lrtune.watching import Watched, line
from lrtune.workers import Place

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable

    from lrtune.divergence import Baseline
    from lrtune.entries import Entry
    from lrtune.garage import Garage, Parked
    from lrtune.ledger import Ledger
    from lrtune.recipe import Recipe
    from lrtune.search.base import Strategy
    from lrtune.settings import Settings
    from lrtune.training.base import Trainer

__all__ = ["HOPELESS_TRIALS", "Decision", "Finished", "Search", "Work"]

HOPELESS_TRIALS = 10
"""Trials that all diverged, with none that did not, after which any search gives up."""

FINEST_SHARE = 0.02
"""Share of a full training below which a look says too little, where an epoch is longer than that."""

UNLIMITED_BUDGET = 6.0
"""Full trainings after which a search without any limit ends at the latest (DESIGN section 5)."""

WIDENED = "the best learning rate lay at the end of the range"
IDLE_SECONDS = 0.05
RENEW_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A piece of training that this process has claimed."""

    entry: Entry
    until: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """That the search has ended.

    Attributes
    ----------
    why
        One sentence.
    interrupted
        Whether it was stopped from outside and goes on when it is run again.
    """

    why: str
    interrupted: bool = False


Decision: TypeAlias = Work | Finished | None


@dataclass(slots=True, kw_only=True)
class Search:
    """One process's part of a search.

    Attributes
    ----------
    trainer, settings, strategy
        What is searched, and how.
    space
        What is searched; grows when it is widened.
    ledger, garage
        What outlives the process, and the runs.
    should_stop
        Asked often: whether to stop from outside.
    deadline
        On the monotonic clock; None for none.
    listen
        Called with one line after every event, and with an empty one between.
    baseline
        What knowing nothing is worth; None until the trainer was asked.
    place
        Where this process stands among workers.
    widened, learned
        Called when the space was widened, and when the baseline is known.
    """

    trainer: Trainer
    settings: Settings
    strategy: Strategy
    space: Space
    ledger: Ledger
    garage: Garage
    should_stop: Callable[[], bool]
    deadline: float | None
    listen: Callable[[str, Watched], object]
    widened: Callable[[Space], object]
    learned: Callable[[Baseline], object]
    place: Place = field(default_factory=Place)
    baseline: Baseline | None = None
    warnings: list[str] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    training: tuple[Entry, float] | None = None
    origin: tuple[float, ...] | None = None
    ended_before: frozenset[int] | None = None

    def run(self) -> Finished:
        """Work until the search has ended.

        Raises
        ------
        UserCodeError
            If the user's training code raises before any trial has reported anything.
        LrtuneError
            Whatever else makes going on useless.
        """
        while True:
            with self._locked():
                decision = self._decide()
            if isinstance(decision, Finished):
                return decision
            if decision is None:
                time.sleep(IDLE_SECONDS)
                continue
            self.place.working()
            try:
                self._perform(decision)
            finally:
                self.place.idle()

    def _locked(self) -> contextlib.AbstractContextManager[object]:
        return exclusive(self.ledger.storage, self.ledger.study.study_name)

    # -- decide ---------------------------------------------------------------------------------------

    def _decide(self) -> Decision:
        """Decide and claim the next piece of work; None where there is none right now."""
        self.refresh()
        if self.should_stop():
            return Finished(why="stopped from outside", interrupted=True)
        ending = self._ending()
        if ending:
            busy = any(entry.claim for entry in self.entries)
            return None if busy else Finished(why=ending)
        while True:
            action = self._resumed() or self._adopted() or self.strategy.next(self.situation())
            if isinstance(action, Work):
                return action
            if isinstance(action, Stop):
                self._stop(action)
                continue
            return self._claimed(action)

    def refresh(self) -> None:
        """Read every trial again, taking over what dead processes held."""
        self._take_space()
        self.entries = self.ledger.recover(self.ledger.entries())
        self.garage.keep({entry.number for entry in self.entries if not entry.told})

    def _take_space(self) -> None:
        """The space as it is by now: this search may have widened it before it was resumed, or another worker."""
        attributes = self.ledger.attributes()
        if attributes[SPACE] != self.space.to_json():
            self.space = Space.from_json(attributes[SPACE])
        if list(attributes["lrtune:range"]) != list(self.space.lr_range):
            low, high = self.space.lr_range
            kept = [warning for warning in self.warnings if not warning.startswith(WIDENED)]
            self.warnings[:] = [f"{WIDENED}, which was widened to {low:g} to {high:g}", *kept]

    def _ending(self) -> str:
        """Why any strategy would end here, or nothing."""
        if self.deadline is not None and time.monotonic() >= self.deadline:
            return f"the time limit of {self.settings.limits.timeout:g} s is reached"
        outcomes = [entry.record.outcome for entry in self.entries]
        lost = {Outcome.FAILED, Outcome.STALLED, Outcome.OUT_OF_MEMORY}
        now = [entry.record for entry in self.entries if entry.number not in self._before()]
        ended = [record.outcome for record in now if record.outcome is not None]
        most = self.settings.failures
        if len(ended) >= most and all(outcome in lost for outcome in ended[-most:]):
            return f"{most} trials in a row failed: {self._last_why()}"
        diverged = [outcome is not None and outcome.diverged for outcome in outcomes]
        if len(diverged) >= HOPELESS_TRIALS and all(diverged):
            low = self.space.lr_range[0]
            return f"all {len(diverged)} trials diverged: lower the range of the learning rate below {low:g}"
        return ""

    def _before(self) -> frozenset[int]:
        """Trials that had ended before this call: what failed then may have been mended."""
        if self.ended_before is None:
            self.ended_before = frozenset(entry.number for entry in self.entries if entry.record.outcome is not None)
        return self.ended_before

    def _last_why(self) -> str:
        reasons = [entry.record.why for entry in self.entries if entry.record.why]
        return reasons[-1].strip().splitlines()[-1] if reasons else "no reason was given"

    def situation(self) -> Situation:
        """All that the strategy may base its decision on."""
        limits = self.settings.limits
        return Situation(
            space=self.space,
            epochs=self.settings.epochs,
            direction=self.settings.direction,
            trials=[self._seen(entry) for entry in self.entries],
            spent=self.ledger.spent(self.entries),
            budget=self._budget(),
            self_stopping=not limits.any,
            widen=self._widening_left(),
            untrained=self.baseline.untrained if self.baseline else None,
            finest=self._finest(),
            seed=self.settings.seed,
            exhausted=limits.trials is not None and len(self.entries) >= limits.trials,
        )

    def _budget(self) -> float | None:
        """Full trainings that may be spent: as asked for, and never without any end."""
        limits = self.settings.limits
        if limits.any or self.settings.points is not None:  # a grid of so many points is a limit too
            return limits.budget
        return max(UNLIMITED_BUDGET, self.settings.spent + 1.0)

    def _seen(self, entry: Entry) -> Seen:
        seen = self.ledger.seen(entry)
        return dataclasses.replace(seen, again=0.0) if self.garage.holds(entry.number) else seen

    def _widening_left(self) -> float:
        if self.origin is None:  # what was asked for never changes, so it is read once
            self.origin = tuple(self.ledger.attributes().get("lrtune:range", self.space.lr_range))
        low, high = self.origin
        now_low, now_high = self.space.lr_range
        used = math.log10(low / now_low) + math.log10(now_high / high)
        return max(0.0, self.settings.widen - used)

    def _finest(self) -> float:
        middle = self.space.recipe(self._middle(), epochs=self.settings.epochs)
        steps = self.trainer.steps_per_epoch(middle)
        if steps == 1:
            return 1.0
        return min(1.0, max(1.0 / steps, FINEST_SHARE * self.settings.epochs))

    def _middle(self) -> dict[str, object]:
        import numpy as np

        from lrtune.search.sampled import from_unit

        return from_unit(self.space, np.full(len(self.space.names), 0.5))

    def _resumed(self) -> Work | None:
        """A piece that was cut off is finished before anything else: the search goes on as if it never was."""
        for entry in self.entries:
            seen = self._seen(entry)
            if entry.resume is None or not seen.open:
                continue
            if self._left() < entry.price(entry.resume, seen.again):
                self._replace(self.ledger.write(dataclasses.replace(entry, resume=None)))
                continue
            claimed = self.ledger.claim(entry, entry.resume, seen.again)
            return Work(entry=claimed, until=entry.resume, why="cut off before")
        return None

    def _adopted(self) -> Work | None:
        """A trial that somebody enqueued in the Optuna study comes first."""
        if not self.ledger.waiting or self.situation().left < 1:
            return None
        trial = self.ledger.study.ask(dict(self.space.distributions()))
        recipe = self.space.recipe(trial.params, epochs=self.settings.epochs, seed=self.settings.seed)
        until = float(self.settings.epochs)
        return Work(entry=self.ledger.adopt(trial, recipe, until), until=until, why="enqueued by hand")

    def _stop(self, action: Stop) -> None:
        entry = self._entry(action.number)
        record = dataclasses.replace(entry.record, outcome=action.outcome, why=action.why)
        self._replace(self.ledger.end(dataclasses.replace(entry, record=record)))
        self.garage.forget(action.number)
        self.listen(f"trial {action.number}: {action.why or action.outcome.value}", self)

    def _claimed(self, action: Action) -> Decision:
        if isinstance(action, Wait):
            return None
        if isinstance(action, Finish):
            return None if any(entry.claim for entry in self.entries) else Finished(why=action.why)
        if isinstance(action, Start):
            if self.situation().exhausted:  # hold every strategy to the limit
                busy = any(entry.claim for entry in self.entries)
                return None if busy else Finished(why="the number of trials is reached")
            return self._started(action)
        if isinstance(action, Continue):
            entry = self._entry(action.number)
            again = self._seen(entry).again
            trained = entry.record.curve.trained
            until = self._whole_steps(action.until, entry.record.recipe, trained - again)
            self._afford(until - trained + again)
            return Work(entry=self.ledger.claim(entry, until, again), until=until, why=action.why)
        msg = f"a strategy answered {action!r}, which is no action"
        raise TypeError(msg)

    def _started(self, action: Start) -> Work:
        if action.params is None:
            msg = f"the strategy {self.strategy.name!r} started a trial without a point"
            raise TypeError(msg)
        low, high = self.space.lr_range
        if not low <= action.params["lr"] <= high:
            self._widen(float(action.params["lr"]))
        seed = self.settings.seed + action.seed
        recipe = self.space.recipe(action.params, epochs=self.settings.epochs, seed=seed)
        schedules.parse(recipe.schedule)
        until = self._whole_steps(action.until, recipe, 0.0)
        self._afford(until)
        entry = self.ledger.start(self.space, action.params, recipe, until, action.why)
        return Work(entry=entry, until=until, why=action.why)

    def _whole_steps(self, until: float, recipe: Recipe, paid: float) -> float:
        """The end of a piece on a step of the run: the next one, or the one before where the budget ends."""
        steps = self.trainer.steps_per_epoch(recipe)
        total = recipe.epochs * steps
        after = min(math.ceil(until * steps * (1 - 1e-9)), total)
        budget = self._budget()
        if budget is not None:
            left = (budget - self.ledger.spent(self.entries)) * self.settings.epochs + paid
            after = min(after, math.floor(left * steps * (1 + 1e-9)))
        return after / steps

    def _afford(self, epochs: float) -> None:
        """Hold the strategy to the budget: it is never overspent."""
        if epochs > self._left():
            msg = f"{self.strategy.name!r} asked for {epochs:g} epochs with {self._left():g} left"
            raise RuntimeError(msg)

    def _left(self) -> float:
        """Epochs that the budget still allows."""
        budget = self.settings.limits.budget
        if budget is None:
            return math.inf
        return (budget * (1 + 1e-9) - self.ledger.spent(self.entries)) * self.settings.epochs

    def _widen(self, lr: float) -> None:
        low, high = self.space.lr_range
        self.space = self.space.widened(
            low_decades=max(0.0, math.log10(low / lr)), high_decades=max(0.0, math.log10(lr / high))
        )
        self.widened(self.space)

    # -- perform --------------------------------------------------------------------------------------

    def _perform(self, work: Work) -> None:
        """Train a claimed piece and write what came of it."""
        entry = work.entry
        recipe = entry.record.recipe
        began, clock = time.time(), time.monotonic()
        self.training = (entry, work.until)
        self.listen("", self)
        parked: Parked | None = None
        begin, spe = 0.0, 1
        raised: BaseException | None = None
        try:
            self._learn_baseline(recipe)
            spe = self.trainer.steps_per_epoch(recipe)
            parked = self.garage.fetch(entry.number, recipe, entry.record.curve)
            # what a process that died had trained beyond the record is paid here, unless it is trained again
            begin = min(parked.step / spe, entry.stands)
            end = train(parked, recipe, work.until, self._watch(entry, spe))
        except (StorageError, KeyboardInterrupt) as error:
            raised, end = error, PieceEnd(interrupted=True)
        except InputError as error:
            raised, end = error, PieceEnd(outcome=Outcome.FAILED, why=str(error))
        except BaseException as error:  # noqa: BLE001 -- user code may raise anything, SystemExit too
            raised, end = failed(error, first=not any(len(entry.record.curve) for entry in self.entries))
        at = parked.step / spe if parked is not None else begin
        piece = Piece(
            at=began, seconds=time.monotonic() - clock, begin=begin, end=at, worker=self.ledger.me.worker, why=work.why
        )
        if isinstance(raised, StorageError):
            raise raised
        self._write(work, parked, end, piece)
        if raised is not None:
            raise raised

    def _learn_baseline(self, recipe: Recipe) -> None:
        if self.baseline is None:
            self.baseline = self.trainer.baseline(recipe, self.settings.metric)
            self.learned(self.baseline)

    def _watch(self, entry: Entry, spe: int) -> Watch:
        renewed = [time.monotonic()]

        def progressed(_epoch: float) -> None:
            self.place.progressed()
            if time.monotonic() - renewed[0] > RENEW_SECONDS:
                renewed[0] = time.monotonic()
                with self._locked():
                    if self.ledger.holds(entry):
                        self.ledger.renew(entry)
            self.listen("", self)

        def stop() -> bool:
            late = self.deadline is not None and time.monotonic() >= self.deadline
            return late or self.should_stop()

        return Watch(
            settings=self.settings,
            steps_per_epoch=spe,
            baseline=self.baseline,
            learned_above=self._learned_above(entry.record.recipe.lr),
            should_stop=stop,
            save=lambda parked: self.garage.save(entry.number, parked),
            progressed=progressed,
            seconds=sum(piece.seconds for piece in entry.record.pieces),
        )

    def _learned_above(self, lr: float) -> bool:
        """Whether a run with a higher learning rate is clearly better than knowing nothing."""
        higher = (
            entry.record.curve.of(self.settings.metric)[1] for entry in self.entries if entry.record.recipe.lr > lr
        )
        return any(learned(values, self.baseline, self.settings.direction) for values in higher)

    def _write(self, work: Work, parked: Parked | None, end: PieceEnd, piece: Piece) -> None:
        """Write what came of a piece, unless somebody else has taken the trial over."""
        saved = parked is not None and end.outcome is None and self.garage.park(work.entry.number, parked)
        with self._locked():
            self.training = None
            if not self.ledger.holds(work.entry):
                self.warnings.append(f"trial {work.entry.number} was taken over while this process slept")
                self.garage.forget(work.entry.number)
                return
            entry = self._written(work.entry, parked, end, piece, saved=saved)
            if entry.record.outcome is not None:
                entry = self.ledger.end(entry)
                self.garage.forget(entry.number)
            else:
                self.ledger.report(entry)
            self._replace(entry)
            self.listen(line(entry, self.settings), self)

    def _written(self, entry: Entry, parked: Parked | None, end: PieceEnd, piece: Piece, *, saved: bool) -> Entry:
        record = entry.record
        curve = parked.curve if parked is not None else record.curve
        outcome, why, value = end.outcome, end.why, None
        if outcome is Outcome.COMPLETED:
            value = self.settings.value.of(curve.of(self.settings.metric)[1], self.settings.direction)
            if value is None:
                outcome, why = Outcome.FAILED, f"the run ended without a finite value of {self.settings.metric!r}"
        record = dataclasses.replace(
            record,
            curve=curve,
            outcome=outcome,
            why=why,
            value=value,
            trained=record.trained + piece.epochs,
            pieces=(*record.pieces, piece),
        )
        live = outcome is None and not saved and parked is not None
        return dataclasses.replace(
            entry,
            record=record,
            claim=None,
            saved=saved,
            holder=self.ledger.me if live else None,
            resume=entry.claim.until if end.interrupted and entry.claim else None,
        )

    def _entry(self, number: int) -> Entry:
        return next(entry for entry in self.entries if entry.number == number)

    def _replace(self, entry: Entry) -> None:
        kept = [other for other in self.entries if other.number != entry.number]
        self.entries = sorted([*kept, entry], key=lambda other: other.number)
