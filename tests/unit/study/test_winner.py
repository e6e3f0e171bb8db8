"""The winner's trained model: as it ended in the search, found again in a stored study, or trained anew."""

from __future__ import annotations

import pickle
import shutil
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pytest
import torch
from generators import descend
from sklearn.datasets import load_iris
from sklearn.linear_model import SGDClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional

from lrtune import InputError, Recipe, Result, SearchError, SklearnTrainer, Space, TorchTrainer, tune
from lrtune.core.outcome import Outcome
from lrtune.study.trials.study_reader import read

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

X, Y = load_iris(return_X_y=True)
SPACE = Space(lr=(1e-4, 10.0), schedule=["constant", "cosine"])
ESTIMATORS = {
    "sgd": SGDClassifier(class_weight="balanced", early_stopping=True),
    "pipeline": make_pipeline(StandardScaler(), MLPClassifier([6], solver="sgd", nesterovs_momentum=False)),
}
INPUTS = torch.randn(240, 5, generator=torch.Generator().manual_seed(0))
CLASSES = (INPUTS.sum(1) > 0).long()
HELD_OUT = INPUTS[160:], CLASSES[160:]


def network(**more: Any) -> TorchTrainer:
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))

    data = {"train_data": (INPUTS[:160], CLASSES[:160]), "valid_data": HELD_OUT}
    return TorchTrainer(model=model, stack=False, **data, **more)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.npz"))


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_estimator_is_the_one_that_gave_the_result(name: str, kept: bool, tmp_path: Path) -> None:
    trainer = SklearnTrainer(ESTIMATORS[name], X, Y)
    storage = tmp_path / "s.db" if kept else None
    result = tune(trainer, SPACE, epochs=6, budget=2.5, storage=storage)
    assert len(files(tmp_path)) == kept
    found = result.best_estimator()
    assert result.best_recipe is not None
    run = trainer.start([result.best_recipe])
    run.advance(10**6)
    anew = run.model()
    assert found.predict(X).tolist() == anew.predict(X).tolist()
    last = found[-1] if isinstance(found, Pipeline) else found
    again = anew[-1] if isinstance(anew, Pipeline) else anew
    weights: Sequence[Any] = last.coefs_ if name == "pipeline" else [last.coef_]
    for mine, theirs in zip(weights, again.coefs_ if name == "pipeline" else [again.coef_], strict=True):
        assert mine.tolist() == theirs.tolist()
    rate = "learning_rate_init" if name == "pipeline" else "eta0"
    parameters = last.get_params()
    assert parameters[rate] == result.best_recipe.lr
    assert parameters["max_iter"] == 6
    assert parameters["shuffle"] is True, "what lrtune sets for itself is not left there"
    assert parameters.get("class_weight") == (None if name == "pipeline" else "balanced")


def test_a_frame_gives_an_estimator_with_its_names() -> None:
    frame, y = load_iris(return_X_y=True, as_frame=True)
    result = tune(SklearnTrainer(SGDClassifier(), frame, y), SPACE, epochs=3, budget=1.5)
    for model in (result.best_estimator(), result.refit(frame, y)):
        assert model.feature_names_in_.tolist() == list(frame.columns)
        assert model.predict(frame).shape == (150,)  # a warning is an error here


@pytest.mark.parametrize("optimizer", ["momentum", "schedule-free-adamw"])
@pytest.mark.filterwarnings("ignore:BatchNorm under")
def test_the_module_is_the_one_that_gave_the_result(optimizer: str) -> None:
    result = tune(network(optimizer=optimizer), SPACE, epochs=4, budget=2.5)
    module = result.best_model()
    assert not module.training
    assert {parameter.device.type for parameter in module.parameters()} == {"cpu"}
    with torch.no_grad():
        loss = functional.cross_entropy(module(HELD_OUT[0]), HELD_OUT[1]).item()
    assert loss == pytest.approx(result.best_value, rel=1e-6)


def test_a_module_trained_anew_on_other_data() -> None:
    result = tune(network(), SPACE, epochs=4, budget=1.5)
    same, more = result.refit(), result.refit((INPUTS, CLASSES))
    ended = result.best_model()
    for name, tensor in ended.state_dict().items():
        assert torch.equal(tensor, same.state_dict()[name]), "the same data, recipe and seed"
    assert not more.training
    assert not torch.equal(more[0].weight, same[0].weight)
    with torch.no_grad():
        assert functional.cross_entropy(more(INPUTS), CLASSES).item() < 0.6


def test_only_the_best_are_kept_and_in_the_end_the_winner(tmp_path: Path) -> None:
    most = 0

    def watched(progress: Any) -> None:
        nonlocal most
        if "valid_loss" in progress.event and "epoch" not in progress.event:
            most = max(most, len(files(tmp_path)))

    result = tune(
        SklearnTrainer(ESTIMATORS["pipeline"], X, Y),
        Space(lr=(1e-4, 1.0)),
        epochs=2,
        strategy="random",
        prune=False,
        trials=7,
        storage=tmp_path / "s.db",
        observer=watched,
    )
    assert result.trials_by_outcome["completed"] == 7
    assert most == 3
    best = read(result.study).best  # type: ignore[arg-type]
    assert best is not None
    assert [name.split("-")[0] for name in files(tmp_path)] == [str(best.number)]


