"""What PyTorch's trainer is given, and what it measures: data, losses, metrics, chance, kinds of models."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from networks import CLASSES, FEATURES, Noisy, blobs, last_reports, make, mlp, plain
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from trainer_contract import train

from lrtune.core.outcome import Outcome
from lrtune.core.recipe import Recipe
from lrtune.errors import DataError, InputError, RecipeError
from lrtune.training import checkpoint
from lrtune.training.networks.data import TensorSource, epoch_order
from lrtune.training.networks.nested import concatenated, decoded, encoded, length, sliced
from lrtune.training.networks.rng import RngStream, derived_seed
from lrtune.training.networks.trainer import TorchTrainer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RECIPE = Recipe(lr=0.1, epochs=2, seed=4)


class Stairs(IterableDataset[Any]):
    """An iterable of samples, with or without a length of its loader."""

    def __init__(self, promised: int, given_: int) -> None:
        self.promised, self.given = promised, given_

    def __len__(self) -> int:
        return self.promised

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        return ((torch.full((FEATURES,), float(i)), i % CLASSES) for i in range(self.given))


class TestData:
    def test_all_forms_of_the_same_tensors_are_one(self) -> None:
        x, y = blobs()
        forms = [(x, y), [x, y], TensorDataset(x, y), (x.numpy(), y.numpy()), (x.double().numpy(), y)]
        reports = [last_reports(make(train_data=form), RECIPE)[0] for form in forms]
        assert all(report == reports[0] for report in reports)
        assert len({make(train_data=form).fingerprint()["data"] for form in forms}) == 1

    def test_a_dataset_gives_the_batches_that_tensors_give(self) -> None:
        class Plain(Dataset[Any]):
            x, y = blobs()

            def __len__(self) -> int:
                return len(self.x)

            def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
                return self.x[index], self.y[index]

        assert last_reports(make(train_data=Plain()), RECIPE) == last_reports(make(), RECIPE)

    def test_several_inputs(self) -> None:
        class Two(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = plain()

            def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
                return self.net(a + b)

        x, y = blobs()
        (report,) = last_reports(make(model=Two, train_data=(x, x, y), valid_data=(x, x, y)), RECIPE)
        assert report.outcome is Outcome.COMPLETED

    @pytest.mark.parametrize(
        ("data", "match"),
        [
            ((), "is empty"),
            ((torch.zeros(0, 3), torch.zeros(0)), "is empty"),
            ((torch.zeros(4, 3), torch.zeros(5)), r"as many samples each \(got the lengths \[4, 5\]\)"),
            ((["a", "b"], [1, 2]), "tensors or arrays of numbers"),
            (3, r"a Dataset, a DataLoader or a function.* \(got int\)"),
            (Stairs(4, 4), "has no samples to shuffle"),
            (TensorDataset(torch.zeros(0, 3)), "is empty"),
        ],
    )
    def test_what_cannot_be_learned_from(self, data: Any, match: str) -> None:
        with pytest.raises(DataError, match=match):
            make(train_data=data)

    def test_a_batch_larger_than_the_data(self) -> None:
        trainer = make()
        assert trainer.steps_per_epoch(Recipe(lr=0.1, batch_size=1000)) == 1
        assert trainer.notices == ()
        (report,) = last_reports(trainer, Recipe(lr=0.1, batch_size=1000))
        assert report.point.samples == 70
        assert trainer.notices == ("a batch size of 1000 is more than the data has: 70 is used",)

    @given(st.integers(1, 200), st.integers(1, 70), st.integers(0, 2**63 - 1), st.integers(0, 1000))
    @examples(max_examples=40, deadline=None)
    def test_an_epoch_sees_every_sample_once(self, samples: int, size: int, seed: int, epoch: int) -> None:
        source = TensorSource([torch.arange(samples)], "data")
        recipe = Recipe(lr=0.1, batch_size=size, seed=seed)
        feed = source.feed(recipe, 1, torch.device("cpu"))
        steps = source.steps(recipe, 1)
        seen = [int(i) for step in range(steps) for i in feed.batch(epoch, step)[0]]
        alone = samples > 1 and min(size, samples) > 1 and samples % min(size, samples) == 1
        assert len(seen) == len(set(seen)) == samples - alone
        feed.release()
        assert feed.batch(epoch, steps - 1)[0].tolist() == seen[len(seen) - len(feed.batch(epoch, steps - 1)[0]) :]

    def test_orders_differ_between_epochs_and_seeds(self) -> None:
        orders = {tuple(epoch_order(50, seed, epoch).tolist()) for seed in range(3) for epoch in range(3)}
        assert len(orders) == 9


class TestLoaders:
    def test_a_factory_gets_the_arguments_that_it_has(self) -> None:
        told: list[dict[str, Any]] = []

        def factory(recipe: Recipe, *, batch_size: int, generator: torch.Generator) -> DataLoader[Any]:
            told.append({"recipe": recipe, "size": batch_size})
            return DataLoader(Noisy(), batch_size=batch_size, shuffle=True, generator=generator)

        trainer = make(train_data=factory)
        recipe = Recipe(lr=0.1, batch_size=7)
        assert trainer.steps_per_epoch(recipe) == 10
        assert last_reports(trainer, recipe)[0].outcome is Outcome.COMPLETED
        assert all(call == {"recipe": recipe, "size": 7} for call in told)

    def test_a_loader_keeps_its_batch_size(self) -> None:
        trainer = make(train_data=DataLoader(Noisy(), batch_size=10))
        assert trainer.steps_per_epoch(RECIPE) == 7
        with pytest.raises(RecipeError, match="batch size of 10 and the recipe asks for 16"):
            trainer.start([Recipe(lr=0.1, batch_size=16)])

    @pytest.mark.parametrize(
        ("loader", "match"),
        [
            (lambda: 3, "must return a DataLoader"),
            (lambda: (batch for batch in []), "must have a length"),
            (list, "has no batches"),
        ],
    )
    def test_what_is_no_loader(self, loader: Any, match: str) -> None:
        with pytest.raises(DataError, match=match):
            make(train_data=loader).start([RECIPE])

    def test_a_loader_that_ends_too_early(self) -> None:
        trainer = make(train_data=lambda: DataLoader(Stairs(64, 30), batch_size=16))
        run = trainer.start([RECIPE])
        with pytest.raises(DataError, match="ended before the 4 batches"):
            run.advance(4)

    def test_an_iterable_dataset_in_a_loader(self) -> None:
        trainer = make(train_data=lambda: DataLoader(Stairs(64, 64), batch_size=16), valid_data=None, metrics=None)
        (report,) = last_reports(trainer, RECIPE)
        assert (report.outcome, report.point.samples) == (Outcome.COMPLETED, 128)

    def test_worker_processes_give_what_their_seeds_say_and_end(self) -> None:
        def factory(batch_size: int) -> DataLoader[Any]:
            return DataLoader(Noisy(), batch_size=batch_size, shuffle=True, num_workers=2)

        others = children()
        trainer = make(train_data=factory)
        whole = train(trainer.start([RECIPE]))
        until(lambda: children() <= others)
        run = trainer.start([RECIPE])
        begun = train(run, segments=3)
        assert children() - others
        state = run.state()
        run.suspend()
        until(lambda: children() <= others)
        other = trainer.start([RECIPE])
        other.restore(state or {})
        assert {**begun[0], **train(other)[0]} == whole[0]
        until(lambda: children() <= others)
        run.close()

    def test_a_killed_worker_is_an_error_and_leaves_no_orphans(self) -> None:
        others = children()
        run = make(train_data=lambda: DataLoader(Noisy(), batch_size=2, num_workers=2)).start([RECIPE])
        run.advance(1)
        os.kill(min(children() - others), signal.SIGKILL)
        with pytest.raises(RuntimeError, match="worker"):
            run.advance(30)
        until(lambda: children() <= others)
        assert run.alive == ()


def until(condition: Callable[[], object], seconds: float = 250.0) -> None:
    """Wait for it; PyTorch waits some seconds for a worker to end, and then ends it without waiting."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def children() -> set[int]:
    """Processes that this one has started, and that live; another test's may be among them, a pool's tracker, say."""
    found, mine = set(), os.getpid()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):  # it may end while it is looked at
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(parent) == mine and state != "Z" and "python" in (entry / "cmdline").read_text():
                found.add(int(entry.name))
    return found


