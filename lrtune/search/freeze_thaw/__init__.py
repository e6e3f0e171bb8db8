"""Freeze-thaw: many runs start, each trains a little, the promising ones continue (Swersky, Snoek, Adams 2014)."""
