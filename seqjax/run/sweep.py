"""Sweeps: to be written."""
