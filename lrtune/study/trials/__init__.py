"""Trials in the Optuna study: how one is stored, read, claimed and recovered."""
