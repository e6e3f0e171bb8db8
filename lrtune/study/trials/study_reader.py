"""The names and shapes of the attributes of a study, and the reading of a whole study for reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrtune.core.curve import ValueRule
from lrtune.core.divergence import Baseline
from lrtune.core.json_shapes import FLAG, MAPPING, NOTHING, NUMBER, TEXT, WHOLE, Each, FixedList, Named, Shape, wrong
from lrtune.core.recipe import Recipe
from lrtune.core.records import StudyRecord
from lrtune.core.space import Space
from lrtune.errors import InputError, StorageError
from lrtune.study.trials.stored_trial import RECIPE, RECORD, ended_elsewhere, parse

if TYPE_CHECKING:
    from collections.abc import Mapping

    import optuna

    from lrtune.core.records import TrialRecord

__all__ = [
    "BASELINE",
    "BESIDE",
    "IDENTITY",
    "NOTICES",
    "RANGE",
    "RESULT",
    "SEARCHES",
    "SETTINGS",
    "SPACE",
    "checked",
    "creation_interrupted",
    "damage",
    "read",
]

SETTINGS = "lrtune:settings"
IDENTITY = "lrtune:identity"
"""Random, drawn when the study is made: tells it from every other one of whatever name."""
SPACE = "lrtune:space"
BASELINE = "lrtune:baseline"
NOTICES = "lrtune:notices"
RESULT = "lrtune:result"
RANGE = "lrtune:range"
WRITTEN_FIRST = frozenset({IDENTITY, SPACE, NOTICES, RANGE})
"""What is written of a new study before its settings, in storages without transactions."""
SEARCHES = "lrtune:searches"
BESIDE = "lrtune:beside"
"""What a run costs beside others, see :meth:`lrtune.study.engine.search_state.SearchState.beside_price`."""

_NUMBER_OR_NONE: Shape = (NOTHING, NUMBER)
SHAPES: Mapping[str, Shape] = {
    SETTINGS: {
        "metric": TEXT,
        "direction": TEXT,
        "epochs": WHOLE,
        "value": TEXT,
        "patience?": (WHOLE, NOTHING),
        "strategy": TEXT,
        "seed": WHOLE,
        "space": MAPPING,
        "work?": MAPPING,
        "environment": MAPPING,
    },
    IDENTITY: TEXT,
    SPACE: MAPPING,
    BASELINE: {"untrained": _NUMBER_OR_NONE, "chance": _NUMBER_OR_NONE, "undefined?": FLAG},
    NOTICES: Each(TEXT),
    BESIDE: Named(NUMBER),
    RESULT: (
        Named(NOTHING),  # none yet
        {
            "study": TEXT,
            "metric": TEXT,
            "direction": TEXT,
            "stopped_because": TEXT,
            "warnings": Each(TEXT),
            "best": (NOTHING, {**RECIPE, "value": NUMBER}),
            "band": (NOTHING, {"low": NUMBER, "high": NUMBER}),
            "edge": {"lr": _NUMBER_OR_NONE, "low": _NUMBER_OR_NONE, "high": _NUMBER_OR_NONE},
            "cost": NUMBER,
            "epochs_trained": NUMBER,
            "trials": Named(WHOLE),
        },
    ),
    RANGE: FixedList((NUMBER, NUMBER)),
    SEARCHES: Each(MAPPING),
}
"""The JSON of each attribute."""


def damage(attributes: Mapping[str, Any]) -> str:
    """What is wrong with lrtune's attributes of a study, as a clause; empty where nothing is."""
    for name, shape in SHAPES.items():
        what = _damage(name, attributes[name], shape) if name in attributes else ""
        if what:
            return f"its attribute {name} is damaged ({what})"
    missing = [name for name in (SETTINGS, SPACE, RANGE) if name not in attributes]
    return f"its attribute {missing[0]} is missing" if missing and SETTINGS in attributes else ""


def _damage(name: str, value: Any, shape: Shape) -> str:
    what = wrong(value, shape)
    if what:
        return what
    try:
        if name == SPACE:
            Space.from_json(value)
        elif name == SETTINGS:
            Space.from_json(value["space"])
            ValueRule.parse(value["value"])
        elif name == RESULT and value.get("best"):
            Recipe.from_json(value["best"])
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        return " ".join(str(error).split())
    return ""


def checked(attributes: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The attributes of the study of that name, as they are.

    Raises
    ------
    StorageError
        If one of lrtune's is missing, or is not what lrtune wrote.
    """
    what = damage(attributes)
    if what:
        msg = (
            f"study {name!r} is damaged: {what}; restore a copy of the storage, or choose another name; "
            "lrtune storage check names all that is damaged"
        )
        raise StorageError(msg)
    return attributes


def read(study: optuna.Study) -> StudyRecord:
    """All that lrtune recorded of a study.

    Raises
    ------
    InputError
        If lrtune did not make it.
    StorageError
        If something of it is damaged.
    """
    attributes = checked(study.user_attrs, study.study_name)
    if SETTINGS not in attributes:
        msg = f"study {study.study_name!r} was not made by lrtune: give one that was, or run `lrtune optimize` first"
        raise InputError(msg)
    settings = attributes[SETTINGS]
    trials = [trial for trial in study.get_trials(deepcopy=False) if RECORD in trial.user_attrs]
    return StudyRecord(
        name=study.study_name,
        metric=settings["metric"],
        direction=settings["direction"],
        epochs=settings["epochs"],
        rule=ValueRule.parse(settings["value"]),
        space=Space.from_json(attributes[SPACE]),
        seed=settings["seed"],
        strategy=settings["strategy"],
        records=tuple(_record(trial) for trial in trials),
        baseline=Baseline(**attributes[BASELINE]) if BASELINE in attributes else None,
        notices=tuple(attributes.get(NOTICES, ())),
        result=attributes.get(RESULT, {}),
        environment=settings["environment"],
    )


def _record(trial: optuna.trial.FrozenTrial) -> TrialRecord:
    stored = parse(trial.number, trial.user_attrs[RECORD])
    if stored.record.outcome is None and trial.state.is_finished():
        stored = ended_elsewhere(stored, trial.state, trial.values[0] if trial.values else None)
    return stored.record


def creation_interrupted(study: optuna.Study) -> bool:
    """Whether a study has neither trials nor settings: the process that made it did not come further."""
    if SETTINGS in study.user_attrs or not WRITTEN_FIRST.issuperset(study.user_attrs):
        return False
    return not study.get_trials(deepcopy=False)
