"""What every other package talks about: recipes, curves, outcomes, spaces, files and locks.

The words: a *recipe* is one setting to train with; a *run* trains it, and a run of several recipes has a *member* for
each; a *segment* is training without a pause; the *band* is the learning rates as good as the best; the *edge* is
where divergence begins.

Nothing here imports a framework, and nothing here imports another package of lrtune but the schedules and the errors.
"""
