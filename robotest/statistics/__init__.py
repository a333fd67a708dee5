"""Rates, paired tests, stopping rules and sample sizes."""
