"""Baselines: a grid, one epoch each and then the best, and optimizers that need no tuning."""
