"""``HuggingFaceTrainer`` on the real transformers and accelerate."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from typing import TYPE_CHECKING, Any

from tiny_bert import accuracy, trainer
from trainer_contract import SavingContract, TrainerContract

import lrtune
from lrtune.core.recipe import Recipe

if TYPE_CHECKING:
    from transformers import Trainer

pytestmark = pytest.mark.hosts


class TestContract(SavingContract, TrainerContract):
    recipes = (
        Recipe(lr=1e-3, epochs=2, seed=1, schedule="cosine", warmup=0.1),
        Recipe(lr=1e-2, epochs=2, seed=2, batch_size=16),
    )

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Any) -> None:
        self.folder = tmp_path / "output"

    def make(self) -> Trainer:
        return trainer(self.folder, compute_metrics=accuracy)

    def trainer(self) -> lrtune.HuggingFaceTrainer:
        return lrtune.HuggingFaceTrainer(self.make)
