"""lrtune finds the learning rate: :func:`tune`, :func:`compare`, :func:`range_test`, trainers, spaces and errors.

The names below are imported when they are first used, so that ``import lrtune`` takes next to no time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrtune.core.curve import Curve, Point
    from lrtune.core.outcome import Outcome
    from lrtune.core.recipe import Recipe
    from lrtune.core.space import Space, suggest
    from lrtune.errors import (
        DataError,
        InputError,
        InterruptedSearchError,
        LockedError,
        LrtuneError,
        MismatchError,
        RecipeError,
        SearchError,
        SpaceError,
        StorageError,
        StudyFileError,
        UserCodeError,
    )
    from lrtune.integrations.hugging_face_trainer.trainer import HuggingFaceTrainer
    from lrtune.integrations.keras_trainer.trainer import KerasTrainer
    from lrtune.integrations.learning_rate_search import LearningRateSearchCV
    from lrtune.integrations.lightning_trainer.trainer import LightningTrainer
    from lrtune.integrations.notebook import NotebookDisplay
    from lrtune.reporting.explain import AppliedSchedule, schedule_of
    from lrtune.reporting.snippets import snippet
    from lrtune.search.lr_range.lr_range import RangeTest, range_test
    from lrtune.search.samplers.pruner import DivergencePruner
    from lrtune.study.comparison import Comparison, compare
    from lrtune.study.result import Edge, Result
    from lrtune.study.tuning import tune
    from lrtune.training.estimators.trainer import SklearnTrainer
    from lrtune.training.generator import GeneratorTrainer
    from lrtune.training.networks.trainer import TorchTrainer

__all__ = [
    "AppliedSchedule",
    "Comparison",
    "Curve",
    "DataError",
    "DivergencePruner",
    "Edge",
    "GeneratorTrainer",
    "HuggingFaceTrainer",
    "InputError",
    "InterruptedSearchError",
    "KerasTrainer",
    "LearningRateSearchCV",
    "LightningTrainer",
    "LockedError",
    "LrtuneError",
    "MismatchError",
    "NotebookDisplay",
    "Outcome",
    "Point",
    "RangeTest",
    "Recipe",
    "RecipeError",
    "Result",
    "SearchError",
    "SklearnTrainer",
    "Space",
    "SpaceError",
    "StorageError",
    "StudyFileError",
    "TorchTrainer",
    "UserCodeError",
    "__version__",
    "compare",
    "range_test",
    "schedule_of",
    "snippet",
    "suggest",
    "tune",
]

_HOMES = {
    "core.curve": ("Curve", "Point"),
    "core.outcome": ("Outcome",),
    "core.recipe": ("Recipe",),
    "core.space": ("Space", "suggest"),
    "errors": tuple(name for name in __all__ if name.endswith("Error")),
    "integrations.hugging_face_trainer.trainer": ("HuggingFaceTrainer",),
    "integrations.learning_rate_search": ("LearningRateSearchCV",),
    "integrations.notebook": ("NotebookDisplay",),
    "integrations.keras_trainer.trainer": ("KerasTrainer",),
    "integrations.lightning_trainer.trainer": ("LightningTrainer",),
    "reporting.explain": ("AppliedSchedule", "schedule_of"),
    "reporting.snippets": ("snippet",),
    "search.lr_range.lr_range": ("RangeTest", "range_test"),
    "search.samplers.pruner": ("DivergencePruner",),
    "study.comparison": ("Comparison", "compare"),
    "study.result": ("Edge", "Result"),
    "study.tuning": ("tune",),
    "training.estimators.trainer": ("SklearnTrainer",),
    "training.generator": ("GeneratorTrainer",),
    "training.networks.trainer": ("TorchTrainer",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("lrtune")
    if name not in _HOME:
        msg = f"module 'lrtune' has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(importlib.import_module(f"lrtune.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
