"""The study file: what a person asks for, as frozen data, every refusal one sentence with file, line and key.

:func:`read_study` checks all of it before anything is loaded; :meth:`StudyFile.make_trainer` then loads the
user's code or table, and :meth:`StudyFile.arguments` says what to give to :func:`lrtune.study.tuning.tune`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lrtune.config.toml import TomlTable, read
from lrtune.core.names import valid_name
from lrtune.errors import InputError, SpaceError, StudyFileError

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from lrtune.core.curve import Direction
    from lrtune.core.space import Space

__all__ = ["Question", "SearchTable", "StudyFile", "TrainTable", "read_study"]

DEFAULT_EPOCHS = 27
DEFAULT_LR = (1e-5, 10.0)
SECTIONS = ("study", "train", "space", "search")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The table ``[study]``: what is asked; see :class:`lrtune.study.settings.Settings` for each."""

    name: str
    metric: str = "valid_loss"
    direction: str | None = None
    epochs: int = DEFAULT_EPOCHS
    value: str = "last"
    patience: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainTable:
    """The table ``[train]``: who trains, on what.

    Attributes
    ----------
    trainer
        ``"train.py:trainer"``, see :func:`lrtune.config.user_code.load_trainer`; None where an estimator is named.
    estimator
        ``"sklearn.linear_model:SGDClassifier"``, or ``"model.py:pipeline"``.
    options
        Arguments of the estimator.
    learning_rate_parameter
        Name of its learning-rate parameter, where lrtune does not know the estimator.
    data
        Path of a CSV or Parquet file beside the study file, or the name of a bundled data set.
    target, weight, drop
        Columns: what is predicted, the sample weights, what is left out.
    valid_fraction
        Fraction of the rows on which the metric is measured.
    """

    trainer: str | None = None
    estimator: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    learning_rate_parameter: str | None = None
    data: str | None = None
    target: str | None = None
    weight: str | None = None
    drop: tuple[str, ...] = ()
    valid_fraction: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchTable:
    """The table ``[search]``: how it is searched and when it ends; None leaves it to lrtune.

    See :class:`lrtune.study.settings.Settings`; `storage` and `workers` are arguments of :func:`lrtune.tune`.
    """

    strategy: str | None = None
    budget: float | None = None
    trials: int | None = None
    timeout: float | None = None
    seed: int | None = None
    workers: int | None = None
    widen: float | bool | None = None
    prune: bool | None = None
    points: int | None = None
    failures: int | None = None
    checkpoint_every: float | None = None
    stall_timeout: float | None = None
    trial_timeout: float | None = None
    memory_limit: int | None = None
    isolate: bool | None = None
    storage: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyFile:
    """All that a study file says, with what the command line put over it.

    Attributes
    ----------
    path
        The file; None where the command line said it all.
    folder
        From where its paths count.
    question, training, space, search
        Its four tables.
    places
        What to call a key of ``[train]`` in a message, with its line.
    lr_given
        Whether a range of learning rates was given; else the space has the usual one.
    """

    path: Path | None
    folder: Path
    question: Question
    training: TrainTable
    space: Space
    search: SearchTable
    places: Mapping[str, str] = field(default_factory=dict)
    lr_given: bool = True

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for :func:`lrtune.study.tuning.tune`, those left to lrtune and the storage left out."""
        told = dataclasses.asdict(self.question) | dataclasses.asdict(self.search)
        del told["storage"], told["workers"]
        if isinstance(told["widen"], bool):
            told["widen"] = None if told["widen"] else 0.0
        return {name: value for name, value in told.items() if value is not None}

    def make_trainer(self) -> Any:
        """The trainer; loads the user's code, or the table and scikit-learn.

        Raises
        ------
        lrtune.errors.InputError
            If the code or the table cannot be used.
        """
        from lrtune.config.user_code import load_trainer

        if self.training.trainer is not None:
            return load_trainer(self.training.trainer, self.folder, where=self.places["trainer"])
        return self._estimator_trainer()

    def _estimator_trainer(self) -> Any:
        from lrtune.training.estimators.data_file import is_pipeline, kind_of, load_table, prepared
        from lrtune.training.estimators.trainer import SklearnTrainer

        told = self.training
        estimator = self._estimator()
        table = load_table(
            told.data or "",
            folder=self.folder,
            kind=kind_of(estimator),
            target=told.target,
            weight=told.weight,
            drop=told.drop,
            raw=is_pipeline(estimator),
        )
        given = {"learning_rate_parameter": told.learning_rate_parameter, "valid_fraction": told.valid_fraction}
        known: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return SklearnTrainer(
            prepared(estimator, table),
            table.X,
            table.y,
            sample_weight=table.weight,
            metrics=(self.question.metric,),
            **known,
        )

    def _estimator(self) -> Any:
        from lrtune.config.toml import suggestion
        from lrtune.config.user_code import load

        where = self.places["estimator"]
        found = load(self.training.estimator or "", self.folder, where=where)
        options = dict(self.training.options)
        if not callable(found):  # an estimator that stands ready
            if options:
                msg = f"{where}: it is made already, so options have no place; name its class, or leave options out"
                raise StudyFileError(msg)
            return found
        try:
            known = found().get_params(deep=False)
            unknown = [name for name in options if name not in known]
            if not unknown:
                return found(**options)
        except Exception as error:  # noqa: BLE001 -- the estimator may be the user's own
            why = f"{type(error).__name__}: {error}"
            msg = f"{where}: {self.training.estimator} cannot be made ({why}); correct its options"
            raise StudyFileError(msg) from None
        msg = f"{where}: {self.training.estimator} has no option {unknown[0]!r}; {suggestion(unknown[0], known)}"
        raise StudyFileError(msg)


def read_study(path: str | os.PathLike[str] | None, given: Mapping[str, Any] | None = None) -> StudyFile:
    """The study of a file, of the command line, or of a file with the command line over it.

    Parameters
    ----------
    path
        The study file; None for none.
    given
        What the command line gave, by the name of the key; None values count as not given.

    Raises
    ------
    lrtune.errors.InputError
        If it cannot be read, or asks for something that cannot be done.
    """
    given = {} if given is None else given
    path = None if path is None else Path(path)
    top = TomlTable({}) if path is None else read(path)
    tables = {name: top.table(name).overlaid(_of(name, given)) for name in SECTIONS}
    top.done()
    question = _question(tables["study"], tables["train"], path)
    training = _training(tables["train"])
    search = _search(tables["search"])
    for table in (tables["study"], tables["train"], tables["search"]):
        table.done()
    return StudyFile(
        path=path,
        folder=Path() if path is None else path.parent,
        question=question,
        training=training,
        space=_space(tables["space"], needed=path is not None and not given.get("range_test")),
        search=search,
        places={key: tables["train"].where(key) for key in ("trainer", "estimator")},
        lr_given="lr" in tables["space"],
    )


def _of(section: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the command line gave for a table."""
    fields = {"study": Question, "train": TrainTable, "search": SearchTable}
    if section == "space":
        return {"lr": given["lr"]} if given.get("lr") is not None else {}
    names = [spec.name for spec in dataclasses.fields(fields[section])]
    return {name: given[name] for name in names if given.get(name) is not None}


