"""``HuggingFaceTrainer`` on the real transformers and accelerate."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

import json
import random
import weakref
from typing import TYPE_CHECKING, Any

import torch
from open_tab import open_tab
from tiny_bert import TRAIN, VALID, WORDS, accuracy, model, trainer
from torch.utils.data import Dataset
from trainer_contract import SavingContract, TrainerContract, train
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, default_data_collator

import lrtune
from lrtune.core.outcome import Outcome
from lrtune.core.recipe import Recipe
from lrtune.errors import DataError, InputError, RecipeError
from lrtune.schedules import for_recipe, multipliers
from lrtune.training import checkpoint
from lrtune.training.networks.optimizer_setup import optimizer_setup

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lrtune.integrations.hugging_face_trainer.run import HuggingFaceMember
    from lrtune.training.member_run import MemberRun

pytestmark = pytest.mark.hosts

STEADY = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


class OwnLoss(Trainer):
    """Two thirds of the usual loss."""

    def compute_loss(self, model: Any, inputs: Any, *given: Any, **more: Any) -> Any:
        found = super().compute_loss(model, inputs, *given, **more)
        return (found[0] * 2 / 3, *found[1:]) if isinstance(found, tuple) else found * 2 / 3


class Drawing:
    """A collator that hides words at random, as that of masked language models."""

    def __call__(self, samples: list[Any]) -> Any:
        batch = default_data_collator(samples)
        batch["input_ids"] = torch.where(torch.rand(batch["input_ids"].shape) < 0.2, 0, batch["input_ids"])
        batch["input_ids"] = (batch["input_ids"] + random.randrange(2)) % WORDS
        return batch


class TestContract(SavingContract, TrainerContract):
    recipes = (
        Recipe(lr=1e-3, epochs=2, seed=1, schedule="cosine", warmup=0.1),
        Recipe(lr=1e-2, epochs=2, seed=2, batch_size=16, schedule="plateau"),
    )

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "output"

    def make(self) -> Trainer:
        return trainer(self.folder, compute_metrics=accuracy)

    def trainer(self) -> lrtune.HuggingFaceTrainer:
        return lrtune.HuggingFaceTrainer(self.make)


class TestDrawingCollator(TestContract):
    """Its own loss, label smoothing, half precision and batches that are drawn, by worker processes or not."""

    recipes = (Recipe(lr=1e-2, epochs=2, seed=3), Recipe(lr=3e-3, epochs=2, seed=4, batch_size=24))

    def make(self) -> Trainer:
        options = {"label_smoothing_factor": 0.1, "bf16": True, "neftune_noise_alpha": 5.0}
        return trainer(self.folder, kind=OwnLoss, options=options, data_collator=Drawing())


def started(make: Callable[..., Trainer], **recipe: Any) -> MemberRun[HuggingFaceMember]:
    return lrtune.HuggingFaceTrainer(make).start([Recipe(**{"lr": 1e-3, "epochs": 2, **recipe})])


def weights(module: torch.nn.Module) -> dict[str, bytes]:
    return {name: tensor.detach().numpy().tobytes() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("steps", [1, 10**6])
@pytest.mark.parametrize("kind", [Trainer, OwnLoss])
@pytest.mark.parametrize(
    "options",
    [{}, {"gradient_accumulation_steps": 4}, {"label_smoothing_factor": 0.2}, {"max_grad_norm": 0.01, "optim": "sgd"}],
    ids=str,
)
def test_it_trains_as_the_trainer_itself(
    steps: int, kind: type[Trainer], options: dict[str, Any], tmp_path: Path
) -> None:
    def make(**more: Any) -> Trainer:
        more = {"lr_scheduler_type": "cosine", "warmup_steps": 2, **options, **more}
        return trainer(tmp_path, kind=kind, options=more, model=model(**STEADY))

    run = started(make, schedule="cosine", warmup=2.0, lr=1e-2, seed=5)
    live = run.members[0].live
    assert live is not None
    reports = run.advance(steps)
    while run.alive:
        reports += run.advance(steps)

    torch.manual_seed(5)
    plain = make(learning_rate=1e-2, num_train_epochs=2, seed=5, save_strategy="no", disable_tqdm=True)
    plain.remove_callback(
        next(type(one) for one in plain.callback_handler.callbacks if "Printer" in type(one).__name__)
    )
    plain.train()
    assert plain.state.global_step == reports[-1].point.step
    assert weights(live.trainer.model) == weights(plain.model)
    assert reports[-1].point.values["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"], rel=1e-6)


def test_it_trains_as_a_torch_trainer_from_the_same_seed(tmp_path: Path) -> None:
    """On whole batches, where the order of the samples decides nothing but the rounding of sums."""

    def loss(model: Any, batch: Any) -> Any:
        return model(**batch).loss

    options = {"per_device_train_batch_size": 44, "weight_decay": 0.01}
    ours = lrtune.HuggingFaceTrainer(lambda: trainer(tmp_path, model=model(**STEADY), options=options))
    theirs = lrtune.TorchTrainer(
        model=lambda: model(**STEADY),
        train_data=TRAIN,
        valid_data=VALID,
        loss=loss,
        optimizer="adamw",
        param_groups=lambda model: [
            {"params": [p for name, p in model.named_parameters() if ("bias" in name or "Norm" in name) is plain]}
            | {"weight_decay": 0.0 if plain else 0.01}
            for plain in (False, True)
        ],
        clip_norm=1.0,
        batch_size=44,
    )
    recipe = Recipe(lr=1e-2, epochs=12, seed=7, schedule="linear", warmup=0.2)
    curves = [
        [(report.point.lr, report.point.values["train_loss"], report.point.values["valid_loss"]) for report in reports]
        for reports in ([run.advance(1)[0] for _ in range(12)] for run in (t.start([recipe]) for t in (ours, theirs)))
    ]
    for mine, other in zip(*curves, strict=True):
        assert mine == pytest.approx(other, rel=1e-4)


def test_what_is_reported(tmp_path: Path) -> None:
    (report,) = started(lambda: trainer(tmp_path, compute_metrics=accuracy)).advance(1)
    assert set(report.point.values) == {"train_loss", "valid_loss", "eval_loss", "eval_accuracy"}
    assert report.point.values["valid_loss"] == report.point.values["eval_loss"]
    assert (report.point.step, report.point.samples, report.point.lr) == (1, 8, 1e-3)
    (report,) = started(lambda: trainer(tmp_path, eval_dataset={"a": VALID, "b": TRAIN})).advance(1)
    assert set(report.point.values) == {"train_loss", "eval_a_loss", "eval_b_loss"}
    (report,) = started(lambda: trainer(tmp_path, eval_dataset=None)).advance(1, evaluate=False)
    assert set(report.point.values) == {"train_loss"}


@pytest.mark.parametrize(
    ("held_out", "schedule", "watched"),
    [
        (VALID, "plateau", "valid_loss"),
        (VALID, "plateau(mode=max)", "eval_accuracy"),
        (None, "plateau", "train_loss"),
        ({"a": VALID}, "plateau", "train_loss"),
        ({"a": VALID}, "plateau(mode=max)", "eval_a_accuracy"),
    ],
)
def test_what_a_plateau_is_updated_with(held_out: Any, schedule: str, watched: str, tmp_path: Path) -> None:
    run = started(lambda: trainer(tmp_path, eval_dataset=held_out, compute_metrics=accuracy), schedule=schedule)
    run.advance(7)
    assert run.members[0].watched() == watched


def test_samples_and_steps_with_accumulation(tmp_path: Path) -> None:
    run = started(lambda: trainer(tmp_path), batch_size=24, epochs=1)
    live = run.members[0].live
    assert live is not None
    args = live.trainer.args
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (8, 3)
    assert [run.advance(1)[0].point.samples for _ in range(2)] == [24, 44]
    assert run.alive == ()


@pytest.mark.parametrize("lr", [1e4, 1e30])
def test_it_diverges_at_the_step(lr: float, tmp_path: Path) -> None:
    run = started(lambda: trainer(tmp_path, options={"optim": "sgd", "max_grad_norm": 0}), lr=lr, epochs=20)
    reports = run.advance(10**6)
    assert reports[-1].outcome is not None
    assert reports[-1].outcome.diverged
    assert reports[-1].point.step < 20
    assert f"step {reports[-1].point.step}" in reports[-1].why
    assert run.alive == ()


def test_nothing_is_written_and_random_numbers_stay(tmp_path: Path) -> None:
    before = torch.get_rng_state(), random.getstate()
    holder = lrtune.HuggingFaceTrainer(lambda: trainer(tmp_path / "output", options={"save_steps": 1}))
    run = holder.start([Recipe(lr=1e-3, epochs=1)])
    train(run)
    assert holder.fingerprint()["data"] == "44 samples, Texts"
    assert list(tmp_path.rglob("*")) == [tmp_path / "output"], "Trainer itself makes the empty folder"
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()


def test_memory_is_given_back(tmp_path: Path) -> None:
    run = started(lambda: trainer(tmp_path, options={"bf16": True}))
    run.advance(2)
    live = run.members[0].live
    assert live is not None
    held = [
        weakref.ref(thing) for thing in (live.trainer, live.trainer.model, live.optimizer, live.trainer.accelerator)
    ]
    del live
    run.drop([0])
    assert [reference() is None for reference in held] == [True] * len(held)


def test_a_state_without_its_optimizer_is_refused(tmp_path: Path) -> None:
    """Where transformers resumes without a word, with fresh moments and at the peak."""
    run = started(lambda: trainer(tmp_path), schedule="linear")
    run.advance(3)
    state = run.state()
    assert state is not None
    for name in ("optimizer", "stream"):
        damaged = {**state, "members": [{key: v for key, v in state["members"][0].items() if key != name}]}
        other = started(lambda: trainer(tmp_path), schedule="linear")
        with pytest.raises(InputError, match="damaged"):
            other.restore(damaged)


def test_workers_are_ended_by_a_pause(tmp_path: Path) -> None:
    options = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}
    make = lambda: trainer(tmp_path, options=options, data_collator=Drawing())  # noqa: E731 -- as one gives it
    whole = train(started(make, epochs=1))
    run = started(make, epochs=1)
    begun = train(run, segments=2)
    run.suspend()
    assert torch.multiprocessing.active_children() == []
    assert {**begun[0], **train(run)[0]} == whole[0]
    assert torch.multiprocessing.active_children() == []


class Events(TrainerCallback):
    """The names of the events, and the rate of each step."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.rates: list[float] = []

    def on_step_begin(self, *_: Any, optimizer: Any, lr_scheduler: Any, **__: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])
        assert lr_scheduler.get_last_lr()[0] == pytest.approx(self.rates[-1])

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("on_") and name != "on_init_end":
            self.seen.append(name)
        return super().__getattribute__(name)


