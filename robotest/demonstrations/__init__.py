"""Recorded demonstrations: reading, writing, collecting."""
