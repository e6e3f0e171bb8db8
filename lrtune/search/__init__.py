"""Strategies: what trains next, and how far. One file a strategy, one contract (:mod:`lrtune.search.base`)."""
