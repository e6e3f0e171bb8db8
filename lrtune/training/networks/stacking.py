"""Decides which members are stacked: what has been found possible, and what has been measured to pay."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

from lrtune.training.networks.run import NetworkMember
from lrtune.training.networks.stack import Stack, reason_of
from lrtune.training.networks.stackable import UnstackableError, key_of, why_not_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.training.networks.build import LiveModel, NetworkSettings

__all__ = ["Stacking"]

CLEARLY = 1.1
"""Measured speedup from which it is taken to pay; a measurement of a few steps is good to some percent."""

LIKE = 1e-4
"""Largest difference of gradients, as a share of their norm, and of losses that rounding is taken to make."""

STEPS, ROUNDS = 8, 5
"""At most so many steps of one timing, and timings of each side, which take turns; the fastest count."""

BRIEF, ENOUGH, LONG = 0.02, 0.5, 0.05
"""Seconds: one timing of several models need not be longer; no further one begins; a step of one model that leaves
nothing to gain, since little of it is overhead: then nothing is measured, and no memory taken for several."""

TRIAL_LR = 1e-6


class Stacking:
    """How the runs of one trainer are stacked.

    Parameters
    ----------
    settings
        The trainer's.
    mode
        True: whatever can be; False: nothing; ``"auto"``: where it is measured to be faster.
    """

    def __init__(self, settings: NetworkSettings, mode: bool | str) -> None:  # noqa: FBT001 -- the trainer's option
        self._settings, self._mode = settings, mode
        self._kinds: dict[Hashable, int] = {}
        self._kind_of: WeakKeyDictionary[NetworkMember, tuple[LiveModel | None, int]] = WeakKeyDictionary()
        self._known_recipes: dict[Recipe, int | None] = {}
        self._refused: set[int] = set()
        self._possible: set[int] = set()
        self._speedups: dict[tuple[int, int], float] = {}

    def owns(self, members: Sequence[Any]) -> bool:
        """Whether all are models of this trainer's."""
        return all(isinstance(m, NetworkMember) and m.settings is self._settings for m in members)

    def groups(self, members: Sequence[NetworkMember]) -> list[list[NetworkMember]]:
        """Those that can be trained as one, and for which it pays; all others go one by one."""
        if self._mode is False or len(members) < 2:  # noqa: PLR2004 -- nobody to share with
            return []
        why = why_not_settings(self._settings)
        if why:
            self._notify(why)
            return []
        found: dict[tuple[int, int], list[NetworkMember]] = {}
        for member in members:
            try:
                found.setdefault((self._kind(member), self._at(member)), []).append(member)
            except UnstackableError as refusal:
                self._notify(str(refusal))
        return [group for group in found.values() if self.pays(group)]

    def _kind(self, member: NetworkMember) -> int:
        """The number of what it has in common with others, found out once for each model; UnstackableError."""
        live = member.live
        if live is None or live.stepper.micro_batch is not None:
            key_of(member)  # says why not
        known = self._kind_of.get(member)
        if known is None or known[0] is not live:
            known = self._kind_of[member] = (live, self._kinds.setdefault(key_of(member), len(self._kinds)))
        return known[1]

    def _at(self, member: NetworkMember) -> int:
        """The position in the epoch, where the last batch is smaller than the others: it must come for all at once."""
        settings = self._settings
        size = settings.train.batch_size(member.recipe, settings.batch_size)
        whole = getattr(settings.train, "samples", 0) == size * member.per_epoch
        return 0 if whole else member.step % member.per_epoch

    def pays(self, members: Sequence[NetworkMember]) -> bool:
        """Whether members of one group are to be stacked."""
        if len(members) < 2:  # noqa: PLR2004 -- nobody to share with
            return False
        kind, recipe = self._kind(members[0]), members[0].recipe
        if not self._can(kind, recipe):
            return False
        return self._mode is True or self._speedup(kind, recipe, len(members)) >= CLEARLY

    def speedup(self, recipe: Recipe, members: int) -> float:
        """Member-steps a second of so many stacked over one by one; 1 where they are not stacked."""
        if self._mode is False or members < 2 or why_not_settings(self._settings):  # noqa: PLR2004 -- nobody to share with
            return 1.0
        kind = self._kind_of_recipe(recipe)
        if kind is None or not self._can(kind, recipe):
            return 1.0
        found = self._speedup(kind, recipe, members)
        return found if self._mode is True or found >= CLEARLY else 1.0

    def _kind_of_recipe(self, recipe: Recipe) -> int | None:
        """The number of what models of such a recipe have in common; None where they cannot be stacked."""
        like = dataclasses.replace(_trial_of(recipe, 0), seed=0)
        if like not in self._known_recipes:
            trial = NetworkMember(0, like, self._settings)
            try:
                self._known_recipes[like] = self._kind(trial)
            except UnstackableError as refusal:
                self._notify(str(refusal))
                self._known_recipes[like] = None
            finally:
                trial.end()
        return self._known_recipes[like]

    def refuse(self, members: Sequence[NetworkMember], why: str) -> None:
        """Train members of this kind one by one from now on."""
        if members[0].live is not None:
            self._refused.add(self._kind(members[0]))
        self._notify(why)

    def _notify(self, why: str) -> None:
        self._settings.notify(f"runs are trained one by one, not stacked: {why}")

    def _can(self, kind: int, recipe: Recipe) -> bool:
        """Whether two models stacked are found to do what each does alone; tried once, on models thrown away."""
        if kind not in self._possible | self._refused:
            try:
                self._compare(recipe)
                self._possible.add(kind)
            except Exception as error:  # noqa: BLE001 -- alone it may go well, and if not, the error comes again
                self._refused.add(kind)
                self._notify(str(reason_of(error)))
        return kind not in self._refused

    def _compare(self, recipe: Recipe) -> None:
        """A step of two models alone and stacked, on batches of their own; UnstackableError where they differ."""
        recipes = [_trial_of(recipe, seed) for seed in range(2)]
        alone, stacked = ([NetworkMember(0, one, self._settings) for one in recipes] for _ in range(2))
        try:
            stack = Stack(stacked)
            stack.train(1, dict.fromkeys(stacked, 1))
            for row, (one, two) in enumerate(zip(alone, stacked, strict=True)):
                one.train_to(1, evaluate=False)
                self._same(one, two, stack, row)
        finally:
            for member in (*alone, *stacked):
                member.end()

    def _same(self, one: NetworkMember, two: NetworkMember, stack: Stack, row: int) -> None:
        optimizer = one.running().stepper.optimizer
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        if any(gradient is None for gradient in gradients):
            msg = "some parameters have no gradient"
            raise UnstackableError(msg)
        found = [part[row] for part in stack.tensors.gradient_parts]
        buffers = zip(one.running().model.buffers(), two.running().model.buffers(), strict=True)
        pairs = [(_flat(gradients), _flat(found)), *((a.double(), b.double()) for a, b in buffers)]
        losses = [torch.tensor(member.mean_loss.get("train_loss", 0.0)) for member in (one, two)]
        for first, second in [*pairs, (losses[0], losses[1])]:
            if not bool((first - second).norm() <= LIKE * first.norm() + LIKE**2):
                msg = "a step of several models is not what each does alone"
                raise UnstackableError(msg)

    def _speedup(self, kind: int, recipe: Recipe, members: int) -> float:
        """Measured once for each power of two, the largest up to `members`."""
        members = 1 << (members.bit_length() - 1)
        if (kind, members) not in self._speedups:
            self._speedups[kind, members] = self._measure(recipe, members)
        return self._speedups[kind, members]

    def _measure(self, recipe: Recipe, members: int) -> float:
        single = NetworkMember(0, _trial_of(recipe, 0), self._settings)
        several: list[NetworkMember] = []
        times: list[tuple[float, float]] = []

        def alone(steps: int) -> None:
            single.step = 0
            single.train(0, 0, steps)

        try:
            with single.stream.active(all_libraries=single.running().user_code):
                if min(self._timed(alone, 1) for _ in range(2)) > LONG:
                    return 1.0
                several += [NetworkMember(0, _trial_of(recipe, seed), self._settings) for seed in range(members)]
                stack = Stack(several)

                def together(steps: int) -> None:
                    for member in several:
                        member.step = 0
                    stack.train(steps, dict.fromkeys(several, -1))

                brief = min(self._timed(together, 1) for _ in range(2))
                steps = max(1, min(STEPS, single.per_epoch, int(BRIEF / brief)))
                begin = time.perf_counter()
                while len(times) < ROUNDS and (not times or time.perf_counter() - begin < ENOUGH):
                    times.append((self._timed(alone, steps), self._timed(together, steps)))
        except Exception as error:  # noqa: BLE001 -- alone it may go well, and if not, the error comes again
            self._notify(str(reason_of(error)))
            return 1.0
        finally:
            for member in (single, *several):
                member.end()
        return members * min(one for one, _ in times) / min(all_of_them for _, all_of_them in times)

    def _timed(self, function: Callable[[int], None], steps: int) -> float:
        """Seconds; of this process's CPU where one thread does all, since other programs count in time by the clock."""
        on_gpu = self._settings.device.type == "cuda"
        clock = time.perf_counter if on_gpu or torch.get_num_threads() > 1 else time.process_time
        begin = clock()
        function(steps)
        if on_gpu:
            torch.cuda.synchronize(self._settings.device)
        return clock() - begin


def _trial_of(recipe: Recipe, seed: int) -> Recipe:
    """A recipe of models that are thrown away, whose steps are too small to diverge."""
    return dataclasses.replace(recipe, lr=TRIAL_LR, seed=recipe.seed + seed, schedule="constant", warmup=0.0, epochs=1)


def _flat(tensors: Sequence[Any]) -> torch.Tensor:
    return torch.cat([tensor.detach().flatten().double() for tensor in tensors])
