"""Running episodes: the loop, who chooses, who runs."""
