"""The study file: its four tables read into frozen settings, with the options of the command line over them.

:func:`read_study` checks all of it before anything is loaded; :meth:`StudyFile.make_trainer` then loads the
user's code or table, and :meth:`StudyFile.arguments` are the keyword arguments for :func:`lrtune.study.tuning.tune`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrtune.config.toml import TomlTable, read, suggestion
from lrtune.core.names import valid_name
from lrtune.core.options import Option, option, options
from lrtune.errors import InputError, SpaceError, StudyFileError
from lrtune.study import settings

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from lrtune.core.space import Space

__all__ = ["StudyFile", "TrainTable", "read_study", "schema"]

DEFAULT_EPOCHS = 27
DEFAULT_LR = (1e-5, 10.0)
TABLES = ("study", "train", "space", "search")
WORKERS = Option(kind=int, name="workers", low=1, high=256, help="Processes that train side by side.")
LR = Option(kind=str, name="lr", table="space", metavar="LOW,HIGH", help="Learning rates to search.")
COLUMN: dict[str, Any] = {"table": "train", "metavar": "COLUMN"}
STORAGE = Option(kind=str, name="storage", allowed="a path or a URL")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainTable:
    """The table ``[train]``: what trains, on which data; paths count from the study file's folder.

    Attributes
    ----------
    trainer, estimator
        One of them: ``"train.py:trainer"``, see :func:`lrtune.config.user_code.load_trainer`; or
        ``"sklearn.linear_model:SGDClassifier"``, ``"model.py:pipeline"``.
    options, learning_rate_parameter
        Arguments of the estimator, and the name of its learning rate, where lrtune does not know the estimator.
    valid_fraction
        Fraction of the rows on which the metric is measured.
    """

    trainer: str | None = option(str, None, table="train", allowed='a text such as "train.py:trainer"')
    estimator: str | None = option(
        str,
        None,
        table="train",
        allowed='a text such as "sklearn.linear_model:SGDClassifier"',
        metavar="MODULE:CLASS",
        help="Without a study file: a scikit-learn estimator.",
    )
    options: Mapping[str, Any] = field(default_factory=dict)
    learning_rate_parameter: str | None = option(str, None, table="train")
    data: str | None = option(
        str, None, table="train", help="A CSV or Parquet file, or digits, iris, wine, breast_cancer, diabetes."
    )
    target: str | None = option(str, None, **COLUMN, help="The column that is predicted.")
    weight: str | None = option(str, None, **COLUMN, help="The column of sample weights.")
    drop: tuple[str, ...] = option(
        list, (), **COLUMN, allowed="an array of column names", help="A column to leave out; repeatable."
    )
    valid_fraction: float | None = option(float, None, table="train", above=True, high=1, below=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyFile:
    """A study file, with the options of the command line over it.

    Attributes
    ----------
    path
        The file; None where there are only options of the command line.
    folder
        The folder from which its paths count.
    settings
        Those of the search, what is not given at its default.
    given
        The options of :func:`lrtune.study.tuning.tune` that are given, by name.
    storage
        Where the study is kept; None leaves it to the command.
    places
        What to call a key of ``[train]`` in a message, with its line.
    lr_given
        Whether a range of learning rates was given; else the space has the usual one.
    """

    path: Path | None
    folder: Path
    settings: settings.Settings
    given: Mapping[str, Any]
    storage: str | None
    training: TrainTable
    space: Space
    places: Mapping[str, str] = field(default_factory=dict)
    lr_given: bool = True

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for :func:`lrtune.study.tuning.tune`, without the storage and what is at its default."""
        return dict(self.given)

    def make_trainer(self) -> Any:
        """The trainer; loads the user's code, or the table and scikit-learn.

        Raises
        ------
        lrtune.errors.InputError
            If the code or the table cannot be used.
        """
        train = self.training
        if train.trainer is not None:
            from lrtune.config.user_code import load_trainer

            return load_trainer(train.trainer, self.folder, where=self.places["trainer"])
        from lrtune.training.estimators.data_file import is_pipeline, kind_of, load_table, prepared
        from lrtune.training.estimators.trainer import SklearnTrainer

        estimator = self._estimator()
        columns: dict[str, Any] = {"target": train.target, "weight": train.weight, "drop": train.drop}
        kind, raw = kind_of(estimator), is_pipeline(estimator)
        table = load_table(train.data or "", folder=self.folder, kind=kind, raw=raw, **columns)
        given: dict[str, Any] = {
            "learning_rate_parameter": train.learning_rate_parameter,
            "valid_fraction": train.valid_fraction,
        }
        return SklearnTrainer(
            prepared(estimator, table),
            table.X,
            table.y,
            sample_weight=table.weight,
            metrics=(self.settings.metric,),
            **{name: value for name, value in given.items() if value is not None},
        )

    def _estimator(self) -> Any:
        from lrtune.config.user_code import load

        where, name, options = self.places["estimator"], self.training.estimator or "", dict(self.training.options)
        found = load(name, self.folder, where=where)
        if not callable(found):  # an instance
            if options:
                msg = f"{where}: it is made already, so options have no place; name its class, or leave options out"
                raise StudyFileError(msg)
            return found
        try:
            known = found().get_params(deep=False)
            unknown = [option for option in options if option not in known]
            if not unknown:
                return found(**options)
        except Exception as error:  # noqa: BLE001 -- the estimator may be the user's own
            why = f"{type(error).__name__}: {error}"
            msg = f"{where}: {name} cannot be made ({why}); correct its options"
            raise StudyFileError(msg) from None
        msg = f"{where}: {name} has no option {unknown[0]!r}; {suggestion(unknown[0], known)}"
        raise StudyFileError(msg)


