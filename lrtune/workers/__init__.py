"""Worker processes: forked, supervised and killed; leases, which say whether one is alive; signals."""
