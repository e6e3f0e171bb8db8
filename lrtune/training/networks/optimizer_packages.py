"""Optimizers of other packages by name: Prodigy and schedule-free AdamW, where their packages are installed.

Prodigy (Mishchenko and Defazio 2023, arXiv:2306.06101) estimates its step size as it goes; its learning rate
is a factor that its authors leave at 1. Schedule-free AdamW (Defazio et al. 2024, arXiv:2405.15682) is evaluated at
an average of the weights that it trains, which takes the place of a schedule.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lrtune.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from lrtune.core.recipe import Recipe

__all__ = ["PACKAGED", "PackagedOptimizer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedOptimizer:
    """The class `attribute` of another `package`.

    Attributes
    ----------
    one_rate
        Whether all parameter groups must have the same learning rate.
    guards_warmup
        Whether it has an option for runs with a warmup, whose small steps would lower its estimate.
    """

    name: str
    package: str
    attribute: str
    one_rate: bool = False
    guards_warmup: bool = False

    @property
    def installed(self) -> bool:
        """Whether its package is there."""
        return importlib.util.find_spec(self.package) is not None

    def kind(self) -> type[torch.optim.Optimizer]:
        """Its class; RecipeError where its package is not installed."""
        if not self.installed:
            msg = (
                f"optimizer {self.name!r} needs the package {self.package}; "
                "install it with: pip install 'lrtune[tuning-free]'"
            )
            raise RecipeError(msg)
        found: type[torch.optim.Optimizer] = getattr(importlib.import_module(self.package), self.attribute)
        return found

    def options(self, recipe: Recipe) -> dict[str, Any]:
        """Options that follow from the recipe, unless they are given."""
        return {"safeguard_warmup": True} if self.guards_warmup and recipe.warmup > 0 else {}

    def check(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Raise RecipeError where groups have learning rates of their own and it takes only one."""
        rates = sorted({float(group["lr"]) for group in groups} - {0.0})
        if self.one_rate and len(rates) > 1:
            msg = (
                f"optimizer {self.name!r} takes one learning rate for all parameter groups (got {len(rates)}, "
                f"{rates[0]:g} to {rates[-1]:g}); leave out layer_decay and the groups' own, or choose another"
            )
            raise RecipeError(msg)


PACKAGED = {
    made.name: made
    for made in (
        PackagedOptimizer(name="prodigy", package="prodigyopt", attribute="Prodigy", one_rate=True, guards_warmup=True),
        PackagedOptimizer(name="schedule-free-adamw", package="schedulefree", attribute="AdamWScheduleFree"),
    )
}
"""By the recipe's names."""
