"""Which side of a metric is the better one, as far as its name says: a loss, an error, a scorer of scikit-learn."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lrtune.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrtune.core.curve import Direction

__all__ = ["better_side", "contradiction", "known_direction"]

# Of every scorer a greater number is the better one: https://scikit-learn.org/stable/modules/model_evaluation.html
SCORERS = re.compile(
    r"neg_(brier_score|log_loss|max_error|(mean|median|root_mean)_\w*(error|deviance)|negative_likelihood_ratio)|"
    r"(balanced_|top_k_)?accuracy|(adjusted_|normalized_)?mutual_info_score|(adjusted_)?rand_score|"
    r"(f1|precision|recall|jaccard)(_macro|_micro|_samples|_weighted)?|roc_auc(_ov[or](_weighted)?)?|r2|"
    r"d2_\w+_score|(completeness|homogeneity|v_measure|fowlkes_mallows)_score|average_precision|"
    r"explained_variance|matthews_corrcoef|positive_likelihood_ratio"
)
COSTS = re.compile(r"(loss|error)(es|s)?(?![a-z])")
# What makes a larger loss the better one: neg_loss, val_negative_loss, -loss, 1 - error, loss_reduction.
NEGATED = re.compile(
    r"^\W|^\d+ *[-/]|"
    r"(?<![a-z])(neg|negative|negated|minus|inv|inverse|inverted|no|not|non|free|improvement|reduction|decrease|gain)"
    r"(?![a-z])"
)
PART = re.compile(r"^(train|valid|val|test|eval)[_/]")


def known_direction(metric: str, trainer: object = None) -> Direction | None:
    """The better side of a metric, None if unknown.

    It is what the trainer declares (an optional mapping ``directions``), else what the name says, with or without
    ``train_``, ``valid_`` and the like before it.
    """
    declared: Mapping[str, Direction] = getattr(trainer, "directions", {})
    if metric in declared:
        return declared[metric]
    metric = str(metric)  # anything else is refused by the settings
    if SCORERS.fullmatch(PART.sub("", metric)):
        return "maximize"
    return "minimize" if COSTS.search(metric) and not NEGATED.search(metric) else None


def better_side(metric: str, given: Direction | None, what: str = "direction") -> Direction:
    """The direction given, else the one that the metric's name says.

    Raises
    ------
    InputError
        If neither says.
    """
    found = given or known_direction(metric)
    if found is None:
        msg = f'{what} is missing; say whether "minimize" or "maximize" is better for {metric!r}'
        raise InputError(msg)
    return found


def contradiction(metric: str, direction: Direction, trainer: object = None) -> list[str]:
    """A sentence where a direction is against what is known of the metric; none where it is not."""
    known = known_direction(metric, trainer)
    if known is None or known == direction:
        return []
    better = "larger" if known == "maximize" else "smaller"
    return [f'the search is to {direction} {metric!r}, of which {better} is better; is direction="{known}" meant?']
