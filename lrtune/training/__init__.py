"""Trainers: a trainer starts a run of one or more recipes, under one contract (:mod:`lrtune.training.base`).

``networks`` trains PyTorch models, ``estimators`` scikit-learn's, ``generator`` a training loop of the user's own, and
``subprocess`` any of them in a process of its own.
"""