def schema() -> list[Option]:
    """Every option of a study, in the order in which the command line shows those that have a help."""
    search = list(options(settings.Settings).values())
    after = [option.name for option in search].index("seed") + 1
    return [*search[:after], WORKERS, LR, *search[after:], STORAGE, *options(TrainTable).values()]


def read_study(
    path: str | os.PathLike[str] | None, given: Mapping[str, Any] | None = None, *, lr_needed: bool = True
) -> StudyFile:
    """The study of a file, of the command line, or of a file with the command line over it.

    Parameters
    ----------
    path
        The study file; None for none.
    given
        Options of the command line by name; None values count as not given.
    lr_needed
        Whether a file has to give the range of learning rates.

    Raises
    ------
    lrtune.errors.InputError
        If it cannot be read, or asks for something that cannot be done.
    """
    given = {name: value for name, value in (given or {}).items() if value is not None}
    path = None if path is None else Path(path)
    top = TomlTable({}) if path is None else read(path)
    tables, values = {}, {}
    for name in TABLES:
        known = [option for option in schema() if option.table == name]
        tables[name] = top.table(name).overlaid(
            {option: given[option.name] for option in known if option.name in given}
        )
        if name != "space":
            found = {option.name: tables[name].option(option) for option in known}
            values[name] = {key: value for key, value in found.items() if value is not None}
    top.done()
    arguments = _question(tables["study"], values["study"], _default_name(tables["train"], path))
    arguments |= {name: value for name, value in values["search"].items() if name not in {"workers", "storage"}}
    training = _training(tables["train"], values["train"])
    for table in (tables["study"], tables["train"], tables["search"]):
        table.done()
    made = settings.Settings.of(**arguments)
    if made.direction == "maximize" and "direction" not in values["study"]:
        del arguments["direction"]  # only the metric's name says so: a stored study may have its own
    return StudyFile(
        path=path,
        folder=Path() if path is None else path.parent,
        settings=made,
        given=arguments,
        storage=values["search"].get("storage"),
        training=training,
        space=_space(tables["space"], needed=lr_needed and path is not None),
        places={key: tables["train"].where(key) for key in ("trainer", "estimator")},
        lr_given="lr" in tables["space"],
    )


def _question(table: TomlTable, values: dict[str, Any], name: str) -> dict[str, Any]:
    """The table ``[study]``, with its defaults."""
    from lrtune.core.curve import ValueRule
    from lrtune.core.directions import better_side

    found = {"name": name, "metric": "valid_loss", "epochs": DEFAULT_EPOCHS, "value": "last", **values}
    try:
        found["direction"] = better_side(found["metric"], found.get("direction"), table.where("direction"))
    except InputError as error:
        raise StudyFileError(str(error)) from None
    table.converted("name", valid_name, found["name"])
    table.converted("value", ValueRule.parse, found["value"])
    return found


def _default_name(train: TomlTable, path: Path | None) -> str:
    """The file's own name; without a file, that of the data and the estimator."""
    if path is not None:
        return path.resolve().parent.name if path.stem == "study" else path.stem
    data, estimator = train.raw("data"), train.raw("estimator")
    parts = [Path(str(data)).stem if data else "", str(estimator).rpartition(":")[2] if estimator else ""]
    return "-".join(part for part in parts if part) or "lrtune"


def _training(table: TomlTable, values: dict[str, Any]) -> TrainTable:
    arguments = table.table("options").plain()
    trainer = values.get("trainer")
    if (trainer is None) == ("estimator" not in values):
        both = "both are given; keep one" if trainer else "neither is given"
        msg = f'{table.where("trainer")} or estimator is needed ({both}); e.g. trainer = "train.py:trainer"'
        raise StudyFileError(msg)
    if trainer is not None:
        for spec in dataclasses.fields(TrainTable):
            if spec.name != "trainer" and spec.name in table:
                msg = f"{table.where(spec.name)} goes with an estimator, not with a trainer; leave it out"
                raise StudyFileError(msg)
    elif "data" not in values:
        msg = f"{table.where('data')} is missing; give a CSV or Parquet file, or a data set of scikit-learn's"
        raise StudyFileError(msg)
    return TrainTable(options=arguments, **values | {"drop": tuple(values.get("drop", ()))})


def _space(table: TomlTable, *, needed: bool) -> Space:
    from lrtune.core.space import Space

    given = table.plain()
    lr = given.get("lr")
    if isinstance(lr, str):
        given["lr"] = _range(table, lr)
    elif lr is None and not needed:
        given["lr"] = list(DEFAULT_LR)
    try:
        return Space.from_mapping(given)
    except SpaceError as error:
        place = table.where("lr" if isinstance(lr, str) else "")
        raise SpaceError(f"{place}: {error}".lstrip(": ")) from None


def _range(table: TomlTable, given: str) -> list[float]:
    """The range of learning rates as the command line gives it: ``"1e-5,10"``."""
    try:
        low, high = (float(part) for part in given.replace(":", ",").split(","))
    except ValueError:
        allowed = 'two numbers, such as "1e-5,10"'
        raise table.refused("lr", allowed) from None  # noqa: EM101 -- the key's name
    return [low, high]