def test_callbacks_meet_the_same_events(tmp_path: Path) -> None:
    ours, theirs = Events(), Events()
    options = {"gradient_accumulation_steps": 2, "lr_scheduler_type": "linear"}
    train(started(lambda: trainer(tmp_path, options=options, callbacks=[ours], eval_dataset=None), schedule="linear"))
    plain = trainer(
        tmp_path,
        options={
            **options,
            "num_train_epochs": 2,
            "learning_rate": 1e-3,
            "save_strategy": "no",
            "logging_strategy": "no",
        },
        callbacks=[theirs],
        eval_dataset=None,
    )
    for kind in [type(one) for one in plain.callback_handler.callbacks if "Pr" in type(one).__name__]:
        plain.remove_callback(kind)
    plain.train()
    assert ours.seen == [name for name in theirs.seen if name != "on_log"]
    assert ours.rates == pytest.approx(theirs.rates)


class Stop(TrainerCallback):
    def on_step_end(self, _: Any, state: Any, control: Any, **__: Any) -> None:
        control.should_training_stop = state.global_step == 4

    def on_evaluate(self, *given: Any, **__: Any) -> None:
        given[2].should_training_stop = True


def test_a_callback_that_stops(tmp_path: Path) -> None:
    holder = lrtune.HuggingFaceTrainer(lambda: trainer(tmp_path, callbacks=[Stop()]))
    run = holder.start([Recipe(lr=1e-3, epochs=3)])
    assert [run.advance(1)[0].outcome for _ in range(3)] == [None] * 3, "an evaluation stops nothing"
    (report,) = run.advance(5)
    assert (report.outcome, report.point.step) == (Outcome.COMPLETED, 4)
    assert "valid_loss" in report.point.values
    assert any("step 4 of 18: such a run counts as trained to its end" in notice for notice in holder.notices)
    assert any("asked to stop at an evaluation" in notice for notice in holder.notices)