class TestObjectives:
    def test_full_control(self) -> None:
        def loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
            output = model(batch["x"])
            return functional.cross_entropy(output, batch["y"]), output, batch["y"]

        class Dicts(Noisy):
            def __getitem__(self, index: int) -> Any:
                return {"x": self.x[index], "y": self.y[index]}

        trainer = make(train_data=Dicts(), valid_data=Dicts(), loss=loss, accumulate=3)
        (report,) = last_reports(trainer, RECIPE)
        assert set(report.point.values) == {"train_loss", "valid_loss", "accuracy"}
        assert trainer.baseline(RECIPE, "valid_loss").chance is None

    def test_full_control_without_outputs_has_no_metrics(self) -> None:
        def loss(model: nn.Module, batch: Any) -> torch.Tensor:
            return functional.cross_entropy(model(batch[0]), batch[1])

        assert set(last_reports(make(loss=loss, metrics=None), RECIPE)[0].point.values) == {"train_loss", "valid_loss"}
        with pytest.raises(DataError, match="return \\(loss, outputs, targets\\)"):
            make(loss=loss).start([RECIPE]).advance(1)

    def test_metrics_are_of_the_whole_held_out_part(self) -> None:
        def recall(outputs: torch.Tensor, targets: torch.Tensor) -> float:
            assert outputs.shape == (30, CLASSES)
            return float((outputs.argmax(1) == targets)[targets == 0].double().mean())

        metrics = {"recall": recall, "wrong": "error", "right": "accuracy"}
        (report,) = last_reports(make(metrics=metrics, eval_batch_size=7, precision="bf16"), RECIPE)
        values = report.point.values
        assert values["wrong"] + values["right"] == pytest.approx(1.0)
        assert 0 <= values["recall"] <= 1

    def test_the_held_out_loss_does_not_depend_on_its_batches(self) -> None:
        losses = [last_reports(make(eval_batch_size=size), RECIPE)[0].point.values["valid_loss"] for size in (1, 7, 30)]
        assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)

    def test_sequences_of_classes(self) -> None:
        words = torch.randint(11, (40, 5), generator=torch.Generator().manual_seed(0))

        def model() -> nn.Module:
            return nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 11))

        trainer = TorchTrainer(model=model, train_data=(words, words), valid_data=(words, words), device="cpu")
        (report,) = last_reports(trainer, Recipe(lr=0.1, epochs=2))
        assert report.point.values["valid_loss"] == pytest.approx(math.log(11), rel=0.2)
        square = TorchTrainer(model=model, train_data=(words[:, :1].repeat(1, 11),) * 2, device="cpu")
        with pytest.raises(DataError, match="cannot tell which dimension"):
            square.start([RECIPE]).advance(1)

    def test_a_column_of_outputs_meets_a_vector_of_targets(self) -> None:
        x, _ = blobs()
        data = (x, x.sum(1))
        for loss in ("mse", "l1", "huber"):
            trainer = TorchTrainer(
                model=lambda: nn.Linear(FEATURES, 1), train_data=data, valid_data=data, loss=loss, device="cpu"
            )
            (report,) = last_reports(trainer, Recipe(lr=0.1, epochs=60))
            assert report.point.values["valid_loss"] < 0.1, loss
        with pytest.raises(DataError, match="output has the shape"):
            TorchTrainer(model=plain, train_data=data, loss="mse", device="cpu").start([RECIPE]).advance(1)

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"loss": "cross-entropy"}, "did you mean 'cross_entropy'"),
            ({"loss": 3}, "or a function"),
            ({"metrics": ["acuracy"]}, "did you mean 'accuracy'"),
            ({"metrics": {"valid_loss": "error"}}, "cannot be called 'valid_loss'"),
            ({"precision": "fp16"}, "needs a GPU"),
            ({"precision": "fp8"}, "must be one of float32, bf16, fp16"),
            ({"device": "cuda:99"}, "is not here"),
            ({"device": "tpu-ish"}, "that PyTorch knows"),
            ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
            ({"accumulate": 1.5}, "accumulate must be a whole number"),
            ({"clip_norm": math.nan}, "clip_norm must be a positive, finite number"),
            ({"optimizer": "addam"}, "did you mean 'adam'"),
        ],
    )
    def test_what_cannot_be_asked_for(self, changes: dict[str, Any], match: str) -> None:
        with pytest.raises(InputError, match=match):
            make(**changes)

    def test_a_loss_of_many_numbers_is_refused(self) -> None:
        def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return functional.cross_entropy(output, target, reduction="none")

        with pytest.raises(DataError, match=r"got the shape \(16,\)"):
            make(loss=loss).start([RECIPE]).advance(1)


