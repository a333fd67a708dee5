"""Demonstrations: reading, writing, collecting."""
