"""Baselines: grid search, successive halving without a model, and optimizers that need no tuning."""
