"""An earlier study's answer as a prior on the learning rate for the next search; no weights are reused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna

from lrtune.errors import InputError
from lrtune.search.freeze_thaw.observations import SETTINGS
from lrtune.search.freeze_thaw.strategy import Prior
from lrtune.study.result import Result
from lrtune.study.trials.study_reader import RESULT

if TYPE_CHECKING:
    import os

__all__ = ["prior_from"]

UNKNOWN_BAND = 10**0.5
"""Without a band an answer is taken to be good to half a decade on either side."""


def prior_from(given: Prior | Result | optuna.Study | Mapping[str, Any] | str | os.PathLike[str]) -> Prior:
    """The prior that an earlier answer gives.

    Parameters
    ----------
    given
        A result, its JSON, the path of a ``result.json``, or the Optuna study itself.

    Raises
    ------
    InputError
        If it holds no answer.
    """
    if isinstance(given, Prior):
        return given
    data = _data(given)
    best, band = data.get("best"), data.get("band")
    if not isinstance(best, Mapping) or not isinstance(best.get("lr"), float | int):
        msg = "the earlier study holds no answer to start from: run it to its end first, or name another one"
        raise InputError(msg)
    lr = float(best["lr"])
    low, high = lr / UNKNOWN_BAND, lr * UNKNOWN_BAND
    if isinstance(band, Mapping):
        low, high = float(band["low"]), float(band["high"])
    return Prior(best=lr, low=low, high=high, others={name: best[name] for name in SETTINGS if name in best})


def _data(given: Any) -> Mapping[str, Any]:
    if isinstance(given, Result):
        return given.to_json()
    if isinstance(given, optuna.Study):
        return dict(given.user_attrs.get(RESULT, {}))
    if isinstance(given, Mapping):
        return given
    path = Path(given)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"the earlier result {str(path)!r} cannot be read ({error}); give the path of a result.json"
        raise InputError(msg) from None
    if not isinstance(data, dict):
        msg = f"the earlier result {str(path)!r} is no result.json; give the one that lrtune optimize wrote"
        raise InputError(msg)
    return data
