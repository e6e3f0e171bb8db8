"""What every other package talks about: recipes, curves, outcomes, spaces, files and locks.

Nothing here imports a framework, and nothing here imports another package of lrtune but the schedules and the errors.
"""