class TestBaseline:
    def test_of_classes(self) -> None:
        trainer = make(metrics=["accuracy", "error"], loss=nn.CrossEntropyLoss())
        shares = np.bincount(blobs(30, seed=1)[1].numpy()) / 30
        found = {name: trainer.baseline(RECIPE, name) for name in ("valid_loss", "accuracy", "error", "train_loss")}
        assert found["valid_loss"].chance == pytest.approx(-(shares * np.log(shares)).sum())
        assert found["accuracy"].chance == pytest.approx(shares.max())
        assert found["error"].chance == pytest.approx(1 - shares.max())
        assert found["train_loss"].chance is None
        assert found["train_loss"].untrained is None

    def test_the_untrained_model_is_the_one_that_a_run_begins_with(self) -> None:
        untrained = make().baseline(RECIPE, "valid_loss").untrained
        (report,) = last_reports(make(), Recipe(lr=1e-12, epochs=1, seed=4))
        assert untrained is not None
        frozen = make(model=plain)
        (report,) = last_reports(frozen, Recipe(lr=1e-12, epochs=1, seed=4))
        assert report.point.values["valid_loss"] == pytest.approx(frozen.baseline(RECIPE, "valid_loss").untrained)

    @pytest.mark.parametrize("loss", ["mse", "l1", "bce_with_logits"])
    def test_no_constant_is_better(self, loss: str) -> None:
        x, y = blobs()
        target = (y == 0).float()[:, None]
        trainer = TorchTrainer(
            model=lambda: nn.Linear(FEATURES, 1),
            train_data=(x, target),
            valid_data=(x, target),
            loss=loss,
            device="cpu",
        )
        chance = trainer.baseline(RECIPE, "valid_loss").chance
        function = {"mse": functional.mse_loss, "l1": functional.l1_loss}.get(
            loss, functional.binary_cross_entropy_with_logits
        )
        worths = [float(function(torch.full_like(target, c), target)) for c in np.linspace(-3, 3, 601)]
        assert chance == pytest.approx(min(worths), abs=1e-4)

    def test_without_a_held_out_part(self) -> None:
        baseline = make(valid_data=None).baseline(RECIPE, "valid_loss")
        assert (baseline.untrained, baseline.chance) == (None, None)