def test_a_notice_for_each_argument_without_effect(tmp_path: Path) -> None:
    options = {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "epoch",
        "data_seed": 3,
        "max_steps": 7,
        "metric_for_best_model": "loss",
        "logging_strategy": "epoch",
    }
    early = EarlyStoppingCallback()
    holder = lrtune.HuggingFaceTrainer(lambda: trainer(tmp_path, options=options, callbacks=[early]))
    reports = holder.start([Recipe(lr=1e-3, epochs=2)]).advance(100)
    assert reports[-1].point.step == 12
    told = " ".join(holder.notices)
    for word in (
        "eval_strategy='steps'",
        "save_strategy='epoch'",
        "data_seed=3",
        "max_steps=7",
        "EarlyStoppingCallback",
    ):
        assert word in told
    holder = lrtune.HuggingFaceTrainer(lambda: trainer(tmp_path))
    holder.start([Recipe(lr=1e-3)])
    assert [notice[:42] for notice in holder.notices] == ["the Trainer's schedule (linear, warmup_ste"]


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    same = model()
    with pytest.raises(InputError, match="the same model again"):
        lrtune.HuggingFaceTrainer(lambda: trainer(tmp_path, model=same)).start([Recipe(lr=1e-3)] * 2)
    with pytest.raises(InputError, match=r"must return a transformers.Trainer \(got BertFor"):
        started(model)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="must be a function"):
        lrtune.HuggingFaceTrainer(trainer(tmp_path))
    with pytest.raises(InputError, match="train_dataset must have a length"):
        started(lambda: trainer(tmp_path, train_dataset=None))
    with pytest.raises(InputError, match="signals"):
        started(lambda: trainer(tmp_path, options={"enable_jit_checkpoint": True}))
    options = {"dataloader_drop_last": True, "per_device_train_batch_size": 99}
    with pytest.raises(DataError, match="no batches"):
        started(lambda: trainer(tmp_path, options=options))
    for name, value in {"optimizer": "sgd", "layer_decay": 0.8}.items():
        with pytest.raises(RecipeError, match=name):
            started(lambda: trainer(tmp_path), **{name: value})
    with pytest.raises(RecipeError, match="momentum cannot be set on optim='sgd'"):
        started(lambda: trainer(tmp_path, options={"optim": "sgd"}), momentum=0.8)


