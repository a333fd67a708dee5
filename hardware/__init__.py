"""Robots: kinematics, drivers and the safety between a policy and a motor."""
