"""What the user sees of an error in their training code: their frames, and none of lrtune's."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

import lrtune
from lrtune.core.tracebacks import users_own
from lrtune.errors import UserCodeError
from lrtune.study.tuning import tune

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrtune.core.recipe import Recipe


def frames(text: str) -> list[str]:
    return re.findall(r", in (\S+)", text)


def inner() -> None:
    msg = "forgotten"
    raise KeyError(msg)


@pytest.mark.parametrize("isolate", [False, True])
def test_a_failing_generator_shows_its_own_frames(isolate: bool) -> None:
    def train(recipe: Recipe) -> Iterator[dict[str, float]]:
        inner()
        yield {"valid_loss": recipe.lr}

    with pytest.raises(UserCodeError) as caught:
        tune(train, {"lr": (1e-3, 1.0)}, epochs=2, isolate=isolate)
    assert frames(caught.value.user_traceback) == ["train", "inner"]
    assert caught.value.user_traceback.startswith("Traceback (most recent call last):\n")
    assert caught.value.user_traceback.endswith("KeyError: 'forgotten'\n")
    assert caught.value.__cause__ is not None, "--debug shows all of it"


def test_the_frames_of_a_library_stay() -> None:
    def train(recipe: Recipe) -> Iterator[dict[str, float]]:
        yield {"valid_loss": json.loads("{" * recipe.epochs)}

    with pytest.raises(UserCodeError) as caught:
        tune(train, {"lr": (1e-3, 1.0)}, epochs=2)
    assert frames(caught.value.user_traceback)[:2] == ["train", "loads"]


def test_what_led_to_it_is_shown_too() -> None:
    def outer() -> None:
        try:
            inner()
        except KeyError as error:
            msg = "no model"
            raise RuntimeError(msg) from error

    try:
        outer()
    except RuntimeError as error:
        text = users_own(error)
    assert "direct cause" in text
    assert frames(text)[:2] == ["outer", "inner"]


def test_an_error_of_lrtune_alone_is_its_last_line() -> None:
    with pytest.raises(lrtune.InputError) as caught:
        lrtune.Space(lr=(1.0, 0.1))
    caught.value.__traceback__ = caught.value.__traceback__.tb_next if caught.value.__traceback__ else None
    assert users_own(caught.value).startswith(f"{type(caught.value).__module__}.{type(caught.value).__name__}: ")
