"""Simulated controllers that speak the RealMan protocol."""