def _digest(x: torch.Tensor, hashed: torch.Tensor) -> str:
    head = f"{' x '.join(map(str, x.shape))}{x.dtype}".encode()
    return hashlib.sha256(head + hashed.numpy().tobytes()).hexdigest()[:16]


class TestFingerprint:
    def test_it_tells_data_models_and_losses_apart(self) -> None:
        x, y = blobs()
        other = x.clone()
        other[3, 1] += 1e-6
        first = make().fingerprint()
        assert make(train_data=(other, y)).fingerprint()["data"] != first["data"]
        assert make(model=plain).fingerprint()["model"] != first["model"]
        assert make(loss="l1").fingerprint()["loss"] != first["loss"]
        assert "70 x 6:float32" in first["data"]

    def test_data_is_hashed_piece_by_piece_as_if_it_were_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        x = torch.arange(600.0).reshape(100, 6)
        assert TensorSource([x], "x").describe().endswith(_digest(x, x))
        monkeypatch.setattr("lrtune.training.networks.data.HASHED_WHOLE", 800)
        chosen = np.linspace(0, 99, 33).round().astype(int)
        assert TensorSource([x], "x").describe().endswith(_digest(x, x[chosen]))

    def test_large_data_is_sampled_and_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("lrtune.training.networks.data.HASHED_WHOLE", 400)
        first = make().fingerprint()["data"]
        assert "evenly spaced samples" in first
        assert make(train_data=blobs(seed=8)).fingerprint()["data"] != first


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.GRU(FEATURES, 8, num_layers=2, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.cells(x[:, None].repeat(1, 4, 1))[0][:, -1])


class Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.stem = nn.Linear(1, 8)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.stem(x[..., None])).mean(1))


class Convolving(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Unflatten(1, (1, FEATURES)), nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.Flatten(), nn.LazyLinear(CLASSES)
        )
        self(torch.zeros(2, FEATURES))


