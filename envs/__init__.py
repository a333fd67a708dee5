"""Environments: simulators and what makes a robot look like one."""

from robotest.gl import use_headless_gl

# MuJoCo chooses its renderer when it is first imported, which any module of this package may do.
use_headless_gl()
