"""The user's own training loop: a generator function of a recipe, one yield an epoch.

A paused run is a suspended generator. Its state lives in its frame, so it cannot be saved to a checkpoint. Each run
has its own state of the global random generators, which begins from the recipe's seed: a run gives the same curve
alone, beside others, and when it is trained again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from lrtune.core.curve import Point
from lrtune.core.outcome import Outcome
from lrtune.errors import InputError
from lrtune.training.base import Baseline, Report
from lrtune.training.global_state import GlobalState
from lrtune.training.member import Member, TrainingStopped
from lrtune.training.member_run import MemberRun
from lrtune.training.out_of_memory import first_line, is_out_of_memory
from lrtune.training.setups import reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.training.base import Setup

__all__ = ["GeneratorTrainer"]

Function: TypeAlias = Callable[["Recipe"], Any]


class GeneratorTrainer:
    """Trains with a generator function of the user's.

    Parameters
    ----------
    function
        Takes a recipe and yields once an epoch: a mapping of names to numbers, or a bare number.
        A number is whatever ``float`` takes without loss of meaning: Python's, NumPy's, a tensor of one
        element; never a string, None, a list or a complex number. It is asked for at most
        ``recipe.epochs`` yields and may return earlier: that run is complete, with a notice.
    metric
        The name under which a bare number counts.

    Raises
    ------
    InputError
        If `function` cannot be called.
    """

    saves = False

    def __init__(self, function: object, *, metric: str = "valid_loss") -> None:
        if not callable(function):
            msg = (
                f"the training code must be a generator function of a recipe (got {type(function).__name__}); "
                "write `def train(recipe): ... yield {...}`"
            )
            raise InputError(msg)
        self.function: Function = function
        self.metric = metric
        self._notices: dict[str, None] = {}

    @property
    def notices(self) -> Sequence[str]:
        """Notices for the user, e.g. that a run returned before its last epoch."""
        return tuple(self._notices)

    def add_notice(self, notice: str) -> None:
        """Tell the user something, once."""
        self._notices[notice] = None

    def start(self, recipes: Sequence[Recipe], /) -> MemberRun[GeneratorMember]:
        """Start a run: one generator for each recipe; no user code runs before the first step."""
        return MemberRun([GeneratorMember(number, recipe, self) for number, recipe in enumerate(recipes)])

    def steps_per_epoch(self, recipe: Recipe, /) -> int:  # noqa: ARG002 -- the protocol's
        """One: a yield is an epoch."""
        return 1

    def baseline(self, recipe: Recipe, metric: str, /) -> Baseline:  # noqa: ARG002 -- the protocol's
        """Unknown: nobody but the user's code has the data."""
        return Baseline()

    def fingerprint(self) -> Mapping[str, str]:
        """Empty: nobody but the user's code has the data."""
        return {}


