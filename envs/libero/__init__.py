"""LIBERO: suites, scripted experts, demonstration files."""
