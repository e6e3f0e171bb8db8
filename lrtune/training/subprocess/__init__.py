"""Any trainer in a process of its own."""
