"""Optuna's samplers as strategies, and a pruner for objectives of your own."""