@pytest.mark.parametrize("model", [Recurrent, Attentive, Convolving, mlp])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_all_kinds_of_models_train_and_come_back(model: Any, precision: str, tmp_path: Path) -> None:
    trainer = make(model=model, precision=precision, optimizer="adamw", clip_norm=1.0)
    recipe = Recipe(lr=0.01, epochs=6, schedule="cosine", warmup=0.1)
    whole = train(trainer.start([recipe]), steps=10)
    run = trainer.start([recipe])
    begun = train(run, steps=10, segments=1)
    checkpoint.save(tmp_path / "state.npz", run.state() or {})
    other = trainer.start([recipe])
    other.restore(checkpoint.load(tmp_path / "state.npz"))
    assert {**begun[0], **train(other, steps=10)[0]} == whole[0]
    assert last_reports(trainer, recipe)[0].point.values["valid_loss"] < 1.1


class TestStates:
    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda member: member["model"].pop("0.weight"), "another model"),
            (lambda member: member["model"]["0.weight"].update(tensor=np.zeros((2, 2), np.float32)), "another model"),
            (lambda member: member["optimizer"]["groups"].append({}), "groups differ"),
            (lambda member: member.pop("guard"), "damaged"),
            (lambda member: member["stream"].update(torch=np.zeros(3, np.uint8)), "damaged"),
            (lambda member: member["model"]["0.weight"].update(dtype="float99"), "float99"),
        ],
    )
    def test_a_damaged_one_is_refused(self, change: Any, match: str) -> None:
        trainer = make()
        run = trainer.start([RECIPE])
        run.advance(2)
        state = run.state()
        assert state is not None
        change(state["members"][0])
        with pytest.raises(InputError, match=match):
            trainer.start([RECIPE]).restore(state)

    def test_an_optimizer_that_cannot_be_saved(self) -> None:
        def mine(params: Any, lr: float) -> torch.optim.Optimizer:
            made = torch.optim.SGD(params, lr=lr)
            made.param_groups[0]["odd"] = object()
            return made

        assert make(optimizer=mine).start([RECIPE]).state() is None

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
            lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.integers() | st.text(), inner),
            max_leaves=12,
        )
    )
    @examples(deadline=None)
    def test_plain_values_survive(self, value: Any) -> None:
        assert decoded(encoded(value)) == value

    @pytest.mark.parametrize(
        "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.bool, torch.int64, torch.cfloat]
    )
    @pytest.mark.parametrize("shape", [(), (0,), (3, 2)])
    def test_tensors_of_any_type_survive(self, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        held = encoded(tensor)
        assert held["tensor"].dtype.kind in "biufc"
        back = decoded(held)
        assert back.dtype == dtype
        assert torch.equal(back, tensor)

    def test_what_cannot_be_written_is_not_pickled(self) -> None:
        with pytest.raises(TypeError, match="cannot be saved without a pickle"):
            encoded({"hook": print})


class TestPieces:
    def test_batches_are_cut_along_the_samples(self) -> None:
        batch = {"x": torch.arange(6).reshape(3, 2), "y": [torch.arange(3)], "names": ["a", "b", "c"], "scale": 2.0}
        assert length(batch) == 3
        part = sliced(batch, 1, 3, 3)
        assert part["x"].tolist() == [[2, 3], [4, 5]]
        assert part["y"][0].tolist() == [1, 2]
        assert (part["names"], part["scale"]) == (["b", "c"], 2.0)

    @given(st.integers(1, 30), st.integers(1, 30))
    @examples(deadline=None)
    def test_slices_concatenated_are_the_batch(self, samples: int, size: int) -> None:
        batch = (torch.arange(samples), {"y": torch.arange(2 * samples).reshape(samples, 2)})
        parts = [sliced(batch, begin, begin + size, samples) for begin in range(0, samples, size)]
        whole = concatenated(parts)
        assert torch.equal(whole[0], batch[0])
        assert torch.equal(whole[1]["y"], batch[1]["y"])

    @given(st.integers(0, 2**63 - 1), st.integers(0, 20))
    @examples(max_examples=20, deadline=None)
    def test_a_stream_goes_on_where_it_stood(self, seed: int, draws: int) -> None:
        def draw() -> list[float]:
            return [float(torch.randn(())), float(np.random.randn()), float(torch.rand(()))]  # noqa: NPY002

        stream, other = RngStream(seed), RngStream(derived_seed(seed, 1))
        with stream.active():
            for _ in range(draws):
                draw()
        other.restore(stream.state())
        with stream.active():
            first = draw()
        with other.active():
            assert draw() == first


def test_a_dict_of_columns_is_named_with_what_to_give() -> None:
    columns = dict(zip("xy", blobs(), strict=True))
    with pytest.raises(DataError, match=r"no dict of columns \(got 'x', 'y'\); give a Dataset"):
        make(train_data=columns)
