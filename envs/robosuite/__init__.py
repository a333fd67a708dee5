"""robosuite's tasks, and the base shared with LIBERO and tabletop."""
