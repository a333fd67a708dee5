"""Environments: simulators and what makes a robot look like one."""
