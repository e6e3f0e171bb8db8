"""`lrtune.tune`: its arguments are checked, a study is created or resumed, and the engine searches."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna

from lrtune.core.directions import contradiction, known_direction
from lrtune.core.divergence import Baseline
from lrtune.core.names import valid_name
from lrtune.core.numpy_errors import own_errstate
from lrtune.core.outcome import Outcome
from lrtune.core.space import Space
from lrtune.errors import InputError
from lrtune.search.registry import DEFAULT, make
from lrtune.storage import RetryingStorage, open_storage
from lrtune.study.engine.finalize import finalize
from lrtune.study.engine.loop import run_search
from lrtune.study.engine.run_cache import RunCache
from lrtune.study.engine.search_state import SearchState
from lrtune.study.resume import checkpoint_folder, exists, lasting_folder, open_study, seed_warning
from lrtune.study.settings import Settings
from lrtune.study.trials.active_searches import ActiveSearches
from lrtune.study.trials.recovery import worker_lease
from lrtune.study.trials.study_reader import BASELINE, IDENTITY, RANGE, SETTINGS, SPACE
from lrtune.study.trials.trial_store import TrialStore
from lrtune.study.warm_start import prior_from
from lrtune.study.winner import Winner
from lrtune.training.subprocess.trainer import isolating
from lrtune.workers.pool import WorkerContext

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    from optuna.storages import BaseStorage

    from lrtune.core.curve import Direction
    from lrtune.search.base import Strategy
    from lrtune.study.events import Observer
    from lrtune.study.result import Result
    from lrtune.training.base import Trainer

__all__ = ["as_trainer", "conduct", "tune"]


def tune(
    trainer: Trainer | Callable[..., Any],
    space: Space | Mapping[str, Any],
    *,
    epochs: int,
    metric: str = "valid_loss",
    direction: Direction | None = None,
    strategy: str | Strategy = DEFAULT,
    budget: float | None = None,
    machine_budget: float | None = None,
    trials: int | None = None,
    timeout: float | None = None,
    worth: float | None = None,
    seed: int = 0,
    value: str = "last",
    storage: str | os.PathLike[str] | BaseStorage | None = None,
    name: str = "lrtune",
    checkpoints: str | os.PathLike[str] | None = None,
    observer: Observer | None = None,
    should_stop: Callable[[], bool] | None = None,
    place: WorkerContext | None = None,
    prior: Any = None,
    **options: Any,
) -> Result:
    """Find the learning rate.

    Parameters
    ----------
    trainer
        A trainer, or a generator function of a recipe that yields once an epoch.
    space
        What is searched; a mapping is read like the ``[space]`` of a study file.
    epochs
        Epochs of one full training; yields of a generator.
    metric, direction, value
        The metric that counts, its better side, and which number of its curve is a trial's result: ``"last"``,
        ``"best"`` or ``"tail:K"``, the mean of the last K. Without a direction a stored study keeps its own; a new
        one takes that of the trainer or of the metric's name, as of a loss, an error or a scorer of scikit-learn.
    strategy
        Decides what trains next: a name of :data:`lrtune.search.registry.NAMES`, or an object of
        that contract.
    budget, trials, timeout
        Limits in full trainings, trials and seconds, any mix of them. With none given the search ends
        by itself, at 6 full trainings at the latest.
    machine_budget
        Limit on the time of training, in full trainings of one run alone; runs that are trained side by side as one
        stacked model (``stack`` of :class:`lrtune.TorchTrainer`) take less of it than of the budget.
    worth
        End once one more full training is expected to gain less than this share of what training gains over the
        untrained model, e.g. 0.01.
    seed
        Of every decision and every run.
    storage
        None keeps the study in memory; a path or URL keeps it, and the same call again resumes.
    name
        Of the study in its storage.
    checkpoints
        Folder of saved runs; the default is a folder beside a storage file.
    observer
        Called with a :class:`lrtune.study.events.Progress` at every event.
    should_stop
        Called often; True ends the search as an interruption that can be resumed.
    place
        Which of the command line's workers this process is.
    prior
        An earlier study on similar work to start from: its :class:`~lrtune.study.result.Result` or Optuna study,
        or the path of its ``result.json``. Only freeze-thaw uses it.
    options
        Further fields of :class:`lrtune.study.settings.Settings`, e.g. ``patience=5``, or ``isolate=True`` for a
        process for each run.

    Raises
    ------
    InputError
        If anything given cannot be used.
    SearchError
        If no trial completed; its message says what to try.
    StorageError, MismatchError
        If the storage cannot be used, or holds another study under that name.
    """
    known = {field.name for field in dataclasses.fields(Settings)}
    unknown = sorted(set(options) - known)
    if unknown:
        msg = f"tune() has no option {unknown[0]!r} (it has {', '.join(sorted(known))})"
        raise InputError(msg)
    made, opened = as_trainer(trainer, metric), open_storage(storage)
    settings = Settings.of(
        name=name,
        epochs=epochs,
        metric=metric,
        direction=direction or _stored_direction(opened, name, metric) or known_direction(metric, made),
        value=value,
        strategy=strategy if isinstance(strategy, str) else DEFAULT,
        seed=seed,
        budget=budget,
        machine_budget=machine_budget,
        trials=trials,
        timeout=timeout,
        worth=worth,
        checkpoints=None if checkpoints is None else Path(checkpoints),
        **options,
    )
    return conduct(
        made,
        space if isinstance(space, Space) else Space.from_mapping(space),
        settings,
        storage=opened,
        strategy=_strategy(strategy, settings, prior),
        observer=observer,
        should_stop=should_stop,
        place=place,
    )


def conduct(
    trainer: Trainer,
    space: Space,
    settings: Settings,
    *,
    storage: BaseStorage,
    strategy: Strategy,
    observer: Observer | None = None,
    should_stop: Callable[[], bool] | None = None,
    place: WorkerContext | None = None,
) -> Result:
    """Search with everything made and checked; see :func:`tune`."""
    started, place = time.monotonic(), place or WorkerContext()
    space = space.for_optimizer(getattr(trainer, "optimizer", None))
    with contextlib.ExitStack() as stack:
        if isinstance(storage, RetryingStorage):
            stack.callback(storage.close)  # the process may go on for long, and the file may be copied meanwhile
        isolated = isolating(trainer, wanted=settings.isolate, stall_timeout=settings.stall_timeout, place=place)
        used = stack.enter_context(isolated)
        stack.enter_context(own_errstate())
        study = open_study(used, space, settings, storage)
        place.ready()
        folder = stack.enter_context(checkpoint_folder(settings, storage))
        me = stack.enter_context(worker_lease())
        store = TrialStore(storage=storage, study=study, settings=settings, me=me, deaths=place.deaths)
        stack.callback(store.close)
        state = _search_state(used, strategy, store, folder, started=started, place=place)
        state.observer, state.should_stop = observer, should_stop or bool
        state.warnings += contradiction(settings.metric, settings.direction, trainer)
        stack.enter_context(state.active_searches.during(state.with_study_lock))
        with contextlib.closing(state.run_cache):
            finished = run_search(state)
        return _with_winner(finalize(state, finished), state, trainer, folder)


def _with_winner(result: Result, state: SearchState, trainer: Trainer, folder: Path) -> Result:
    """The result with its trained model: in memory where the folder of checkpoints goes when the search ends."""
    done = (t.record for t in state.trials if t.record.outcome is Outcome.COMPLETED)
    number = next((record.number for record in done if record.recipe == result.best_recipe), None)
    if result.best_recipe is None or number is None:
        return result
    winner = Winner.of(trainer, result.best_recipe, number, study=state.run_cache.study, folder=folder)
    passing = lasting_folder(state.settings.name, state.trial_store.storage, state.settings.checkpoints) is None
    return dataclasses.replace(result, winner=winner.loaded() if passing else winner)


def _search_state(
    trainer: Trainer, strategy: Strategy, store: TrialStore, folder: Path, *, started: float, place: WorkerContext
) -> SearchState:
    """The state of a search that begins or goes on, from what the study holds."""
    settings, stored = store.settings, store.attributes()
    warnings = seed_warning(stored, settings)
    return SearchState(
        trainer=trainer,
        settings=settings,
        strategy=strategy,
        space=Space.from_json(stored[SPACE]),
        lr_range=tuple(stored[RANGE]),
        trial_store=store,
        run_cache=RunCache(
            trainer=trainer,
            folder=folder,
            memory_limit=0 if settings.isolate else settings.memory_limit,
            study=stored.get(IDENTITY),
            warn=warnings.append,
        ),
        active_searches=ActiveSearches.of(store, place),
        started=started,
        place=place,
        baseline=Baseline(**stored[BASELINE]) if BASELINE in stored else None,
        warnings=warnings,
    )


def as_trainer(given: Trainer | Callable[..., Any], metric: str) -> Trainer:
    """The trainer given, or one for the generator function given.

    Raises
    ------
    InputError
        If it is neither.
    """
    from lrtune.training.base import Trainer
    from lrtune.training.generator import GeneratorTrainer

    if isinstance(given, Trainer) and not isinstance(given, type):
        return given
    return GeneratorTrainer(given, metric=metric)


def _strategy(given: str | Strategy, settings: Settings, prior: Any) -> Strategy:
    if not isinstance(given, str):
        return given
    earlier = None if prior is None else prior_from(prior)
    return make(given, prune=settings.prune, points=settings.points, prior=earlier)


def _stored_direction(storage: BaseStorage, name: str, metric: str) -> Direction | None:
    """The direction of a stored study of the same metric, which goes on as it is."""
    if not exists(storage, valid_name(name)):
        return None
    stored = optuna.load_study(study_name=name, storage=storage).user_attrs.get(SETTINGS)
    if not isinstance(stored, dict) or stored.get("metric") != metric:
        return None
    return "maximize" if stored.get("direction") == "maximize" else "minimize"
