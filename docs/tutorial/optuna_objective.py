"""An Optuna objective of your own: two names of lrtune's are enough to tell it what divergence is."""

from __future__ import annotations

import math

import optuna

import lrtune

space = lrtune.Space(lr=(1e-4, 10.0), batch_size=[16, 64])


def objective(trial: optuna.Trial) -> float:
    recipe = lrtune.suggest(trial, space, epochs=10)
    loss = 2.3
    for epoch in range(recipe.epochs):
        loss = loss * 0.8 if recipe.lr < 1 else math.inf  # your training here
        trial.report(loss, epoch)
        if trial.should_prune():  # also for what is not finite, or far above its start
            raise optuna.TrialPruned
    return loss


if __name__ == "__main__":
    pruner = lrtune.DivergencePruner(optuna.pruners.MedianPruner())
    study = optuna.create_study(pruner=pruner, sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=20)
    states = [trial.state.name for trial in study.trials]
    print(f"{states.count('PRUNED')} pruned, {states.count('FAIL')} failed, best {study.best_params['lr']:.3g}")
