"""Policies: what samples action chunks."""
