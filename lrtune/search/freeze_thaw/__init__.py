"""Freeze-thaw, the default strategy (:mod:`.strategy`), and the answer of a search (:mod:`.answer`)."""
