"""What `tune` returns: the best recipe, its band and edge, the cost and why it stopped.

Band and edge are computed in :mod:`lrtune.search.freeze_thaw.answer`, for every strategy. How sure that
is, in words, is the verdict of :mod:`lrtune.reporting.diagnosis.study_verdict`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrtune.core.outcome import Ending, Outcome
from lrtune.core.recipe import Recipe
from lrtune.errors import InputError, SearchError
from lrtune.search.freeze_thaw.answer import Edge

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import optuna
    import pandas as pd

    from lrtune.core.curve import Direction
    from lrtune.study.winner import Winner
    from lrtune.training.base import Trainer

__all__ = ["Edge", "Result"]

NOT_TRAINED = "no trial was trained to its end, so there is no model: give the search a larger budget"
NO_TRAINER = "this result does not know what trained it: give the trainer, and to Result.from_json the study"
GROUPS = tuple(dict.fromkeys(outcome.group for outcome in Outcome))


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The answer of a search.

    Attributes
    ----------
    best_recipe, best_value
        The recipe to use, and its result; None where no trial completed.
    band
        Learning rates as good as the best within noise, (low, high); None where that cannot be told.
    edge
        Where training begins to diverge.
    probability
        That the best recipe is within 2 % of the best there is (of what training gains over the untrained model).
    noise
        Standard deviation of one result, in the metric's unit; a lower bound where nothing was repeated.
    cost, epochs_trained
        In full trainings and in epochs, those trained twice included.
    machine_time
        The time that training took, in full trainings of one run alone: less than the cost where runs were trained side
        by side as one stacked model. None in the result of an earlier version.
    trials_by_outcome
        A count for each group of outcomes.
    stopped_because, ending
        A sentence; and its kind: a limit, nothing left to gain, a stop from outside, or a learning rate without effect.
    warnings
        One sentence each.
    study
        The Optuna study: everything of Optuna's works on it.
    winner
        The best run's last state, for :meth:`best_estimator` and :meth:`best_model`; None of a result read from JSON,
        unpickled or copied, since it holds the training code and its data.
    """

    name: str
    metric: str
    direction: Direction
    best_recipe: Recipe | None
    best_value: float | None
    band: tuple[float, float] | None
    edge: Edge
    cost: float
    epochs_trained: float
    trials_by_outcome: Mapping[str, int]
    stopped_because: str
    ending: Ending = Ending.LIMIT
    warnings: tuple[str, ...] = ()
    probability: float | None = None
    noise: float | None = None
    machine_time: float | None = None
    study: optuna.Study | None = field(default=None, compare=False, repr=False)
    winner: Winner | None = field(default=None, compare=False, repr=False)

    def __getstate__(self) -> list[Any]:
        """Without what trained it: a function of the user's own cannot be pickled, and a table is large."""
        return [None if one.name == "winner" else getattr(self, one.name) for one in fields(self)]

    def to_json(self) -> dict[str, Any]:
        """The answer as plain JSON values: the content of ``result.json``."""
        best = self.best_recipe
        return {
            "study": self.name,
            "metric": self.metric,
            "direction": self.direction,
            "best": None if best is None else {**best.to_json(), "value": self.best_value},
            "band": None if self.band is None else {"low": self.band[0], "high": self.band[1]},
            "edge": {"lr": self.edge.lr, "low": self.edge.low, "high": self.edge.high},
            "probability": None if self.probability is None else round(self.probability, 3),
            "noise": self.noise,
            "cost": round(self.cost, 6),
            "epochs_trained": round(self.epochs_trained, 6),
            "machine_time": None if self.machine_time is None else round(self.machine_time, 6),
            "trials": {group: self.trials_by_outcome.get(group, 0) for group in GROUPS},
            "stopped_because": self.stopped_because,
            "ending": self.ending.key,
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], *, study: optuna.Study | None = None) -> Result:
        """The answer that :meth:`to_json` wrote."""
        best, band = data["best"], data["band"]
        return cls(
            name=data["study"],
            metric=data["metric"],
            direction=data["direction"],
            best_recipe=None if best is None else Recipe.from_json(best),
            best_value=None if best is None else best["value"],
            band=None if band is None else (band["low"], band["high"]),
            edge=Edge(**data["edge"]),
            cost=data["cost"],
            epochs_trained=data["epochs_trained"],
            trials_by_outcome=dict(data["trials"]),
            stopped_because=data["stopped_because"],
            ending=Ending.from_key(data.get("ending", Ending.LIMIT.key)),
            warnings=tuple(data["warnings"]),
            probability=data.get("probability"),
            noise=data.get("noise"),
            machine_time=data.get("machine_time"),
            study=study,
        )

    @property
    def best_setup(self) -> Mapping[str, Any]:
        """How the best run was set up beyond its recipe; empty where that is not known, as without the study."""
        best = None if self.study is None else self._record().best
        return {} if best is None else best.setup

    def demand_effect(self) -> None:
        """Raise where the learning rate has no effect, as the command does with exit code 3.

        Raises
        ------
        SearchError
            If all runs reported the same numbers, whatever their learning rate.
        """
        if self.ending is Ending.NO_EFFECT:
            error = SearchError(self.warnings[-1])
            error.result = self
            raise error

    def best_estimator(
        self, trainer: Trainer | None = None, *, checkpoints: str | os.PathLike[str] | None = None
    ) -> Any:
        """The winner as it ended in the search: a fitted scikit-learn estimator with the recipe's parameters.

        A Pipeline where the trainer was given one. It was trained on the training part; :meth:`refit` trains on all.

        Parameters
        ----------
        trainer
            The trainer, where the result was read from JSON with its study; else the search's own.
        checkpoints
            The folder of saved runs, where the search was given one and the result was read from JSON.

        Raises
        ------
        lrtune.errors.InputError
            If the trainer is none of scikit-learn's, its runs cannot be saved, or the checkpoint is gone.
        """
        return self._model(trainer, checkpoints, "best_estimator", "get_params", "best_model")

    def best_model(self, trainer: Trainer | None = None, *, checkpoints: str | os.PathLike[str] | None = None) -> Any:
        """The winner as it ended in the search: a PyTorch module on the CPU, in eval mode.

        Parameters and errors are those of :meth:`best_estimator`.
        """
        return self._model(trainer, checkpoints, "best_model", "state_dict", "best_estimator")

    def refit(self, *data: Any, trainer: Trainer | None = None, **options: Any) -> Any:
        """A model trained anew under the best recipe, with nothing held out.

        ``refit(X, y, sample_weight=None)`` in scikit-learn, on all these rows; ``refit(train_data=None)`` in PyTorch,
        on the trainer's own training data where none is given. What is returned is as of :meth:`best_estimator` and
        :meth:`best_model`.

        Raises
        ------
        lrtune.errors.InputError
            If the trainer has no model to give, as a generator function, or the data cannot be used.
        lrtune.errors.SearchError
            If training diverges on these data.
        """
        from lrtune.study.winner import refit

        used = self.winner.trainer if trainer is None and self.winner is not None else trainer
        if self.best_recipe is None or used is None:
            raise InputError(NOT_TRAINED if self.best_recipe is None else NO_TRAINER)
        return refit(used, self.best_recipe, *data, **options)

    def _model(self, trainer: Trainer | None, checkpoints: Any, asked: str, has: str, other: str) -> Any:
        model = self._winner(trainer, checkpoints).model()
        if not hasattr(model, has):
            msg = f"{asked}() is of another library than {type(model).__name__}; use result.{other}()"
            raise InputError(msg)
        return model

    def _winner(self, trainer: Trainer | None, checkpoints: str | os.PathLike[str] | None) -> Winner:
        """The winner: the search's own, or found in the study's folder of checkpoints for a trainer."""
        if self.winner is not None:
            return self.winner
        if self.best_recipe is None or trainer is None or self.study is None:
            raise InputError(NOT_TRAINED if self.best_recipe is None else NO_TRAINER)
        from lrtune.study.resume import lasting_folder
        from lrtune.study.trials.study_reader import IDENTITY
        from lrtune.study.winner import Winner

        given, study = None if checkpoints is None else Path(checkpoints), self.study
        folder, best = lasting_folder(study.study_name, study._storage, given), self._record().best  # noqa: SLF001 -- Optuna gives it no public name
        if folder is None or best is None:
            msg = "it is not known where this study's checkpoints lie: say so, checkpoints=FOLDER"
            raise InputError(msg)
        return Winner.of(trainer, best.recipe, best.number, study=study.user_attrs.get(IDENTITY), folder=folder)

    def trials(self) -> pd.DataFrame:
        """One row a trial."""
        from lrtune.reporting import tables

        return tables.trials(self._record())

    def report(self, path: str | os.PathLike[str]) -> None:
        """Write the answer as one self-contained page.

        Raises
        ------
        lrtune.errors.StorageError
            If it cannot be written; an older page is left as it was.
        """
        from lrtune.reporting import html

        html.write(self._record(), path)

    def _repr_html_(self) -> str | None:
        """The answer and one figure, as notebooks show it; None of a result without its study."""
        from lrtune.reporting.html.cell import cell

        return None if self.study is None else cell(self._record())

    def text(self) -> str:
        """The answer in a few lines, for terminals and logs."""
        from lrtune.reporting import html

        return html.text(self._record())

    def _record(self) -> Any:
        from lrtune.study.trials.study_reader import read

        if self.study is None:
            msg = "this result was read from JSON and has no study: use optuna.load_study, or run lrtune report"
            raise ValueError(msg)
        return read(self.study)
