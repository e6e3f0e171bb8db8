"""The user's own training loop: a generator function of a recipe, one yield an epoch.

Between yields the generator is suspended for as long as the search likes: that is all the pausing it
needs, and why it cannot be saved: its state lives in its frame. The global random numbers are set aside
with it, so that a run alone and a run beside others are the same, and begin from the recipe's seed, so that
one that is lost and trained again is the same, too, where its code seeds nothing itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from lrtune.core.curve import Point
from lrtune.core.outcome import Outcome
from lrtune.errors import InputError
from lrtune.training.base import Baseline, Report
from lrtune.training.global_state import Ambient
from lrtune.training.out_of_memory import first_line, is_out_of_memory
from lrtune.training.setups import reference

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.training.base import Setup, State

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
        self._function: Function = function
        self._metric = metric
        self._notices: dict[str, None] = {}

    @property
    def notices(self) -> Sequence[str]:
        """What the user should be told: e.g. that a run returned before its last epoch."""
        return tuple(self._notices)

    def start(self, recipes: Sequence[Recipe], /) -> GeneratorRun:
        """Start a run: one generator for each recipe; no user code runs before the first step."""
        return GeneratorRun(self._function, recipes, self._metric, self._notices)

    def steps_per_epoch(self, recipe: Recipe, /) -> int:  # noqa: ARG002 -- the protocol's
        """One: a yield is an epoch."""
        return 1

    def baseline(self, recipe: Recipe, metric: str, /) -> Baseline:  # noqa: ARG002 -- the protocol's
        """Unknown: nobody but the user's code has the data."""
        return Baseline()

    def fingerprint(self) -> Mapping[str, str]:
        """Empty: nobody but the user's code has the data."""
        return {}


@dataclass(slots=True)
class _Member:
    """One generator and how far it is."""

    recipe: Recipe
    ambient: Ambient
    yields: int = 0
    iterator: Iterator[Any] | None = None
    done: bool = False


@dataclass(slots=True)
class _LoopStopped(Exception):  # noqa: N818 -- a message within this module, not an error
    """The member ends, and how; it never leaves this module."""

    outcome: Outcome
    why: str
    values: Mapping[str, float] = field(default_factory=dict)
    returned: bool = False