class GeneratorMember(Member):
    """One generator: a step is a yield, which is an epoch."""

    def __init__(self, number: int, recipe: Recipe, trainer: GeneratorTrainer) -> None:
        super().__init__(number, recipe)
        self._trainer = trainer
        self._global_state = GlobalState(recipe.seed)
        self._iterator: Iterator[Any] | None = None
        self._yields = 0

    def advance(self, steps: int, *, evaluate: bool) -> list[Report]:  # noqa: ARG002 -- a yield measures
        """Ask for up to `steps` yields; one report for each.

        Raises
        ------
        Exception
            Whatever the generator raises, except for what is an outcome: running out of memory, exiting,
            yielding something else than numbers.
        InputError
            If the function is no generator function.
        """
        reports: list[Report] = []
        with self._global_state.active():
            while len(reports) < steps and (not reports or reports[-1].outcome is None):
                reports.append(self._step())
        return reports

    def _step(self) -> Report:
        try:
            values = self._next()
        except TrainingStopped as stop:
            # A generator that has returned is where its last yield was; one that failed did so in the next epoch.
            epoch = self._yields + (stop.outcome is not Outcome.COMPLETED)
            return self._report(epoch, stop.values, stop.outcome, stop.why)
        self._yields += 1
        return self._report(self._yields, values, Outcome.COMPLETED if self._yields >= self.recipe.epochs else None)

    def _report(self, epoch: int, values: dict[str, float], outcome: Outcome | None, why: str = "") -> Report:
        return Report(
            member=self.number, point=Point(step=epoch, epoch=float(epoch), values=values), outcome=outcome, why=why
        )

    def _next(self) -> dict[str, float]:
        """The numbers of the next yield, or a `TrainingStopped` with the outcome."""
        where = f"in epoch {self._yields + 1}"
        try:
            if self._iterator is None:
                self._iterator = self._global_state.call(self._start)
            yielded = self._global_state.call(next, self._iterator)
        except StopIteration:
            raise self._returned() from None
        except SystemExit as error:
            code = "" if error.code is None else repr(error.code)
            raise TrainingStopped(Outcome.FAILED, f"the training code called sys.exit({code}) {where}") from None
        except GeneratorExit:
            raise TrainingStopped(Outcome.FAILED, f"the training code raised GeneratorExit {where}") from None
        except Exception as error:
            if is_out_of_memory(error):
                raise TrainingStopped(Outcome.OUT_OF_MEMORY, f"memory ran out {where}: {first_line(error)}") from None
            raise
        return self._numbers(yielded, where)

    def _start(self) -> Iterator[Any]:
        iterator = self._trainer.function(self.recipe)
        if not isinstance(iterator, Iterator):
            msg = (
                "the training code must be a generator function, one yield an epoch "
                f"(it returned {type(iterator).__name__}); yield the numbers of each epoch"
            )
            raise InputError(msg)
        return iterator

    def _returned(self) -> TrainingStopped:
        if self._yields == 0:
            return TrainingStopped(Outcome.FAILED, "the training code returned without one yield; yield once an epoch")
        why = f"the training code returned after {self._yields} of {self.recipe.epochs} epochs"
        self._trainer.add_notice(f"{why}: such a run counts as trained to its end")
        return TrainingStopped(Outcome.COMPLETED, why)

    def _numbers(self, yielded: object, where: str) -> dict[str, float]:
        pairs: Mapping[Any, Any] = yielded if isinstance(yielded, Mapping) else {self._trainer.metric: yielded}
        if not pairs:
            raise TrainingStopped(Outcome.FAILED, f"the training code must yield numbers, got an empty mapping {where}")
        numbers: dict[str, float] = {}
        for name, value in pairs.items():
            if not isinstance(name, str):
                why = f"the training code must yield numbers under names, got {name!r} for a name {where}"
                raise TrainingStopped(Outcome.FAILED, why, numbers)
            try:
                numbers[name] = number(value)
            except ValueError as error:
                under = f" for {name!r}" if isinstance(yielded, Mapping) else ""
                why = f"the training code must yield numbers, got {error}{under} {where}"
                raise TrainingStopped(Outcome.FAILED, why, numbers) from None
        return numbers

    def setup(self) -> Setup:
        """Where the generator function can be imported from."""
        return {"library": "generator", "function": reference(self._trainer.function)}

    def end(self) -> None:
        """Close the generator: its ``finally`` runs, and an error there is a notice."""
        super().end()
        iterator, self._iterator = self._iterator, None
        close = getattr(iterator, "close", None)
        if close is None:
            return
        try:
            with self._global_state.active():
                self._global_state.call(close)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 -- sys.exit in a `finally` of the user's, for one
            self._trainer.add_notice(f"the training code raised {type(error).__name__} when it was closed")


def number(value: Any) -> float:
    """The float that a value stands for.

    Raises
    ------
    ValueError
        If it stands for none; the message says what it is, e.g. ``"str"``.
    """
    if not isinstance(value, str | bytes | bytearray):
        with contextlib.suppress(TypeError, ValueError, RuntimeError):  # arrays and tensors of many elements
            item = getattr(value, "item", None)
            value = item() if callable(item) else value
        try:
            return float(value)
        except OverflowError:
            msg = f"{type(value).__name__} too large for a float"
            raise ValueError(msg) from None
        except (TypeError, ValueError, RuntimeError):
            pass
    msg = type(value).__name__
    raise ValueError(msg)
