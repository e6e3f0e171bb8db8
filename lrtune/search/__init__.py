"""Strategies decide which trial trains next, and how far: one contract (:mod:`.base`), one list (:mod:`.registry`)."""
