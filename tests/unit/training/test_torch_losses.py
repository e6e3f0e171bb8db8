"""A loss is not always a mean over samples: what PyTorch's divide by, what accuracy counts, what lazy modules need."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import CLASSES, FEATURES, blobs, last_reports, make, mlp, plain
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from lrtune.core.outcome import Outcome
from lrtune.core.recipe import Recipe
from lrtune.errors import DataError, InputError
from lrtune.training.networks.evaluation import measure
from lrtune.training.networks.loss import metrics_of, objective_of
from lrtune.training.networks.step import NoMemoryError, Stepper
from lrtune.training.networks.trainer import TorchTrainer

RECIPE = Recipe(lr=0.3, epochs=2, seed=4)
HOST = torch.device("cpu")
WEIGHTS = torch.tensor([0.5, 4.0, 0.0], dtype=torch.float64)
SHARES = st.sampled_from([0.0, 0.3, 0.9])
few = settings(max_examples=15, deadline=None)


def masked(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A loss of one's own: the mean over targets that are not masked, without a word about it."""
    return functional.cross_entropy(output.flatten(0, -2), target.flatten())


def weighed(output: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same, and what it divides by."""
    return masked(output, target), (target != -100).sum()


def of_model(model: nn.Module, batch: Any) -> tuple[Any, ...]:
    output = model(batch[0])
    loss, weight = weighed(output, batch[1])
    return loss, output, batch[1], weight


CLASS_LOSSES = {
    "cross_entropy": "cross_entropy",
    "module": nn.CrossEntropyLoss(),
    "class weights": nn.CrossEntropyLoss(weight=WEIGHTS),
    "smoothed": nn.CrossEntropyLoss(weight=WEIGHTS, label_smoothing=0.2),
    "another mask": nn.CrossEntropyLoss(ignore_index=1),
    "summed": nn.CrossEntropyLoss(reduction="sum"),
    "function": functional.cross_entropy,
    "partial": functools.partial(functional.cross_entropy, weight=WEIGHTS, label_smoothing=0.1),
    "own": masked,
    "weighed": weighed,
    "of the model": of_model,
}
VALUE_LOSSES = {
    "mse": "mse",
    "l1": "l1",
    "huber": "huber",
    "bce": "bce_with_logits",
    "positive weights": nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0, 3.0])),
    "weights": nn.BCEWithLogitsLoss(weight=torch.tensor([1.0, 2.0, 3.0])),
    "summed": nn.MSELoss(reduction="sum"),
    "divergence": nn.KLDivLoss(reduction="batchmean"),
    "probabilities": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]), label_smoothing=0.1),
    "own": lambda output, target: (output - target).abs().mean(),
}


def stepper(model: nn.Module, loss: Any, accumulate: int = 1, **changes: Any) -> Stepper:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    arguments: dict[str, Any] = {"device": HOST, "precision": "float32", "clip_norm": None} | changes
    return Stepper(model, optimizer, objective_of(loss), accumulate=accumulate, **arguments)


def gradients(model: nn.Module) -> list[torch.Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]


def classes(samples: int, length: int, seed: int, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences, a random share of their targets masked, whole rows among them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, length, FEATURES, generator=generator, dtype=torch.float64)
    y = torch.randint(CLASSES, (samples, length), generator=generator)
    y[torch.rand(samples, length, generator=generator) < share] = -100
    y[torch.rand(samples, generator=generator) < share] = -100
    return x, y


def same_gradients(loss: Any, batch: tuple[torch.Tensor, torch.Tensor], parts: int) -> None:
    model = plain().double()
    loss = loss.double() if isinstance(loss, nn.Module) else loss
    once, cut = stepper(model, loss), stepper(model, loss, parts)
    first = once.step(batch)
    expected = gradients(model)
    second = cut.step(batch)
    if math.isnan(first):
        assert math.isnan(second)
        if loss is masked:
            return
        assert not cut.has_loss(cut.loss_weight(batch))
        assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in gradients(model))
        return
    assert second == pytest.approx(float(first), rel=1e-9)
    for found, wanted in zip(gradients(model), expected, strict=True):
        assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-12)


class TestCut:
    """A batch in pieces has the gradient and the loss of the whole batch."""

    @pytest.mark.parametrize("name", CLASS_LOSSES)
    @given(
        st.tuples(st.integers(1, 9), st.integers(1, 5)),
        st.integers(2, 9),
        st.integers(0, 99),
        SHARES,
    )
    @few
    def test_of_masked_classes(self, name: str, shape: tuple[int, int], parts: int, seed: int, share: float) -> None:
        samples, length = shape
        x, y = classes(samples, length, seed, share)
        if length == CLASSES or not isinstance(CLASS_LOSSES[name], str):
            x, y = (x, y) if name in {"own", "weighed", "of the model"} else (x[:, 0], y[:, 0])
        if name == "another mask":
            y = y.clamp(min=1)
        same_gradients(CLASS_LOSSES[name], (x, y), parts)

    @pytest.mark.parametrize("name", VALUE_LOSSES)
    @given(st.integers(1, 9), st.integers(2, 9), st.integers(0, 99))
    @few
    def test_of_values(self, name: str, samples: int, parts: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(samples, FEATURES, generator=generator, dtype=torch.float64)
        y = torch.rand(samples, CLASSES, generator=generator, dtype=torch.float64)
        same_gradients(VALUE_LOSSES[name], (x, y), parts)

    def test_one_that_is_no_mean_over_samples_is_not_cut_and_says_so(self) -> None:
        x, y = classes(8, 4, 0, 0.5)
        data = x.float(), y
        changes = {"model": plain, "train_data": data, "valid_data": None, "metrics": None, "batch_size": 8}
        one, many = (make(loss=masked, accumulate=parts, **changes) for parts in (1, 4))
        assert last_reports(many, RECIPE)[0].point == last_reports(one, RECIPE)[0].point
        assert one.notices == ()
        assert "the loss masked is no mean over samples; let it return (loss, weight)" in many.notices[0]

    def test_one_that_is_stays_cut(self) -> None:
        sizes: list[int] = []

        class Seen(nn.Linear):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                sizes.append(len(x))
                return super().forward(x)

        def mean(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return functional.cross_entropy(output, target)

        trainer = make(model=lambda: Seen(FEATURES, CLASSES), valid_data=None, metrics=None, loss=mean, accumulate=4)
        last_reports(trainer, RECIPE)
        assert max(sizes) == 4
        assert trainer.notices == ()

    def test_that_it_is_not_cut_is_part_of_the_state(self) -> None:
        x, y = classes(8, 4, 0, 0.5)
        trainer = make(model=plain, train_data=(x.float(), y), valid_data=None, metrics=None, loss=masked, accumulate=4)
        run, other = trainer.start([RECIPE]), trainer.start([RECIPE])
        run.advance(1)
        other.restore(run.state() or {})
        assert other.members[0].live.stepper.never_split  # type: ignore[union-attr]  # if it is not there, this fails

    def test_a_loss_of_the_model_alone_is_not_cut(self) -> None:
        def loss(model: nn.Module, batch: Any) -> torch.Tensor:
            return functional.cross_entropy(model(batch[0]), batch[1])

        trainer = make(loss=loss, metrics=None, accumulate=2, eval_batch_size=16)
        last_reports(trainer, RECIPE)
        assert sorted(notice.partition(":")[0] for notice in trainer.notices) == [
            "batches are not cut into 2 micro-batches",
            "what the loss loss divides by is not known",
        ]

    def test_targets_of_other_rows_are_not_cut(self) -> None:
        x, y = classes(6, 4, 0, 0.0)
        data = DataLoader([(x[:2].float(), y[:2].flatten())] * 3, batch_size=None)  # type: ignore[arg-type]  # a list is a data set
        trainer = make(
            model=lambda: nn.Sequential(plain(), nn.Flatten(0, 1)), train_data=data, valid_data=data, accumulate=2
        )
        assert last_reports(trainer, RECIPE)[0].outcome is Outcome.COMPLETED
        assert "the target has 8 rows and the inputs 2" in trainer.notices[0]

    @pytest.mark.parametrize(("samples", "accumulate"), [(3, 16), (5, 4), (7, 4), (16, 16)])
    def test_batchnorm_never_meets_a_single_sample(self, samples: int, accumulate: int) -> None:
        made = stepper(mlp(), "cross_entropy", accumulate)
        sizes = [end - begin for begin, end in made._splits(samples)]
        assert (min(sizes) >= 2, sum(sizes)) == (True, samples)
        frozen = mlp()
        frozen[1].eval()  # type: ignore[index]  # it is a Sequential
        assert len(stepper(frozen, "cross_entropy", accumulate)._splits(samples)) == min(accumulate, samples)

    @pytest.mark.parametrize("loss", ["cross_entropy", of_model, masked])
    def test_memory_that_ends_ends(self, loss: Any) -> None:
        class Full(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm, self.net = nn.BatchNorm1d(FEATURES), plain()

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                if len(x) > 1:
                    msg = "out of memory"
                    raise torch.cuda.OutOfMemoryError(msg)
                return self.net(x)

        with pytest.raises(NoMemoryError, match="out of memory"):
            stepper(Full(), loss).step(blobs(16))

    def test_memory_that_ends_under_a_loss_that_is_not_known(self) -> None:
        def loss(model: nn.Module, batch: Any) -> torch.Tensor:
            if len(batch[0]) > 4:
                raise MemoryError
            return functional.cross_entropy(model(batch[0]), batch[1])

        (report,) = last_reports(make(loss=loss, metrics=None, valid_data=None), RECIPE)
        assert report.outcome is Outcome.OUT_OF_MEMORY
        assert "what the loss loss divides by is not known; let it return (loss, weight)" in report.why

    def test_a_batch_in_which_nothing_counts_changes_nothing(self) -> None:
        x, y = blobs(40)
        y[::2] = -100
        for loss in ("cross_entropy", weighed, nn.CrossEntropyLoss(weight=torch.tensor([1.0, 0.0, 1.0]))):
            data = (x, y if loss != "cross_entropy" else torch.where(y == 1, -100, y))
            trainer = make(model=plain, train_data=data, valid_data=None, metrics=None, loss=loss, batch_size=1)
            (report,) = last_reports(trainer, RECIPE)
            assert (report.outcome, report.point.step) == (Outcome.COMPLETED, 80)
            assert math.isfinite(report.point.values["train_loss"])

    def test_half_precision_does_not_round_targets(self) -> None:
        x, target = torch.ones(4, 1), torch.full((4, 1), 1000.25)
        trainer = TorchTrainer(
            model=lambda: nn.Linear(1, 1),
            train_data=(x, target),
            valid_data=(x, target),
            loss="l1",
            precision="bf16",
            device="cpu",
        )
        untrained = trainer.baseline(RECIPE, "valid_loss").untrained
        model = trainer.start([RECIPE]).members[0].live.model  # type: ignore[union-attr]  # if it is not there, this fails
        with torch.no_grad():
            assert untrained == pytest.approx(1000.25 - float(model(x[:1]).bfloat16()), abs=1e-3)


class TestMeasured:
    """The held-out loss does not depend on the batches it is measured in."""

    @pytest.mark.parametrize("name", [name for name in CLASS_LOSSES if name != "own"])
    @given(
        st.integers(1, 9),
        st.tuples(st.integers(1, 9), st.integers(1, 9)),
        st.integers(0, 99),
        SHARES,
    )
    @few
    def test_of_masked_classes(self, name: str, samples: int, sizes: tuple[int, int], seed: int, share: float) -> None:
        size, most = sizes
        x, y = classes(samples, 1, seed, share)
        x, y = x[:, 0], y[:, 0]
        if name == "another mask":
            y = y.clamp(min=1)
        loss = CLASS_LOSSES[name]
        objective = objective_of(loss.double() if isinstance(loss, nn.Module) else loss)
        batches = [(x[i : i + size], y[i : i + size]) for i in range(0, samples, size)]
        model = plain().double()
        metrics = metrics_of(["accuracy"], objective)
        told: list[str] = []
        found = measure(model, objective, metrics, batches, most=most, notify=told.append)
        whole = measure(model, objective, metrics, [(x, y)], most=99, notify=told.append)
        assert found == pytest.approx(whole, rel=1e-9, nan_ok=True)
        direct = objective(model, (x, y)).item()
        assert whole["valid_loss"] == pytest.approx(direct, rel=1e-9, nan_ok=True)
        assert told == []

    def test_one_that_is_no_mean_over_samples_says_so(self) -> None:
        x, y = classes(30, 4, 0, 0.5)
        data = (x.float(), y)
        once, cut = (
            make(model=plain, valid_data=data, train_data=data, loss=masked, eval_batch_size=n) for n in (30, 7)
        )
        for trainer in (once, cut):
            trainer.baseline(RECIPE, "valid_loss")
        assert once.notices == ()
        assert "the loss masked is no mean over samples, so that valid_loss depends on the size" in cut.notices[0]

    def test_halved_batches_are_put_together_before_a_loss_of_ones_own(self) -> None:
        class Greedy(nn.Linear):
            most = 99

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                if len(x) > self.most:
                    raise MemoryError
                return super().forward(x)

        x, y = classes(30, 4, 0, 0.5)
        data = (x.float(), y)
        values = []
        for Greedy.most in (99, 7):
            trainer = make(
                model=lambda: Greedy(FEATURES, CLASSES),
                train_data=data,
                valid_data=data,
                loss=masked,
                eval_batch_size=16,
            )
            values.append(trainer.baseline(RECIPE, "valid_loss").untrained)
        assert values[0] == pytest.approx(values[1], rel=1e-6)

    def test_batches_of_different_lengths(self) -> None:
        parts = [classes(3, length, length, 0.3) for length in (2, 5, 4)]
        data = DataLoader([(x.float(), y) for x, y in parts], batch_size=None)  # type: ignore[arg-type]  # a list is a data set
        trainer = make(model=plain, train_data=data, valid_data=data, metrics=["accuracy", "error"])
        values = last_reports(trainer, RECIPE)[0].point.values
        assert values["accuracy"] + values["error"] == pytest.approx(1.0)
        assert trainer.baseline(RECIPE, "accuracy").chance is not None
        own = make(model=plain, train_data=data, valid_data=data, metrics={"mine": lambda _, target: target.numel()})
        with pytest.raises(DataError, match="different shapes"):
            own.start([RECIPE]).advance(1)


def scored(output: torch.Tensor, target: torch.Tensor, loss: Any, metric: str = "accuracy") -> float:
    objective = objective_of(loss)
    found = measure(nn.Identity(), objective, metrics_of([metric], objective), [(output, target)], most=99, notify=str)
    return found[metric]


def quiet(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    del target
    return output.mean()


class TestAccuracy:
    logits = torch.tensor([[2.0, 1.0, -1.0], [-3.0, -1.0, -2.0], [0.1, 0.2, 0.3], [1.0, 3.0, 2.0]])
    numbers = torch.tensor([0, 1, 0, 1])  # three of them right

    @pytest.mark.parametrize("loss", ["cross_entropy", quiet, "mse"])
    def test_one_hot_and_soft_targets_are_their_class(self, loss: Any) -> None:
        hot = functional.one_hot(self.numbers, 3).float()
        assert scored(self.logits, hot, loss) == scored(self.logits, 0.9 * hot + 0.1 / 3, loss) == 0.75
        assert scored(self.logits, hot, loss, "error") == 0.25

    def test_several_labels_are_meant_under_a_binary_loss(self) -> None:
        hot = functional.one_hot(self.numbers, 3).float()
        assert scored(self.logits, hot, "bce_with_logits") == 6 / 12
        assert scored(self.logits.sigmoid(), hot, nn.BCELoss()) == 6 / 12
        several = torch.tensor([[1.0, 1.0, 0.0]] * 4)
        assert scored(self.logits, several, quiet) == pytest.approx(8 / 12)

    def test_yes_and_no(self) -> None:
        target = torch.tensor([1.0, 0.0, 1.0, 1.0])
        for shape in ((4,), (4, 1)):
            assert scored(self.logits[:, 0].reshape(shape), target, "bce_with_logits") == 1.0
            assert scored(self.logits[:, 0].sigmoid().reshape(shape), target, nn.BCELoss()) == 1.0
            assert scored(self.logits[:, 0].sigmoid().reshape(shape), target, "mse") == 1.0
            assert scored(self.logits[:, 0].reshape(shape), 2 * target - 1, "mse") == 1.0

    @pytest.mark.parametrize("loss", ["cross_entropy", nn.CrossEntropyLoss(ignore_index=2), quiet])
    def test_what_the_loss_leaves_out_is_left_out(self, loss: Any) -> None:
        mask = 2 if isinstance(loss, nn.Module) else -100
        target = torch.where(torch.tensor([True, True, False, True]), self.numbers, mask)
        assert scored(self.logits, target, loss) == 1.0
        assert math.isnan(scored(self.logits, torch.full((4,), mask), loss)) or loss is quiet

    @given(st.integers(0, 99), st.sampled_from(["cross_entropy", "bce_with_logits", "mse"]), st.booleans())
    @few
    def test_no_constant_is_better_than_chance(self, seed: int, loss: str, hot: bool) -> None:
        generator = torch.Generator().manual_seed(seed)
        numbers = torch.randint(CLASSES, (12,), generator=generator)
        target: Any = functional.one_hot(numbers, CLASSES).float()
        if loss == "cross_entropy" and not hot:
            target = torch.where(torch.rand(12, generator=generator) < 0.3, -100, numbers)
        elif not hot and loss == "bce_with_logits":
            target = (torch.rand(12, CLASSES, generator=generator) < 0.7).float()
        data = (blobs(12)[0], target)
        trainer = make(train_data=data, valid_data=data, loss=loss)
        chance = trainer.baseline(RECIPE, "accuracy").chance
        constants = [torch.tensor(signs) for signs in np.ndindex(2, 2, 2)]
        best = max(scored((2.0 * c - 1).repeat(12, 1), target, loss) for c in constants)
        assert chance == pytest.approx(best)

    def test_outputs_that_are_no_tensor(self) -> None:
        def loss(output: Any, target: torch.Tensor) -> torch.Tensor:
            return functional.cross_entropy(output[0], target)

        trainer = make(model=Pair, loss=loss)
        with pytest.raises(DataError, match=r"accuracy needs outputs and targets that are tensors \(got tuple"):
            trainer.baseline(RECIPE, "accuracy")


@given(st.integers(0, 99), st.sampled_from(["plain", "weights", "mask", "soft", "positive"]))
@few
def test_no_constant_has_a_lower_loss_than_chance(seed: int, kind: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randint(CLASSES, (12,), generator=generator)
    numbers[:CLASSES] = torch.arange(CLASSES)
    weight = torch.tensor([0.5, 4.0, 1.0])
    target: Any = torch.where(torch.rand(12, generator=generator) < 0.3, -100, numbers) if kind == "mask" else numbers
    target[0] = 0
    losses = {"weights": nn.CrossEntropyLoss(weight=weight), "positive": nn.BCEWithLogitsLoss(pos_weight=weight)}
    if kind in {"soft", "positive"}:
        target = torch.rand(12, CLASSES, generator=generator).softmax(1)
    loss = losses.get(kind, nn.CrossEntropyLoss())
    data = (blobs(12)[0], target)
    chance = make(train_data=data, valid_data=data, loss=loss, metrics=None).baseline(RECIPE, "valid_loss").chance
    logits = torch.zeros(CLASSES, dtype=torch.float64, requires_grad=True)
    target, loss = (target.double() if target.is_floating_point() else target), loss.double()
    search = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Any:
        search.zero_grad()
        value = loss(logits.repeat(12, 1), target)
        value.backward()
        return value

    search.step(closure)
    assert chance == pytest.approx(closure().item(), abs=1e-4)


class Pair(nn.Linear):
    """Returns a tuple."""

    def __init__(self) -> None:
        super().__init__(FEATURES, CLASSES)

    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x), x


X, Y = blobs()


class TestSentences:
    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            (
                {"model": Pair},
                r"the model returns a tuple and cross_entropy takes one tensor; .*cross_entropy\(output\[0\]",
            ),
            ({"model": Pair, "loss": nn.CrossEntropyLoss()}, r"torch.nn.CrossEntropyLoss\(\)\(output\[0\], target\)"),
            (
                {"train_data": (X, Y.float())},
                r"shape \(16,\) and type float32: give class numbers as integers",
            ),
            ({"train_data": (X, Y + 1)}, "its values go from 1 to 3, class numbers from 0 to one less"),
            ({"train_data": (X, functional.one_hot(Y))}, r"give class numbers, such as y.argmax\(1\)"),
            ({"train_data": (X, Y[:, None].repeat(1, 2))}, "give one class number for each row"),
            ({"loss": "mse"}, r"output has the shape \(16, 3\), the target \(16,\); give them equal shapes"),
            ({"loss": nn.MSELoss()}, "give them equal shapes"),
            ({"loss": lambda output, _: (output.sum(), "much")}, "must be one number, what the loss was divided by"),
            ({"loss": lambda output, _: (output.sum(),)}, "got a tuple of 1"),
        ],
    )
    def test_what_cannot_be_trained_on(self, changes: dict[str, Any], match: str) -> None:
        with pytest.raises(DataError, match=match):
            make(**({"model": plain, "valid_data": None, "metrics": None} | changes)).start([RECIPE]).advance(1)

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            (
                {"loss": nn.CrossEntropyLoss},
                r"is the class CrossEntropyLoss; give an instance of it: CrossEntropyLoss\(\)",
            ),
            ({"metrics": {"f1": nn.Identity}}, "got the class Identity; give an instance"),
            ({"metrics": {"f1": 3}}, r"the metric 'f1' must be one of accuracy, error or a function"),
        ],
    )
    def test_what_cannot_be_given(self, changes: dict[str, Any], match: str) -> None:
        with pytest.raises(InputError, match=match):
            make(**changes)

    @pytest.mark.parametrize("loss", ["cross_entropy", nn.CrossEntropyLoss()])
    @pytest.mark.parametrize("form", [torch.Tensor.int, torch.Tensor.byte, torch.Tensor.short, lambda y: y[:, None]])
    def test_class_numbers_of_any_form(self, loss: Any, form: Any) -> None:
        usual = last_reports(make(model=plain, loss=loss), RECIPE)[0].point
        x, y = blobs(30, seed=1)
        data = {"train_data": (X, form(Y)), "valid_data": (x, form(y))}
        assert last_reports(make(model=plain, loss=loss, **data), RECIPE)[0].point == usual

    def test_yes_and_no_as_booleans(self) -> None:
        data = (X, X[:, 0] > 0)
        (report,) = last_reports(make(model=plain, train_data=data, valid_data=data), RECIPE)
        assert report.outcome is Outcome.COMPLETED

    def test_a_column_meets_a_vector_in_modules_too(self) -> None:
        data = (X, X.sum(1))
        trainer = make(
            model=lambda: nn.Linear(FEATURES, 1), train_data=data, valid_data=data, loss=nn.MSELoss(), metrics=None
        )
        (report,) = last_reports(trainer, Recipe(lr=0.1, epochs=60))
        assert report.point.values["valid_loss"] < 0.01


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(CLASSES))


class TestLazy:
    @pytest.mark.parametrize("form", ["tensors", "loader", "model"])
    def test_they_train_and_come_back(self, form: str) -> None:
        def loss(model: nn.Module, batch: Any) -> torch.Tensor:
            return functional.cross_entropy(model(batch[0]), batch[1])

        changes: dict[str, Any] = {
            "loader": {"train_data": lambda batch_size: DataLoader(list(zip(*blobs(), strict=True)), batch_size)},  # type: ignore[arg-type]  # a list is a data set
            "model": {"loss": loss, "metrics": None},
        }.get(form, {})
        trainer = make(model=lazy, **changes)
        assert "8 x" not in trainer.fingerprint()["model"]
        run, other = trainer.start([RECIPE]), trainer.start([RECIPE])
        before = [p.detach().clone() for p in run.members[0].live.model.parameters()]  # type: ignore[union-attr]  # if it is not there, this fails
        run.advance(3)
        live = run.members[0].live
        assert live is not None
        assert all(p.ndim == 1 or not torch.equal(p, q) for p, q in zip(live.model.parameters(), before, strict=True))
        assert all(module.training for module in live.model.modules())
        other.restore(run.state() or {})
        assert other.advance(9) == run.advance(9)

    def test_as_if_they_had_had_their_shapes(self) -> None:
        def eager() -> nn.Module:
            made = lazy()
            with torch.no_grad():
                made.eval()(X[:2])
            return made.train()

        assert last_reports(make(model=lazy), RECIPE) == last_reports(make(model=eager), RECIPE)

    @pytest.mark.parametrize(
        ("model", "match"),
        [
            (lambda: nn.Sequential(nn.LazyConv2d(3, 3), nn.Flatten()), "0.weight, and a batch of train_data does not"),
            (lambda: nn.ModuleDict({"used": plain(), "spare": nn.LazyLinear(2)}), "spare.weight"),
        ],
    )
    def test_what_stays_without_a_shape(self, model: Any, match: str) -> None:
        with pytest.raises(InputError, match=match):
            make(model=model).fingerprint()
