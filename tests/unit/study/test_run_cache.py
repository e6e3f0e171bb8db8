"""Paused runs: kept in memory up to a limit, brought back from disk, never from behind."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from counter import Counter

from lrtune.core.curve import Curve, Point
from lrtune.core.divergence import Baseline
from lrtune.core.recipe import Recipe
from lrtune.errors import StorageError
from lrtune.study.engine.run_cache import PausedRun, RunCache
from lrtune.training.generator import GeneratorTrainer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RECIPE = Recipe(lr=0.1, epochs=5)


class Counting:
    """A trainer of such runs."""

    saves = True
    notices: Sequence[str] = ()

    def __init__(self) -> None:
        self.started: list[Counter] = []

    def start(self, recipes: Sequence[Recipe], /) -> Counter:
        self.started.append(Counter(recipes[0]))
        return self.started[-1]

    def steps_per_epoch(self, recipe: Recipe, /) -> int:
        del recipe
        return 4

    def baseline(self, recipe: Recipe, metric: str, /) -> Baseline:
        del recipe, metric
        return Baseline()

    def fingerprint(self) -> dict[str, str]:
        return {}


def advanced(run_cache: RunCache, number: int, steps: int, known: Curve | None = None) -> PausedRun:
    """Train a run on and pause it again."""
    paused = run_cache.fetch(number, RECIPE, known or Curve())
    for report in paused.run.advance(steps):
        paused.curve.append(report.point)
    paused.step += steps
    run_cache.suspend(number, paused)
    return paused


def test_a_paused_run_goes_on_from_memory(tmp_path: Path) -> None:
    run_cache = RunCache(trainer=Counting(), folder=tmp_path)
    first = advanced(run_cache, 0, 4)
    assert run_cache.holds(0)
    assert run_cache.saved(0)
    assert run_cache.fetch(0, RECIPE, first.curve) is first
    assert not run_cache.holds(0), "fetched is in use"


def test_another_process_goes_on_from_disk(tmp_path: Path) -> None:
    first = advanced(RunCache(trainer=Counting(), folder=tmp_path), 0, 6)
    paused = RunCache(trainer=Counting(), folder=tmp_path).fetch(0, RECIPE, first.curve)
    assert paused.step == 6
    assert paused.curve == first.curve
    assert paused.run.advance(1)[0].point.step == 7


@pytest.mark.parametrize("damage", ["truncated", "garbage", "foreign", "empty"])
def test_a_damaged_checkpoint_is_trained_again(tmp_path: Path, damage: str) -> None:
    trainer = Counting()
    first = advanced(RunCache(trainer=trainer, folder=tmp_path), 0, 6)
    (file,) = tmp_path.iterdir()
    if damage == "foreign":
        other = OfSomethingElse(trainer=trainer, folder=tmp_path)
        other.save(0, first)
    else:
        data = {"truncated": file.read_bytes()[:200], "garbage": b"PK\x03\x04" + b"\xff" * 500, "empty": b""}
        file.write_bytes(data[damage])
    paused = RunCache(trainer=trainer, folder=tmp_path).fetch(0, RECIPE, first.curve)
    assert (paused.step, len(paused.curve)) == (0, 0)
    assert paused.run.advance(1)[0].point.step == 1
    assert not file.exists(), "it would be met again"


class OfSomethingElse(RunCache):
    """Writes what belongs to something else."""

    def save(self, number: int, paused: PausedRun) -> bool:
        from lrtune.training import checkpoint as checkpoints

        checkpoints.save(self._path(number), {"run": {"epoch": 3}, "curve": paused.curve.to_json(), "step": 6})
        return True


def test_a_run_that_others_have_overtaken_is_not_continued(tmp_path: Path) -> None:
    mine = RunCache(trainer=Counting(), folder=tmp_path)
    stale = advanced(mine, 0, 4)
    theirs = RunCache(trainer=Counting(), folder=tmp_path)
    ahead = advanced(theirs, 0, 4, stale.curve)
    paused = mine.fetch(0, RECIPE, ahead.curve)
    assert paused.step == 8
    assert paused.curve == ahead.curve
    assert stale.run.closed == 1  # type: ignore[attr-defined]  # it has it, untyped


def test_memory_is_bounded_and_the_oldest_goes_first(tmp_path: Path) -> None:
    run_cache = RunCache(trainer=Counting(), folder=tmp_path, memory_limit=250_000)
    runs = [advanced(run_cache, number, 4) for number in range(4)]
    assert [run_cache.holds(number) for number in range(4)] == [False, False, True, True]
    assert [run.run.closed for run in runs] == [1, 1, 0, 0]  # type: ignore[attr-defined]  # it has it, untyped
    assert run_cache.fetch(0, RECIPE, runs[0].curve).step == 4


def test_no_memory_at_all_keeps_all_on_disk(tmp_path: Path) -> None:
    run_cache = RunCache(trainer=Counting(), folder=tmp_path, memory_limit=0)
    first = advanced(run_cache, 0, 4)
    assert not run_cache.holds(0)
    assert run_cache.fetch(0, RECIPE, first.curve).step == 4


def test_without_a_folder_all_stay_in_memory() -> None:
    run_cache = RunCache(trainer=Counting(), memory_limit=0)
    assert not run_cache.saving
    advanced(run_cache, 0, 4)
    assert run_cache.holds(0)
    assert not run_cache.saved(0)


def test_what_has_ended_leaves_nothing(tmp_path: Path) -> None:
    trainer = Counting()
    run_cache = RunCache(trainer=trainer, folder=tmp_path)
    advanced(run_cache, 0, 4)
    run_cache.forget(0)
    run_cache.forget(0)
    assert not list(tmp_path.iterdir())
    assert trainer.started[0].closed
    assert run_cache.fetch(0, RECIPE, Curve()).step == 0


def test_what_others_have_ended_is_closed(tmp_path: Path) -> None:
    trainer = Counting()
    run_cache = RunCache(trainer=trainer, folder=tmp_path)
    for number in range(3):
        advanced(run_cache, number, 4)
    run_cache.keep({1, 7})
    assert [run_cache.holds(number) for number in range(3)] == [False, True, False]
    run_cache.close()
    assert all(run.closed for run in trainer.started)


def test_a_generator_waits_in_memory_and_starts_again_where_it_was_lost(tmp_path: Path) -> None:
    def train(recipe: Recipe) -> Iterator[float]:
        yield from (1.0 / (epoch + 1) for epoch in range(recipe.epochs))

    run_cache = RunCache(trainer=GeneratorTrainer(train), folder=tmp_path, memory_limit=0)
    first = advanced(run_cache, 0, 2)
    assert run_cache.holds(0)
    assert not list(tmp_path.iterdir())
    again = RunCache(trainer=GeneratorTrainer(train), folder=tmp_path).fetch(0, RECIPE, first.curve)
    assert (again.step, len(again.curve)) == (0, 0)


def studies(folder: Path, *identities: str | None) -> list[tuple[RunCache, list[str]]]:
    said: list[list[str]] = [[] for _ in identities]
    made = [
        RunCache(trainer=Counting(), folder=folder, study=identity, warn=heard.append)
        for identity, heard in zip(identities, said, strict=True)
    ]
    return list(zip(made, said, strict=True))


def test_two_studies_in_one_folder_keep_to_themselves(tmp_path: Path) -> None:
    (mine, _), (theirs, _), (earlier, _) = studies(tmp_path, "a" * 32, "b" * 32, None)
    for run_cache, steps in ((mine, 4), (theirs, 6), (earlier, 8)):
        advanced(run_cache, 0, steps)
    for (run_cache, said), steps in zip(studies(tmp_path, "a" * 32, "b" * 32, None), (4, 6, 8), strict=True):
        assert run_cache.fetch(0, RECIPE, Curve()).step == steps
        assert not said
    mine.forget(0)
    assert len(list(tmp_path.iterdir())) == 2, "the others' are theirs"


@pytest.mark.parametrize("into", ["b" * 32, None])
def test_a_checkpoint_of_another_study_is_not_gone_on_with_and_said_to_be_one(tmp_path: Path, into: str | None) -> None:
    ((mine, _), (other, said)) = studies(tmp_path, "a" * 32, into)
    advanced(mine, 0, 4)
    (file,) = tmp_path.iterdir()
    file.rename(other._path(0))
    assert other.fetch(0, RECIPE, Curve()).step == 0
    assert "another study or recipe: trial 0 does not go on from it" in said[0]
    assert other._path(0).exists(), "it is not ours to remove"


def test_a_checkpoint_of_another_recipe_is_not_gone_on_with(tmp_path: Path) -> None:
    """A copy of a database, searched on with the same output folder: the same identity, and trials of its own."""
    ((mine, _), (copied, said)) = studies(tmp_path, "a" * 32, "a" * 32)
    advanced(mine, 0, 4)
    assert copied.fetch(0, Recipe(lr=0.2, epochs=5), Curve()).step == 0
    assert said


def test_a_study_of_an_earlier_version_goes_on_from_what_fits_its_curve(tmp_path: Path) -> None:
    ((mine, _),) = studies(tmp_path, None)
    first = advanced(mine, 0, 4)
    ((later, said),) = studies(tmp_path, None)
    assert later.fetch(0, RECIPE, first.curve).step == 4
    assert not said
    contrary = Curve([Point(step=4, epoch=1.0, values={"valid_loss": 7.0})])
    assert later.fetch(0, RECIPE, contrary).step == 0
    assert said


def test_checkpoints_of_trials_that_ended_before_a_kill_go_with_the_first_look(tmp_path: Path) -> None:
    ((mine, _), (theirs, _)) = studies(tmp_path, "a" * 32, "b" * 32)
    for number in range(3):
        advanced(mine, number, 4)
    advanced(theirs, 0, 4)
    ((again, _),) = studies(tmp_path, "a" * 32)
    again.keep({1}, ended={0})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"0-{'b' * 12}.npz", f"1-{'a' * 12}.npz", f"2-{'a' * 12}.npz"
    ]  # fmt: skip


def test_a_checkpoint_that_cannot_be_read_is_said_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = advanced(RunCache(trainer=Counting(), folder=tmp_path), 0, 4)
    (checkpoint,) = tmp_path.iterdir()
    failures = [OSError(errno.EIO, "Input/output error")] * 2
    real = Path.read_bytes

    def failing(path: Path) -> bytes:
        if failures:
            raise failures.pop()
        return real(path)

    said: list[str] = []
    monkeypatch.setattr(Path, "read_bytes", failing)
    assert RunCache(trainer=Counting(), folder=tmp_path, warn=said.append).fetch(0, RECIPE, first.curve).step == 0
    assert said == [
        f"trial 0 is trained again from its start: checkpoint {checkpoint} cannot be read (Input/output error)"
    ]
    assert checkpoint.exists(), "what cannot be read may be sound"
    failures.append(OSError(errno.EIO, "Input/output error"))
    assert RunCache(trainer=Counting(), folder=tmp_path).fetch(0, RECIPE, first.curve).step == 4, "one failure passes"


def test_a_folder_in_the_place_of_a_checkpoint_is_named_and_costs_no_trial(tmp_path: Path) -> None:
    (tmp_path / "0.npz" / "inside").mkdir(parents=True)
    said: list[str] = []
    run_cache = RunCache(trainer=Counting(), folder=tmp_path, warn=said.append)
    assert not run_cache.saved(0)
    paused = run_cache.fetch(0, RECIPE, Curve())
    with pytest.raises(StorageError, match="a folder is where the file should be"):
        run_cache.suspend(0, paused)
    run_cache.forget(0)
    assert "0.npz cannot be removed" in said[-1]


def test_a_folder_of_checkpoints_that_is_gone_is_not_said_to_be_full(tmp_path: Path) -> None:
    run_cache = RunCache(trainer=Counting(), folder=tmp_path / "out" / "checkpoints")
    with pytest.raises(StorageError, match="make the folder again") as raised:
        advanced(run_cache, 0, 4)
    assert "space" not in str(raised.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
def test_a_folder_that_may_not_be_looked_into_holds_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    advanced(RunCache(trainer=Counting(), folder=folder), 0, 4)
    folder.chmod(0)
    try:
        said: list[str] = []
        run_cache = RunCache(trainer=Counting(), folder=folder, warn=said.append)
        assert not run_cache.saved(0)
        run_cache.forget(0)
        assert said
    finally:
        folder.chmod(0o700)
