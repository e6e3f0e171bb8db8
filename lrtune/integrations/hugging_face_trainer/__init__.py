"""Trains with a ``transformers.Trainer``: the trainer, what it replaces in the arguments, and its runs."""
