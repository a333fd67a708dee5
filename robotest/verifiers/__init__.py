"""Verifiers: what scores candidates."""
