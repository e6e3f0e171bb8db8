"""Trials in the Optuna study: stored, read, claimed and recovered; and which searches share a study."""
