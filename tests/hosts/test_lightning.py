"""Lightning modules, driven through Lightning's own Trainer."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

pytest.importorskip("lightning", reason="Lightning is not installed; nox -s hosts installs it")

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from networks import blobs, mlp
from open_tab import open_tab
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from trainer_contract import BowlContract, SavingContract, TrainerContract, refused, train

import lrtune
from lrtune.core.outcome import Outcome
from lrtune.core.recipe import Recipe
from lrtune.errors import InputError
from lrtune.integrations.lightning_trainer.live import quiet
from lrtune.integrations.lightning_trainer.member import QUIET
from lrtune.integrations.lightning_trainer.trainer import LightningTrainer
from lrtune.schedules import for_recipe, multipliers
from lrtune.training import checkpoint
from lrtune.training.networks.optimizer_setup import optimizer_setup

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.hosts


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        del batch_idx
        x, y = batch
        return functional.cross_entropy(self.net(x), y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        del batch_idx
        x, y = batch
        output = self.net(x)
        self.log("val_loss", functional.cross_entropy(output, y))
        self.log("val_accuracy", (output.argmax(1) == y).float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def data() -> tuple[Any, Any]:
    return blobs(), blobs(30, seed=1)


def make(**changes: Any) -> LightningTrainer:
    given = {"make_module": Module, "make_data": data, "batch_size": 16, "accelerator": "cpu"} | changes
    return LightningTrainer(**given)


class Bowl(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 1, bias=False)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        del batch_idx
        return functional.mse_loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class TestModules(SavingContract, BowlContract, TrainerContract):
    recipes: ClassVar[tuple[Recipe, ...]] = (
        Recipe(lr=0.01, epochs=2, batch_size=30, seed=1),
        Recipe(lr=0.03, epochs=2, batch_size=25, seed=2, schedule="cosine", warmup=0.2),
        Recipe(lr=0.003, epochs=2, batch_size=30, seed=3, schedule="plateau(patience=0)"),
    )
    bowl_epochs: ClassVar[int] = 250

    def trainer(self) -> LightningTrainer:
        return make()

    def bowl(self) -> tuple[LightningTrainer, float]:
        part = torch.diag(torch.tensor([3.0, 1.0, 0.5])), torch.tensor([[1.0], [-2.0], [0.5]])
        return LightningTrainer(Bowl, lambda: (part, part), accelerator="cpu"), 2 / 3 * 9.0


def last(trainer: LightningTrainer, recipe: Recipe) -> Any:
    """A member trained to its end, and its last report."""
    run = trainer.start([recipe])
    (report,) = run.advance(10**6)
    return report


class Noting(Module):
    """Notes its hooks, batches included."""

    seen: ClassVar[list[Any]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen.append((self.current_epoch, batch_idx, round(float(batch[0].sum()), 4)))
        return super().training_step(batch, batch_idx)

    def on_train_batch_end(self, *given: Any) -> None:
        self.seen.append(("after", given[-1], self.global_step))

    def on_train_epoch_start(self) -> None:
        self.seen.append("epoch")

    def on_train_epoch_end(self) -> None:
        self.seen.append("epoch ends")


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 4])
def test_a_run_resumed_anywhere_sees_the_hooks_and_batches_that_are_due(cut: int, tmp_path: Path) -> None:
    recipe = Recipe(lr=0.01, epochs=2, seed=4)
    trainer, other = (make(make_module=Noting, accumulate_grad_batches=2) for _ in range(2))
    Noting.seen.clear()
    train(trainer.start([recipe]), steps=10**6)
    whole = Noting.seen[:]
    assert [len([entry for entry in whole if entry == hook]) for hook in ("epoch", "epoch ends")] == [2, 2]
    run = trainer.start([recipe])
    Noting.seen.clear()
    if cut:
        run.advance(cut, evaluate=False)
    checkpoint.save(tmp_path / "run.npz", run.state() or {})
    begun = Noting.seen[:]
    run.close()
    Noting.seen.clear()
    run = other.start([recipe])
    run.restore(checkpoint.load(tmp_path / "run.npz"))
    train(run)
    assert begun + Noting.seen == whole


def test_accumulated_batches_are_one_step_and_its_loss_their_mean() -> None:
    losses = []
    for accumulate, size in ((1, 24), (2, 12)):
        trainer = make(
            accumulate_grad_batches=accumulate,
            make_data=lambda: (blobs(48), blobs(30, seed=1)),
        )
        assert trainer.steps_per_epoch(Recipe(lr=0.1, batch_size=size)) == 2
        losses.append(last(trainer, Recipe(lr=1e-9, batch_size=size)).point)
    assert losses[0].samples == losses[1].samples == 48
    # at next to no learning rate, and batch norm's and dropout's noise apart, the same samples have the same mean
    assert losses[0].values["train_loss"] == pytest.approx(losses[1].values["train_loss"], rel=0.3)


def test_a_scheduler_of_the_module_is_replaced_and_groups_keep_their_ratios() -> None:
    class Scheduled(Module):
        def configure_optimizers(self) -> Any:
            layers = list(self.net)
            groups = [{"params": layers[0].parameters(), "lr": 0.01}, {"params": layers[-1].parameters()}]
            optimizer = torch.optim.SGD(groups, lr=0.1)
            return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0 * step)]

    trainer = make(make_module=Scheduled)
    assert any("LambdaLR" in notice and "replaced" in notice for notice in trainer.notices)
    member = trainer.start([Recipe(lr=0.5, epochs=2, schedule="linear")]).members[0]
    for step in range(10):
        member.advance(1, evaluate=False)
        rates = [group["lr"] for group in member.live.trainer.optimizers[0].param_groups] if step < 9 else []
        assert rates == pytest.approx([0.05 * (1 - step / 10), 0.5 * (1 - step / 10)][: len(rates)])


class Manual(Module):
    automatic_optimization = False


class Two(Module):
    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.parameters(), lr=0.1), torch.optim.SGD(self.parameters(), lr=0.1)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"make_module": Manual}, "optimizes manually"),
        ({"make_module": Two}, "must return one optimizer"),
        ({"make_module": lambda: 3}, r"a LightningModule \(got int\)"),
        ({"make_module": Module()}, "a function that makes it anew"),
        ({"make_data": lambda: 3}, r"a pair of a train part and a held-out part.*\(got int\)"),
        ({"max_epochs": 3}, "takes no max_epochs: epochs is the recipe's"),
        ({"val_check_interval": 0.1}, "lrtune evaluates where it looks"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_its_cure(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        make(**changes)


def test_a_recipe_that_the_module_does_not_see_is_refused() -> None:
    refused(make(), Recipe(lr=0.1, weight_decay=0.1), r"give make_module\(recipe\)")


def test_the_held_out_loss_has_the_name_that_is_given() -> None:
    with pytest.raises(InputError, match=r"log the held-out loss as 'loss' \(got val_loss, val_accuracy\)"):
        make(loss="loss").start([Recipe(lr=0.1)]).advance(1)


def test_what_ends_a_fit_early_is_said() -> None:
    class Stop(Callback):
        def on_train_batch_end(self, trainer: Any, *given: Any) -> None:
            del given
            trainer.should_stop = True

    with pytest.raises(InputError, match="ended after 1 of 5 batches; leave out what stops it"):
        make(callbacks=[Stop()]).start([Recipe(lr=0.1)]).advance(3)


def test_an_error_of_the_module_is_raised_and_leaves_no_thread() -> None:
    class Broken(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 2:
                msg = "my own"
                raise RuntimeError(msg)
            return super().training_step(batch, batch_idx)

    before = threading.active_count()
    run = make(make_module=Broken).start([Recipe(lr=0.1)])
    with pytest.raises(RuntimeError, match="my own"):
        run.advance(5)
    assert run.state() is None
    assert threading.active_count() == before


def test_a_run_that_is_closed_leaves_no_thread() -> None:
    before = threading.active_count()
    run = make().start([Recipe(lr=0.1), Recipe(lr=0.2)])
    run.advance(2)
    assert threading.active_count() == before + 2
    run.close()
    assert threading.active_count() == before


class Data(LightningDataModule):
    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(*blobs()), batch_size=16, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(TensorDataset(*blobs(30, seed=1)), batch_size=16)


def test_a_data_module_is_trained_on_and_resumed_within_an_epoch() -> None:
    recipe = Recipe(lr=0.01, epochs=2, seed=7)
    whole = train(make(make_data=Data).start([recipe]))[0]
    run = make(make_data=Data).start([recipe])
    train(run, segments=7)
    other = make(make_data=Data).start([recipe])
    other.restore(run.state() or {})
    rest = train(other)[0]
    assert rest == {step: said for step, said in whole.items() if step > 7}
    assert len(rest) == 3


def test_it_is_stopped_at_the_step_at_which_the_loss_is_no_number() -> None:
    x, y = blobs()
    x[3, 0] = float("nan")
    (report,) = make(make_data=lambda: ((x, y), blobs(30, seed=1))).start([Recipe(lr=0.1)]).advance(10**6)
    assert report.outcome is Outcome.NON_FINITE
    assert "the training loss was nan at step" in report.why


def test_the_setup_is_plain_json() -> None:
    run = make().start([Recipe(lr=0.1)])
    run.advance(1)
    setup = json.loads(json.dumps(run.setup()))
    assert (setup["library"], setup["steps"]) == ("lightning", 5)
    assert setup["optimizers"][0]["optimizer"] == {"name": "Adam", "module": "torch.optim"}
    run.close()


class Grouped(LightningModule):
    """Its output learns at a tenth of the rate; all batches are alike where the rows are."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        self.rates: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        del batch_idx
        return functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])

    def configure_optimizers(self) -> Any:
        groups = [{"params": self.net[0].parameters()}, {"params": self.net[2].parameters(), "lr": 0.01}]
        return torch.optim.AdamW(groups, lr=0.1, betas=(0.8, 0.95), weight_decay=0.3)


