"""Background work: one folder, one state, one queue."""
