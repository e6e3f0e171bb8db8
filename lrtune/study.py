"""A study: made or gone on with, searched, answered. The front of the one loop."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna

from lrtune.attendance import Attendance
from lrtune.concluding import concluded
from lrtune.curve import Direction, ValueRule
from lrtune.directions import contradiction, known_direction
from lrtune.divergence import Baseline
from lrtune.entries import RECORD
from lrtune.environment import environment
from lrtune.errors import InputError, MismatchError, StorageError
from lrtune.files import passing_folder, sweep
from lrtune.garage import Garage
from lrtune.ledger import Ledger
from lrtune.loop import Search
from lrtune.names import safe_filename, valid_name
from lrtune.numerics import own_errstate
from lrtune.oserrors import cure, reason
from lrtune.reading import BASELINE, IDENTITY, NOTICES, RANGE, SETTINGS, SPACE, checked, unborn
from lrtune.recovery import at_work
from lrtune.search.catalogue import DEFAULT, make
from lrtune.settings import Limits, Settings
from lrtune.space import Space
from lrtune.storage import RetryingStorage, exclusive, file_of, open_storage, quiet, rows_of
from lrtune.training.isolated import isolating
from lrtune.transfer import prior_from
from lrtune.watching import listener
from lrtune.workers import Place

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping

    from optuna.storages import BaseStorage

    from lrtune.progress import Observer
    from lrtune.result import Result
    from lrtune.search.base import Strategy
    from lrtune.training.base import Trainer

__all__ = ["as_trainer", "conduct", "tune"]

SCHEMA = 1
"""Version of what lrtune keeps in a study."""


def tune(
    trainer: Trainer | Callable[..., Any],
    space: Space | Mapping[str, Any],
    *,
    epochs: int,
    metric: str = "valid_loss",
    direction: Direction | None = None,
    strategy: str | Strategy = DEFAULT,
    budget: float | None = None,
    trials: int | None = None,
    timeout: float | None = None,
    seed: int = 0,
    value: str = "last",
    storage: str | os.PathLike[str] | BaseStorage | None = None,
    name: str = "lrtune",
    checkpoints: str | os.PathLike[str] | None = None,
    observer: Observer | None = None,
    should_stop: Callable[[], bool] | None = None,
    place: Place | None = None,
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
        What counts, its better side, and which number of its curve is a trial's result: ``"last"``,
        ``"best"`` or ``"tail:K"``, the mean of the last K. Without a direction a stored study keeps its own; a new
        one takes what the trainer or the metric's name tells, as of a loss, an error or a scorer of scikit-learn.
    strategy
        Who decides what trains next: a name of :data:`lrtune.search.catalogue.NAMES`, or an object of
        that contract.
    budget, trials, timeout
        Limits in full trainings, trials and seconds, any mix of them. With none given the search ends
        by itself, at 6 full trainings at the latest.
    seed
        Of every decision and every run.
    storage
        None keeps the study in memory; a path or URL keeps it, and the same call again resumes.
    name
        Of the study in its storage.
    checkpoints
        Folder of saved runs; the default is a folder beside a storage file.
    observer
        Called with a :class:`lrtune.progress.Progress` at every event.
    should_stop
        Asked often; True ends the search as an interruption that can be resumed.
    place
        Where this process stands among workers; the command line's.
    prior
        An earlier study on similar work to start from: its :class:`~lrtune.result.Result` or Optuna study,
        or the path of its ``result.json``. Only freeze-thaw makes use of it.
    options
        Further fields of :class:`lrtune.settings.Settings`, e.g. ``patience=5``, or ``isolate=True`` for a
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
    direction = direction or _stored_direction(opened, name, metric) or known_direction(metric, made)
    settings = Settings(
        name=name,
        epochs=epochs,
        metric=metric,
        direction=direction,  # type: ignore[arg-type]  # None asks the metric's name
        value=ValueRule.parse(value),
        strategy=strategy if isinstance(strategy, str) else DEFAULT,
        seed=seed,
        limits=Limits(budget=budget, trials=trials, timeout=timeout),
        checkpoints=Path(checkpoints) if checkpoints is not None else None,
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
    strategy: Strategy | None = None,
    observer: Observer | None = None,
    should_stop: Callable[[], bool] | None = None,
    place: Place | None = None,
) -> Result:
    """Search with everything made and checked; see :func:`tune`.

    Raises
    ------
    SearchError
        If no trial completed. Its attribute ``result`` holds what can be said all the same.
    """
    started = time.monotonic()
    place = place or Place()
    space = space.for_optimizer(getattr(trainer, "optimizer", None))
    with contextlib.ExitStack() as until_end:
        if isinstance(storage, RetryingStorage):
            until_end.callback(storage.close)  # the process may go on for long, and the file may be copied meanwhile
        wrapped = isolating(trainer, wanted=settings.isolate, stall_timeout=settings.stall_timeout, place=place)
        used = until_end.enter_context(wrapped)
        until_end.enter_context(own_errstate())
        study = _opened(used, space, settings, storage)
        place.ready()
        deadline = None if settings.limits.timeout is None else started + settings.limits.timeout
        listen = listener(observer, started)
        folder = until_end.enter_context(_folder(settings, storage))
        me = until_end.enter_context(at_work())
        ledger = Ledger(storage=storage, study=study, settings=settings, me=me, deaths=place.deaths)
        until_end.callback(ledger.close)
        stored = ledger.attributes()
        warnings = [*_reseeded(stored, settings), *contradiction(settings.metric, settings.direction, trainer)]
        search = Search(
            trainer=used,
            settings=settings,
            strategy=strategy or make(settings.strategy, prune=settings.prune, points=settings.points),
            space=Space.from_json(stored[SPACE]),
            ledger=ledger,
            place=place,
            attendance=Attendance.of(ledger, place),
            garage=Garage(
                trainer=used,
                folder=folder,
                memory_limit=0 if settings.isolate else settings.memory_limit,
                study=stored.get(IDENTITY),
                warn=warnings.append,
            ),
            should_stop=should_stop or bool,
            deadline=deadline,
            listen=listen,
            widened=lambda wider: ledger.describe({SPACE: wider.to_json()}),
            learned=lambda baseline: ledger.describe({BASELINE: dataclasses.asdict(baseline)}),
            baseline=Baseline(**stored[BASELINE]) if BASELINE in stored else None,
            warnings=warnings,
        )
        until_end.enter_context(search.attendance.during(search.decisively))
        try:
            finished = search.run()
        finally:
            search.garage.close()
        return concluded(search, finished, listen)


def as_trainer(given: Trainer | Callable[..., Any], metric: str) -> Trainer:
    """The trainer given, or one for the generator function given.

    Raises
    ------
    InputError
        If it is neither.
    """
    from lrtune.training.base import Trainer
    from lrtune.training.loop import GeneratorTrainer

    if isinstance(given, Trainer) and not isinstance(given, type):
        return given
    return GeneratorTrainer(given, metric=metric)


def _strategy(given: str | Strategy, settings: Settings, prior: Any) -> Strategy:
    if not isinstance(given, str):
        return given
    earlier = None if prior is None else prior_from(prior)
    return make(given, prune=settings.prune, points=settings.points, prior=earlier)


# -- opening ------------------------------------------------------------------------------------------


def _opened(trainer: Trainer, space: Space, settings: Settings, storage: BaseStorage) -> optuna.Study:
    """Make the study, or check that the one there is the same and go on with it.

    Its settings are the last thing that is written when a study is made. Whoever was killed before, or found the
    disk full, has left nothing of value: such a study is made anew.
    """
    with exclusive(storage, settings.name):
        if _is_there(storage, settings.name):
            study = optuna.load_study(study_name=settings.name, storage=storage)
            if not unborn(study):
                _check_same(study, trainer, space, settings)
                return study
        study = _created(storage, settings)
        with contextlib.closing(rows_of(storage, storage.get_study_id_from_name(settings.name))) as rows:
            rows.describe(
                {
                    IDENTITY: uuid.uuid4().hex,
                    SPACE: space.to_json(),
                    NOTICES: list(trainer.notices),
                    RANGE: list(space.lr_range),
                    SETTINGS: _description(trainer, space, settings),
                }
            )
        return study


def _created(storage: BaseStorage, settings: Settings) -> optuna.Study:
    """A new study, and an empty one; one that was left unborn is used, unless it has another direction.

    Whoever deletes a study in SQLite while it is written to may leave trials behind, and the next study gets its
    number and them with it: then they are deleted together.
    """
    name, direction = settings.name, settings.direction
    with quiet():
        if not _is_there(storage, name):
            optuna.create_study(study_name=name, storage=storage, direction=direction)
        study = optuna.load_study(study_name=name, storage=storage)
        if study.get_trials(deepcopy=False) or [way.name.lower() for way in study.directions] != [direction]:
            optuna.delete_study(study_name=name, storage=storage)
            study = optuna.create_study(study_name=name, storage=storage, direction=direction)
        study.set_metric_names([settings.metric])
    return study


def _is_there(storage: BaseStorage, name: str) -> bool:
    try:
        storage.get_study_id_from_name(name)
    except KeyError:
        return False
    return True


def _description(trainer: Trainer, space: Space, settings: Settings) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        **settings.identity(),
        "strategy": settings.strategy,
        "seed": settings.seed,
        "space": space.to_json(),
        "work": dict(trainer.fingerprint()),
        "environment": environment(),
    }


def _check_same(study: optuna.Study, trainer: Trainer, space: Space, settings: Settings) -> None:
    """Refuse to go on with another study; say what differs.

    Raises
    ------
    MismatchError
        With both sides of every difference.
    """
    stored = checked(study.user_attrs, settings.name).get(SETTINGS)
    if stored is None:
        made = any(RECORD in trial.user_attrs for trial in study.get_trials(deepcopy=False))
        told = f"holds trials of lrtune's without their settings ({SETTINGS}): copy it whole, or"
        what = told if made else "was not made by lrtune:"
        msg = f"study {settings.name!r} in this storage {what} choose another name"
        raise MismatchError(msg)
    now = json.loads(json.dumps(_description(trainer, space, settings)))
    lines = [f"{key}: {stored.get(key)} -> {now[key]}" for key in settings.identity() if stored.get(key) != now[key]]
    lines += Space.from_json(stored["space"]).difference(space)
    work = {**stored.get("work", {}), **now["work"]}
    lines += [
        f"{key}: {stored['work'].get(key)} -> {now['work'].get(key)}"
        for key in work
        if stored["work"].get(key) != now["work"].get(key)
    ]
    held = ", ".join(direction.name.lower() for direction in study.directions) or "none"
    if held != settings.direction:
        lines.append(f"direction: {held} -> {settings.direction}")
    if lines:
        msg = (
            f"study {settings.name!r} was made for something else ({'; '.join(dict.fromkeys(lines))}): "
            "change it back, or choose another name"
        )
        raise MismatchError(msg)


def _reseeded(stored: Mapping[str, Any], settings: Settings) -> list[str]:
    """What whoever asks for another seed than the study was begun with should know."""
    begun = stored[SETTINGS].get("seed", settings.seed)
    if begun == settings.seed:
        return []
    said = f"the study was begun with seed {begun}: what was trained before keeps it, beside the new {settings.seed}"
    return [said]


def _stored_direction(storage: BaseStorage, name: str, metric: str) -> Direction | None:
    """The direction of a study that is there already and watches the same metric: it goes on as it is."""
    if not _is_there(storage, valid_name(name)):
        return None
    stored = optuna.load_study(study_name=name, storage=storage).user_attrs.get(SETTINGS)
    if not isinstance(stored, dict) or stored.get("metric") != metric:
        return None
    return "maximize" if stored.get("direction") == "maximize" else "minimize"


@contextlib.contextmanager
def _folder(settings: Settings, storage: BaseStorage) -> Iterator[Path]:
    """Where paused runs are saved: the folder given, one beside the storage's file, or a passing one."""
    folder, file = settings.checkpoints, file_of(storage)
    folder = None if folder is None else folder.absolute()  # the training code may go elsewhere
    if folder is None and file is not None:
        folder = file.with_name(f"{file.stem}-checkpoints") / safe_filename(settings.name)
    if folder is None:
        with passing_folder() as passing:
            yield passing
        return
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        msg = (
            f"{folder}: no folder for paused runs can be made there ({reason(error)}); {cure(error)}, or choose another"
        )
        raise StorageError(msg) from None
    sweep(folder)
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):  # not empty: runs are paused in it
            folder.rmdir()
            if settings.checkpoints is None:
                folder.parent.rmdir()