def _question(table: TomlTable, train: TomlTable, path: Path | None) -> Question:
    from lrtune.core.curve import ValueRule
    from lrtune.core.directions import better_side
    from lrtune.study import settings

    metric = table.text("metric") or "valid_loss"
    direction = table.choice("direction", ("minimize", "maximize"))
    try:
        better = better_side(metric, cast("Direction | None", direction), table.where("direction"))
    except InputError as error:
        raise StudyFileError(str(error)) from None
    if direction is None and better == "minimize":  # else a study that was stored before may have its own
        direction = better
    value = table.text("value") or "last"
    name = table.text("name") or _default_name(train, path)
    for key, check, given in (("name", valid_name, name), ("value", ValueRule.parse, value)):
        try:
            check(given)
        except InputError as error:
            msg = f"{table.where(key)}: {error}"
            raise StudyFileError(msg) from None
    return Question(
        name=name,
        metric=metric,
        direction=direction,
        epochs=table.whole("epochs", least=1, most=settings.MOST_EPOCHS) or DEFAULT_EPOCHS,
        value=value,
        patience=table.whole("patience", least=1, most=settings.MOST_EPOCHS),
    )


def _default_name(train: TomlTable, path: Path | None) -> str:
    """The file's own name; without a file, that of the data and the estimator."""
    if path is not None:
        return path.resolve().parent.name if path.stem == "study" else path.stem
    data, estimator = train.raw("data"), train.raw("estimator")
    parts = [Path(str(data)).stem if data else "", str(estimator).rpartition(":")[2] if estimator else ""]
    return "-".join(part for part in parts if part) or "lrtune"