@pytest.mark.parametrize("spec", ["constant", "cosine", "onecycle"])
@pytest.mark.parametrize("warmup", [0, 0.3])
def test_the_pasted_lines_train_as_the_search_did(spec: str, warmup: float) -> None:
    """The rate of every step, the optimizer's options and groups, and the loss in the end."""
    rows = tuple(part[:1].repeat_interleave(70, dim=0) for part in blobs())
    valid = DataLoader(TensorDataset(*blobs(30, seed=1)), batch_size=30)
    options = {"gradient_clip_val": 0.05, "accumulate_grad_batches": 2}
    recipe = Recipe(lr=0.03, epochs=2, batch_size=10, schedule=spec, warmup=warmup)
    run = make(make_module=Grouped, make_data=lambda: (rows, valid), **options).start([recipe])
    setup = json.loads(json.dumps(run.setup()))
    (report,) = run.advance(10**6)
    names: dict[str, Any] = {}
    with quiet():
        exec(lrtune.snippet(recipe, "lightning", setup=setup), names)  # noqa: S102 -- what a person pastes
    pasted, trainer = (
        type("Pasted", (Grouped,), {"configure_optimizers": names["configure_optimizers"]})(),
        names["trainer"],
    )
    quietly = {name: getattr(trainer, name) for name in ("gradient_clip_val", "accumulate_grad_batches", "max_epochs")}
    assert quietly == {**options, "max_epochs": 2}
    trainer = Trainer(**quietly, **QUIET, accelerator="cpu")
    with quiet():
        trainer.fit(pasted, DataLoader(TensorDataset(*rows), batch_size=10))
        (found,) = trainer.validate(pasted, valid, verbose=False)
    assert pasted.rates == pytest.approx(list(recipe.lr * multipliers(for_recipe(recipe, 8), 8)), abs=1e-12)
    for group in trainer.optimizers[0].param_groups:
        group["lr_ratio"] = group["initial_lr"] / recipe.lr
    (made,), (was,) = optimizer_setup(pasted, trainer.optimizers[0]), setup["optimizers"]
    assert {**made, "changes_lr": False, "groups": None} == {**was, "groups": None}
    assert [group["ratio"] for group in made["groups"]] == pytest.approx([group["ratio"] for group in was["groups"]])
    assert found["val_loss"] == pytest.approx(report.point.values["valid_loss"], rel=1e-5)


def test_the_report_of_a_study_opens_with_its_lines(tmp_path: Path) -> None:
    given = make(make_module=Grouped, gradient_clip_val=0.5)
    result = lrtune.tune(given, {"lr": (1e-3, 0.1)}, epochs=2, budget=1.5, seed=0)
    host, code = open_tab(result, tmp_path)
    assert host == "lightning"
    assert code == lrtune.snippet(result)
    assert "gradient_clip_val=0.5," in code
    assert "betas=(0.8, 0.95)" in code
    assert "* lr}" in code
