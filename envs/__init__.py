"""Simulated environments: suites, their tasks and their scripted experts."""
