"""Camera drivers, and the checks on their frames."""
