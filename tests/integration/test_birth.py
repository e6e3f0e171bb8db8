"""A study is born whole: whoever is killed while it is made leaves nothing that the next start refuses."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from optuna.storages import InMemoryStorage

import lrtune
from lrtune.study.tuning import tune

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lrtune.core.recipe import Recipe

SPACE = lrtune.Space(lr=(1e-5, 10.0))


class Killed(BaseException):
    """Stands for a process that ends here and writes no more."""


class Mortal(InMemoryStorage):
    """A storage whose writer dies instead of its n-th write to a study."""

    left = 10**9

    def _written(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed

    def create_new_study(self, *given: Any, **named: Any) -> int:
        self._written()
        return super().create_new_study(*given, **named)

    def delete_study(self, *given: Any) -> None:
        self._written()
        super().delete_study(*given)

    def set_study_system_attr(self, *given: Any) -> None:
        self._written()
        super().set_study_system_attr(*given)

    def set_study_user_attr(self, *given: Any) -> None:
        self._written()
        super().set_study_user_attr(*given)


@pytest.mark.parametrize("written", range(8))
@pytest.mark.parametrize("changed", [{}, {"metric": "train_loss", "direction": "maximize"}])
def test_a_study_is_born_whole_or_counts_as_new(written: int, changed: dict[str, Any]) -> None:
    def ask(storage: InMemoryStorage, **more: Any) -> Any:
        return tune(measured, SPACE, epochs=2, trials=2, strategy="random", storage=storage, **more)

    storage = Mortal()
    storage.left = written
    with contextlib.suppress(Killed):
        ask(storage)
    storage.left = 10**9
    if written == 7 and changed:  # its settings were written: it is whole, and made for something else
        with pytest.raises(lrtune.MismatchError, match="something else"):
            ask(storage, **changed)
        return
    found = ask(storage, **changed)
    calm = ask(InMemoryStorage(), **changed)
    assert found.to_json() == calm.to_json()
    assert found.study.metric_names == calm.study.metric_names


def measured(recipe: Recipe) -> Iterator[dict[str, float]]:
    for _ in range(recipe.epochs):
        yield {"valid_loss": recipe.lr, "train_loss": recipe.lr}


def test_an_empty_study_of_optunas_counts_as_new_and_stays_the_same_one(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 's.db'}"
    mine = optuna.create_study(study_name="mine", storage=url)
    tune(measured, SPACE, epochs=2, trials=1, strategy="random", storage=url, name="mine")
    assert len(mine.trials) == 1