def test_a_search_that_goes_on_replaces_the_winner(tmp_path: Path) -> None:
    trainer = SklearnTrainer(ESTIMATORS["pipeline"], X, Y)
    search: dict[str, Any] = {"epochs": 2, "strategy": "grid", "points": 4, "storage": tmp_path / "s.db"}
    first = tune(trainer, Space(lr=(1e-4, 1.0)), trials=1, **search)
    before = first.best_estimator().predict_proba(X)
    second = tune(trainer, Space(lr=(1e-4, 1.0)), **search)
    assert second.best_recipe != first.best_recipe
    assert len(files(tmp_path)) == 1
    assert not np.array_equal(second.best_estimator().predict_proba(X), before)
    with pytest.raises(InputError, match=r"was not kept, or is gone.*train it anew: result.refit"):
        first.best_estimator()
    assert np.array_equal(first.refit(X, Y).predict(X).shape, (150,))


def test_a_stored_studys_winner_is_found_again(tmp_path: Path) -> None:
    trainer = SklearnTrainer(ESTIMATORS["sgd"], X, Y)
    search: dict[str, Any] = {"epochs": 3, "budget": 1.5, "storage": tmp_path / "s.db", "name": "wide/open"}
    result = tune(trainer, SPACE, **search)
    coefficients = result.best_estimator().coef_.tolist()
    assert tune(trainer, SPACE, **search).best_estimator().coef_.tolist() == coefficients
    read_again = Result.from_json(result.to_json(), study=result.study)
    assert read_again.best_estimator(trainer).coef_.tolist() == coefficients
    plain = optuna.load_study(study_name="wide/open", storage=f"sqlite:///{tmp_path / 's.db'}")
    of_optuna = Result.from_json(result.to_json(), study=plain)
    (folder,) = (tmp_path / "s-checkpoints").iterdir()
    assert of_optuna.best_estimator(trainer, checkpoints=folder).coef_.tolist() == coefficients
    with pytest.raises(InputError, match="checkpoints=FOLDER"):
        of_optuna.best_estimator(trainer)
    with pytest.raises(InputError, match="give the trainer"):
        read_again.best_estimator()
    with pytest.raises(InputError, match="give the trainer"):
        read_again.refit(X, Y)
    assert read_again.refit(X, Y, trainer=trainer).coef_.shape == (3, 4)
    with pytest.raises(InputError, match="belongs to another run"):
        read_again.best_estimator(SklearnTrainer(ESTIMATORS["sgd"], X[:100], Y[:100] % 2))
    shutil.rmtree(folder)
    with pytest.raises(InputError, match=r"was not kept, or is gone: .*; train it anew: result.refit"):
        result.best_estimator()


def test_an_interrupted_search_has_the_winner_so_far() -> None:
    ended: list[Any] = []
    result = tune(
        SklearnTrainer(ESTIMATORS["sgd"], X, Y),
        SPACE,
        epochs=3,
        observer=lambda progress: ended.extend(t for t in progress.ended if t.outcome is Outcome.COMPLETED),
        should_stop=lambda: bool(ended),
    )
    assert result.best_estimator().coef_.shape == (3, 4)


@pytest.mark.skipif(sys.platform != "linux", reason="isolation forks")
def test_a_run_of_another_process_hands_over_its_model(tmp_path: Path) -> None:
    trainer = SklearnTrainer(ESTIMATORS["sgd"], X, Y)
    here = tune(trainer, SPACE, epochs=2, budget=1.0)
    there = tune(trainer, SPACE, epochs=2, budget=1.0, isolate=True, storage=tmp_path / "s.db")
    assert there.best_estimator().coef_.tolist() == here.best_estimator().coef_.tolist()


def test_where_there_is_no_model_it_is_said() -> None:
    result = tune(descend, SPACE, epochs=2, budget=1.5)
    with pytest.raises(
        InputError, match=r"keeps its model to itself; save it there, or call it with result.best_recipe"
    ):
        result.best_model()
    with pytest.raises(InputError, match=r"GeneratorTrainer has no refit.*call your training code"):
        result.refit()
    trained = tune(SklearnTrainer(ESTIMATORS["sgd"], X, Y), SPACE, epochs=2, budget=1.0)
    with pytest.raises(InputError, match=r"another library than SGDClassifier; use result.best_estimator\(\)"):
        trained.best_model()
    with pytest.raises(SearchError) as caught:
        tune(SklearnTrainer(ESTIMATORS["sgd"], X * 1e6, Y), Space(lr=(1e5, 1e6)), epochs=2, budget=1.0)
    with pytest.raises(InputError, match="no trial was trained to its end"):
        caught.value.result.best_estimator()


def test_a_result_is_pickled_without_what_trained_it() -> None:
    def train(recipe: Recipe) -> Any:
        yield from descend(recipe)

    for used in (SklearnTrainer(ESTIMATORS["sgd"], X, Y), train):
        result = tune(used, SPACE, epochs=2, budget=1.0)
        assert result.winner is not None
        again = pickle.loads(pickle.dumps(result))  # noqa: S301 -- our own
        assert again == result
        assert again.winner is None
    with pytest.raises(InputError, match="give the trainer"):
        again.refit()


def test_a_winner_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    class Full(SklearnTrainer):
        """Whose runs have states that cannot be written once they are complete."""

        def start(self, recipes: Any, /) -> Any:
            run = super().start(recipes)
            state = run.state

            def broken() -> Any:
                found = state()
                return found if run.alive else {"odd": object(), **(found or {})}

            run.state = broken  # type: ignore[method-assign]
            return run

    result = tune(Full(ESTIMATORS["sgd"], X, Y), SPACE, epochs=2, budget=1.0, storage=tmp_path / "s.db")
    assert result.best_recipe is not None
    assert any("is not kept" in warning for warning in result.warnings)
    with pytest.raises(InputError, match="was not kept, or is gone"):
        result.best_estimator()
    assert result.refit(X, Y).coef_.shape == (3, 4)