def _training(table: TomlTable) -> TrainTable:
    trainer = table.text("trainer", 'a text such as "train.py:trainer"')
    estimator = table.text("estimator", 'a text such as "sklearn.linear_model:SGDClassifier"')
    training = TrainTable(
        trainer=trainer,
        estimator=estimator,
        options=table.table("options").plain(),
        learning_rate_parameter=table.text("learning_rate_parameter"),
        data=table.text("data"),
        target=table.text("target"),
        weight=table.text("weight"),
        drop=tuple(_texts(table, "drop")),
        valid_fraction=table.number("valid_fraction", high=1, above=True, below=True),
    )
    if (trainer is None) == (estimator is None):
        both = "both are given; keep one" if trainer else "neither is given"
        msg = f'{table.where("trainer")} or estimator is needed ({both}); e.g. trainer = "train.py:trainer"'
        raise StudyFileError(msg)
    if trainer is not None:
        for key in ("options", "learning_rate_parameter", "data", "target", "weight", "drop", "valid_fraction"):
            if key in table:
                msg = f"{table.where(key)} goes with an estimator, not with a trainer; leave it out"
                raise StudyFileError(msg)
    elif training.data is None:
        msg = f"{table.where('data')} is missing; give a CSV or Parquet file, or a data set of scikit-learn's"
        raise StudyFileError(msg)
    return training


def _texts(table: TomlTable, key: str) -> Sequence[str]:
    values = table.raw(key)
    if values is None:
        return []
    if isinstance(values, list | tuple) and all(isinstance(value, str) and value for value in values):
        return values
    allowed = "an array of column names"
    raise table.refused(key, allowed)


def _search(table: TomlTable) -> SearchTable:
    from lrtune.search.registry import NAMES
    from lrtune.study import settings

    def seconds(key: str) -> float | None:
        return table.number(key, high=settings.MOST_TIMEOUT, above=True)

    return SearchTable(
        strategy=table.choice("strategy", NAMES),
        budget=table.number("budget", low=1, high=settings.MOST_BUDGET),
        trials=table.whole("trials", least=1, most=settings.MOST_TRIALS),
        timeout=seconds("timeout"),
        seed=table.whole("seed", least=0, most=2**32 - 1),
        workers=table.whole("workers", least=1, most=settings.MOST_WORKERS),
        widen=table.flag("widen") if isinstance(table.raw("widen"), bool) else table.number("widen", high=6),
        prune=table.flag("prune"),
        points=table.whole("points", least=2, most=settings.MOST_TRIALS),
        failures=table.whole("failures", least=1, most=settings.MOST_TRIALS),
        checkpoint_every=seconds("checkpoint_every"),
        stall_timeout=seconds("stall_timeout"),
        trial_timeout=seconds("trial_timeout"),
        memory_limit=table.whole("memory_limit", least=0, most=2**63 - 1),
        isolate=table.flag("isolate"),
        storage=table.text("storage", "a path or a URL"),
    )


def _space(table: TomlTable, *, needed: bool) -> Space:
    from lrtune.core.space import Space

    told = table.plain()
    lr = told.get("lr")
    if isinstance(lr, str):
        told["lr"] = _range(table, "lr", lr)
    elif lr is None and not needed:
        told["lr"] = list(DEFAULT_LR)
    try:
        return Space.from_mapping(told)
    except SpaceError as error:
        raise SpaceError(
            f"{table.where('lr') if isinstance(lr, str) else table.where()}: {error}".lstrip(": ")
        ) from None


def _range(table: TomlTable, key: str, text: str) -> list[float]:
    """``"1e-5,10"``, as the command line gives it."""
    parts = text.replace(":", ",").split(",")
    try:
        low, high = (float(part) for part in parts)
    except ValueError:
        allowed = 'two numbers, such as "1e-5,10"'
        raise table.refused(key, allowed) from None
    return [low, high]
