"""The run directory: its arguments, its results, and how to continue it."""
