"""Verifiers, which score candidates."""