def test_momentum_and_weight_decay_are_arguments(tmp_path: Path) -> None:
    live = started(lambda: trainer(tmp_path), momentum=0.8, weight_decay=0.3).members[0].live
    assert live is not None
    groups = live.optimizer.param_groups
    assert [(group["betas"][0], group["weight_decay"]) for group in groups] == [(0.8, 0.3), (0.8, 0.0)]


@pytest.mark.parametrize("own", ["recipe", "arguments", "constructor"])
def test_ratios_of_a_given_optimizer(own: str, tmp_path: Path) -> None:
    def make(recipe: Recipe) -> Trainer:
        module = model()
        peak = {"recipe": recipe.lr, "arguments": 5e-5, "constructor": 0.3}[own]
        groups = [{"params": module.bert.parameters(), "lr": peak / 10}, {"params": module.classifier.parameters()}]
        return trainer(tmp_path, model=module, optimizers=(torch.optim.SGD(groups, lr=peak), None))

    run = started(make, lr=0.02)
    run.advance(1)
    live = run.members[0].live
    assert live is not None
    assert [group["lr"] for group in live.optimizer.param_groups] == pytest.approx([0.002, 0.02])
    with pytest.raises(RecipeError, match="weight_decay cannot be set on the optimizer that the Trainer was given"):
        started(make, weight_decay=0.1)


class Greedy(Trainer):
    """Memory runs out in the fourth step."""

    def training_step(self, *given: Any, **more: Any) -> Any:
        if self.state.global_step == 3:
            msg = "CUDA out of memory. Tried to allocate 20 GiB"
            raise torch.OutOfMemoryError(msg)
        return super().training_step(*given, **more)


def test_memory_that_runs_out_is_an_outcome(tmp_path: Path) -> None:
    run = started(lambda: trainer(tmp_path, kind=Greedy))
    (report,) = run.advance(100)
    assert report.outcome is Outcome.OUT_OF_MEMORY
    assert "memory ran out at step 4: CUDA out of memory" in report.why
    assert run.alive == ()

    def make() -> Trainer:
        msg = "CUDA out of memory. Tried to allocate 20 GiB"
        raise torch.OutOfMemoryError(msg)

    (report,) = started(make).advance(1)
    assert report.outcome is Outcome.OUT_OF_MEMORY


