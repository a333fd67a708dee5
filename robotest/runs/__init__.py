"""The run directory: what was asked for, what came out, how to go on."""
