"""Trains Lightning modules by Lightning's own Trainer: :class:`.trainer.LightningTrainer`."""
