"""Cameras: drivers, films, and the watch over them."""
