"""Trains Keras 3 models on any of its backends: :class:`.trainer.KerasTrainer`."""
