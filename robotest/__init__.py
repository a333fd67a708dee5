"""robotest: paired evaluation of robot policies in simulation and on real arms."""

from robotest.gl import use_headless_gl

__version__ = "0.1.0"

# MuJoCo chooses its renderer when it is first imported, which any module of this package or a plugin may do.
use_headless_gl()
