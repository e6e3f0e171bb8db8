from __future__ import annotations

import pytest

from lrtune.core.outcome import Outcome

DIVERGED = {Outcome.NON_FINITE, Outcome.EXPLODED, Outcome.STUCK}


@pytest.mark.parametrize("outcome", Outcome)
def test_a_key_finds_its_outcome_again(outcome: Outcome) -> None:
    assert Outcome.from_key(outcome.key) is outcome
    assert outcome.key == outcome.key.lower()


@pytest.mark.parametrize("outcome", Outcome)
def test_a_sentence_says_whether_it_diverged(outcome: Outcome) -> None:
    assert outcome.diverged == (outcome in DIVERGED) == outcome.value.startswith("diverged: ")
    assert (outcome.group == "diverged") == outcome.diverged


def test_the_groups_of_a_result() -> None:
    assert {outcome.group for outcome in Outcome} == {
        "completed",
        "pruned",
        "diverged",
        "out_of_memory",
        "interrupted",
        "failed",
    }


def test_an_unknown_key_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        Outcome.from_key("sleeping")
