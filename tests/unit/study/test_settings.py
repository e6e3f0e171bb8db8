"""Every number that cannot be meant is refused, and the sentence names its key."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lrtune.errors import InputError
from lrtune.study.settings import Limits, Settings

WHOLE = ["epochs", "seed", "patience", "points", "failures", "memory_limit"]
SECONDS = ["stall_timeout", "trial_timeout", "checkpoint_every"]
OTHERS = ["widen", "spent"]
NONSENSE: list[Any] = [math.nan, math.inf, -math.inf, -1, True, "3", 1j, [1]]
ZERO_IS_FINE = {"seed", "memory_limit", "widen", "spent"}


@pytest.mark.parametrize("bad", [*NONSENSE, 1.5, 10**30])
@pytest.mark.parametrize("name", WHOLE)
def test_a_bad_whole_number_is_refused_by_name(name: str, bad: Any) -> None:
    with pytest.raises(InputError, match=rf"^{name} must be a whole number"):
        Settings(**{"epochs": 3, name: bad})


@pytest.mark.parametrize("bad", [*NONSENSE, 1e30])
@pytest.mark.parametrize("name", [*SECONDS, *OTHERS])
def test_a_bad_number_is_refused_by_name(name: str, bad: Any) -> None:
    with pytest.raises(InputError, match=rf"^{name} must be a number"):
        Settings(epochs=3, **{name: bad})


@pytest.mark.parametrize("name", [name for name in [*WHOLE, *SECONDS, *OTHERS] if name not in ZERO_IS_FINE])
def test_zero_is_refused_where_nothing_comes_of_it(name: str) -> None:
    with pytest.raises(InputError, match=rf"^{name} must be"):
        Settings(**{"epochs": 3, name: 0})


@pytest.mark.parametrize("name", sorted(ZERO_IS_FINE))
def test_zero_is_taken_where_it_means_something(name: str) -> None:
    assert getattr(Settings(epochs=3, **{name: 0}), name) == 0


@pytest.mark.parametrize("name", ["epochs", "seed", "failures", "checkpoint_every", "memory_limit", "widen", "spent"])
def test_none_is_refused_where_a_number_is_needed(name: str) -> None:
    with pytest.raises(InputError, match=rf"^{name} must be"):
        Settings(**{"epochs": 3, name: None})


@pytest.mark.parametrize("bad", [None, 0, 1, "yes"])
def test_whether_to_isolate_is_yes_or_no(bad: Any) -> None:
    with pytest.raises(InputError, match=r"^isolate must be true or false"):
        Settings(epochs=3, isolate=bad)


@pytest.mark.parametrize("bad", [*NONSENSE, 0, 10**12, 1.5])
def test_a_bad_number_of_trials_is_refused(bad: Any) -> None:
    with pytest.raises(InputError, match=r"^trials must be a whole number of trials"):
        Limits(trials=bad)


@pytest.mark.parametrize("bad", [*NONSENSE, 0, 0.5, 1e12])
def test_a_bad_budget_is_refused(bad: Any) -> None:
    with pytest.raises(InputError, match=r"^budget must be a number of full trainings"):
        Limits(budget=bad)


@pytest.mark.parametrize("bad", [*NONSENSE, 0, 0.0, 1e12])
def test_a_bad_time_limit_is_refused(bad: Any) -> None:
    with pytest.raises(InputError, match=r"^timeout must be a number of seconds"):
        Limits(timeout=bad)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"direction": "up"}, 'direction must be "minimize" or "maximize"'),
        ({"metric": ""}, "metric must be the name"),
        ({"metric": 3}, "metric must be the name"),
        ({"strategy": "tbe"}, "did you mean 'tpe'"),
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
    ],
)
def test_a_bad_word_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Settings(**{"epochs": 3, **change})


def test_what_is_given_is_kept() -> None:
    settings = Settings(epochs=27, limits=Limits(budget=4, trials=7, timeout=0.5), patience=3)
    assert settings.limits.any
    assert not Limits().any
    assert settings.identity() == {
        "metric": "valid_loss",
        "direction": "minimize",
        "epochs": 27,
        "value": "last",
        "patience": 3,
    }