def test_model_init_has_the_recipes_seed(tmp_path: Path) -> None:
    def make() -> Trainer:
        return trainer(tmp_path, model=None, model_init=lambda: model(**STEADY))

    (first,), (second,) = (started(make, seed=seed).advance(1) for seed in (1, 2))
    assert first.point.values != second.point.values
    assert first.point.values == started(make, seed=1).advance(1)[0].point.values


def test_its_setup_is_plain(tmp_path: Path) -> None:
    run = started(lambda: trainer(tmp_path, options={"weight_decay": 0.1}), batch_size=16)
    setup = json.loads(json.dumps(run.setup()))
    assert (setup["library"], setup["steps"], setup["batch_size"], setup["accumulate"]) == ("transformers", 6, 16, 2)
    assert setup["arguments"]["optim"] == "adamw_torch_fused"
    assert setup["optimizers"][0]["optimizer"]["name"] == "AdamW"
    checkpoint.encode(run.state() or {})


def test_a_study_from_the_trainer(tmp_path: Path) -> None:
    holder = lrtune.HuggingFaceTrainer(
        lambda: trainer(tmp_path / "output", options={"per_device_train_batch_size": 22})
    )
    assert holder.optimizer == "adamw"
    space = lrtune.Space(lr=(1e-4, 1.0), batch_size=[11, 22])
    result = lrtune.tune(holder, space, epochs=3, budget=2.0, seed=0)
    assert result.best_value is not None
    assert result.best_value < 0.8
    host, code = open_tab(result, tmp_path)
    assert host == "transformers"
    assert "optim='adamw_torch_fused'," in code
    assert f"per_device_train_batch_size={result.best_recipe.batch_size}," in code


class Same(Dataset[Any]):
    """One text many times, so that the order does not count."""

    def __len__(self) -> int:
        return len(TRAIN)

    def __getitem__(self, index: int) -> dict[str, Any]:
        del index
        return TRAIN[0]


class Rates(TrainerCallback):
    """Notes the learning rate of every step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        del args, state, control
        self.seen.append(given["optimizer"].param_groups[0]["lr"])


@pytest.mark.parametrize("given", [False, True], ids=["its own optimizer", "an optimizer of the user's"])
@pytest.mark.parametrize(
    "schedule",
    [
        {"schedule": "constant"},
        {"schedule": "cosine", "warmup": 2},
        {"schedule": "linear(floor=0.2)"},
        {"schedule": "cosine", "warmup": 0.3},
        {"schedule": "wsd"},
        {"schedule": "onecycle"},
    ],
    ids=str,
)
def test_the_pasted_arguments_train_as_the_search_did(tmp_path: Path, schedule: dict[str, Any], *, given: bool) -> None:
    """The rate of every step, the optimizer's options, and the loss in the end."""
    options = {"weight_decay": 0.1, "adam_beta2": 0.98, "max_grad_norm": 0.5, "label_smoothing_factor": 0.2}
    recipe = Recipe(lr=3e-2, epochs=2, batch_size=16, **schedule)

    def parts() -> dict[str, Any]:
        torch.manual_seed(7)
        net = model(**STEADY)
        own = torch.optim.SGD(net.parameters(), lr=recipe.lr, momentum=0.8) if given else None
        return {"model": net, "train_dataset": Same(), "optimizers": (own, None)}

    run = lrtune.HuggingFaceTrainer(lambda: trainer(tmp_path, options=options, **parts())).start([recipe])
    setup = json.loads(json.dumps(run.setup()))
    (report,) = run.advance(10**6)
    code = lrtune.snippet(recipe, "transformers", setup=setup)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 -- what a person pastes
    rates = Rates()
    names["args"].output_dir, names["args"].dataloader_pin_memory = str(tmp_path), False
    kind = names.get("ScheduledTrainer", Trainer)
    pasted = kind(args=names["args"], eval_dataset=VALID, callbacks=[rates], **parts())
    pasted.train()
    steps = setup["steps"]
    assert rates.seen == pytest.approx(list(recipe.lr * multipliers(for_recipe(recipe, steps), steps)), abs=1e-12)
    for group in pasted.optimizer.param_groups:
        group["lr_ratio"] = 1.0
    made = optimizer_setup(pasted.model, pasted.optimizer.optimizer)
    assert [one["options"] for one in made] == [one["options"] for one in setup["optimizers"]]
    assert pasted.evaluate()["eval_loss"] == pytest.approx(report.point.values["valid_loss"], rel=1e-5)
