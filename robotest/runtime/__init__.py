"""Running episodes: the loop, the selector, the runners."""
