"""The built-in suite: two RM75 arms at a table."""
