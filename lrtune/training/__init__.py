"""Trainers: recipes become runs. One file a trainer, one contract (:mod:`lrtune.training.base`)."""
