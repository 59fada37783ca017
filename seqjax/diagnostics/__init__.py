"""Diagnostics and plots of the behaviour of trained networks."""
