"""Checkpoints: what goes in comes out, bit for bit; what is not ours is refused and never executed."""

from __future__ import annotations

import copy
import io
import os
import pickle
import stat
import tracemalloc
import zipfile
from typing import TYPE_CHECKING, Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer_contract import same

from lrtune.errors import CheckpointError, InputError, StorageError
from lrtune.training import checkpoint

if TYPE_CHECKING:
    from pathlib import Path

arrays = hnp.arrays(
    dtype=st.one_of(
        hnp.floating_dtypes(),
        hnp.integer_dtypes(),
        hnp.unsigned_integer_dtypes(),
        hnp.boolean_dtypes(),
        hnp.complex_number_dtypes(),
    ),
    shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(max_size=40), arrays)
names = st.one_of(st.text(max_size=6), st.sampled_from(["$array", "$bytes", "$dict", "skeleton", "a0"]))
states = st.dictionaries(
    names,
    st.recursive(
        leaves,
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
        max_leaves=8,
    ),
    max_size=4,
)

STATE: dict[str, Any] = {"weights": np.arange(1000.0), "nested": {"steps": 3, "keys": [b"abc", None, "x"]}}


@given(states)
@settings(max_examples=150, deadline=None)
def test_what_goes_in_comes_out(state: dict[str, Any]) -> None:
    assert same(checkpoint.decode(checkpoint.encode(state)), state)


@given(states)
@settings(max_examples=50, deadline=None)
def test_its_size_is_at_least_that_of_its_arrays(
    tmp_path_factory: pytest.TempPathFactory, state: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("size") / "run.npz"
    size = checkpoint.save(path, state)
    assert size == path.stat().st_size
    assert size >= sum(v.nbytes for v in state.values() if isinstance(v, np.ndarray))


def test_a_file_is_private_and_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    checkpoint.save(path, STATE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["run.npz"]  # noqa: PTH208 -- hidden files count
    assert same(checkpoint.load(path), STATE)


def test_saving_again_replaces(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    checkpoint.save(path, STATE)
    checkpoint.save(path, {"other": 1})
    assert checkpoint.load(path) == {"other": 1}


def test_a_failed_save_leaves_the_old_file_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.npz"
    checkpoint.save(path, STATE)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        checkpoint.save(path, {"other": 1})
    assert same(checkpoint.load(path), STATE)
    assert [item.name for item in tmp_path.iterdir()] == ["run.npz"]


def test_a_folder_that_was_cleared_away_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "gone" / "run.npz"
    checkpoint.save(path, STATE)
    assert same(checkpoint.load(path), STATE)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_without_the_folder_above_it_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written"):
        checkpoint.save(tmp_path / "no" / "folder" / "run.npz", STATE)


def test_a_file_where_the_folder_was_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        checkpoint.save(tmp_path / "taken" / "run.npz", STATE)


@pytest.mark.parametrize(
    "wrong",
    [
        {"x": object()},
        {"x": (1, 2)},
        {1: "x"},
        {"x": np.array([object()])},
        {"x": np.array(["text"])},
        {"x": np.float64(1.0)},
        {"x": [{"y": {3}}]},
    ],
)
def test_a_state_of_something_else_is_a_bug_of_the_trainer(wrong: Any) -> None:
    with pytest.raises(TypeError):
        checkpoint.encode(wrong)


class Bomb:
    """Unpickling this makes a folder."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (self.marker,))


def written(kind: str, path: Path, bomb: Bomb) -> None:
    if kind == "pickle":
        path.write_bytes(pickle.dumps(bomb))
    elif kind == "object array":
        np.savez(path, skeleton=np.array([bomb], dtype=object))
    elif kind == "object array inside":
        skeleton = b'{"format": "lrtune-state-1", "state": {"x": {"$array": 0}}}'
        np.savez(path, skeleton=np.frombuffer(skeleton, dtype=np.uint8), a0=np.array([bomb], dtype=object))
    else:
        with zipfile.ZipFile(path, "w") as archive:  # what torch.save writes
            archive.writestr("archive/data.pkl", pickle.dumps(bomb))
            archive.writestr("skeleton.npy", pickle.dumps(bomb))


@pytest.mark.parametrize("kind", ["pickle", "object array", "object array inside", "zip"])
def test_a_malicious_file_is_refused_and_not_executed(kind: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = tmp_path / "run.npz"
    written(kind, path, Bomb(str(marker)))
    with pytest.raises(CheckpointError):
        checkpoint.load(path)
    assert not marker.exists()


@pytest.mark.slow
def test_what_torch_saves_is_refused_and_not_executed(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    marker, path = tmp_path / "marker", tmp_path / "run.npz"
    torch.save({"weights": Bomb(str(marker))}, path)
    with pytest.raises(CheckpointError):
        checkpoint.load(path)
    assert not marker.exists()


@given(st.integers(0, 9000), st.integers(0, 255))
@settings(max_examples=150, deadline=None)
def test_one_damaged_byte_is_refused_or_without_effect(position: int, byte: int) -> None:
    data = bytearray(checkpoint.encode(STATE))
    data[position % len(data)] = byte
    try:
        state = checkpoint.decode(bytes(data))
    except CheckpointError:
        return
    assert same(state, STATE)


@given(st.integers(0, 9000))
@settings(max_examples=50, deadline=None)
def test_a_truncated_file_is_refused(length: int) -> None:
    data = checkpoint.encode(STATE)
    with pytest.raises(CheckpointError):
        checkpoint.decode(data[: length % len(data)])


@pytest.mark.parametrize(
    "text",
    [
        '{"format": "lrtune-state-1", "state": [1]}',
        '{"format": "other", "state": {}}',
        "[]",
        "no json",
        '{"format": "lrtune-state-1", "state": {"x": {"$array": 7}}}',
        '{"format": "lrtune-state-1", "state": {"x": {"$array": "../../etc"}}}',
        '{"format": "lrtune-state-1"}',
        "[" * 100_000,
    ],
)
def test_a_wrong_skeleton_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    np.savez(path, skeleton=np.frombuffer(text.encode(), dtype=np.uint8))
    with pytest.raises(CheckpointError):
        checkpoint.load(path)


@given(st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        checkpoint.decode(data)


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        checkpoint.load(tmp_path / "none.npz")


def bomb(kind: str, path: Path) -> int:
    """A small file that would take a hundred times its size; its size."""
    huge = 2**27
    if kind == "compressed":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("skeleton.npy", "w") as member:
            for _ in range(huge // 2**22):
                member.write(bytes(2**22))
    elif kind == "one more":
        np.savez(path, skeleton=np.zeros(4, dtype=np.uint8))
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a0.npy", bytes(2**26))
    elif kind == "shape":
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (huge, 64)})
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("skeleton.npy", header.getvalue() + bytes(64))
    else:  # many members that are one and the same piece of the file
        whole = bytes(2**20)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a0.npy", whole)
            for number in range(1, 1024):
                again = copy.copy(archive.filelist[0])
                again.filename = f"a{number}.npy"
                archive.filelist.append(again)
                archive.NameToInfo[again.filename] = again
    return path.stat().st_size


@pytest.mark.parametrize("kind", ["compressed", "one more", "shape", "overlapping"])
def test_a_small_file_that_unpacks_to_much_is_refused_before_it_is_unpacked(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    assert bomb(kind, path) < 2**21
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError):
            checkpoint.load(path)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()