class GeneratorRun:
    """Generators side by side; see :class:`lrtune.training.base.Run` for what each method promises."""

    def __init__(self, function: Function, recipes: Sequence[Recipe], metric: str, notices: dict[str, None]) -> None:
        self._function = function
        self._metric = metric
        self._notices = notices
        self._members = [_Member(recipe, Ambient(recipe.seed)) for recipe in recipes]

    @property
    def recipes(self) -> Sequence[Recipe]:
        """What each member was told."""
        return tuple(member.recipe for member in self._members)

    @property
    def alive(self) -> tuple[int, ...]:
        """The members that can go on."""
        return tuple(number for number, member in enumerate(self._members) if not member.done)

    def advance(self, steps: int, /, *, evaluate: bool = True) -> list[Report]:  # noqa: ARG002 -- a yield measures
        """Ask every member alive for up to `steps` yields; one report for each yield.

        Raises
        ------
        Exception
            Whatever the generator raises, except for what is an outcome: running out of memory, exiting,
            yielding something else than numbers.
        InputError
            If the function is no generator function.
        """
        reports: list[Report] = []
        for number in self.alive:
            member = self._members[number]
            with member.ambient.active():
                for _ in range(steps):
                    if member.done:
                        break
                    reports.append(self._step(number, member))
        return reports

    def _step(self, number: int, member: _Member) -> Report:
        try:
            values = self._next(member)
        except _LoopStopped as stop:
            # A generator that has returned stands where it stood; one that failed did so in its next epoch.
            at = member.yields if stop.returned else member.yields + 1
            self._end(member)
            point = Point(step=at, epoch=float(at), values=stop.values)
            return Report(member=number, point=point, outcome=stop.outcome, why=stop.why)
        except BaseException:
            self._end(member)
            raise
        member.yields += 1
        point = Point(step=member.yields, epoch=float(member.yields), values=values)
        if member.yields < member.recipe.epochs:
            return Report(member=number, point=point)
        self._end(member)
        return Report(member=number, point=point, outcome=Outcome.COMPLETED)

    def _next(self, member: _Member) -> dict[str, float]:
        """The numbers of the next yield, or a `_LoopStopped` that says how the member ends."""
        where = f"in epoch {member.yields + 1}"
        try:
            if member.iterator is None:
                member.iterator = member.ambient.call(self._begun, member.recipe)
            yielded = member.ambient.call(next, member.iterator)
        except StopIteration:
            raise self._returned(member) from None
        except SystemExit as error:
            code = "" if error.code is None else repr(error.code)
            raise _LoopStopped(Outcome.FAILED, f"the training code called sys.exit({code}) {where}") from None
        except GeneratorExit:
            raise _LoopStopped(Outcome.FAILED, f"the training code raised GeneratorExit {where}") from None
        except Exception as error:
            if is_out_of_memory(error):
                raise _LoopStopped(Outcome.OUT_OF_MEMORY, f"memory ran out {where}: {first_line(error)}") from None
            raise
        return self._numbers(yielded, where)

    def _begun(self, recipe: Recipe) -> Iterator[Any]:
        iterator = self._function(recipe)
        if not isinstance(iterator, Iterator):
            msg = (
                "the training code must be a generator function, one yield an epoch "
                f"(it returned {type(iterator).__name__}); yield the numbers of each epoch"
            )
            raise InputError(msg)
        return iterator

    def _returned(self, member: _Member) -> _LoopStopped:
        if member.yields == 0:
            return _LoopStopped(Outcome.FAILED, "the training code returned without one yield; yield once an epoch")
        epochs = member.recipe.epochs
        why = f"the training code returned after {member.yields} of {epochs} epochs"
        self._notices[f"{why}: such a run counts as trained to its end"] = None
        return _LoopStopped(Outcome.COMPLETED, why, returned=True)

    def _numbers(self, yielded: object, where: str) -> dict[str, float]:
        pairs: Mapping[Any, Any] = yielded if isinstance(yielded, Mapping) else {self._metric: yielded}
        if not pairs:
            raise _LoopStopped(Outcome.FAILED, f"the training code must yield numbers, got an empty mapping {where}")
        numbers: dict[str, float] = {}
        for name, value in pairs.items():
            if not isinstance(name, str):
                why = f"the training code must yield numbers under names, got {name!r} for a name {where}"
                raise _LoopStopped(Outcome.FAILED, why, numbers)
            try:
                numbers[name] = number(value)
            except ValueError as error:
                under = f" for {name!r}" if isinstance(yielded, Mapping) else ""
                why = f"the training code must yield numbers, got {error}{under} {where}"
                raise _LoopStopped(Outcome.FAILED, why, numbers) from None
        return numbers

    def _end(self, member: _Member) -> None:
        """The generator's own clean-up runs, and whatever goes wrong in it ends nothing else."""
        iterator, member.iterator, member.done = member.iterator, None, True
        close = getattr(iterator, "close", None)
        if close is None:
            return
        try:
            with member.ambient.active():
                member.ambient.call(close)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 -- sys.exit in a `finally` of the user's, for one
            self._notices[f"the training code raised {type(error).__name__} when it was closed"] = None

    def setup(self) -> Setup:
        """Where the generator function can be found."""
        return {"library": "generator", "function": reference(self._function)}

    def drop(self, members: Iterable[int], /) -> None:
        """Close the generators of these members."""
        for number in members:
            self._end(self._members[number])

    def state(self) -> State | None:
        """None: a generator cannot be saved."""
        return None

    def restore(self, state: State, /) -> None:
        """Always refused.

        Raises
        ------
        InputError
            A generator cannot be restored.
        """
        del state
        msg = "a generator function cannot be restored from a state; the run starts again with the same recipe"
        raise InputError(msg)

    def suspend(self) -> None:
        """Nothing to do: what a suspended generator holds is its own."""

    def close(self) -> None:
        """Close all generators."""
        for member in self._members:
            self._end(member)


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
