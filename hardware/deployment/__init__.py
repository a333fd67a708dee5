"""Running episodes on a robot."""
