"""robosuite's tasks, and what LIBERO and tabletop share with them."""
