"""robotest: paired evaluation of robot policies in simulation and on real arms."""

__version__ = "0.1.0"
