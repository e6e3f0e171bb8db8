"""Trainers: a trainer starts a run of one or more recipes, under one contract (:mod:`lrtune.training.base`)."""
